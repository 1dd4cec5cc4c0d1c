"""Heatmaps to joint locations: argmax, a quarter pixel's offset (HRNet), and DARK."""

from collections.abc import Mapping
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from pnfs.errors import PnfsError

DecodeMethod = Literal["argmax", "quarter", "dark"]

_REACH = 2
"""Pixels from the highest one to the farthest that DARK's second differences touch."""

REACHES: Mapping[str, float] = {"argmax": 0, "quarter": 0.25, "dark": _REACH}
"""Method -> how far from the highest pixel it may put a joint along each axis, in heatmap pixels."""

_BORDER_ROUNDS = 3
"""DARK's estimates of what a Gaussian near the border has lost; each starts from the last."""


def decode(
    maps: Float[Tensor, "B K h w"], method: DecodeMethod = "quarter", *, sigma: float = 2.0
) -> tuple[Float[Tensor, "B K 2"], Float[Tensor, "B K"]]:
    """Locations of the joints and the scores found there.

    Args:
        maps: Heatmaps.
        method: "argmax": the first pixel of highest score. "quarter": from there, a quarter of a
            pixel towards the higher neighbour along each axis (HRNet's `get_final_preds`). "dark":
            from there, one Newton step on the logarithm of the blurred map (F. Zhang et al.,
            Distribution-Aware Coordinate Representation, CVPR 2020, Eq. 3-11).
        sigma: Standard deviation of the target Gaussians in heatmap pixels, which is also the
            blur's ("dark" only). The blur's kernel has `blur_size(sigma)` pixels a side: 11 for
            sigma 2, 17 for sigma 3.

    Returns:
        x, y in heatmap pixels, (0, 0) where no score is positive; and the highest scores. Both in float32.
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

    The kernel for which OpenCV's rule, sigma = 0.3 (size / 2 - 1.5) + 0.8, gives `sigma` most
    closely; DARK's public code uses these: 11 for 2, 17 for 3.
    """
    if not sigma > 0:
        raise PnfsError(f"sigma must be positive, not {sigma}")
    return 2 * max(1, round((sigma - 0.8) / 0.3 + 1)) + 1


def _argmax(maps: Float[Tensor, "B K h w"]) -> tuple[Float[Tensor, "B K 2"], Float[Tensor, "B K"]]:
    flat = maps.flatten(-2)
    index = _first_highest(flat)
    scores = flat.gather(-1, index[..., None])[..., 0]
    width = maps.shape[-1]
    locations = torch.stack([index % width, index // width], -1).float()
    return torch.where(scores[..., None] > 0, locations, 0.0), scores


def _first_highest(values: Float[Tensor, "*N n"]) -> Int64[Tensor, "*N"]:
    # On a CPU PyTorch compares one by one; NumPy reads at the memory's speed, eight times faster.
    traced = torch.compiler.is_compiling() or torch.jit.is_tracing()  # pyright: ignore[reportPrivateImportUsage]
    if values.device.type == "cpu" and not traced:
        return torch.from_numpy(np.asarray(values.detach().numpy().argmax(-1)))
    return values.argmax(-1)


def _quarter_offset(
    maps: Float[Tensor, "B K h w"], locations: Float[Tensor, "B K 2"]
) -> Float[Tensor, "B K 2"]:
    height, width = maps.shape[-2:]
    x, y = locations.long().unbind(-1)
    left, right = (x - 1).clamp(min=0), (x + 1).clamp(max=width - 1)
    above, below = (y - 1).clamp(min=0), (y + 1).clamp(max=height - 1)
    neighbours = torch.stack(
        [y * width + left, y * width + right, above * width + x, below * width + x], -1
    )
    low_x, high_x, low_y, high_y = maps.flatten(-2).gather(-1, neighbours).unbind(-1)
    slope = torch.stack([high_x - low_x, high_y - low_y], -1)
    # HRNet leaves out pixel 1 although both its neighbours exist.
    interior = (x > 1) & (x < width - 1) & (y > 1) & (y < height - 1)
    return torch.where(interior[..., None], 0.25 * slope.sign(), 0.0)


def _dark_step(
    maps: Float[Tensor, "B K h w"], peaks: Int64[Tensor, "B K 2"], sigma: float
) -> Float[Tensor, "B K 2"]:
    """From the highest pixel to the top of the Gaussian around it.

    The paper scales each blurred map back to its old maximum; a factor has no part in the
    logarithm's derivatives, so that only the peak's surroundings need blurring. Where the kernel
    reaches over the border, the paper's blur alone puts joints two pixels from it 0.4 pixels too
    far inside; here the blurred map is divided by the share that a Gaussian keeps there, first one
    on the peak, then one on the top so found. Elsewhere that share is 1.
    """
    radius = blur_size(sigma) // 2
    near = torch.arange(-radius - _REACH, radius + _REACH + 1, device=maps.device)
    kernel = torch.exp(-(near[_REACH:-_REACH] ** 2) / (2 * sigma**2))
    size = torch.tensor([maps.shape[-1], maps.shape[-2]], device=maps.device)
    pixels = peaks[..., None] + near  # (B, K, x and y, pixels)
    inside = (pixels >= 0) & (pixels < size[:, None])
    window = _windows(maps, pixels, inside)
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


def _windows(
    maps: Float[Tensor, "B K h w"],
    pixels: Int64[Tensor, "B K 2 n"],
    inside: Bool[Tensor, "B K 2 n"],
) -> Float[Tensor, "B K n n"]:
    """The scores at these columns (first) and rows (second); 0 outside the map."""
    height, width = maps.shape[-2:]
    columns, rows = pixels.unbind(-2)
    index = rows.clamp(0, height - 1)[..., None] * width + columns.clamp(0, width - 1)[..., None, :]
    scores = maps.flatten(-2).gather(-1, index.flatten(-2)).view(index.shape)
    inside_x, inside_y = inside.unbind(-2)
    return scores * (inside_y[..., None] & inside_x[..., None, :])


def _newton_step(logarithm: Float[Tensor, "B K 5 5"]) -> Float[Tensor, "B K 2"]:
    """-H^-1 D of the middle pixel, from finite differences (Eq. 7).

    The step is left out where it cannot be right: where the curvature is no maximum's, and where
    the top would lie outside the pixels that the differences come from.
    """

    def at(dy: int, dx: int) -> Float[Tensor, "B K"]:
        return logarithm[..., _REACH + dy, _REACH + dx]

    slope_x, slope_y = (at(0, 1) - at(0, -1)) / 2, (at(1, 0) - at(-1, 0)) / 2
    curve_xx = (at(0, 2) - 2 * at(0, 0) + at(0, -2)) / 4
    curve_yy = (at(2, 0) - 2 * at(0, 0) + at(-2, 0)) / 4
    curve_xy = (at(1, 1) - at(1, -1) - at(-1, 1) + at(-1, -1)) / 4
    determinant = curve_xx * curve_yy - curve_xy**2
    step = torch.stack(
        [curve_xy * slope_y - curve_yy * slope_x, curve_xy * slope_x - curve_xx * slope_y], -1
    )
    step = step / determinant[..., None]
    sound = (determinant > 0) & (curve_xx < 0) & (step.abs() <= _REACH).all(-1)
    return torch.where(sound[..., None], step, 0.0)


def _convolve(values: Float[Tensor, "*N n"], kernel: Float[Tensor, " k"]) -> Float[Tensor, "*N m"]:
    # Not a convolution layer: TF32 and autocast would blur the differences to be taken.
    return (values.unfold(-1, len(kernel), 1) * kernel).sum(-1)
