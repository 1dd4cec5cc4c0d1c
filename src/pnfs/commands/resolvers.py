"""What interpolations of the configuration can ask for: ${run_hash:}, ${absolute:…}, ${trained:…}."""

import functools
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from pnfs.commands.configuration import build_source, plain
from pnfs.errors import PnfsError

if TYPE_CHECKING:
    from pnfs.data.datasets.base import PoseDataset


def register_resolvers() -> None:
    """Makes them known to this process."""
    OmegaConf.register_new_resolver("run_hash", _run_hash, replace=True)
    OmegaConf.register_new_resolver(
        "absolute", lambda path: str(Path(path).absolute()), replace=True
    )
    OmegaConf.register_new_resolver("trained", _trained, replace=True)


def _run_hash(*, _root_: DictConfig) -> str:
    """What stands for everything that changes a run's numbers; see `run_identity`."""
    tree = {k: v for k, v in OmegaConf.to_container(_root_).items() if k != "hydra"}  # type: ignore
    # Made of the hash themselves.
    return _hash_of(json.dumps(tree | {"run_name": "", "run_dir": ""}))


@functools.lru_cache(maxsize=1)
def _hash_of(tree: str) -> str:
    """A configuration asks for its hash in a dozen places."""
    # Imported when a run is named, not for --help.
    from pnfs.runs.identity import run_hash

    config = cast("DictConfig", OmegaConf.create(json.loads(tree)))
    try:
        settings = plain(config)
    except (PnfsError, OmegaConfBaseException):
        # The run itself says what is wrong with it; its folder must have a name before.
        return run_hash({"config": tree})
    return run_hash(settings, persons_of(settings))


def persons_of(settings: dict[str, Any]) -> dict[str, str] | None:
    """What a run reads of its dataset, as digests; None where the dataset cannot be read."""
    dataset = settings["dataset"]
    try:
        return dict(_digests(json.dumps([dataset, settings["input_size"]])))
    except Exception:
        # As above.
        return None


def training_source(settings: dict[str, Any]) -> "PoseDataset":
    """The dataset of a run; jobs of a sweep share it."""
    return _source(json.dumps([settings["dataset"], settings["input_size"]]))


@functools.lru_cache(maxsize=2)
def _source(dataset_and_size: str) -> "PoseDataset":
    return build_source(*json.loads(dataset_and_size))


@functools.lru_cache(maxsize=64)
def _digests(dataset_and_size: str) -> tuple[tuple[str, str], ...]:
    from pnfs.runs.identity import read_digests

    return tuple(read_digests(_source(dataset_and_size)).items())


def _trained(checkpoint: str | None, key: str, trust: bool) -> Any:
    """An entry of a checkpoint's configuration; its model asks for no downloads."""
    from pnfs.training.checkpoints import CONFIG_KEY, read_checkpoint, without_downloads

    if checkpoint is None:
        raise PnfsError("initial=null: name the checkpoint, or the run's folder, to start from")
    content = read_checkpoint(checkpoint, builds=("model",), trust=trust)
    # As OmegaConf's own nodes: --cfg job --resolve takes no dictionaries.
    return OmegaConf.create(without_downloads(content[CONFIG_KEY])[key])
