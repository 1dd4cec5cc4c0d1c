"""Checkpoints: plain data only, read without running anybody's code."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch

from pnfs.errors import PnfsError
from pnfs.models import PoseFabricNetwork
from pnfs.models.architecture import (
    Architecture,
    architecture_from_json,
    describe_architecture,
    to_json,
)
from pnfs.training.checkpoint_io import damage
from pnfs.training.module import PoseModule
from pnfs.training.roles import interpolations, problems, without_weights

log = logging.getLogger(__name__)

CONFIG_KEY = "pnfs_config"
ARCHITECTURE_KEY = "pnfs_architecture"
IDENTITY_KEY = "pnfs_identity"
CARD_KEY = "pnfs_card"
"""Entry of the model that comes with the package: what it is, was trained on, and scores."""

SHIPPED = Path(__file__).parents[1] / "shipped" / "lspet_best.ckpt"
"""The model that comes with the package, which `checkpoint=shipped` names; tools/ship.py makes it."""

BUILT = ("model", "dataset", "optimizer", "schedule", "loss")
"""Parts of a run's configuration that commands build objects from."""

_FABRICS = "pnfs.models.PoseFabricNetwork"


class CheckpointError(PnfsError):
    """A checkpoint that cannot be used; the message names the file."""


class KeepConfig(L.Callback):
    """Puts configuration, identity (compared when a run is resumed) and architecture into every checkpoint."""

    def __init__(
        self, config: Mapping[str, Any], identity: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__()
        self.config = dict(config)
        self.identity = identity

    def on_load_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        # `max_time` is each start's own: with the time of earlier ones the same command could not go on.
        checkpoint.get("callbacks", {}).pop("Timer", None)

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        checkpoint[CONFIG_KEY] = self.config
        checkpoint[IDENTITY_KEY] = self.identity
        if isinstance(pl_module, PoseModule) and isinstance(pl_module.network, PoseFabricNetwork):
            checkpoint[ARCHITECTURE_KEY] = to_json(describe_architecture(pl_module.network))


def read_architecture(path: str | Path) -> Architecture:
    """The architecture in a JSON file, a checkpoint, or a run's folder.

    Raises:
        CheckpointError: There is none, or it cannot be read.
    """
    path = find_checkpoint(path)
    if path.suffix == ".json":
        text = path.read_text(encoding="utf-8")
    else:
        text = read_checkpoint(path, builds=()).get(ARCHITECTURE_KEY)
        if not isinstance(text, str):
            raise CheckpointError(f"{path}: this checkpoint holds no architecture")
    try:
        return architecture_from_json(text)
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from error


def find_checkpoint(path: str | Path) -> Path:
    """The checkpoint a user means: a file, or the best (else, with a warning, the last) of a run's folder;
    "shipped" is the model that comes with the package.

    Raises:
        CheckpointError: There is none.
    """
    if str(path) == "shipped":
        return SHIPPED
    path = Path(path).expanduser()
    if path.is_file():
        return path
    if not path.is_dir():
        raise CheckpointError(f"{path}: there is no such checkpoint")
    folder = path / "checkpoints" if (path / "checkpoints").is_dir() else path
    best, last = folder / "best.ckpt", folder / "last.ckpt"
    if best.is_file():
        return best
    if not last.is_file():
        raise CheckpointError(f"{path}: no best.ckpt or last.ckpt in this folder")
    log.warning(
        "%s holds no best.ckpt: the weights of the last epoch (last.ckpt) are used in its place",
        folder,
    )
    return last


def results_folder(path: Path, run_root: str) -> Path:
    """Where results go by default: to the run's folder; those of the shipped model to `<run_root>/shipped`."""
    return Path(run_root) / "shipped" if path == SHIPPED else path.parent.parent


def read_checkpoint(
    path: str | Path, *, builds: Sequence[str] = BUILT, trust: bool = False
) -> dict[str, Any]:
    """A checkpoint's content; of its configuration, what will be built is checked.

    Args:
        path: Checkpoint, or a run's folder.
        builds: Parts of the configuration that objects will be built from; those alone may need trust.
            None of them: the configuration is data, and is not looked at.
        trust: Whether classes that are not of this package may be named. They run their own code.

    Raises:
        CheckpointError: Not readable without running code, not one of ours, or its configuration
            names a class that is not ours without `trust`.
    """
    path = find_checkpoint(path)
    if found := damage(path):
        raise CheckpointError(f"{path}: damaged, or no checkpoint of PyTorch ({found})")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise CheckpointError(
            f"{path}: cannot be read as plain data; it holds pickled objects, which are never loaded ({error})"
        ) from error
    kinds = {CONFIG_KEY: Mapping, "state_dict": Mapping, "epoch": int}
    entries = checkpoint if isinstance(checkpoint, dict) else {}
    lacking = [key for key, kind in kinds.items() if not isinstance(entries.get(key), kind)]
    if lacking:
        raise CheckpointError(
            f"{path}: not a checkpoint written by `pnfs train`; it lacks {', '.join(lacking)}"
        )
    for problem in _problems(checkpoint[CONFIG_KEY], builds, trust) if builds else ():
        raise CheckpointError(f"{path}: {problem}")
    return checkpoint


def _problems(config: Any, builds: Sequence[str], trust: bool) -> Iterator[str]:
    """Why a configuration is incomplete, or would do more than build our objects."""
    for key in ("model", "dataset"):
        if not isinstance(config, Mapping) or key not in config:
            yield f"its configuration lacks {key}"
    model = config["model"]
    is_fabric = isinstance(model, Mapping) and model.get("_target_") == _FABRICS
    if is_fabric and "model" in builds and "fabrics" not in model:
        yield "an earlier version wrote it, whose networks this version cannot build; train it again"
    for key in builds:
        yield from problems(config.get(key), key, key, trust)
    for text in interpolations(config):
        yield f"its configuration holds the interpolation {text!r}"


def without_downloads(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration with a model that asks for no pretrained weights, anywhere in it."""
    return dict(settings) | {"model": without_weights(settings["model"])}
