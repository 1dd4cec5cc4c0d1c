"""Checkpoints: plain data only, read without running anybody's code; and what their configurations may build."""

import inspect
import logging
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import lightning as L
import torch
from torch.optim import Optimizer

from pnfs.body import Skeleton
from pnfs.data.datasets.base import PoseDataset
from pnfs.errors import PnfsError
from pnfs.files import SHIPPED, checkpoint_at
from pnfs.models import FabricRules, NeuralFabrics, PoseFabricNetwork, PoseNetwork
from pnfs.models.architecture import Architecture, architecture_from_json, describe_architecture, to_json
from pnfs.models.backbones import Backbone, Stem
from pnfs.models.operations import Operation
from pnfs.models.wiring import KeptCell
from pnfs.training.loss import HeatmapLoss
from pnfs.training.module import PoseModule
from pnfs.training.schedules import Schedule, schedule_anew

log = logging.getLogger(__name__)

CONFIG_KEY = "pnfs_config"
ARCHITECTURE_KEY = "pnfs_architecture"
IDENTITY_KEY = "pnfs_identity"
CARD_KEY = "pnfs_card"
"""Entry of the model that comes with the package: what it is, was trained on, and scores."""
BUILT = ("model", "dataset", "optimizer", "schedule", "loss")
"""Parts of a run's configuration that commands build objects from."""

# Packages whose own classes need no trust; what their modules import from elsewhere does.
_PACKAGES = ("pnfs.body.", "pnfs.models.", "pnfs.data.", "pnfs.training.", "torch.optim.")
# Key -> what the class there, or in the dictionary there, has to be.
_ROLES: Mapping[str, type] = {
    "model": PoseNetwork, "backbone": Backbone, "stem": Stem, "fabrics": NeuralFabrics,
    "operations": Operation, "rules": FabricRules, "kept": KeptCell, "dataset": PoseDataset,
    "skeleton": Skeleton, "optimizer": Optimizer, "schedule": Schedule, "loss": HeatmapLoss,
}  # fmt: skip


class CheckpointError(PnfsError):
    """A checkpoint that cannot be used; the message names the file."""


