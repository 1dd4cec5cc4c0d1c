"""Settings, data and network of a run, from its configuration."""

from collections.abc import Mapping
from typing import Any

import lightning as L
from hydra.utils import instantiate
from omegaconf import DictConfig
from rich.console import Console

from pnfs.codec import Codec
from pnfs.commands.checks import require_free_keys, require_labels
from pnfs.commands.configuration import (
    UsageError,
    build_network,
    build_source,
    choose_parts,
    plain,
)
from pnfs.data.module import PoseDataModule, Source
from pnfs.data.predictions import in_labelled_boxes
from pnfs.inference.loading import trained_unbiased
from pnfs.models import PoseNetwork
from pnfs.training.checkpoints import CONFIG_KEY, read_checkpoint, without_downloads
from pnfs.training.module import PoseModule

console = Console()


def training_settings(config: DictConfig) -> tuple[dict[str, Any], Source]:
    """The resolved configuration of a training, as its record keeps it, and its dataset.

    Raises:
        UsageError: The configuration names no dataset, sets what the command sets itself, or its dataset has
            no labels.
    """
    if "_target_" not in config.dataset:
        raise UsageError(
            "dataset=of_checkpoint is for commands that read a checkpoint; choose a dataset to train on"
        )
    require_free_keys(config.trainer)
    source = build_source(plain(config.dataset))
    choose_parts(config, source.skeleton.name)
    settings = plain(config)
    if settings["initial"] is not None:
        settings = start_from(settings, source.skeleton.name)
    source = build_source(settings["dataset"], settings["input_size"])
    require_labels(source)
    return settings, source


def start_from(settings: dict[str, Any], skeleton: str) -> dict[str, Any]:
    """The configuration with the model of the checkpoint that `initial` names.

    Raises:
        UsageError: Its network predicts the joints of another skeleton.
    """
    checkpoint = read_checkpoint(settings["initial"], builds=("model",), trust=settings["trust"])
    trained = without_downloads(checkpoint[CONFIG_KEY])
    model = trained["model"]
    if model["skeleton"] != skeleton:
        raise UsageError(
            f"initial={settings['initial']} predicts the joints of {model['skeleton']}, the dataset "
            f"has those of {skeleton}"
        )
    return settings | {"model": model, "input_size": trained["input_size"]}


def build_training(settings: dict[str, Any], source: Source) -> tuple[PoseDataModule, PoseModule]:
    """Data and network of a run, both as its seed makes them."""
    L.seed_everything(settings["seed"], workers=True, verbose=False)
    # Problems of the data show before anything is built.
    for split in ("train", "val"):
        console.print(source.persons(split).described(), soft_wrap=True)
    # A detector's persons have no labels: no loss, and hours of boxes that hold nobody.
    watched = in_labelled_boxes(source)
    if watched is not source:
        console.print("validation while training: ground-truth boxes; final score: detected boxes")
    return build_data(settings, watched), build_module(settings, watched)


def build_data(settings: Mapping[str, Any], source: Source) -> PoseDataModule:
    """Loaders of a dataset as the configuration wants them."""
    return instantiate(
        settings["data"], source=source, augmentation=settings["augmentation"], _convert_="all"
    )


def build_module(
    settings: dict[str, Any], source: Source, network: PoseNetwork | None = None
) -> PoseModule:
    """The LightningModule of a resolved configuration, with a new network unless one is given."""
    return PoseModule(
        network=build_network(settings["model"]) if network is None else network,
        metric=source.metric("val"),
        optimizer=instantiate(settings["optimizer"], _convert_="all"),
        schedule=instantiate(settings["schedule"], _convert_="all"),
        loss=instantiate(settings["loss"]),
        codec=Codec(**settings["codec"]),
    )


def data_of_run(
    trained: Mapping[str, Any], source: Source, *, batch_size: int, workers: int
) -> PoseDataModule:
    """The plain crops of a dataset as a trained run saw them.

    Everything that decides what a crop looks like comes from the run; nothing is augmented or
    cached.

    Args:
        trained: The run's stored configuration.
        source: The dataset, the run's own or another one.
        batch_size: Persons in a batch.
        workers: Loader processes.
    """
    height, width = trained["input_size"]
    return PoseDataModule(
        source=source,
        input_size=(height, width),
        batch_size=batch_size,
        workers=workers,
        unbiased=trained_unbiased(trained),
        reduced_decoding=trained.get("data", {}).get("reduced_decoding", True),
    )
