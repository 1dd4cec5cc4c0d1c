"""How joints become target heatmaps and heatmaps become joints again: the keys of the group `codec`."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from pnfs.codec.decode import DecodeMethod, decode
from pnfs.errors import PnfsError

STRIDE = 4
"""Crop pixels per heatmap pixel."""


@dataclass(frozen=True)
class Codec:
    """Joints to heatmaps and back.

    Args:
        sigma: Standard deviation of the target Gaussians in heatmap pixels; "dark" decodes with it too.
        quantised: Put a target's centre on the heatmap pixel `int(x / stride + 0.5)`, truncated towards zero
            (HRNet's rule); otherwise on the exact `x / stride`.
        radius: Half the side of the square that holds a target Gaussian, in sigma; HRNet's is 3. None for a
            Gaussian without end, whose joint has weight 1 wherever it lies.
        unbiased: Crops and heatmaps are measured in pixel intervals (UDP); see `pnfs.data.geometry.crop_matrix`.
        decode_method: From heatmaps to locations; see `decode`.
        flip_shift: Pixels by which the maps that were mirrored back move to the right in the flip test, 0 or 1.
            With stride 4 and no half-pixel shift a mirrored joint lands 3/4 of a pixel too far left; HRNet
            corrects this by one pixel (TEST.SHIFT_HEATMAP) and leaves the first column as it is.

    Raises:
        ValueError: A number is out of its range; names it.
    """

    sigma: float = 2.0
    quantised: bool = True
    radius: float | None = 3.0
    unbiased: bool = False
    decode_method: DecodeMethod = "quarter"
    flip_shift: Literal[0, 1] = 1

    def __post_init__(self) -> None:
        if not self.sigma > 0:
            raise PnfsError(f"codec.sigma must be positive, not {self.sigma}")
        for name, allowed in (("decode_method", get_args(DecodeMethod)), ("flip_shift", (0, 1))):
            if getattr(self, name) not in allowed:
                raise PnfsError(
                    f"codec.{name} is {getattr(self, name)!r}; there are {', '.join(map(str, allowed))}"
                )

    def stride(self, heatmap_size: tuple[int, int]) -> tuple[float, float]:
        """Crop pixels per heatmap pixel along x and y, for heatmaps of this (height, width).

        In unbiased geometry (width - 1) / (heatmap width - 1): a joint and its mirror image then lie
        on pixels of the heatmap that mirror each other exactly. Otherwise they lie stride - 1 crop pixels off.
        """
        height, width = heatmap_size
        if min(height, width) <= self.unbiased:
            raise PnfsError(f"a heatmap of {heatmap_size} (height, width) is too small")
        if not self.unbiased:
            return float(STRIDE), float(STRIDE)
        return (STRIDE * width - 1) / (width - 1), (STRIDE * height - 1) / (height - 1)

    def targets(
        self,
        joints: Float[Tensor, "B K 2"],
        labelled: Bool[Tensor, "B K"],
        heatmap_size: tuple[int, int],
    ) -> tuple[Float[Tensor, "B K h w"], Float[Tensor, "B K"]]:
        """Heatmaps (height, width) to learn, made on the device of `joints`, in float32 also under autocast.

        The Gaussian has peak 1 and is zero outside its square, as in HRNet's `JointsDataset.generate_target`. Like
        there, weight 0 is given once the square and the pixel that follows it lie outside: a square that ends at
        pixel -1 still has weight 1, over a map of zeros. Joints in float64 give maps in float64.

        Args:
            joints: x, y in pixels of the crop; any value where not labelled.

        Returns:
            The maps (zero where not labelled), and weights: 0 for joints without label or wholly outside, else 1.
        """
        joints = joints.to(torch.promote_types(joints.dtype, torch.float32))
        # The coordinates of an unlabelled joint may be nan, which no later product would remove.
        joints = torch.where(labelled[..., None], joints, 0.0)
        weights, profiles = labelled, []
        strides = self.stride(heatmap_size) if self.unbiased else (float(STRIDE), float(STRIDE))
        reach = math.inf if self.radius is None else self.radius * self.sigma
        # Axis by axis: a tensor of both strides would be copied to the device, and every step wait for it.
        for axis, length in ((0, heatmap_size[1]), (1, heatmap_size[0])):
            centre = joints[..., axis] / strides[axis]
            if self.quantised:
                centre = torch.trunc(centre + 0.5)
            weights = weights & (centre + reach + 1 >= 0) & (centre - reach < length)
            distance = torch.arange(length, device=centre.device) - centre[..., None]
            profile = torch.exp(-(distance**2) / (2 * self.sigma**2))
            profiles.append(torch.where(distance.abs() <= reach, profile, 0.0))
        # A Gaussian is the product of its profiles; einsum would fall to half precision in autocast.
        along_x, along_y = profiles
        weights = weights.to(joints.dtype)
        return (along_y * weights[..., None])[..., :, None] * along_x[..., None, :], weights

    def decode(
        self, maps: Float[Tensor, "B K h w"]
    ) -> tuple[Float[Tensor, "B K 2"], Float[Tensor, "B K"]]:
        """Locations of the joints in pixels of the crop, and the scores found there."""
        locations, scores = decode(maps, self.decode_method, sigma=self.sigma)
        x, y = self.stride((maps.shape[-2], maps.shape[-1]))
        return torch.stack([locations[..., 0] * x, locations[..., 1] * y], -1), scores

    def flip_averaged(
        self,
        maps: Float[Tensor, "*B K h w"],
        mirrored: Float[Tensor, "*B K h w"],
        permutation: Int64[np.ndarray, " K"],
    ) -> Float[Tensor, "*B K h w"]:
        """Mean of the image's heatmaps and those of the mirrored image, which are mirrored back.

        Left and right joints change places by `Skeleton.flip_permutation`.
        """
        order = torch.as_tensor(permutation, device=mirrored.device)
        restored = mirrored.flip(-1).index_select(-3, order)
        if self.flip_shift:
            restored = torch.cat([restored[..., :1], restored[..., :-1]], -1)
        return 0.5 * (maps + restored)


def to_image(
    locations: Float[Tensor, "B K 2"], matrices: Float[Tensor, "B 2 3"]
) -> Float[Tensor, "B K 2"]:
    """Locations x, y in crop pixels to image pixels, by one affine map a sample."""
    x, y = locations.float().unbind(-1)
    affine = matrices.float()[:, None]  # (B, 1, 2, 3)
    # Not a matrix product: TF32 and autocast would cost whole pixels in a large image.
    return x[..., None] * affine[..., 0] + y[..., None] * affine[..., 1] + affine[..., 2]
