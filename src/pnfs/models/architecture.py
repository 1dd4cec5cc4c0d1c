"""A continuous architecture as plain data: alpha and beta of every fabric, apart from the weights."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypedDict, get_args

import numpy as np
import torch
from jaxtyping import Float
from scipy.special import softmax
from torch import Tensor

from pnfs.models.backbones import FabricBackbone
from pnfs.models.cell import cell_edges
from pnfs.models.fabric import NEIGHBOURS, CellWiring, Connection, NeuralFabrics, Transform
from pnfs.models.network import PoseFabricNetwork, PoseNetwork

Table = tuple[tuple[float, ...], ...]
"""Rows of logits; each is the exact value of a float32."""

_VERSION = 1
_LINE_WIDTH = 100


@dataclass(frozen=True)
class PartArchitecture:
    """What the search found for one part.

    Attributes:
        name: The part's name; "backbone" for a fabric backbone.
        joints: Joints the part predicts; none for a backbone.
        alpha: Logits of the candidate operations, (tables, E, |O|): one table for the fabric, or one
            for each cell (Eq. 1).
        beta: Logits of the three inputs of each cell, (cells, 3), columns finer, same, coarser (Eq. 2).
    """

    name: str
    joints: tuple[str, ...]
    alpha: tuple[Table, ...]
    beta: Table

    @property
    def alpha_weights(self) -> Float[np.ndarray, "tables E O"]:
        """softmax(alpha); NaN where it is undefined."""
        return _softmax_rows(self.alpha)

    @property
    def beta_weights(self) -> Float[np.ndarray, "cells 3"]:
        """softmax(beta); NaN where it is undefined."""
        return _softmax_rows(self.beta)


def _softmax_rows(logits: Sequence) -> Float[np.ndarray, "*rows columns"]:
    # A row of -inf only, or with +inf, has no softmax; NaN says so without a warning.
    with np.errstate(invalid="ignore"):
        return softmax(np.asarray(logits), axis=-1)


@dataclass(frozen=True)
class FabricArchitecture:
    """P fabrics of one shape Theta, their wiring and the P architectures.

    Attributes:
        layers: L of the whole fabric.
        first_layer: First layer that is built, 1-based.
        last_layer: Last layer that is built.
        scales: Scales that have a cell or feed one, from fine to coarse.
        channels: C; a cell at scale 1/s has C*s channels.
        nodes: H.
        operations: Names of the candidate operations, in the order of alpha's columns.
        alpha_per_cell: Whether each cell has its own alpha.
        cells: The cells and what feeds them, in the order of beta's rows.
        parts: One architecture for each part.

    Raises:
        ValueError: A table of logits does not have the shape that the other fields give it, or
            holds NaN; a name occurs twice.
    """

    layers: int
    first_layer: int
    last_layer: int
    scales: tuple[int, ...]
    channels: int
    nodes: int
    operations: tuple[str, ...]
    alpha_per_cell: bool
    cells: tuple[CellWiring, ...]
    parts: tuple[PartArchitecture, ...]

    def __post_init__(self) -> None:
        if not self.cells:
            raise ValueError("a fabric needs at least one cell")
        for kind, names in (
            ("operation", self.operations),
            ("part", tuple(part.name for part in self.parts)),
        ):
            if not names or len(set(names)) != len(names):
                raise ValueError(f"each {kind} must be named once, got {names}")
        tables = len(self.cells) if self.alpha_per_cell else 1
        # Not by listing the edges: H may come from a stranger's file.
        edges = self.nodes * (self.nodes + 1) // 2
        for part in self.parts:
            _check_logits(f"{part.name}/alpha", part.alpha, (tables, edges, len(self.operations)))
            _check_logits(f"{part.name}/beta", part.beta, (len(self.cells), len(NEIGHBOURS)))

    def part(self, name: str) -> PartArchitecture:
        """The architecture of the part of that name.

        Raises:
            ValueError: There is none.
        """
        for part in self.parts:
            if part.name == name:
                return part
        raise ValueError(
            f"the architecture has no part {name!r}; it has {_listed(p.name for p in self.parts)}"
        )


@dataclass(frozen=True)
class Architecture:
    """A network's continuous architecture.

    Attributes:
        skeleton: Name of the skeleton.
        subnetworks: The part subnetworks.
        backbone: The backbone where it is a fabric, else None.
    """

    skeleton: str
    subnetworks: FabricArchitecture
    backbone: FabricArchitecture | None


class PartSnapshot(TypedDict):
    """Mixing weights of one part at one moment.

    Keys:
        operations: Names of alpha's columns.
        cells: Names of beta's rows.
        alpha: softmax(alpha), (tables, E, |O|).
        beta: softmax(beta), (cells, 3), columns finer, same, coarser.
    """

    operations: list[str]
    cells: list[str]
    alpha: list[list[list[float]]]
    beta: list[list[float]]


def describe_architecture(network: PoseFabricNetwork) -> Architecture:
    """alpha, beta, Theta and the wiring of every fabric in the network.

    Raises:
        ValueError: alpha or beta of a part holds NaN; names it.
    """
    backbone = _backbone_fabrics(network)
    return Architecture(
        skeleton=network.parts.skeleton.name,
        subnetworks=_describe(network.subnetworks.fabrics, network.parts.parts),
        backbone=None if backbone is None else _describe(backbone, {}),
    )


def _backbone_fabrics(network: PoseFabricNetwork) -> NeuralFabrics | None:
    backbone = network.backbone
    return backbone.fabrics if isinstance(backbone, FabricBackbone) else None


def _describe(fabrics: NeuralFabrics, joints: Mapping[str, Sequence[str]]) -> FabricArchitecture:
    wiring = fabrics.wiring
    return FabricArchitecture(
        layers=fabrics.layers,
        first_layer=wiring[0].layer,
        last_layer=wiring[-1].layer,
        scales=tuple(
            sorted({c.scale for c in wiring} | {i.source for c in wiring for i in c.connections})
        ),
        channels=fabrics.channels,
        nodes=fabrics.nodes,
        operations=fabrics.operation_names,
        alpha_per_cell=fabrics.alpha_per_cell,
        cells=tuple(wiring),
        parts=tuple(
            PartArchitecture(
                name=part,
                joints=tuple(joints.get(part, ())),
                alpha=_nested_tuple(_alpha_tables(fabrics, part).float().tolist()),
                beta=_nested_tuple(fabrics.beta[part].detach().float().tolist()),
            )
            for part in fabrics.part_names
        ),
    )


def _alpha_tables(fabrics: NeuralFabrics, part: str) -> Float[Tensor, "tables E O"]:
    alpha = fabrics.alpha[part].detach()
    return alpha if fabrics.alpha_per_cell else alpha.unsqueeze(0)


def _nested_tuple(values):
    return tuple(map(_nested_tuple, values)) if isinstance(values, list) else values


def _check_logits(where: str, table: Sequence, shape: tuple[int, ...]) -> None:
    if not _has_shape(table, shape):
        raise ValueError(f"{where} must have shape {shape}")
    if np.isnan(np.asarray(table)).any():
        raise ValueError(f"{where} holds NaN: that is no architecture")


def _has_shape(table: Sequence, shape: tuple[int, ...]) -> bool:
    return len(table) == shape[0] and (
        len(shape) == 1 or all(_has_shape(row, shape[1:]) for row in table)
    )


def _listed(names) -> str:
    return ", ".join(names) or "none"


# --- in and out of a network ---------------------------------------------------------------------


def load_architecture(network: PoseFabricNetwork, architecture: Architecture) -> None:
    """Copies alpha and beta into the network; nothing is changed where something does not fit.

    Parts and operations are matched by name, so their order may differ. Channels, the joints of a
    part and L may differ too, as long as the cells are wired alike.

    Raises:
        ValueError: A part, an operation, a table's shape or a cell of one is missing or different in
            the other; names it.
    """
    pairs = [(network.subnetworks.fabrics, architecture.subnetworks)]
    backbone = _backbone_fabrics(network)
    if (backbone is None) != (architecture.backbone is None):
        has, lacks = "network", "architecture"
        if backbone is None:
            has, lacks = lacks, has
        raise ValueError(f"the {has} has a fabric as its backbone, the {lacks} has none")
    if backbone is not None and architecture.backbone is not None:
        pairs.append((backbone, architecture.backbone))
    for fabrics, found in pairs:
        _check_fit(fabrics, found)
    with torch.no_grad():
        for fabrics, found in pairs:
            columns = [found.operations.index(name) for name in fabrics.operation_names]
            for part in found.parts:
                alpha = torch.tensor(part.alpha)[..., columns]
                fabrics.alpha[part.name].copy_(alpha if fabrics.alpha_per_cell else alpha[0])
                fabrics.beta[part.name].copy_(torch.tensor(part.beta))


def _check_fit(fabrics: NeuralFabrics, found: FabricArchitecture) -> None:
    _check_same_names("part", fabrics.part_names, [part.name for part in found.parts])
    where = f"in {_listed(fabrics.part_names)}"
    _check_same_names(f"operation {where}", fabrics.operation_names, found.operations)
    tables = (len(found.cells),) if found.alpha_per_cell else ()
    alpha_shape = (*tables, len(cell_edges(found.nodes)), len(found.operations))
    for part in fabrics.part_names:
        for name, have, want in (
            ("alpha", alpha_shape, tuple(fabrics.alpha[part].shape)),
            ("beta", (len(found.cells), len(NEIGHBOURS)), tuple(fabrics.beta[part].shape)),
        ):
            if have != want:
                raise ValueError(
                    f"{part}/{name} has shape {have} in the architecture, {want} in the network"
                )
    for index, (mine, theirs) in enumerate(zip(fabrics.wiring, found.cells, strict=True)):
        shift = fabrics.wiring[0].layer - found.first_layer
        if (mine.layer, mine.scale, mine.connections) != (
            theirs.layer + shift,
            theirs.scale,
            theirs.connections,
        ):
            raise ValueError(
                f"cell {index} {where} is wired otherwise: {theirs.name} in the architecture, "
                f"{mine.name} in the network"
            )


def _check_same_names(kind: str, network: Sequence[str], architecture: Sequence[str]) -> None:
    for owner, names, other in (
        ("architecture", architecture, network),
        ("network", network, architecture),
    ):
        missing = [name for name in other if name not in names]
        if missing:
            raise ValueError(
                f"the {owner} has no {kind} named {_listed(map(repr, missing))}; "
                f"it has {_listed(names)}"
            )


def mixing_statistics(network: PoseNetwork) -> dict[str, float]:
    """How far each part's mixing weights are from uniform, as scalars to log during training.

    Returns:
        For each part, here "head": "head/alpha_entropy" and "head/beta_entropy" (nats, the mean over
        rows), "head/alpha_travel" and "head/beta_travel" (largest distance of a weight from uniform),
        "head/alpha/skip" and so on (mean weight of each operation), "head/beta/finer", "/same" and
        "/coarser" (mean weight of each neighbour's place, whatever fills it).
    """
    found: dict[str, float] = {}
    for fabrics in network.fabrics().values():
        for part in fabrics.part_names:
            for table, logits, columns in (
                ("alpha", fabrics.alpha[part], fabrics.operation_names),
                ("beta", fabrics.beta[part], NEIGHBOURS),
            ):
                rows = logits.detach().double().cpu().flatten(0, -2).softmax(-1)
                entropy = torch.special.entr(rows).sum(-1).mean()
                travel = (rows - 1 / len(columns)).abs().max()
                found[f"{part}/{table}_entropy"] = entropy.item()
                found[f"{part}/{table}_travel"] = travel.item()
                for name, weight in zip(columns, rows.mean(0).tolist(), strict=True):
                    found[f"{part}/{table}/{name}"] = weight
    return found


def snapshot(network: PoseNetwork) -> dict[str, PartSnapshot]:
    """Mixing weights of every part as plain lists: one line of a JSON-lines file, say after each epoch.

    Returns:
        Part name -> `PartSnapshot`; a fabric backbone is a part of that name.
    """
    return {
        part: PartSnapshot(
            operations=list(fabrics.operation_names),
            cells=[cell.name for cell in fabrics.wiring],
            alpha=_alpha_tables(fabrics, part).softmax(-1).tolist(),
            beta=fabrics.beta[part].detach().softmax(-1).tolist(),
        )
        for fabrics in network.fabrics().values()
        for part in fabrics.part_names
    }


# --- JSON ----------------------------------------------------------------------------------------


def to_json(architecture: Architecture) -> str:
    """The architecture as JSON text, without loss: `architecture_from_json` gives an equal one.

    Logits are written as the shortest decimal that is still the same float32, infinite ones as the
    strings "inf" and "-inf".
    """
    backbone = architecture.backbone
    record = {
        "version": _VERSION,
        "skeleton": architecture.skeleton,
        "subnetworks": _fabric_record(architecture.subnetworks),
        "backbone": None if backbone is None else _fabric_record(backbone),
    }
    return _layout(record) + "\n"


def _fabric_record(fabric: FabricArchitecture) -> dict:
    return {
        "layers": fabric.layers,
        "first_layer": fabric.first_layer,
        "last_layer": fabric.last_layer,
        "scales": list(fabric.scales),
        "channels": fabric.channels,
        "nodes": fabric.nodes,
        "operations": list(fabric.operations),
        "alpha_per_cell": fabric.alpha_per_cell,
        "cells": [
            {
                "layer": cell.layer,
                "scale": cell.scale,
                "connections": [
                    {"neighbour": c.neighbour, "source": c.source, "transform": c.transform}
                    for c in cell.connections
                ],
            }
            for cell in fabric.cells
        ],
        "parts": {
            part.name: {
                "joints": list(part.joints),
                "alpha": [[list(map(_written, row)) for row in table] for table in part.alpha],
                "beta": [list(map(_written, row)) for row in part.beta],
            }
            for part in fabric.parts
        },
    }


def _written(logit: float) -> float | str:
    if math.isinf(logit):
        return str(logit)
    short = float(str(np.float32(logit)))
    # Reading goes through a double, which might round a decimal near a tie the other way.
    return short if np.float32(short) == logit else logit


def _layout(value, indent: str = "") -> str:
    """JSON text that keeps a list or record on one line where it fits."""
    line = json.dumps(value, ensure_ascii=False, allow_nan=False)
    if len(indent) + len(line) <= _LINE_WIDTH or not isinstance(value, dict | list) or not value:
        return line
    inner = indent + "  "
    if isinstance(value, dict):
        items = [
            f"{json.dumps(key, ensure_ascii=False)}: {_layout(item, inner)}"
            for key, item in value.items()
        ]
        return "{\n" + ",\n".join(inner + item for item in items) + f"\n{indent}}}"
    return "[\n" + ",\n".join(inner + _layout(item, inner) for item in value) + f"\n{indent}]"


def architecture_from_json(text: str) -> Architecture:
    """The architecture that `to_json` wrote.

    Raises:
        ValueError: The text is not JSON, a key is missing, unknown or of the wrong kind, or tables
            do not fit together; names the key.
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the architecture is not readable JSON: {error}") from None
    root = _Node(value, "").record("version", "skeleton", "subnetworks", "backbone")
    if root["version"].value != _VERSION:
        raise root["version"].expected(f"{_VERSION}, the only version there is")
    backbone = root["backbone"]
    return Architecture(
        skeleton=root["skeleton"].text(),
        subnetworks=_read_fabric(root["subnetworks"]),
        backbone=None if backbone.value is None else _read_fabric(backbone),
    )


@dataclass(frozen=True)
class _Node:
    """A value of a JSON document that knows where it stands."""

    value: object
    path: str

    def expected(self, what: str) -> ValueError:
        found = json.dumps(self.value)
        found = found if len(found) <= 40 else found[:37] + "..."
        return ValueError(f"architecture: {self.path or 'top level'}: need {what}, found {found}")

    def mapping(self) -> dict[str, "_Node"]:
        if not isinstance(self.value, dict):
            raise self.expected("a record")
        prefix = f"{self.path}." if self.path else ""
        return {key: _Node(item, prefix + key) for key, item in self.value.items()}

    def record(self, *keys: str) -> dict[str, "_Node"]:
        found = self.mapping()
        where = f"architecture: {self.path or 'top level'}"
        for key in keys:
            if key not in found:
                raise ValueError(f"{where}: the key {key!r} is missing")
        for key in found:
            if key not in keys:
                raise ValueError(f"{where}: unknown key {key!r}; there are {_listed(keys)}")
        return found

    def sequence(self) -> list["_Node"]:
        if not isinstance(self.value, list):
            raise self.expected("a list")
        return [_Node(item, f"{self.path}[{index}]") for index, item in enumerate(self.value)]

    def text(self) -> str:
        if not isinstance(self.value, str):
            raise self.expected("a string")
        return self.value

    def flag(self) -> bool:
        if not isinstance(self.value, bool):
            raise self.expected("true or false")
        return self.value

    def count(self) -> int:
        if not isinstance(self.value, int) or isinstance(self.value, bool) or self.value < 1:
            raise self.expected("a positive integer")
        return self.value

    def choice(self, choices: Sequence[str]) -> str:
        if self.value not in choices:
            raise self.expected(f"one of {_listed(choices)}")
        return str(self.value)

    def logit(self) -> float:
        if self.value in ("inf", "-inf"):
            return float(str(self.value))
        if isinstance(self.value, int | float) and not isinstance(self.value, bool):
            # Compared before the conversion, which would overflow. NaN fails both comparisons.
            largest = float(np.finfo(np.float32).max)
            if -largest <= self.value <= largest:
                return float(np.float32(self.value))
        raise self.expected('a float32 number, "inf" or "-inf"')


def _read_fabric(node: _Node) -> FabricArchitecture:
    entry = node.record(
        "layers", "first_layer", "last_layer", "scales", "channels", "nodes", "operations",
        "alpha_per_cell", "cells", "parts",
    )  # fmt: skip
    return FabricArchitecture(
        layers=entry["layers"].count(),
        first_layer=entry["first_layer"].count(),
        last_layer=entry["last_layer"].count(),
        scales=tuple(scale.count() for scale in entry["scales"].sequence()),
        channels=entry["channels"].count(),
        nodes=entry["nodes"].count(),
        operations=tuple(name.text() for name in entry["operations"].sequence()),
        alpha_per_cell=entry["alpha_per_cell"].flag(),
        cells=tuple(_read_cell(cell) for cell in entry["cells"].sequence()),
        parts=tuple(_read_part(name, part) for name, part in entry["parts"].mapping().items()),
    )


def _read_cell(node: _Node) -> CellWiring:
    entry = node.record("layer", "scale", "connections")
    connections = tuple(_read_connection(item) for item in entry["connections"].sequence())
    if tuple(c.neighbour for c in connections) != NEIGHBOURS:
        raise entry["connections"].expected(f"one each for {_listed(NEIGHBOURS)}, in this order")
    return CellWiring(entry["layer"].count(), entry["scale"].count(), connections)


def _read_connection(node: _Node) -> Connection:
    entry = node.record("neighbour", "source", "transform")
    return Connection(
        neighbour=entry["neighbour"].choice(NEIGHBOURS),  # pyright: ignore[reportArgumentType]
        source=entry["source"].count(),
        transform=entry["transform"].choice(get_args(Transform)),  # pyright: ignore[reportArgumentType]
    )


def _read_part(name: str, node: _Node) -> PartArchitecture:
    entry = node.record("joints", "alpha", "beta")
    return PartArchitecture(
        name=name,
        joints=tuple(joint.text() for joint in entry["joints"].sequence()),
        alpha=tuple(_read_table(table) for table in entry["alpha"].sequence()),
        beta=_read_table(entry["beta"]),
    )


def _read_table(node: _Node) -> Table:
    return tuple(tuple(logit.logit() for logit in row.sequence()) for row in node.sequence())