class KeepConfig(L.Callback):
    """Puts configuration, identity (compared when a run is resumed) and architecture into every checkpoint."""

    def __init__(self, config: Mapping[str, Any], identity: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        self.config = dict(config)
        self.identity = identity
        self._of_another_run: dict[str, Any] | None = None

    def on_load_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        # `max_time` is each start's own: with the time of earlier ones the same command could not go on.
        states = checkpoint.get("callbacks", {})
        states.pop("Timer", None)
        if checkpoint.get(IDENTITY_KEY) != self.identity:
            # Another run's best epoch is not in this one's folder, and its patience is spent.
            for callback in (*trainer.checkpoint_callbacks, *trainer.early_stopping_callbacks):
                states.pop(callback.state_key, None)
            self._of_another_run = checkpoint

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        # There are optimisers now, and Lightning has not loaded their states yet.
        if self._of_another_run is not None:
            schedule_anew(trainer, self._of_another_run)
            self._of_another_run = None

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        checkpoint[CONFIG_KEY] = self.config
        checkpoint[IDENTITY_KEY] = self.identity
        if isinstance(pl_module, PoseModule) and isinstance(pl_module.network, PoseFabricNetwork):
            # Of these weights, which are the averaged ones where another callback has put them there.
            state = network_state(checkpoint)
            checkpoint[ARCHITECTURE_KEY] = to_json(describe_architecture(pl_module.network, state))


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
    """The checkpoint a user means (see `checkpoint_at`), with a warning where a run's folder holds no best one.

    Raises:
        CheckpointError: There is none.
    """
    found = checkpoint_at(path)
    if found is None:
        raise CheckpointError(f"{path}: no checkpoint, and no best.ckpt or last.ckpt in it")
    if found.name == "last.ckpt" and Path(path).name != found.name:
        log.warning("%s holds no best.ckpt: the weights of the last epoch (last.ckpt) are used", found.parent)
    return found


def results_place(path: Path, run_root: str, name: str) -> Path:
    """Where results called `name` go by default: to the run's folder, or that of a checkpoint of no run; those of
    the shipped model to `<run_root>/shipped`.

    Only results of a run's best checkpoint have this very name: others are called "model_last".
    """
    if path == SHIPPED:
        return Path(run_root) / "shipped" / name
    in_run = path.parent.name == "checkpoints"
    folder = path.parent.parent if in_run else path.parent
    if in_run and path.name == "best.ckpt":
        return folder / name
    # What follows a full stop would be taken for a suffix.
    return folder / f"{name}_{path.name.removesuffix('.ckpt').replace('.', '_')}"


def read_checkpoint(path: str | Path, *, builds: Sequence[str] = BUILT, trust: bool = False) -> dict[str, Any]:
    """The content of a checkpoint (see `find_checkpoint`); of its configuration, what will be built is checked.

    `builds` are the parts of the configuration that objects will be built from; without any it is not checked.
    With `trust` classes that are not of this package may be named, which run their own code.

    Raises:
        CheckpointError: Damaged, not readable without running code, not one of ours, or its configuration names a
            class that is not ours without `trust`.
    """
    path = find_checkpoint(path)
    if found := damage(path):
        raise CheckpointError(f"{path}: damaged, or no checkpoint of PyTorch ({found})")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = f"it holds pickled objects, which are never loaded ({error})"
        raise CheckpointError(f"{path}: cannot be read as plain data; {reason}") from error
    kinds = {CONFIG_KEY: Mapping, "state_dict": Mapping, "epoch": int}
    entries = checkpoint if isinstance(checkpoint, dict) else {}
    for key in (key for key, kind in kinds.items() if not isinstance(entries.get(key), kind)):
        raise CheckpointError(f"{path}: not a checkpoint written by `pnfs train`; it lacks {key}")
    for problem in _problems(checkpoint[CONFIG_KEY], builds, trust) if builds else ():
        raise CheckpointError(f"{path}: {problem}")
    return checkpoint


def network_state(content: Mapping[str, Any]) -> dict[str, Any]:
    """The network's state dict out of the content of a checkpoint."""
    entries = content["state_dict"].items()
    return {key.partition(".")[2]: value for key, value in entries if key.startswith("network.")}


def load_network_state(network: PoseNetwork, content: Mapping[str, Any], path: object) -> None:
    """Loads the network's weights out of the content of the checkpoint at `path`.

    Raises:
        CheckpointError: They do not fit.
    """
    try:
        network.load_state_dict(network_state(content))
    except RuntimeError as error:
        text = "its weights do not fit the network that its configuration describes"
        raise CheckpointError(f"{path}: {text} ({error})") from error


def damage(path: Path) -> str | None:
    """What is wrong with a checkpoint's bytes, whose checksums `torch.load` does not compare; None: nothing."""
    try:
        with zipfile.ZipFile(path) as archive:
            entry = archive.testzip()
    except (OSError, zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError) as error:
        return str(error)
    return None if entry is None else f"checksum of {entry}"


def _problems(config: Any, builds: Sequence[str], trust: bool) -> Iterator[str]:
    """Why a configuration is incomplete, or would do more than build our objects."""
    for key in ("model", "dataset"):
        if key not in config:
            yield f"its configuration lacks {key}"
    model = config["model"] if "model" in builds else None
    target = model.get("_target_") if isinstance(model, Mapping) else None
    if target == "pnfs.models.PoseFabricNetwork" and "fabrics" not in (model or {}):
        yield "an earlier version wrote it, whose networks this version cannot build; train it again"
    for key in builds:
        yield from _foreign(config.get(key), key, key, trust)
    # What is left to resolve could call anything; what we write is resolved already.
    if found := re.search(r"\$\{[^}]*\}?", repr(config)):
        yield f"its configuration holds the interpolation {found[0]!r}"


def _foreign(config: Any, key: str, role: str | None, trust: bool) -> Iterator[str]:
    """Reasons not to build the part of a configuration at a dotted key.

    `role` is a key of `_ROLES`, what is built of it, or None where no class belongs.
    """
    if isinstance(config, (list, tuple)):
        for index, value in enumerate(config):
            yield from _foreign(value, f"{key}.{index}", None, trust)
    if not isinstance(config, Mapping):
        return
    is_object, base = "_target_" in config, _ROLES.get(role or "")
    if is_object:
        target = config["_target_"]
        found = _resolved(target, trust)
        is_ours = inspect.isclass(found) and found.__module__.startswith(_PACKAGES)
        own = is_ours and base is not None and issubclass(found, base)
        kind = base.__name__ if base else "class that belongs there"
        where = f"its configuration names {target!r} under {key}, which"
        if not (own or trust):
            yield (
                f"{where} is no {kind} of pnfs; trust=true builds it all the same, which runs its code: "
                "only for checkpoints that you wrote"
            )
        elif not callable(found):
            yield f"{where} is no class that can be imported ({found!r}); PYTHONPATH must hold its module's folder"
    for name, value in config.items():
        # What an object is made of is known by its key; a dictionary of objects has objects of one kind.
        below = (str(name) if name in _ROLES else None) if is_object else role
        yield from _foreign(value, f"{key}.{name}", below, trust)


def _resolved(target: Any, trust: bool) -> Any:
    """What a dotted name stands for, or why it stands for nothing; `trust` lets foreign modules be imported."""
    allowed = trust or (str(target).startswith(_PACKAGES) and ":" not in target)
    try:
        return resolve_name(target) if allowed else None
    except Exception as error:  # The user's module may fail in any way.
        return error


def without_downloads(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration with a model that asks for no pretrained weights, anywhere in it."""

    def changed(node: Any) -> Any:
        if isinstance(node, list):
            return list(map(changed, node))
        if not isinstance(node, Mapping):
            return node
        found = {key: changed(value) for key, value in node.items()}
        # Left out, weights could have another default; the class was checked.
        target = found.get("_target_")
        takes = "weights" in found or (target and "weights" in inspect.signature(resolve_name(target)).parameters)
        return found | {"weights": "none"} if takes else found

    return dict(settings) | {"model": changed(settings["model"])}
