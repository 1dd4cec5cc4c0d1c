"""How joints become target heatmaps, and heatmaps joints again: argmax, a quarter pixel's offset, DARK."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from pnfs.errors import PnfsError

Maps = Float[Tensor, "B K h w"]
Points = Float[Tensor, "B K 2"]  # x, y.
Scores = Float[Tensor, "B K"]
DecodeMethod = Literal["argmax", "quarter", "dark"]

STRIDE = 4  # Crop pixels per heatmap pixel.
_REACH = 2  # Pixels from the highest one to the farthest that DARK's second differences touch.
_BORDER_ROUNDS = 3  # DARK's estimates of what a Gaussian near the border has lost.


@dataclass(frozen=True)
class Codec:
    """Joints to heatmaps and back."""

    sigma: float = 2.0  # Standard deviation of the target Gaussians in heatmap pixels; "dark" decodes with it too.
    # A target's centre lies on the heatmap pixel int(x / stride + 0.5), truncated towards zero (HRNet's rule);
    # otherwise on the exact x / stride.
    quantised: bool = True
    # Half the side of the square that holds a target Gaussian, in sigma; HRNet's is 3. None for a Gaussian without
    # end, whose joint has weight 1 wherever it lies.
    radius: float | None = 3.0
    unbiased: bool = False  # Measured in pixel intervals (UDP); see `pnfs.data.geometry.crop_matrix`.
    decode_method: DecodeMethod = "quarter"  # From heatmaps to locations; see `decode`.
    # Pixels by which the maps that were mirrored back move to the right in the flip test, 0 or 1. At stride 4 a
    # mirrored joint lands 3/4 of a pixel too far left; HRNet corrects this by one pixel (TEST.SHIFT_HEATMAP) and
    # leaves the first column as it is.
    flip_shift: Literal[0, 1] = 1

    def __post_init__(self) -> None:
        if not self.sigma > 0:
            raise PnfsError(f"codec.sigma must be positive, not {self.sigma}")
        for name, allowed in (("decode_method", get_args(DecodeMethod)), ("flip_shift", (0, 1))):
            if getattr(self, name) not in allowed:
                raise PnfsError(f"codec.{name} is {getattr(self, name)!r}; there are {allowed}")

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
        self, joints: Points, labelled: Bool[Tensor, "B K"], heatmap_size: tuple[int, int]
    ) -> tuple[Maps, Scores]:
        """Heatmaps (height, width) to learn, made on the device of `joints`, in float32 also under autocast.

        The Gaussian has peak 1 and is zero outside its square, as in HRNet's `JointsDataset.generate_target`. Like
        there, weight 0 is given once the square and the pixel that follows it lie outside: a square that ends at
        pixel -1 still has weight 1, over a map of zeros. Joints in float64 give maps in float64.

        `joints` are in pixels of the crop, any value where not labelled. The second are weights: 0 for joints
        without label (over a map of zeros) or wholly outside, else 1.
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

    def decode(self, maps: Maps) -> tuple[Points, Scores]:
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


def to_image(locations: Points, matrices: Float[Tensor, "B 2 3"]) -> Points:
    """Locations x, y in crop pixels to image pixels, by one affine map a sample."""
    x, y = locations.float().unbind(-1)
    affine = matrices.float()[:, None]  # (B, 1, 2, 3)
    # Not a matrix product: TF32 and autocast would cost whole pixels in a large image.
    return x[..., None] * affine[..., 0] + y[..., None] * affine[..., 1] + affine[..., 2]


def decode(maps: Maps, method: DecodeMethod = "quarter", *, sigma: float = 2.0) -> tuple[Points, Scores]:
    """Locations x, y in heatmap pixels, (0, 0) where no score is positive, and the highest scores; in float32.

    Args:
        method: "argmax": the first pixel of highest score. "quarter": from there, a quarter of a pixel towards the
            higher neighbour along each axis (HRNet's `get_final_preds`). "dark": from there, one Newton step on
            the logarithm of the blurred map (F. Zhang et al., Distribution-Aware Coordinate Representation,
            CVPR 2020, Eq. 3-11).
        sigma: Standard deviation of the target Gaussians in heatmap pixels, and of the blur of "dark".
    """
    if method not in get_args(DecodeMethod):
        raise PnfsError(f"unknown decoding {method!r}; there are {get_args(DecodeMethod)}")
    if 0 in maps.shape[-2:]:
        raise PnfsError(f"heatmaps of shape {tuple(maps.shape)} have no pixel to decode")
    maps = maps.float().contiguous()
    locations, scores = _argmax(maps)
    if method == "quarter":
        locations = locations + _quarter_offset(maps, locations)
    elif method == "dark":
        step = _dark_step(maps, locations.long(), sigma)
        locations = locations + torch.where(scores[..., None] > 0, step, 0.0)
    return locations, scores


def blur_size(sigma: float) -> int:
    """Side of DARK's blur kernel, in heatmap pixels, for targets of this standard deviation.

    The kernel for which OpenCV's rule, sigma = 0.3 (size / 2 - 1.5) + 0.8, gives `sigma` most closely; DARK's
    public code uses these: 11 for 2, 17 for 3.
    """
    if not sigma > 0:
        raise PnfsError(f"sigma must be positive, not {sigma}")
    return 2 * max(1, round((sigma - 0.8) / 0.3 + 1)) + 1


