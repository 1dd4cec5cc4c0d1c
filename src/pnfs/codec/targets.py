"""Target score maps: a Gaussian at every labelled joint."""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

RADIUS = 3.0
"""Half the side of the square that holds HRNet's Gaussian, in standard deviations."""


def gaussian_targets(
    joints: Float[Tensor, "B K 2"],
    labelled: Bool[Tensor, "B K"],
    *,
    heatmap_size: tuple[int, int],
    stride: float | tuple[float, float] = 4.0,
    sigma: float = 2.0,
    quantised: bool = True,
    radius: float | None = RADIUS,
) -> tuple[Float[Tensor, "B K h w"], Float[Tensor, "B K"]]:
    """Score maps to learn, made on the device of `joints`, in float32 also under autocast.

    The Gaussian has peak 1 and is zero outside the square of `radius` around its centre, as in
    HRNet's `JointsDataset.generate_target`. Like there, weight 0 is given once the square and the
    pixel that follows it lie outside: a square that ends at pixel -1 still has weight 1, over a map
    of zeros. Joints in float64 give maps in float64.

    Args:
        joints: x, y in pixels of the crop; any value where not labelled.
        labelled: Joints that have a label.
        heatmap_size: (height, width) of the maps.
        stride: Crop pixels per heatmap pixel; one number, or one each for x and y.
        sigma: Standard deviation in heatmap pixels.
        quantised: Put the centre on the pixel `int(x / stride + 0.5)`, truncated towards zero
            (HRNet's rule); otherwise on the exact `x / stride`.
        radius: Half the side of the square in standard deviations; None for a Gaussian without end, whose joint
            has weight 1 wherever it lies.

    Returns:
        The maps (zero where not labelled), and weights that are 1 for joints to learn from, 0 for
        joints without label or wholly outside.

    Raises:
        ValueError: `sigma` or `stride` is not positive.
    """
    if joints.dtype not in (torch.float32, torch.float64):
        joints = joints.float()
    per_axis = stride if isinstance(stride, tuple) else (stride, stride)
    if sigma <= 0 or min(per_axis) <= 0:
        raise ValueError(f"sigma and stride must be positive, not {sigma} and {stride}")
    # The coordinates of an unlabelled joint may be nan, which no later product would remove.
    centre = torch.where(labelled[..., None], joints, 0.0)
    # Number by number: a tensor of both would be copied to the device, and every step wait for it.
    centre = torch.stack([centre[..., axis] / per_axis[axis] for axis in (0, 1)], -1)
    if quantised:
        centre = torch.trunc(centre + 0.5)

    height, width = heatmap_size
    reach = math.inf if radius is None else radius * sigma
    inside = (centre + reach + 1 >= 0).all(-1)
    inside &= (centre[..., 0] - reach < width) & (centre[..., 1] - reach < height)
    weights = (labelled & inside).to(centre.dtype)

    # A Gaussian is the product of its profiles; einsum would fall to half precision in autocast.
    along_x = _profile(centre[..., 0], width, sigma, reach)
    along_y = _profile(centre[..., 1], height, sigma, reach) * weights[..., None]
    return along_y[..., :, None] * along_x[..., None, :], weights


def _profile(
    centre: Float[Tensor, "B K"], length: int, sigma: float, reach: float
) -> Float[Tensor, "B K length"]:
    distance = torch.arange(length, device=centre.device) - centre[..., None]
    profile = torch.exp(-(distance**2) / (2 * sigma**2))
    return torch.where(distance.abs() <= reach, profile, 0.0)
