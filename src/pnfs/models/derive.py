"""Deriving smaller networks from a continuous architecture.

Each way of deriving is a change of the logits, where minus infinity means "left out" and the softmax
spreads its weight over what remains. `live_cells` then finds what carries no weight or reaches no output,
and a network built without it has the same outputs.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Bool, Float

from pnfs.errors import PnfsError
from pnfs.models.architecture import (
    Architecture,
    FabricArchitecture,
    PartArchitecture,
    nested_tuple,
)
from pnfs.models.network import PoseFabricNetwork
from pnfs.models.operations import ZERO
from pnfs.models.wiring import SCALES, CellWiring, KeptCells, live_cells, sources

Mask = Callable[[Float[np.ndarray, " n"]], Bool[np.ndarray, " n"]]
"""Mixing weights of candidates to which of them stay."""


def prune(
    architecture: Architecture, alpha_threshold: float, beta_threshold: float
) -> Architecture:
    """Leaves out operations of an edge and inputs of a cell whose mixing weights are below thresholds from 0 to 1.

    Identities of a cell count together. The strongest candidate always stays.

    Raises:
        PnfsError: A threshold is out of range.
    """
    for name, value in (("alpha", alpha_threshold), ("beta", beta_threshold)):
        if not 0 <= value <= 1:
            raise PnfsError(f"{name}_threshold must be between 0 and 1, not {value}")

    def strong(threshold: float) -> Mask:
        return lambda weights: (weights >= threshold) | (weights == weights.max())

    return _masked(architecture, lambda _: strong(alpha_threshold), strong(beta_threshold))


def discretise(architecture: Architecture) -> Architecture:
    """Keeps the strongest operation of each edge (zero left aside) and the strongest input of each cell.

    It follows a DARTS search; the paper does without. Identities of a cell count together.
    """

    def strongest(operations: Sequence[str]) -> Mask:
        zero = np.array([name == ZERO for name in operations])
        some = not zero.all()
        return lambda w: np.arange(len(w)) == np.where(zero & some, -1, w).argmax()

    return _masked(architecture, strongest, lambda weights: weights == weights.max())


def _masked(
    architecture: Architecture, alpha: Callable[[Sequence[str]], Mask], beta: Mask
) -> Architecture:
    """Sets logits to minus infinity where the masks are false."""

    def changed(fabric: FabricArchitecture, part: PartArchitecture) -> PartArchitecture:
        operations = np.apply_along_axis(alpha(fabric.operations), -1, part.alpha_weights)
        inputs = [
            _inputs(*cell, beta) for cell in zip(fabric.cells, part.beta_weights, strict=True)
        ]
        tables = (operations, part.alpha), (inputs, part.beta)
        logits = (nested_tuple(np.where(kept, x, -np.inf).tolist()) for kept, x in tables)
        return PartArchitecture(part.joints, *logits)

    fabrics = {
        where: replace(fabric, parts={n: changed(fabric, p) for n, p in fabric.parts.items()})
        for where, fabric in architecture.fabrics.items()
    }
    return replace(architecture, **fabrics)


def _inputs(cell: CellWiring, weights: Float[np.ndarray, "3"], keep: Mask) -> Bool[np.ndarray, "3"]:
    # Identities read the same map in the same way and count together; each T counts alone.
    identity = np.array([c.transform == "identity" for c in cell.connections])
    together = np.where(identity, weights[identity].sum(), weights)
    # One without weight of its own must not come back.
    return keep(together) & (weights > 0)


def kept_settings(architecture: Architecture) -> dict[str, dict[str, KeptCells]]:
    """What is left of each part of each fabric: "subnetworks", and "backbone" where that is a fabric."""
    subnetworks = architecture.subnetworks
    kept = {"subnetworks": _kept_cells(subnetworks, SCALES[:1])}
    if architecture.backbone is not None:
        read = {s for cells in kept["subnetworks"].values() for s in sources(subnetworks, cells)}
        kept["backbone"] = _kept_cells(architecture.backbone, sorted(read))
    return kept


def _kept_cells(fabric: FabricArchitecture, outputs: Sequence[int]) -> dict[str, KeptCells]:
    return {
        name: live_cells(fabric, part.alpha_weights, part.beta_weights, outputs)
        for name, part in fabric.parts.items()
    }


@torch.no_grad()
def transfer_weights(source: PoseFabricNetwork, derived: PoseFabricNetwork) -> None:
    """Copies what a network built with `kept` shares with the whole one that it comes from, but alpha and beta.

    Raises:
        PnfsError: An entry of the derived network has no counterpart.
    """
    theirs, fabrics = source.state_dict(), derived.named_fabrics()
    skipped = {id(parameter) for parameter in derived.architecture_parameters().values()}
    for name, target in derived.state_dict(keep_vars=True).items():
        if id(target) in skipped:
            continue
        value = theirs.get(name)
        where, _, rest = name.partition(".cells.")
        if where in fabrics and rest and fabrics[where].kept is not None:
            # Parts stand apart here, together in the source.
            part, _, rest = rest.partition(".")
            names, together = fabrics[where].part_names, theirs.get(f"{where}.cells.{rest}")
            if together is not None:
                value = together.chunk(len(names))[names.index(part)]
        elif name.startswith("adapters.") and value is not None:
            scale = int(name.split(".")[1])
            readers = source.fabrics.readers[scale]
            shares = dict(zip(readers, value.chunk(len(readers)), strict=True))
            value = torch.cat([shares[part] for part in derived.fabrics.readers[scale]])
        if value is None or value.shape != target.shape:
            raise PnfsError(f"{name} of the derived network has no counterpart in its source")
        target.copy_(value)
