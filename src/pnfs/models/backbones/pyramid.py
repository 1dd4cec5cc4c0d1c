"""What every backbone offers: a feature pyramid, and weights that may be loaded into it."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal
from urllib.error import URLError

import torch
from jaxtyping import Float
from torch import Tensor, nn


class Backbone(nn.Module):
    """Images (B, 3, h, w) to maps at 1/4, 1/8, 1/16 and 1/32, h and w divisible by 32.

    Attributes:
        channels: Channels of the four maps.
    """

    channels: tuple[int, ...]

    def forward(self, images: Float[Tensor, "B 3 h w"]) -> list[Float[Tensor, "B C_s h_s w_s"]]:
        raise NotImplementedError(f"{type(self).__name__} defines no forward")


def read_weights(
    weights: Literal["imagenet", "none"] | str,
    download: Callable[[], Mapping[str, Tensor]],
    name: str,
) -> Mapping[str, Tensor] | None:
    """The state dict that `weights` means; None for "none".

    Args:
        weights: "imagenet" (fetched through `download`), "none", or a path to a state dict.
        download: Fetches the ImageNet state dict.
        name: The backbone, for messages.

    Raises:
        ValueError: The weights cannot be had, or are not a state dict; says what to do.
    """
    if weights == "none":
        return None
    if weights == "imagenet":
        try:
            return download()
        except (URLError, OSError, RuntimeError) as error:
            raise ValueError(
                f"the ImageNet weights of {name} could not be downloaded ({error}); pass a "
                "state dict in torchvision's naming as backbone.weights=/path/to/weights.pth, "
                "or train from scratch with backbone.weights=none"
            ) from error
    path = Path(weights)
    if not path.is_file():
        raise ValueError(
            f"backbone.weights: {path} is not a file; give imagenet, none, or the path of a "
            "state dict"
        )
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(
            f"backbone.weights: {path} is not a readable state dict: {error}"
        ) from error
    if not isinstance(state, Mapping) or not all(isinstance(v, Tensor) for v in state.values()):
        raise ValueError(f"backbone.weights: {path} is not a state dict of tensors")
    return state


def load_part_of(
    module: nn.Module, state: Mapping[str, Tensor], unused: tuple[str, ...], where: str
):
    """Loads `state` strictly, but for the entries below the prefixes in `unused`.

    Raises:
        ValueError: Names or shapes do not fit; names the first of them.
    """
    wanted = {name: value for name, value in state.items() if not name.startswith(unused)}
    try:
        module.load_state_dict(wanted, strict=True)
    except RuntimeError as error:
        raise ValueError(f"backbone.weights: {where} do not fit: {error}") from error
