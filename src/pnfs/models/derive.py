"""Deriving smaller networks: logits become minus infinity, "left out", and the softmax spreads over what remains.

`live_cells` finds what carries no weight or reaches no output; a network built without it has the same outputs.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Bool, Float

from pnfs.errors import PnfsError
from pnfs.models.architecture import Architecture, FabricArchitecture, PartArchitecture, tuples
from pnfs.models.network import PoseFabricNetwork
from pnfs.models.operations import ZERO
from pnfs.models.wiring import SCALES, KeptCells, live_cells, sources


def prune(found: Architecture, alpha_threshold: float, beta_threshold: float) -> Architecture:
    """Leaves out operations of an edge and inputs of a cell whose mixing weights are below thresholds from 0 to 1.

    Identities of a cell count together. The strongest candidate always stays.

    Raises:
        PnfsError: A threshold is out of range.
    """
    if not (0 <= alpha_threshold <= 1 and 0 <= beta_threshold <= 1):
        raise PnfsError("alpha_threshold and beta_threshold must be between 0 and 1")
    return _masked(
        found,
        lambda weights, _: (weights >= alpha_threshold) | _highest(weights),
        lambda weights: (weights >= beta_threshold) | _highest(weights),
    )


def discretise(architecture: Architecture) -> Architecture:
    """Keeps the strongest operation of each edge (zero left aside) and the strongest input of each cell.

    It follows a DARTS search; the paper does without. Identities of a cell count together.
    """

    def strongest(weights: np.ndarray, operations: Sequence[str]) -> np.ndarray:
        zero = np.array([name == ZERO for name in operations])
        others = np.where(zero & (not zero.all()), -1, weights)
        return np.arange(len(zero)) == others.argmax(-1)[..., None]

    return _masked(architecture, strongest, _highest)


def _highest(weights: Float[np.ndarray, "*N n"]) -> Bool[np.ndarray, "*N n"]:
    return weights == weights.max(-1, keepdims=True)


def _masked(
    architecture: Architecture,
    alpha: Callable[[np.ndarray, Sequence[str]], np.ndarray],
    beta: Callable[[np.ndarray], np.ndarray],
) -> Architecture:
    """Sets logits to minus infinity where these functions of the mixing weights are false."""

    def changed(fabric: FabricArchitecture, part: PartArchitecture) -> PartArchitecture:
        # Identities read the same map in the same way and count together; each T counts alone.
        identity = [[c.transform == "identity" for c in x.connections] for x in fabric.cells]
        weights = part.beta_weights
        together = np.where(identity, np.where(identity, weights, 0).sum(-1, keepdims=True), weights)
        # An input whose own weight is 0 stays out, whatever its identities weigh together.
        inputs = beta(together) & (weights > 0)
        tables = (alpha(part.alpha_weights, fabric.operations), part.alpha), (inputs, part.beta)
        logits = (tuples(np.where(kept, x, -np.inf).tolist()) for kept, x in tables)
        return PartArchitecture(part.joints, *logits)

    fabrics = {
        where: replace(fabric, parts={n: changed(fabric, p) for n, p in fabric.parts.items()})
        for where, fabric in architecture.fabrics.items()
    }
    return replace(architecture, **fabrics)


def kept_settings(architecture: Architecture) -> dict[str, dict[str, KeptCells]]:
    """What is left of each part of each fabric: "subnetworks", and "backbone" where that is a fabric."""
    kept, outputs = {}, set(SCALES[:1])
    for where, fabric in architecture.fabrics.items():
        kept[where] = {
            name: live_cells(fabric, part.alpha_weights, part.beta_weights, outputs)
            for name, part in fabric.parts.items()
        }
        # The backbone, which comes last, needs what the subnetworks read.
        outputs = set().union(*(sources(fabric, cells) for cells in kept[where].values()))
    return kept


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
