"""Settings, data and network of a run, from its configuration."""

import logging
from collections.abc import Mapping
from typing import Any

import lightning as L
from hydra.utils import instantiate

from pnfs.codec import Codec
from pnfs.commands.configuration import build_network
from pnfs.data.datasets.base import PoseDataset
from pnfs.data.module import PoseDataModule
from pnfs.inference.loading import trained_unbiased
from pnfs.models import PoseNetwork
from pnfs.training.module import PoseModule

log = logging.getLogger(__name__)


def build_training(
    settings: dict[str, Any], source: PoseDataset
) -> tuple[PoseDataModule, PoseModule]:
    """Data and network of a run, both as its seed makes them."""
    L.seed_everything(settings["seed"], workers=True, verbose=False)
    # Problems of the data show before anything is built.
    for split in ("train", "val"):
        log.info(source.persons(split).described())
    # A detector's persons have no labels: no loss, and hours of boxes that hold nobody.
    watched = source.in_labelled_boxes()
    if watched is not source:
        log.info("validation while training: ground-truth boxes; final score: detected boxes")
    return build_data(settings, watched), build_module(settings, watched)


def build_data(settings: Mapping[str, Any], source: PoseDataset) -> PoseDataModule:
    """Loaders of a dataset as the configuration wants them."""
    return instantiate(
        settings["data"], source=source, augmentation=settings["augmentation"], _convert_="all"
    )


def build_module(
    settings: dict[str, Any], source: PoseDataset, network: PoseNetwork | None = None
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
    trained: Mapping[str, Any], source: PoseDataset, *, batch_size: int, workers: int
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
