"""What a diagram shows of an architecture: mixing weights part by part, and which cells they keep alive."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from pnfs.models.architecture import Architecture, FabricArchitecture
from pnfs.models.cell import cell_edges
from pnfs.models.derive import kept_settings
from pnfs.models.wiring import KeptCells, sources

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
        live: Cells that reach an output that is read -> what of them carries weight.
    """

    fabric: FabricArchitecture
    name: str
    joints: tuple[str, ...]
    alpha: Float[np.ndarray, "tables E O"]
    beta: Float[np.ndarray, "cells 3"]
    live: KeptCells

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
        return sources(self.fabric, self.live)

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
    for name, part in fabric.parts.items():
        for kind, weights in (("alpha", part.alpha_weights), ("beta", part.beta_weights)):
            if not np.isfinite(weights).all():
                raise ValueError(
                    f"{name}/{kind} has a row without finite mixing weights "
                    "(a logit of +inf, or none above -inf)"
                )
    live = kept_settings(architecture)[fabrics]
    return [
        Panel(fabric, name, part.joints, part.alpha_weights, part.beta_weights, live[name])
        for name, part in fabric.parts.items()
    ]


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
