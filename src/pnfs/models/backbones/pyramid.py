"""What every backbone offers: a feature pyramid, and weights that may be loaded into it."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn


class Backbone(nn.Module):
    """Images (B, 3, h, w) to maps at 1/4, 1/8, 1/16 and 1/32, h and w divisible by 32.

    Attributes:
        channels: Channels of the four maps; of the one at 1/4 where a backbone makes only that.
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
        except Exception as error:
            # Downloads fail in as many ways as there are libraries that download.
            raise ValueError(
                f"the ImageNet weights of {name} could not be downloaded ({error}); pass a "
                "state dict in its public naming as backbone.weights=/path/to/weights.pth, "
                "or train from scratch with backbone.weights=none"
            ) from error
    return read_file(weights)


def read_file(path: str, key: str = "backbone.weights") -> Mapping[str, Tensor]:
    """The state dict in a file, read as plain data.

    A training checkpoint will do that holds one under a key, such as "state_dict" or "model"; the prefix
    "module." that training on several GPUs leaves is taken off.

    Args:
        path: The file.
        key: The configuration key that named it, for messages.

    Raises:
        ValueError: The file is missing, unreadable or something else, or holds several state dicts.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise ValueError(
            f"{key}: {file} is not a file; give imagenet, none, or the path of a state dict"
        )
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(
            f"{key}: {file} is not a readable state dict: it is damaged, or holds pickled objects, which "
            f"are never loaded; save its weights alone, as a dictionary of tensors ({error})"
        ) from error
    state = _state_in(content, f"{key}: {file}")
    shared = all(str(name).startswith(_PARALLEL) for name in state)
    return {
        str(name).removeprefix(_PARALLEL) if shared else str(name): value
        for name, value in state.items()
    }


_PARALLEL = "module."
_STATE_KEYS = ("state_dict", "model_state_dict", "model", "net", "network")
"""Where training checkpoints keep the network's weights, the usual one first."""


def _state_in(content: Any, where: str) -> Mapping[str, Tensor]:
    if _is_state(content):
        return content
    entries = content if isinstance(content, Mapping) else {}
    held = {name: value for name, value in entries.items() if _is_state(value)}
    for name in _STATE_KEYS:
        if name in held:
            return held[name]
    if len(held) == 1:
        return next(iter(held.values()))
    if held:
        raise ValueError(
            f"{where} holds several state dicts: {', '.join(map(str, held))}; save the one you mean alone"
        )
    raise ValueError(f"{where} is not a state dict of tensors, nor does it hold one under a key")


def _is_state(content: Any) -> bool:
    return (
        isinstance(content, Mapping)
        and bool(content)
        and all(isinstance(value, Tensor) for value in content.values())
    )


_SHOWN = 5
"""Mismatches that an error lists."""


def load_part_of(
    module: nn.Module,
    state: Mapping[str, Tensor],
    unused: tuple[str, ...],
    where: str,
    key: str = "backbone.weights",
) -> None:
    """Loads `state` strictly, but for the entries below the prefixes in `unused`.

    Counters of batches, which old files lack and nothing here reads, may be missing.

    Raises:
        ValueError: Names or shapes do not fit; lists the first of them.
    """
    wanted = {name: value for name, value in state.items() if not name.startswith(unused)}
    own = module.state_dict()
    for name, value in own.items():
        if name.endswith("num_batches_tracked"):
            wanted.setdefault(name, value)
    problems = [f"{name} is missing" for name in own if name not in wanted]
    problems += [f"{name} is unknown" for name in wanted if name not in own]
    problems += [
        f"{name} has shape {tuple(wanted[name].shape)}, not {tuple(value.shape)}"
        for name, value in own.items()
        if name in wanted and wanted[name].shape != value.shape
    ]
    if problems:
        more = f", and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        listed = "; ".join(problems[:_SHOWN])
        raise ValueError(f"{key}: {where} do not fit: {listed}{more}")
    module.load_state_dict(wanted)
