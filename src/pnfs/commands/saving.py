"""Networks that no training made, saved as the other commands take them: derived and imported ones."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pnfs.models import PoseNetwork
from pnfs.models.architecture import Architecture, to_json
from pnfs.training.checkpoint_io import WholeCheckpointIO
from pnfs.training.checkpoints import ARCHITECTURE_KEY, CONFIG_KEY


def save_network(
    folder: Path,
    network: PoseNetwork,
    settings: Mapping[str, Any],
    architecture: Architecture | None,
    epoch: int = 0,
) -> Path:
    """Writes `checkpoints/best.ckpt`, whole or not at all: a trained run's, but for the training's state.

    Args:
        folder: The run's; made as needed.
        network: Whose weights are saved.
        settings: The configuration that describes it, its dataset and its crops.
        architecture: Architecture of a network of fabrics.
        epoch: The last one that its weights were trained in.
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
