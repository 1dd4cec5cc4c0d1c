"""The flip test: the mirrored image is a second opinion on the same person."""

from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor


def flip_maps(
    maps: Float[Tensor, "*B K h w"], permutation: Int64[Tensor | np.ndarray, " K"]
) -> Float[Tensor, "*B K h w"]:
    """Mirror score maps and exchange left and right joints (`Skeleton.flip_permutation`)."""
    return maps.flip(-1).index_select(-3, torch.as_tensor(permutation, device=maps.device))


def average_with_flip(
    maps: Float[Tensor, "*B K h w"],
    mirrored_maps: Float[Tensor, "*B K h w"],
    permutation: Int64[Tensor | np.ndarray, " K"],
    shift: Literal[0, 1] = 0,
) -> Float[Tensor, "*B K h w"]:
    """Mean of the image's score maps and those of the mirrored image, mirrored back.

    Args:
        maps: Score maps of the image.
        mirrored_maps: Score maps of the mirrored image, as the model gave them.
        permutation: `Skeleton.flip_permutation`.
        shift: Pixels by which the maps that were mirrored back move to the right. With stride 4
            and no half-pixel shift a mirrored joint lands 3/4 of a pixel too far left; HRNet
            corrects this by one pixel (TEST.SHIFT_HEATMAP) and leaves the first column as it is.

    Raises:
        ValueError: `shift` is neither 0 nor 1.
    """
    if shift not in (0, 1):
        raise ValueError(f"the flip test's shift is 0 or 1, not {shift}")
    restored = flip_maps(mirrored_maps, permutation)
    if shift == 1:
        restored = torch.cat([restored[..., :1], restored[..., :-1]], -1)
    return 0.5 * (maps + restored)
