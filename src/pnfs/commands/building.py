"""Objects from a configuration, a new run's or a trained one's: dataset, crops, network, module."""

import functools
import inspect
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning as L
from hydra.utils import get_class, instantiate
from lightning.pytorch.callbacks import Callback, LearningRateMonitor, ProgressBar
from lightning.pytorch.loggers import CSVLogger, Logger

from pnfs.body import skeleton_by_name
from pnfs.codec import Codec
from pnfs.commands.configuration import UsageError
from pnfs.data.datasets.base import PoseDataset, with_every_split
from pnfs.data.module import PoseDataModule
from pnfs.models import PoseNetwork
from pnfs.models.architecture import Architecture, to_json
from pnfs.runs.identity import read_digests
from pnfs.training import checkpoints
from pnfs.training.checkpoints import CONFIG_KEY, KeepConfig
from pnfs.training.keeping import WholeCheckpointIO
from pnfs.training.module import PoseModule


def build_dataset(config: Mapping[str, Any], input_size: Sequence[int] | None = None) -> PoseDataset:
    """The dataset that the group `dataset` names.

    `input_size`, (height, width) of the network's crops, is for datasets whose evaluation depends on it (COCO)
    and whose configuration does not say.
    """
    offered = inspect.signature(get_class(config["_target_"])).parameters
    given, asked = dict(config), config.get("skeleton")
    if input_size is not None and config.get("input_size") is None and "input_size" in offered:
        given["input_size"] = list(input_size)
    if "skeleton" not in offered:  # Classes that know one skeleton only are not told its name.
        given.pop("skeleton", None)
    dataset = instantiate(given, _convert_="all")
    if "skeleton" not in offered and asked not in (None, dataset.skeleton.name):
        own = dataset.skeleton.name
        raise UsageError(f"dataset.skeleton={asked}: the joints of {config['_target_']} are those of {own}")
    return dataset


_dataset_of = functools.lru_cache(maxsize=2)(lambda given: build_dataset(*json.loads(given)))
_digests_of = functools.lru_cache(maxsize=64)(lambda given: read_digests(_dataset_of(given)))


def training_dataset(settings: Mapping[str, Any]) -> PoseDataset:
    """The dataset of a run; jobs of a sweep share it."""
    return _dataset_of(json.dumps([settings["dataset"], settings["input_size"]]))


def persons_of(settings: Mapping[str, Any]) -> dict[str, str] | None:
    """What a run reads of its dataset, see `read_digests`; None if that fails, which the run itself reports."""
    try:
        return _digests_of(json.dumps([settings["dataset"], settings["input_size"]]))
    except Exception:
        return None


def build_network(config: Mapping[str, Any]) -> PoseNetwork:
    """The network that the group `model` describes."""
    return instantiate(config, _convert_="all")


def build_module(
    settings: Mapping[str, Any], dataset: PoseDataset, network: PoseNetwork | None = None
) -> PoseModule:
    """The LightningModule of a resolved configuration, with a new network unless one is given."""
    return PoseModule(
        network=build_network(settings["model"]) if network is None else network,
        metric=dataset.metric("val"),
        optimizer=instantiate(settings["optimizer"], _convert_="all"),
        schedule=instantiate(settings["schedule"], _convert_="all"),
        loss=instantiate(settings["loss"]),
        codec=Codec(**settings["codec"]),
    )


def build_data(settings: Mapping[str, Any], dataset: PoseDataset) -> PoseDataModule:
    """Loaders of a run's crops."""
    given = {"dataset": dataset, "augmentation": settings["augmentation"]}
    return instantiate(settings["data"], **given, _convert_="all")


def build_loggers(settings: Mapping[str, Any]) -> list[Logger]:
    """What the group logger names; none with trainer.logger=false. (With fast_dev_run Lightning silences them.)"""
    trainer = settings["trainer"]
    if trainer.get("logger") is False:
        return []
    loggers = [instantiate(entry) for entry in settings["logger"].values() if entry is not None]
    for logger in [] if trainer.get("fast_dev_run") else loggers:
        if not isinstance(logger, CSVLogger):
            logger.log_hyperparams(dict(settings))
    return loggers


