"""What every backbone offers: a feature pyramid, and weights that may be loaded into it."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pnfs.errors import PnfsError


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
        PnfsError: The weights cannot be had, or are not a state dict; says what to do.
    """
    if weights == "none":
        return None
    if weights != "imagenet":
        return read_file(weights)
    try:
        return download()
    except Exception as error:
        # Downloads fail in as many ways as there are libraries that download.
        raise PnfsError(
            f"the ImageNet weights of {name} could not be downloaded ({error}); pass a "
            "state dict in its public naming as backbone.weights=/path/to/weights.pth, "
            "or train from scratch with backbone.weights=none"
        ) from error


def read_file(path: str, key: str = "backbone.weights") -> Mapping[str, Tensor]:
    """The state dict in a file, read as plain data.

    A training checkpoint will do that holds one under a key, such as "state_dict" or "model"; the prefix
    "module." that training on several GPUs leaves is taken off.

    Args:
        path: The file.
        key: The configuration key that named it, for messages.

    Raises:
        PnfsError: The file is missing, unreadable or something else, or holds several state dicts.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise PnfsError(
            f"{key}: {file} is not a file; give imagenet, none, or the path of a state dict"
        )
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        raise PnfsError(
            f"{key}: {file} is not a readable state dict: it is damaged, or holds pickled objects, which "
            f"are never loaded; save its weights alone, as a dictionary of tensors ({error})"
        ) from error
    # The file itself, or what it holds under a key, "state_dict" before others.
    entries = content if isinstance(content, Mapping) else {}
    held = {k: v for k, v in {"": content, **entries}.items() if _is_state(v)}
    chosen = next((k for k in ("", "state_dict", "model_state_dict", "model") if k in held), None)
    if chosen is None and len(held) != 1:
        found = f"several state dicts: {', '.join(held)}; save one alone" if held else "none"
        raise PnfsError(
            f"{key}: {file} is not a state dict of tensors; under its keys it has {found}"
        )
    state = held[next(iter(held)) if chosen is None else chosen]
    shared = all(name.startswith("module.") for name in state)
    return {name.removeprefix("module.") if shared else name: t for name, t in state.items()}


def _is_state(content: Any) -> bool:
    return (
        isinstance(content, Mapping)
        and bool(content)
        and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in content.items())
    )


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
        PnfsError: Names or shapes do not fit; lists the first of them.
    """
    own = module.state_dict()
    counters = {name: value for name, value in own.items() if name.endswith("num_batches_tracked")}
    wanted = counters | {k: v for k, v in state.items() if not k.startswith(unused)}
    problems = [f"{name} is missing" for name in own if name not in wanted]
    problems += [f"{name} is unknown" for name in wanted if name not in own]
    problems += [
        f"{name} has shape {tuple(wanted[name].shape)}, not {tuple(value.shape)}"
        for name, value in own.items()
        if name in wanted and wanted[name].shape != value.shape
    ]
    if problems:
        more = f", and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise PnfsError(f"{key}: {where} do not fit: {'; '.join(problems[:5])}{more}")
    module.load_state_dict(wanted)