def _argmax(maps: Maps) -> tuple[Points, Scores]:
    flat = maps.flatten(-2)
    # On a CPU PyTorch compares one by one; NumPy reads at the memory's speed, eight times faster.
    index = torch.from_numpy(np.asarray(flat.detach().numpy().argmax(-1))) if maps.is_cpu else flat.argmax(-1)
    scores = flat.gather(-1, index[..., None])[..., 0]
    width = maps.shape[-1]
    locations = torch.stack([index % width, index // width], -1).float()
    return torch.where(scores[..., None] > 0, locations, 0.0), scores


def _quarter_offset(maps: Maps, locations: Points) -> Points:
    height, width = maps.shape[-2:]
    x, y = locations.long().unbind(-1)
    left, right = (x - 1).clamp(min=0), (x + 1).clamp(max=width - 1)
    above, below = (y - 1).clamp(min=0), (y + 1).clamp(max=height - 1)
    places = [y * width + left, y * width + right, above * width + x, below * width + x]
    neighbours = torch.stack(places, -1)
    low_x, high_x, low_y, high_y = maps.flatten(-2).gather(-1, neighbours).unbind(-1)
    slope = torch.stack([high_x - low_x, high_y - low_y], -1)
    # HRNet leaves out pixel 1 although both its neighbours exist.
    interior = (x > 1) & (x < width - 1) & (y > 1) & (y < height - 1)
    return torch.where(interior[..., None], 0.25 * slope.sign(), 0.0)


def _dark_step(maps: Maps, peaks: Int64[Tensor, "B K 2"], sigma: float) -> Points:
    """From the highest pixel to the top of the Gaussian around it.

    The paper scales each blurred map back to its old maximum; a factor has no part in the logarithm's derivatives,
    so that only the peak's surroundings need blurring. Where the kernel reaches over the border, the paper's blur
    alone puts joints two pixels from it 0.4 pixels too far inside; here the blurred map is divided by the share
    that a Gaussian keeps there, first one on the peak, then one on the top so found. Elsewhere that share is 1.
    """
    radius = blur_size(sigma) // 2
    near = torch.arange(-radius - _REACH, radius + _REACH + 1, device=maps.device)
    kernel = torch.exp(-(near[_REACH:-_REACH] ** 2) / (2 * sigma**2))
    size = torch.tensor([maps.shape[-1], maps.shape[-2]], device=maps.device)
    pixels = peaks[..., None] + near  # (B, K, x and y, pixels)
    inside = (pixels >= 0) & (pixels < size[:, None])
    # The scores at these rows and columns; 0 outside the map.
    (columns, rows), (inside_x, inside_y) = pixels.unbind(-2), inside.unbind(-2)
    height, width = maps.shape[-2:]
    index = rows.clamp(0, height - 1)[..., None] * width + columns.clamp(0, width - 1)[..., None, :]
    scores = maps.flatten(-2).gather(-1, index.flatten(-2)).view(index.shape)
    window = scores * (inside_y[..., None] & inside_x[..., None, :])
    blurred = _convolve(_convolve(window, kernel).mT, kernel).mT
    # Scores of a scalar heatmap may be negative.
    logarithm = blurred.clamp(min=1e-10).log()  # (B, K, 5 rows, 5 columns)
    step = torch.zeros_like(peaks, dtype=torch.float32)
    for _ in range(_BORDER_ROUNDS):
        gaussian = torch.exp(-((near - step[..., None]) ** 2) / (2 * sigma**2))
        share = _convolve(gaussian * inside, kernel) / _convolve(gaussian, kernel)
        share_x, share_y = share.log().unbind(-2)
        step = _newton_step(logarithm - share_x[..., None, :] - share_y[..., :, None])
    return step


def _newton_step(logarithm: Float[Tensor, "B K 5 5"]) -> Points:
    """-H^-1 D of the middle pixel, from finite differences (Eq. 7).

    Zero where the curvature is not that of a maximum, or the step would leave the pixels that were compared.
    """

    def at(dy: int, dx: int) -> Scores:
        return logarithm[..., _REACH + dy, _REACH + dx]

    slope_x, slope_y = (at(0, 1) - at(0, -1)) / 2, (at(1, 0) - at(-1, 0)) / 2
    curve_xx = (at(0, 2) - 2 * at(0, 0) + at(0, -2)) / 4
    curve_yy = (at(2, 0) - 2 * at(0, 0) + at(-2, 0)) / 4
    curve_xy = (at(1, 1) - at(1, -1) - at(-1, 1) + at(-1, -1)) / 4
    determinant = curve_xx * curve_yy - curve_xy**2
    step_x = curve_xy * slope_y - curve_yy * slope_x
    step_y = curve_xy * slope_x - curve_xx * slope_y
    step = torch.stack([step_x, step_y], -1) / determinant[..., None]
    sound = (determinant > 0) & (curve_xx < 0) & (step.abs() <= _REACH).all(-1)
    return torch.where(sound[..., None], step, 0.0)


def _convolve(values: Float[Tensor, "*N n"], kernel: Float[Tensor, " k"]) -> Float[Tensor, "*N m"]:
    # Not a convolution layer: TF32 and autocast would blur the differences to be taken.
    return (values.unfold(-1, len(kernel), 1) * kernel).sum(-1)
