"""Augmentation: what one affine map does, and what happens to the pixels after it."""

import os
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import UInt8

from pnfs.errors import PnfsError

if TYPE_CHECKING:
    from albumentations import Compose


class AffineDraw(NamedTuple):
    """The geometry that is drawn for one sample."""

    rotation_degrees: float = 0.0
    scale: float = 1.0
    flip: bool = False


@dataclass(frozen=True)
class Augmentation:
    """The paper's geometric augmentation, and pixel-level augmentation beyond it.

    Raises PnfsError for a value out of range; the message names the key.
    """

    rotation: float = 45.0  # Rotation is uniform within plus or minus this many degrees.
    scale: tuple[float, float] = (0.7, 1.3)  # The person box is enlarged by a uniform factor.
    flip: float = 0.5  # Probability of mirroring, with left and right joints exchanged.
    colour: float = 0.0  # Probability of other brightness, contrast, hue and saturation.
    blur: float = 0.0  # Probability of a blur.
    occlusion: float = 0.0  # Probability that rectangles are blotted out. Joints stay labelled.

    def __post_init__(self) -> None:
        tops = {"rotation": 360, "flip": 1, "colour": 1, "blur": 1, "occlusion": 1}
        for name, most in tops.items():
            if not 0 <= getattr(self, name) <= most:
                raise PnfsError(f"augmentation.{name} must be 0 to {most}, got {getattr(self, name)}")
        if len(self.scale) != 2 or not 0 < self.scale[0] <= self.scale[1] < float("inf"):
            raise PnfsError(f"augmentation.scale must be 0 < low <= high, got {self.scale}")

    def draw(self, random: np.random.Generator) -> AffineDraw:
        """The geometry of one sample."""
        rotation, scale = random.uniform(-self.rotation, self.rotation), random.uniform(*self.scale)
        return AffineDraw(rotation, scale, bool(random.random() < self.flip))

    def change_pixels(
        self, crop: UInt8[np.ndarray, "h w 3"], random: np.random.Generator
    ) -> UInt8[np.ndarray, "h w 3"]:
        """Colour, blur and occlusion of one crop; no joint moves."""
        if self.colour == self.blur == self.occlusion == 0:
            return crop
        # A seed for each sample makes the draw the same whatever worker makes it.
        self._pixel_pipeline.set_random_seed(int(random.integers(2**31)))
        return self._pixel_pipeline(image=crop)["image"]

    @cached_property
    def _pixel_pipeline(self) -> "Compose":
        # Asks the package index for a newer version at import otherwise.
        os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
        import albumentations as A

        change = (0.7, 1.3)
        return A.Compose([
            A.ColorJitter(change, change, change, hue=(-0.05, 0.05), p=self.colour),
            A.GaussianBlur(blur_limit=(3, 5), p=self.blur),
            A.CoarseDropout((1, 3), (0.1, 0.3), (0.1, 0.3), "random_uniform", p=self.occlusion),
        ])  # fmt: skip