def build_trainer(settings: Mapping[str, Any], loggers: list[Logger], identity: Mapping[str, Any]) -> L.Trainer:
    """The trainer with the callbacks of its own key and of the group; configuration and identity go into
    every checkpoint."""
    trainer = dict(settings["trainer"])
    nodes = [*(settings.get("callbacks") or {}).values(), *(trainer.pop("callbacks", None) or [])]
    callbacks: list[Callback] = [instantiate(node, _convert_="all") for node in nodes if node]
    given = trainer.pop("logger", None)
    # Lightning refuses a bar beside enable_progress_bar=false, and learning rates that nobody logs.
    wanted = {ProgressBar: trainer.get("enable_progress_bar", True), LearningRateMonitor: loggers or given}
    unwanted = tuple(kind for kind, is_wanted in wanted.items() if not is_wanted)
    kept = [callback for callback in callbacks if not isinstance(callback, unwanted)]
    logger = loggers if given in (None, True) else given
    return instantiate(trainer, logger=logger, callbacks=[*kept, KeepConfig(settings, identity)])


# --- of a trained run


def read_trained(
    settings: Mapping[str, Any], builds: Sequence[str] = checkpoints.BUILT
) -> tuple[Path, dict[str, Any], dict[str, Any]]:
    """The checkpoint that is named: its path, its configuration, which asks for no downloads, and its content."""
    path = checkpoints.find_checkpoint(settings["checkpoint"])
    content = checkpoints.read_checkpoint(path, builds=builds, trust=settings["trust"])
    return path, checkpoints.without_downloads(content[CONFIG_KEY]), content


def trained_network(trained: Mapping[str, Any], content: Mapping[str, Any], path: Path) -> PoseNetwork:
    """The network of a checkpoint, with its weights."""
    network = build_network(trained["model"])
    checkpoints.load_network_state(network, content, path)
    return network


def data_for(
    settings: Mapping[str, Any], trained: Mapping[str, Any], skeleton: str, path: Path
) -> tuple[dict[str, Any], PoseDataModule]:
    """A dataset's configuration, and its crops as the run of the network in the file at `path` saw them; not
    augmented, not cached.

    The dataset is that of the command line, or without one the checkpoint's with the keys that are given.
    """
    asked, (height, width) = settings["dataset"], trained["input_size"]
    given = {key: value for key, value in asked.items() if value is not None}
    config = asked if "_target_" in asked else {**trained["dataset"], **given}
    dataset, ours = build_dataset(config, (height, width)), skeleton_by_name(skeleton)
    theirs = dataset.skeleton
    if (ours.name, ours.joints) != (theirs.name, theirs.joints):
        other = theirs.name if ours.name != theirs.name else "another one of this name, or them in another order"
        text = f"{path} predicts the joints of skeleton {ours.name}, the dataset has those of {other}"
        raise UsageError(f"{text}; name a dataset of the same joints")
    return config, PoseDataModule(
        dataset=with_every_split(dataset, settings.get("split", "val")),
        input_size=(height, width),
        batch_size=settings.get("eval_batch_size", 1),
        workers=settings.get("workers", 0),
        unbiased=trained.get("codec", {}).get("unbiased", False),
        reduced_decoding=trained.get("data", {}).get("reduced_decoding", True),
    )


def save_network(
    folder: Path,
    network: PoseNetwork,
    settings: Mapping[str, Any],
    architecture: Architecture | None,
    epoch: int = 0,
) -> Path:
    """Writes a derived or imported network as `checkpoints/best.ckpt`, a run's but for the training's state.

    The configuration `settings` describes the network, its dataset and its crops; `epoch` is the last one that its
    weights were trained in.
    """
    state = {f"network.{name}": value for name, value in network.state_dict().items()}
    content: dict[str, Any] = {"state_dict": state, CONFIG_KEY: dict(settings), "epoch": epoch}
    if architecture is not None:
        content[checkpoints.ARCHITECTURE_KEY] = to_json(architecture)
    path = folder / "checkpoints" / "best.ckpt"
    WholeCheckpointIO().save_checkpoint(content, path)
    return path
