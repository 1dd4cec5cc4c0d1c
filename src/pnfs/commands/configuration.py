"""Where the configuration lies, what its interpolations ask for, and how it becomes plain data."""

import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console

import pnfs
from pnfs.errors import PnfsError

console = Console(soft_wrap=True, highlight=False, markup=False)
"""Where commands print; paths are neither cut nor taken for styles."""


class UsageError(PnfsError):
    """What the user asked for cannot be done; the message names the key, why, and what to do."""


def packaged_folder(name: str) -> Path:
    """`conf` or `experiments`: inside an installed package, or at the top of the source tree."""
    package = Path(pnfs.__file__).parent
    for folder in (package / name, package.parents[1] / name):
        if folder.is_dir():
            return folder
    raise UsageError(f"no folder {name} beside {package}: reinstall pnfs")


def plain(config: DictConfig) -> dict[str, Any]:
    """The configuration as a resolved plain dictionary, as checkpoints and records keep it."""
    return cast("dict[str, Any]", OmegaConf.to_container(config, resolve=True, throw_on_missing=True))


def persons_of(settings: Mapping[str, Any]) -> dict[str, str] | None:
    """What a run reads of its dataset, as digests; None where the dataset cannot be read."""
    # Imported when a run is named, not for --help.
    from pnfs.commands.building import training_digests

    try:
        return training_digests(settings)
    except Exception:
        return None  # The run says what is wrong with it; its folder must have a name before.


def register_resolvers() -> None:
    """Makes ${run_hash:}, ${absolute:…}, ${trained:…} known to this process."""
    absolute = {"absolute": lambda path: str(Path(path).absolute())}
    for name, resolver in {"run_hash": _run_hash, "trained": _trained, **absolute}.items():
        OmegaConf.register_new_resolver(name, resolver, replace=True)


def _run_hash(*, _root_: DictConfig) -> str:
    """What stands for everything that changes a run's numbers; see `run_identity`."""
    tree = cast("dict", OmegaConf.to_container(_root_))
    # Hydra's part is no setting; the others are made of the hash themselves.
    tree = {k: v for k, v in tree.items() if k != "hydra"} | {"run_name": "", "run_dir": ""}
    return _hash_of(json.dumps(tree))


@functools.lru_cache(maxsize=1)
def _hash_of(tree: str) -> str:
    """A configuration asks for its hash in a dozen places."""
    from pnfs.runs.identity import run_hash

    try:
        settings = plain(cast("DictConfig", OmegaConf.create(json.loads(tree))))
    except (PnfsError, OmegaConfBaseException):
        return run_hash({"config": tree})  # As in `persons_of`.
    return run_hash(settings, persons_of(settings))


def _trained(checkpoint: str | None, key: str, trust: bool) -> Any:
    """An entry of a checkpoint's configuration; its model asks for no downloads."""
    from pnfs.training.checkpoints import CONFIG_KEY, read_checkpoint, without_downloads

    if checkpoint is None:
        raise PnfsError("initial=null: name the checkpoint, or the run's folder, to start from")
    content = read_checkpoint(checkpoint, builds=("model",), trust=trust)
    # As OmegaConf's own nodes: --cfg job --resolve takes no dictionaries.
    return OmegaConf.create(without_downloads(content[CONFIG_KEY])[key])
