"""A continuous architecture as plain data: Theta, alpha and beta of every fabric, apart from the weights."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from scipy.special import entr
from torch import Tensor

from pnfs.errors import PnfsError
from pnfs.models.backbones import FabricBackbone
from pnfs.models.fabric import NeuralFabrics, softmax
from pnfs.models.network import PoseFabricNetwork
from pnfs.models.wiring import NEIGHBOURS, Theta

_STRICT = ConfigDict(extra="forbid", strict=True, ser_json_inf_nan="strings")
Logit = Annotated[float, Field(strict=False)]  # JSON has no infinities: they are "Infinity" and "-Infinity".
Table = tuple[tuple[Logit, ...], ...]
_LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class PartArchitecture:
    """What the search found for one part."""

    __pydantic_config__ = _STRICT

    joints: tuple[str, ...]  # Those that it predicts; a backbone none.
    alpha: tuple[Table, ...]  # Logits of Eq. 1, (tables, E, |O|): one table for the fabric, or one for each cell.
    beta: Table  # Logits of Eq. 2, (cells, 3), columns finer, same, coarser.

    @property
    def alpha_weights(self) -> Float[np.ndarray, "tables E O"]:
        """softmax(alpha), double precision; NaN where it is undefined."""
        return softmax(torch.tensor(self.alpha, dtype=torch.float64)).numpy()

    @property
    def beta_weights(self) -> Float[np.ndarray, "cells 3"]:
        return softmax(torch.tensor(self.beta, dtype=torch.float64)).numpy()


@dataclass(frozen=True)
class FabricArchitecture(Theta):
    """P fabrics of one shape Theta and what the search found for each; a fabric backbone is a part "backbone".

    Raises:
        PnfsError: A table of logits does not have the shape that Theta gives it, or holds NaN.
    """

    __pydantic_config__ = _STRICT

    parts: dict[str, PartArchitecture]

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.parts:
            raise PnfsError("a fabric needs at least one part")
        for name, part in self.parts.items():
            # Every layer has a cell. Checked first: numbers may come from a stranger's file.
            if self.last_layer - self.first_layer >= len(part.beta) or self.layers > 10**6:
                raise PnfsError(f"{name}/beta must have a row for each cell")
            tables = len(self.cells) if self.alpha_per_cell else 1
            shapes = {"alpha": (tables, *self.alpha_shape[-2:]), "beta": self.beta_shape}
            for table, shape in shapes.items():
                try:
                    values = np.array(getattr(part, table))
                    sound = values.shape == shape and ((np.abs(values) <= _LARGEST) | np.isinf(values)).all()
                except ValueError:  # Rows of different lengths.
                    sound = False
                if not sound:
                    raise PnfsError(f"{name}/{table} must have shape {shape}, float32 numbers, and no NaN")

    @property
    def scales(self) -> tuple[int, ...]:
        """Scales that have a cell or feed one, from fine to coarse."""
        read = {c.source for cell in self.cells for c in cell.connections}
        return tuple(sorted({cell.scale for cell in self.cells} | read))


@dataclass(frozen=True)
class Architecture:
    """A network's continuous architecture; `version` is the file format's, `skeleton` a name."""

    __pydantic_config__ = _STRICT

    version: Literal[2] = field(default=2, kw_only=True)
    skeleton: str
    subnetworks: FabricArchitecture
    backbone: FabricArchitecture | None

    @property
    def fabrics(self) -> dict[str, FabricArchitecture]:
        """The fabrics by the attribute that holds them, "subnetworks" and "backbone"."""
        found = {"subnetworks": self.subnetworks, "backbone": self.backbone}
        return {name: fabric for name, fabric in found.items() if fabric is not None}


def describe_architecture(network: PoseFabricNetwork, state: Mapping[str, Tensor] | None = None) -> Architecture:
    """alpha, beta and Theta of every fabric in the network; alpha and beta from `state`, a state dict, if given.

    Raises:
        PnfsError: alpha or beta of a part holds NaN; names it.
    """
    state = network.state_dict() if state is None else state
    described: dict[str, FabricArchitecture] = {}
    for where, fabrics in _fabrics(network).items():
        parts, table = {}, fabrics.theta.alpha_shape[-2:]
        prefix = "fabrics" if where == "subnetworks" else "backbone.fabrics"
        for part in fabrics.part_names:
            found = state[f"{prefix}.alpha.{part}"].reshape(-1, *table), state[f"{prefix}.beta.{part}"]
            logits = (_shortest(x.detach().float().numpy(force=True)) for x in found)
            joints = network.parts.parts[part] if where == "subnetworks" else ()
            parts[part] = PartArchitecture(tuple(joints), *logits)
        described[where] = FabricArchitecture(**asdict(fabrics.theta), parts=parts)
    skeleton = network.parts.skeleton.name
    return Architecture(skeleton, described["subnetworks"], described.get("backbone"))


def tuples(values: Any) -> Any:
    """Lists of lists as tuples of tuples."""
    return tuple(map(tuples, values)) if isinstance(values, list) else values


def _shortest(values: Float[np.ndarray, "*n"]) -> Any:
    """Nested tuples of the shortest decimals that are these float32 numbers."""
    return tuples(np.array([float(str(x)) for x in values.ravel()]).reshape(values.shape).tolist())


def _fabrics(network: PoseFabricNetwork) -> dict[str, NeuralFabrics]:
    backbone = network.backbone
    found = {"backbone": backbone.fabrics} if isinstance(backbone, FabricBackbone) else {}
    return {"subnetworks": network.fabrics, **found}


def load_architecture(network: PoseFabricNetwork, architecture: Architecture) -> None:
    """Copies alpha and beta into the network; nothing is changed where something does not fit.

    Parts and operations are matched by name. Channels, a part's joints and L may differ too, as long as the cells
    are wired alike.

    Raises:
        PnfsError: A fabric, a part, an operation, a table's shape or a cell's wiring differs; names it.
    """
    mine, theirs = _fabrics(network), architecture.fabrics
    if set(mine) != set(theirs):
        raise PnfsError(f"fabrics: {[*mine]} in the network, {[*theirs]} in the architecture")
    for where, fabrics in mine.items():
        forms = _form(fabrics.theta, fabrics.part_names), _form(theirs[where], theirs[where].parts)
        for what, here in forms[0].items():
            if here != (there := forms[1][what]):
                text = f"{here} in the network, {there} in the architecture"
                raise PnfsError(f"{what} of {where}: {text}")
    with torch.no_grad():
        for where, fabrics in mine.items():
            found = theirs[where]
            columns = [found.operations.index(name) for name in fabrics.theta.operations]
            for name, part in found.parts.items():
                alpha, beta = torch.tensor(part.alpha)[..., columns], torch.tensor(part.beta)
                for own, new in ((fabrics.alpha[name], alpha), (fabrics.beta[name], beta)):
                    # What a derived network lacks stays out.
                    lacks = own.isneginf() if fabrics.kept is not None else torch.zeros_like(own, dtype=torch.bool)
                    own.copy_(torch.where(lacks, own, new.reshape(own.shape).to(own)))


def _form(theta: Theta, parts: Iterable[str]) -> dict[str, Any]:
    """What two fabrics have in common whose alpha and beta mean the same."""
    return {
        "parts": sorted(parts),
        "operations": sorted(theta.operations),
        "shape of alpha": theta.alpha_shape,
        "cells": [(c.scale, [(x.source, x.transform) for x in c.connections]) for c in theta.cells],
    }


def mixing_statistics(architecture: Architecture) -> dict[str, float]:
    """How far each part's mixing weights are from uniform, as scalars to log during training.

    Returns:
        For each part and for alpha and beta: "head/alpha_entropy" (nats, the mean over rows), "head/alpha_travel"
        (largest distance of a weight from uniform), "head/alpha/skip" and so on (mean weight of each operation, or
        of each neighbour's place, whatever fills it).
    """
    found: dict[str, float] = {}
    for fabric in architecture.fabrics.values():
        for part, logits in fabric.parts.items():
            alpha = ("alpha", fabric.operations, logits.alpha_weights)
            for name, columns, weights in (alpha, ("beta", NEIGHBOURS, logits.beta_weights)):
                rows = weights.reshape(-1, len(columns))
                found[f"{part}/{name}_entropy"] = float(entr(rows).sum(-1).mean())
                found[f"{part}/{name}_travel"] = float(np.abs(rows - 1 / len(columns)).max())
                means = zip(columns, rows.mean(0).tolist(), strict=True)
                found |= {f"{part}/{name}/{column}": mean for column, mean in means}
    return found


_ADAPTER = TypeAdapter(Architecture)


def to_json(architecture: Architecture, *, lines: bool = True) -> str:
    """The architecture as JSON text, without loss; with `lines`, one a row of logits, for readers."""
    text = _ADAPTER.dump_json(architecture, indent=2 if lines else None).decode()
    # Lists of plain values stand on one line.
    joined = re.sub(r"\[\s+([^][{}]*?)\s+\]", lambda m: f"[{' '.join(m[1].split())}]", text)
    return joined + "\n" if lines else text


def architecture_from_json(text: str) -> Architecture:
    """The architecture that `to_json` wrote.

    Raises:
        PnfsError: A key is missing, unknown or of the wrong kind, or tables do not fit together; names the key.
    """
    try:
        return _ADAPTER.validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"])) or "the whole text"
        found = f"{first['msg']}, found {str(first['input'])[:40]}"
        raise PnfsError(f"architecture: {place}: {found}") from None
