"""Checkpoints: plain data only, read without running anybody's code."""

import importlib
import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
import torch

from pnfs.models import PoseFabricNetwork
from pnfs.models.architecture import (
    Architecture,
    architecture_from_json,
    describe_architecture,
    to_json,
)
from pnfs.training.module import PoseModule

CONFIG_KEY = "pnfs_config"
ARCHITECTURE_KEY = "pnfs_architecture"
IDENTITY_KEY = "pnfs_identity"

# What a checkpoint may name in its configuration: classes defined in these packages.
_ALLOWED = ("pnfs.models.", "pnfs.data.", "pnfs.training.", "pnfs.search.", "torch.optim.")

# What checkpoints named before a map of P parts was one tensor.
_GONE = "pnfs.models.operations.Zero"

# Parts of the configuration that commands build objects from.
_BUILT = ("model", "dataset", "optimizer", "schedule", "loss")
_REQUIRED = ("model", "dataset")


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the message names the file."""


class KeepConfig(L.Callback):
    """Puts configuration, identity and architecture of a run, as plain data, into every checkpoint.

    Args:
        config: Resolved.
        identity: What makes the run what it is; compared when it is resumed.
    """

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
    path = Path(path).expanduser()
    if path.suffix == ".json":
        if not path.is_file():
            raise CheckpointError(f"{path}: there is no such file")
        text = path.read_text()
    else:
        path = find_checkpoint(path)
        text = read_checkpoint(path).get(ARCHITECTURE_KEY)
        if not isinstance(text, str):
            raise CheckpointError(f"{path}: this checkpoint holds no architecture")
    try:
        return architecture_from_json(text)
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from error


def find_checkpoint(path: str | Path) -> Path:
    """The checkpoint a user means: a file, or the best (else the last) of a run's folder.

    Raises:
        CheckpointError: There is none.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        folder = path / "checkpoints" if (path / "checkpoints").is_dir() else path
        for name in ("best.ckpt", "last.ckpt"):
            if (folder / name).is_file():
                return folder / name
        raise CheckpointError(f"{path}: no best.ckpt or last.ckpt in this folder")
    if not path.is_file():
        raise CheckpointError(f"{path}: there is no such checkpoint")
    return path


def read_checkpoint(path: str | Path, *, check: bool = True) -> dict[str, Any]:
    """A checkpoint's content with its configuration checked.

    Args:
        path: Checkpoint, or a run's folder.
        check: False for a run's own checkpoint, of whose configuration nothing will be built; it may
            name a user's classes.

    Raises:
        CheckpointError: Not readable without running code, not one of ours, or its configuration
            names anything but classes of this package.
    """
    path = find_checkpoint(path)
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise CheckpointError(
            f"{path}: cannot be read as plain data; it is damaged, or holds pickled objects, which "
            f"are never loaded ({error})"
        ) from error
    if not isinstance(checkpoint, dict) or CONFIG_KEY not in checkpoint:
        raise CheckpointError(f"{path}: not a checkpoint written by `pnfs train`")
    if check:
        check_configuration(checkpoint[CONFIG_KEY], path)
    return checkpoint


def without_downloads(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration with a model that asks for no pretrained weights."""
    model = dict(settings["model"])
    model["backbone"] = model["backbone"] | {"weights": "none"}
    if "weights" in model:
        model["weights"] = "none"
    return dict(settings) | {"model": model}


def check_configuration(config: Any, path: Path) -> None:
    """Refuses a configuration that is incomplete or would do more than build our objects.

    Raises:
        CheckpointError: Says what is wrong.
    """
    missing = [key for key in _REQUIRED if not isinstance(config, Mapping) or key not in config]
    if missing:
        raise CheckpointError(f"{path}: its configuration lacks {', '.join(missing)}")
    check_targets({key: config[key] for key in _BUILT if key in config}, path)
    check_targets({key: config[key] for key in config if key not in _BUILT}, path, targets=False)


def check_targets(config: Any, path: Path, targets: bool = True) -> None:
    """Refuses targets that are no class of this package, and interpolations, anywhere below."""
    if isinstance(config, Mapping):
        if targets and "_target_" in config and not _is_ours(config["_target_"]):
            if config["_target_"] == _GONE:
                raise CheckpointError(
                    f"{path}: its configuration names {config['_target_']!r}: an earlier version wrote it, "
                    "whose weights this version cannot load; train it again, or use that version"
                )
            raise CheckpointError(
                f"{path}: its configuration names {config['_target_']!r}, which is no class of pnfs; "
                "a checkpoint must not run foreign code (`pnfs evaluate ... trust=true` builds it at "
                "your word)"
            )
        for value in config.values():
            check_targets(value, path, targets)
    elif isinstance(config, (list, tuple)):
        for value in config:
            check_targets(value, path, targets)
    elif isinstance(config, str) and "${" in config:
        # Resolving one could call anything; what we write is resolved already.
        raise CheckpointError(f"{path}: its configuration holds the interpolation {config!r}")


def _is_ours(target: Any) -> bool:
    if not isinstance(target, str) or not target.startswith(_ALLOWED):
        return False
    module_name, _, name = target.rpartition(".")
    try:
        found = inspect.getattr_static(importlib.import_module(module_name), name)
    except (ImportError, AttributeError):
        return False
    return inspect.isclass(found) and found.__module__.startswith(_ALLOWED)
