"""The grid of a fabric, scale x layer: what feeds each cell (Eq. 2, footnote 2), and what is live. Plain data."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Float

from pnfs.errors import PnfsError

SCALES: tuple[int, ...] = (4, 8, 16, 32)
"""Strides of the paper's grid: 1/4, 1/8, 1/16 and 1/32 of the input."""
Neighbour = Literal["finer", "same", "coarser"]
NEIGHBOURS: tuple[Neighbour, ...] = get_args(Neighbour)
"""The order of beta's three columns."""
Transform = Literal["down", "identity", "up"]


@dataclass(frozen=True)
class Connection:
    """One of a cell's three candidate inputs, after footnote 2 has filled in missing neighbours.

    It takes the place of `neighbour`, with its weight in beta, and reads the scale `source` of the previous layer.
    """

    neighbour: Neighbour
    source: int
    transform: Transform


@dataclass(frozen=True)
class CellWiring:
    """A cell of the grid, `layer` 1-based, and what feeds it in the order of beta's columns."""

    layer: int
    scale: int
    connections: tuple[Connection, ...]

    @cached_property
    def name(self) -> str:
        return f"layer{self.layer}_scale{self.scale}"


@dataclass(frozen=True)
class Theta:
    """The shape of a fabric, Theta = (L, scales, H, C, O), and which of its layers are built; see `NeuralFabrics`.

    Raises:
        PnfsError: A cell would be empty or without input, an operation occurs twice, or the layers are no range.
    """

    layers: int  # L of the whole fabric.
    first_layer: int  # First and last layer that are built, 1-based.
    last_layer: int
    input_scales: tuple[int, ...]
    channels: int
    nodes: int
    operations: tuple[str, ...]  # Names of the candidate operations O, in the order of alpha's columns.
    alpha_per_cell: bool

    def __post_init__(self) -> None:
        nodes, channels, first, last = self.nodes, self.channels, self.first_layer, self.last_layer
        if min(nodes, channels) < 1:
            raise PnfsError(f"a cell needs nodes and channels, not H={nodes}, C={channels}")
        if not self.operations or len(set(self.operations)) != len(self.operations):
            raise PnfsError(f"need operations, each named once, not {self.operations}")
        if not 1 <= first <= last <= self.layers:
            raise PnfsError(
                f"last_layers, first_layers: {first} to {last} is no range in the {self.layers} layers"
            )

    @cached_property
    def cells(self) -> tuple[CellWiring, ...]:
        """The cells in the order of beta's rows: layer by layer, from fine to coarse."""
        previous, cells = self.input_scales, []
        for layer in range(self.first_layer, self.last_layer + 1):
            present = layer_scales(layer, self.layers)
            cells += [CellWiring(layer, s, _connections(layer, s, previous)) for s in present]
            previous = present
        return tuple(cells)

    @property
    def output_scales(self) -> tuple[int, ...]:
        return tuple(cell.scale for cell in self.cells if cell.layer == self.last_layer)

    @property
    def alpha_shape(self) -> tuple[int, ...]:
        """Shape of one part's alpha: (E, |O|) with E = H(H+1)/2 edges, or (cells, E, |O|) where each
        cell has its own."""
        table = (self.nodes * (self.nodes + 1) // 2, len(self.operations))
        return (len(self.cells), *table) if self.alpha_per_cell else table

    @property
    def beta_shape(self) -> tuple[int, int]:
        return len(self.cells), len(NEIGHBOURS)


def layer_scales(layer: int, layers: int) -> tuple[int, ...]:
    """Scales that have a cell in layer `layer` (1-based) of `layers`: the fan of the paper's Fig. 1 and 4."""
    return SCALES[: min(layer + 1, len(SCALES), layers - layer + 1)]


def _connections(layer: int, scale: int, previous: Sequence[int]) -> tuple[Connection, ...]:
    """What stands in the three neighbours' places, where the layer before has the scales `previous`.

    A cell without a finer or coarser neighbour takes its same-scale input for it. A cell at a scale that
    the previous layer lacks takes the finer input for all three, each with its own transform.
    """
    down, here, up = (scale // 2, "down"), (scale, "identity"), (scale * 2, "up")
    ways = (down, here, up) if scale in previous else (down, down, down)
    places: Any = [way if way[0] in previous else here for way in ways]
    if not {source for source, _ in places} <= set(previous):
        raise PnfsError(f"the cell at layer {layer}, scale 1/{scale} has no input among {previous}")
    return tuple(Connection(n, *place) for n, place in zip(NEIGHBOURS, places, strict=True))


@dataclass(frozen=True)
class KeptCell:
    """What is left of a cell: neighbours whose connections are read, and for each edge the operations' names."""

    inputs: Sequence[Neighbour]
    edges: Sequence[Sequence[str]]

    def __post_init__(self) -> None:
        if not self.inputs or not set(self.inputs) <= set(NEIGHBOURS):
            raise PnfsError(f"a kept cell needs inputs among {NEIGHBOURS}, not {self.inputs}")


KeptCells = Mapping[str, KeptCell]  # By the cell's name; cells that are missing are not built.


def live_cells(
    theta: Theta,
    alpha: Float[np.ndarray, "tables E O"],
    beta: Float[np.ndarray, "cells 3"],
    outputs: Collection[int],
) -> dict[str, KeptCell]:
    """What carries weight in Eq. 1 or 2 and reaches the last layer's scales `outputs`; alpha of the fabric, or of
    each cell."""
    reached = {(theta.last_layer, scale) for scale in outputs}
    operations, tables = np.array(theta.operations), np.resize(alpha, (len(beta), *alpha.shape[1:]))
    live: dict[str, KeptCell] = {}
    for cell, table, row in reversed([*zip(theta.cells, tables, beta, strict=True)]):
        if (cell.layer, cell.scale) in reached:
            inputs = [c for c, weight in zip(cell.connections, row, strict=True) if weight > 0]
            reached |= {(cell.layer - 1, connection.source) for connection in inputs}
            edges = tuple(tuple(operations[weights > 0].tolist()) for weights in table)
            live[cell.name] = KeptCell(tuple(c.neighbour for c in inputs), edges)
    return dict(reversed(live.items()))


def sources(theta: Theta, kept: KeptCells) -> set[int]:
    """Scales of the input that the first layer reads."""
    return {
        connection.source
        for cell in theta.cells
        if cell.layer == theta.first_layer and cell.name in kept
        for connection in cell.connections
        if connection.neighbour in kept[cell.name].inputs
    }
