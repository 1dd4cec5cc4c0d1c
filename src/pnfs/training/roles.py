"""What a checkpoint's configuration may hold: nobody else's code runs unless the user says so."""

import importlib
import inspect
from collections.abc import Iterator, Mapping
from pkgutil import resolve_name
from typing import Any

from torch.optim import Optimizer

from pnfs.body import Skeleton
from pnfs.data.datasets.base import PoseDataset
from pnfs.models import FabricRules, NeuralFabrics, PoseNetwork
from pnfs.models.backbones import Backbone, Stem
from pnfs.models.operations import Operation
from pnfs.models.wiring import KeptCell
from pnfs.training.loss import HeatmapLoss
from pnfs.training.schedules import Schedule

_PACKAGES = ("pnfs.body.", "pnfs.models.", "pnfs.data.", "pnfs.training.", "torch.optim.")
"""Where the classes lie that need no trust. A name of another module inside of them is none of theirs."""

_ROLES: Mapping[str, type] = {
    "model": PoseNetwork, "backbone": Backbone, "stem": Stem, "fabrics": NeuralFabrics,
    "operations": Operation, "rules": FabricRules, "kept": KeptCell, "dataset": PoseDataset,
    "skeleton": Skeleton, "optimizer": Optimizer, "schedule": Schedule, "loss": HeatmapLoss,
}  # fmt: skip
"""Key -> what the class there, or in the dictionary there, has to be."""


def problems(config: Any, key: str, role: str | None, trust: bool) -> Iterator[str]:
    """What speaks against building this part, at a dotted key, of a checkpoint's configuration.

    `role` is a key of `_ROLES`, what is built of it, or None where no class belongs; `trust` says whether classes
    that are not of this package may be named.
    """
    if isinstance(config, Mapping):
        is_object = "_target_" in config
        if is_object and (problem := _problem(config["_target_"], role, trust)):
            yield f"its configuration names {config['_target_']!r} under {key}{problem}"
        for name, value in config.items():
            # What an object is made of is known by its key; a dictionary of objects has objects of one kind.
            below = (str(name) if name in _ROLES else None) if is_object else role
            yield from problems(value, f"{key}.{name}", below, trust)
    elif isinstance(config, (list, tuple)):
        for index, value in enumerate(config):
            yield from problems(value, f"{key}.{index}", None, trust)


def interpolations(config: Any) -> Iterator[str]:
    """What is left to resolve, which could call anything; what we write is resolved already."""
    if isinstance(config, Mapping):
        config = list(config.values())
    if isinstance(config, (list, tuple)):
        for value in config:
            yield from interpolations(value)
    elif isinstance(config, str) and "${" in config:
        yield config


def without_weights(node: Any) -> Any:
    """A configuration that asks for no pretrained weights; its classes, which were checked, are imported."""
    if isinstance(node, list):
        return [without_weights(value) for value in node]
    if not isinstance(node, Mapping):
        return node
    found = {key: without_weights(value) for key, value in node.items()}
    target = found.get("_target_")
    # Left out, weights could have another default.
    if "weights" in found or (
        target and "weights" in inspect.signature(resolve_name(target)).parameters
    ):
        found["weights"] = "none"
    return found


def _problem(target: Any, role: str | None, trust: bool) -> str | None:
    """Why a class may not be built, as the end of a sentence; None if it may."""
    if _is_ours(target, role):
        return None
    if not trust:
        base = _ROLES.get(role or "")
        kind = base.__name__ if base else "class that belongs there"
        return (
            f", which is no {kind} of pnfs; trust=true builds it all the same, which runs its code: only for "
            "checkpoints that you wrote"
        )
    try:
        found = resolve_name(target)
    except Exception as error:
        # The user's module may fail in any way.
        return (
            f", which cannot be imported ({type(error).__name__}: {error}); the folder of its module must be in "
            "PYTHONPATH"
        )
    return None if callable(found) else ", which is no class"


def _is_ours(target: Any, role: str | None) -> bool:
    """Whether it is a class of this package (or an optimiser of PyTorch) that does what is done in its place."""
    base = _ROLES.get(role or "")
    if base is None or not str(target).startswith(_PACKAGES):
        return False
    module, _, name = str(target).rpartition(".")
    try:
        found = inspect.getattr_static(importlib.import_module(module), name)
    except (ImportError, AttributeError):
        return False
    own = inspect.isclass(found) and found.__module__.startswith(_PACKAGES)
    return own and issubclass(found, base)
