"""Score maps to joint locations: HRNet's `get_max_preds` and `get_final_preds`."""

from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

DecodeMethod = Literal["argmax", "quarter"]


def decode(
    maps: Float[Tensor, "B K h w"], method: DecodeMethod = "quarter"
) -> tuple[Float[Tensor, "B K 2"], Float[Tensor, "B K"]]:
    """Locations of the joints and the scores found there.

    Args:
        maps: Score maps.
        method: "argmax": the first pixel of highest score. "quarter": from there, a quarter of a
            pixel towards the higher neighbour along each axis.

    Returns:
        x, y in heatmap pixels, (0, 0) where no score is positive; and the highest scores. Both in
        float32.

    Raises:
        ValueError: An unknown method.
    """
    if method not in get_args(DecodeMethod):
        raise ValueError(
            f"unknown decoding {method!r}; there are {', '.join(get_args(DecodeMethod))}"
        )
    maps = maps.float()
    locations, scores = _argmax(maps)
    if method == "quarter":
        locations = locations + _quarter_offset(maps, locations)
    return locations, scores


def to_image(
    locations: Float[Tensor, "B K 2"],
    matrices: Float[Tensor, "B 2 3"],
    stride: float | tuple[float, float] = 4.0,
) -> Float[Tensor, "B K 2"]:
    """Locations in pixels of the image.

    Args:
        locations: x, y in heatmap pixels.
        matrices: Affine maps from crop pixels to image pixels, one a sample.
        stride: Crop pixels per heatmap pixel; one number, or one each for x and y.
    """
    x, y = (locations.float() * torch.as_tensor(stride, device=locations.device)).unbind(-1)
    affine = matrices.float()[:, None]  # (B, 1, 2, 3)
    # Not a matrix product: TF32 and autocast would cost whole pixels in a large image.
    return x[..., None] * affine[..., 0] + y[..., None] * affine[..., 1] + affine[..., 2]


def _argmax(
    maps: Float[Tensor, "B K h w"],
) -> tuple[Float[Tensor, "B K 2"], Float[Tensor, "B K"]]:
    width = maps.shape[-1]
    scores, index = maps.flatten(-2).max(-1)  # the first of several equal maxima
    locations = torch.stack([index % width, index // width], -1).float()
    return torch.where(scores[..., None] > 0, locations, 0.0), scores


def _quarter_offset(
    maps: Float[Tensor, "B K h w"], locations: Float[Tensor, "B K 2"]
) -> Float[Tensor, "B K 2"]:
    height, width = maps.shape[-2:]
    x, y = locations.long().unbind(-1)
    flat = maps.flatten(-2)

    def score(x: Tensor, y: Tensor) -> Tensor:
        index = y.clamp(0, height - 1) * width + x.clamp(0, width - 1)
        return flat.gather(-1, index[..., None])[..., 0]

    slope = torch.stack([score(x + 1, y) - score(x - 1, y), score(x, y + 1) - score(x, y - 1)], -1)
    # HRNet leaves out pixel 1 although both its neighbours exist.
    interior = (x > 1) & (x < width - 1) & (y > 1) & (y < height - 1)
    return torch.where(interior[..., None], 0.25 * slope.sign(), 0.0)
