"""Data and network from a configuration, a new run's or a trained one's."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.utils import instantiate

from pnfs.body import skeleton_by_name
from pnfs.codec import Codec
from pnfs.commands.configuration import UsageError, build_network, build_source
from pnfs.data.datasets.base import PoseDataset
from pnfs.data.module import PoseDataModule
from pnfs.inference.loading import trained_unbiased
from pnfs.models import PoseNetwork
from pnfs.models.architecture import Architecture, to_json
from pnfs.training.checkpoints import (
    ARCHITECTURE_KEY,
    BUILT,
    CONFIG_KEY,
    find_checkpoint,
    load_network_state,
    read_checkpoint,
    without_downloads,
)
from pnfs.training.keeping import WholeCheckpointIO
from pnfs.training.module import PoseModule


def read_trained(
    settings: Mapping[str, Any], builds: Sequence[str] = BUILT
) -> tuple[Path, dict[str, Any], dict[str, Any]]:
    """The checkpoint that is named: its path, its configuration, which asks for no downloads, and its content."""
    path = find_checkpoint(settings["checkpoint"])
    content = read_checkpoint(path, builds=builds, trust=settings["trust"])
    return path, dict(without_downloads(content[CONFIG_KEY])), content


def trained_network(
    trained: Mapping[str, Any], content: Mapping[str, Any], path: Path
) -> PoseNetwork:
    """The network of a checkpoint, with its weights."""
    network = build_network(trained["model"])
    load_network_state(network, content, path)
    return network


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
    """The crops of a dataset, the run's own or another, as a trained run saw them; not augmented, not cached."""
    height, width = trained["input_size"]
    return PoseDataModule(
        source=source,
        input_size=(height, width),
        batch_size=batch_size,
        workers=workers,
        unbiased=trained_unbiased(trained),
        reduced_decoding=trained.get("data", {}).get("reduced_decoding", True),
    )


def chosen_dataset(asked: dict[str, Any], trained: Mapping[str, Any]) -> dict[str, Any]:
    """The dataset of the command line; without one, the checkpoint's with the keys given."""
    if "_target_" in asked:
        return dict(asked)
    return {**trained, **{key: value for key, value in asked.items() if value is not None}}


def source_for(
    dataset: Mapping[str, Any], input_size: tuple[int, int], skeleton: str, path: Path
) -> PoseDataset:
    """The dataset that a network, the file at `path`, is scored or calibrated on."""
    source, name = build_source(dataset, input_size), skeleton_by_name(skeleton).name
    if name != source.skeleton.name:
        raise UsageError(
            f"{path} predicts the joints of skeleton {name}, the dataset has those of {source.skeleton.name}"
        )
    return source


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
    content: dict[str, Any] = {
        "state_dict": {f"network.{name}": value for name, value in network.state_dict().items()},
        CONFIG_KEY: dict(settings),
        "epoch": epoch,
    }
    if architecture is not None:
        content[ARCHITECTURE_KEY] = to_json(architecture)
    path = folder / "checkpoints" / "best.ckpt"
    WholeCheckpointIO().save_checkpoint(content, path)
    return path
