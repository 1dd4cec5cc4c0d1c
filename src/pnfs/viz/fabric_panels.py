"""What a diagram shows of an architecture: mixing weights part by part, and which cells they keep alive."""

from collections.abc import Sequence, Set
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from pnfs.models.architecture import Architecture, FabricArchitecture
from pnfs.models.cell import cell_edges

Edge = tuple[int, int]


@dataclass(frozen=True)
class Panel:
    """One part of a fabric.

    Attributes:
        fabric: The fabric.
        name: The part's name.
        joints: Joints it predicts; none for a backbone.
        alpha: softmax(alpha); one table, or one for each cell.
        beta: softmax(beta), columns finer, same, coarser.
        live: Names of the cells that reach an output that is read.
    """

    fabric: FabricArchitecture
    name: str
    joints: tuple[str, ...]
    alpha: Float[np.ndarray, "tables E O"]
    beta: Float[np.ndarray, "cells 3"]
    live: frozenset[str]

    @property
    def edges(self) -> list[Edge]:
        return cell_edges(self.fabric.nodes)

    @property
    def rows(self) -> dict[int, int]:
        """Scale -> y in the grid."""
        return {scale: -row for row, scale in enumerate(self.fabric.scales)}

    def column(self, layer: int) -> int:
        """x in the grid; the input is in column 0."""
        return layer - self.fabric.first_layer + 1

    @property
    def read(self) -> set[int]:
        """Scales of the input that live cells of the first layer read."""
        return _read_scales(self.fabric, self.beta, self.live)

    @property
    def any_dead(self) -> bool:
        cells = self.fabric.cells
        return len(self.live) < len(cells) or bool(
            (self.alpha == 0).any() or (self.beta == 0).any()
        )


def read_panels(architecture: Architecture, fabrics: str) -> list[Panel]:
    """The parts of the "subnetworks" or of the "backbone".

    Raises:
        ValueError: The backbone is asked for and is no fabric, or a softmax is undefined.
    """
    if fabrics not in ("subnetworks", "backbone"):
        raise ValueError(f"fabrics={fabrics!r}: there are subnetworks and backbone")
    fabric = architecture.subnetworks if fabrics == "subnetworks" else architecture.backbone
    if fabric is None:
        raise ValueError("the backbone is not a fabric: there is nothing to draw")
    outputs = [min(architecture.subnetworks.scales)]
    if fabrics == "backbone":
        subnetworks = read_panels(architecture, "subnetworks")
        outputs = sorted(set().union(*(panel.read for panel in subnetworks)))
    panels = []
    for part in fabric.parts:
        alpha, beta = np.asarray(part.alpha_weights), np.asarray(part.beta_weights)
        for kind, weights in (("alpha", alpha), ("beta", beta)):
            if not np.isfinite(weights).all():
                raise ValueError(
                    f"{part.name}/{kind} has a row without finite mixing weights "
                    "(a logit of +inf, or none above -inf)"
                )
        live = _live_cells(fabric, beta, outputs)
        panels.append(Panel(fabric, part.name, part.joints, alpha, beta, live))
    return panels


def _live_cells(
    fabric: FabricArchitecture, beta: Float[np.ndarray, "cells 3"], outputs: Sequence[int]
) -> frozenset[str]:
    """Names of the cells that reach one of the output scales through inputs that have a weight."""
    reached, live = {(fabric.last_layer, scale) for scale in outputs}, set()
    for cell, weights in zip(reversed(fabric.cells), reversed(beta), strict=True):
        if (cell.layer, cell.scale) in reached:
            live.add(cell.name)
            pairs = zip(cell.connections, weights, strict=True)
            reached |= {(cell.layer - 1, c.source) for c, weight in pairs if weight > 0}
    return frozenset(live)


def _read_scales(
    fabric: FabricArchitecture, beta: Float[np.ndarray, "cells 3"], live: Set[str]
) -> set[int]:
    return {
        connection.source
        for cell, weights in zip(fabric.cells, beta, strict=True)
        if cell.layer == fabric.first_layer and cell.name in live
        for connection, weight in zip(cell.connections, weights, strict=True)
        if weight > 0
    }


def edges_that_carry(
    edges: Sequence[Edge], table: Float[np.ndarray, "E O"], operations: Sequence[str]
) -> set[Edge]:
    """Edges with an operation other than zero, from a node that anything reaches."""
    act = [name != "zero" for name in operations]
    reached, carry = {0}, set()
    for (i, j), weights in zip(edges, table, strict=True):
        if i in reached and (weights[act] > 0).any():
            reached.add(j)
            carry.add((i, j))
    return carry
