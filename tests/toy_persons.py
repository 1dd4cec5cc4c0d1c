"""Toy persons for tests of crops, caches and loaders."""

from dataclasses import dataclass

import cv2
import numpy as np

from pnfs.body import LSP
from pnfs.data.images import ImageSource
from pnfs.data.persons import Persons


def smooth_picture(seed: int, height: int = 240, width: int = 320, blur: float = 6) -> np.ndarray:
    """Coarse noise in muted colours: what JPEG and interpolation twice leave nearly as it is."""
    noise = np.random.default_rng(seed).normal(size=(height, width, 3)).astype(np.float32)
    blurred = cv2.GaussianBlur(noise, (0, 0), blur)
    blurred += 2 * blurred.mean(-1, keepdims=True)
    spread = (blurred - blurred.mean()) * (60 / blurred.std()) + 128
    return spread.clip(0, 255).astype(np.uint8)


@dataclass(frozen=True)
class SmoothImages:
    """Pictures that are made when they are read."""

    def read(self, index: int) -> np.ndarray:
        return smooth_picture(index)

    def describe(self, index: int) -> str:
        return f"smooth{index}"


def toy_persons(count: int, images: ImageSource | None = None, name: str = "toy train", skeleton=LSP) -> Persons:
    """Persons with LSP's joints, one an image of 320 x 240 px."""
    random = np.random.default_rng(9)
    shape = (count, len(skeleton))
    return Persons(
        name=name,
        skeleton=skeleton,
        images=images or SmoothImages(),
        ids=np.array([f"person{i}" for i in range(count)]),
        image_index=np.arange(count),
        joints=random.uniform(60, 200, (*shape, 2)).astype(np.float32),
        visibility=random.integers(0, 3, shape).astype(np.int8),
        center=random.uniform((120, 90), (200, 150), (count, 2)).astype(np.float32),
        box_size=random.uniform(50, 110, (count, 2)).astype(np.float32),
        reference_length=random.uniform(10, 20, count).astype(np.float32),
    )
