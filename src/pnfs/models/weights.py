"""State dicts from files and downloads, loaded strictly."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pnfs.errors import PnfsError


def load_weights(
    module: nn.Module,
    weights: str,
    download: Callable[[], Mapping[str, Tensor]],
    name: str,
    unused: tuple[str, ...] = (),
) -> None:
    """Loads what `backbone.weights` means: "imagenet" (`download()`), "none", or the path of a state dict.

    Raises:
        PnfsError: The weights of `name` cannot be had or do not fit; says what to do.
    """
    if weights == "none":
        return
    try:
        state = download() if weights == "imagenet" else read_file(weights)
    except PnfsError:
        raise
    except Exception as error:
        # Downloads fail in as many ways as there are libraries that download.
        raise PnfsError(
            f"the ImageNet weights of {name} could not be downloaded ({error}); pass a state dict in its public "
            "naming as backbone.weights=/path/to/weights.pth, or train with backbone.weights=none"
        ) from error
    load_strictly(module, state, unused, f"backbone.weights: weights {weights} of {name}")


def read_file(path: str, key: str = "backbone.weights") -> Mapping[str, Tensor]:
    """The state dict in a file that the configuration's `key` names, read as plain data.

    A training checkpoint will do that holds one under a key, such as "state_dict" or "model"; the prefix
    "module." that training on several GPUs leaves is taken off.

    Raises:
        PnfsError: The file is missing, unreadable or something else, or holds several state dicts.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise PnfsError(f"{key}: {file} is no file; give imagenet, none, or a state dict's path")
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
    usual = [name for name in ("", "state_dict", "model_state_dict", "model") if name in held]
    chosen = usual or list(held)
    if not chosen or (not usual and len(held) > 1):
        raise PnfsError(f"{key}: {file} is no state dict; state dicts under its keys: {list(held)}")
    state = held[chosen[0]]
    shared = all(name.startswith("module.") for name in state)
    return {name.removeprefix("module.") if shared else name: t for name, t in state.items()}


def _is_state(content: Any) -> bool:
    return (
        isinstance(content, Mapping)
        and bool(content)
        and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in content.items())
    )


def load_strictly(
    module: nn.Module, state: Mapping[str, Tensor], unused: tuple[str, ...], where: str
) -> None:
    """Loads `state`, but for entries below the prefixes in `unused`; `where` begins the messages.

    Counters of batches, which old files lack and nothing here reads, may be missing.

    Raises:
        PnfsError: Names or shapes do not fit; lists the first of them.
    """
    own = module.state_dict()
    wanted = {name: value for name, value in own.items() if name.endswith("num_batches_tracked")}
    wanted |= {name: value for name, value in state.items() if not name.startswith(unused)}
    problems = [f"{name} is missing" for name in own if name not in wanted]
    problems += [f"{name} is unknown" for name in wanted if name not in own]
    problems += [
        f"{name} has shape {tuple(wanted[name].shape)}, not {tuple(value.shape)}"
        for name, value in own.items()
        if name in wanted and wanted[name].shape != value.shape
    ]
    if problems:
        raise PnfsError(f"{where} do not fit ({len(problems)} entries): {'; '.join(problems[:5])}")
    module.load_state_dict(wanted)
