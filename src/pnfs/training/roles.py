"""Which classes a checkpoint's configuration may name: nobody else's code runs unless the user says so."""

import importlib
import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch.optim import Optimizer

from pnfs.body import Skeleton
from pnfs.models import FabricRules, NeuralFabrics, PoseNetwork
from pnfs.models.backbones import Backbone, Stem
from pnfs.models.operations import Operation
from pnfs.models.wiring import KeptCell
from pnfs.training.loss import HeatmapLoss

_PACKAGES = ("pnfs.body.", "pnfs.models.", "pnfs.data.", "pnfs.training.", "torch.optim.")
"""Where the classes lie that need no trust. A name of another module inside of them is none of theirs."""


def _is(*bases: type) -> Callable[[type], bool]:
    return lambda found: issubclass(found, bases)


def _has(*methods: str) -> Callable[[type], bool]:
    return lambda found: all(callable(getattr(found, name, None)) for name in methods)


@dataclass(frozen=True)
class _Role:
    """What a class is for.

    Args:
        name: For messages.
        plays: Whether a class can be that.
    """

    name: str
    plays: Callable[[type], bool]


_ROLES: Mapping[str, _Role] = {
    "model": _Role("network", _is(PoseNetwork)),
    "backbone": _Role("backbone", _is(Backbone)),
    "stem": _Role("stem", _is(Stem)),
    "fabrics": _Role("set of fabrics", _is(NeuralFabrics)),
    "operations": _Role("operation", _is(Operation)),
    "rules": _Role("set of rules", _is(FabricRules)),
    "kept": _Role("cell of a derived network", _is(KeptCell)),
    "dataset": _Role("dataset", _has("persons", "metric")),
    "skeleton": _Role("skeleton", _is(Skeleton)),
    "optimizer": _Role("optimiser", _is(Optimizer)),
    "schedule": _Role("schedule", _has("build")),
    "loss": _Role("loss", _is(HeatmapLoss)),
}
"""Key -> what the class at that key is for, or the classes in the dictionary there."""


@dataclass(frozen=True)
class Named:
    """A class that a configuration names.

    Attributes:
        key: Dotted place in the configuration.
        target: What stands there under `_target_`.
        role: Key of what the class has to be; None where no class belongs.
    """

    key: str
    target: Any
    role: str | None


def named_classes(config: Any, key: str, role: str | None) -> Iterator[Named]:
    """Every class that is built with this part of a configuration.

    Args:
        config: The part.
        key: Its dotted place.
        role: What is built of it.
    """
    if isinstance(config, Mapping):
        is_object = "_target_" in config
        if is_object:
            yield Named(key, config["_target_"], role)
        for name, value in config.items():
            # What an object is made of is known by its key; a dictionary of objects has objects of one kind.
            below = (str(name) if name in _ROLES else None) if is_object else role
            yield from named_classes(value, f"{key}.{name}", below)
    elif isinstance(config, (list, tuple)):
        for index, value in enumerate(config):
            yield from named_classes(value, f"{key}.{index}", None)


def is_ours(named: Named) -> bool:
    """Whether it is a class of this package (or an optimiser of PyTorch) that does what is done in its place."""
    role = _ROLES.get(named.role or "")
    if role is None or not str(named.target).startswith(_PACKAGES):
        return False
    module, _, name = str(named.target).rpartition(".")
    try:
        found = inspect.getattr_static(importlib.import_module(module), name)
    except (ImportError, AttributeError):
        return False
    return inspect.isclass(found) and found.__module__.startswith(_PACKAGES) and role.plays(found)


def why_not_importable(target: Any) -> str | None:
    """What keeps a trusted class from being imported, which runs its module; None if nothing does."""
    module, _, name = target.rpartition(".") if isinstance(target, str) else ("", "", "")
    if not module:
        return "it is not the dotted path of a class"
    try:
        found = getattr(importlib.import_module(module), name, None)
    except Exception as error:
        # The user's module may fail in any way.
        return f"{type(error).__name__}: {error}"
    return None if callable(found) else f"the module {module} has no class {name}"


def takes(target: str, argument: str) -> bool:
    """Whether a class that has been checked takes an argument of this name."""
    module, _, name = target.rpartition(".")
    return argument in inspect.signature(getattr(importlib.import_module(module), name)).parameters


def role_name(named: Named) -> str:
    """What a class has to be, for messages."""
    role = _ROLES.get(named.role or "")
    return "class that belongs there" if role is None else role.name
