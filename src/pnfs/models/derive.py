"""Deriving smaller networks from a continuous architecture.

Each way of deriving is a change of the logits, where minus infinity means "left out" and the softmax
spreads its weight over what remains. `kept_cells` then finds what carries no weight or reaches no output,
and a network built without it has the same outputs.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pnfs.models.architecture import Architecture, FabricArchitecture, PartArchitecture
from pnfs.models.network import PoseFabricNetwork
from pnfs.models.operations import ZERO
from pnfs.models.wiring import SCALES, CellWiring, KeptCells, live_cells, sources

Mask = Callable[[Float[np.ndarray, " n"]], Bool[np.ndarray, " n"]]
"""Mixing weights of candidates to which of them stay."""


def prune(
    architecture: Architecture, alpha_threshold: float, beta_threshold: float
) -> Architecture:
    """Leaves out candidates whose mixing weight is below a threshold.

    Inputs of a cell that read the same map in the same way count together. The strongest candidate
    of an edge and the strongest input of a cell always stay.

    Args:
        architecture: A continuous architecture.
        alpha_threshold: For the operations of an edge, 0 to 1.
        beta_threshold: For the inputs of a cell, 0 to 1.

    Raises:
        ValueError: A threshold is out of range.
    """
    for name, value in (("alpha", alpha_threshold), ("beta", beta_threshold)):
        if not 0 <= value <= 1:
            raise ValueError(f"{name}_threshold must be between 0 and 1, got {value}")

    def strong(threshold: float) -> Mask:
        return lambda weights: (weights >= threshold) | (weights == weights.max())

    return _change(architecture, lambda _: strong(alpha_threshold), strong(beta_threshold))


def discretise(architecture: Architecture) -> Architecture:
    """Keeps the strongest operation of each edge (zero left aside) and the strongest input of each cell.

    This is the discretisation after a DARTS search, which the paper does without; inputs of a cell that
    read the same map in the same way count together.
    """

    def strongest(operations: Sequence[str]) -> Mask:
        zero = np.array([name == ZERO for name in operations])

        def mask(weights: Float[np.ndarray, " O"]) -> Bool[np.ndarray, " O"]:
            candidates = weights if zero.all() else np.where(zero, -1, weights)
            return np.arange(len(weights)) == candidates.argmax()

        return mask

    return _change(architecture, strongest, lambda weights: weights == weights.max())


def _change(
    architecture: Architecture, alpha: Callable[[Sequence[str]], Mask], beta: Mask
) -> Architecture:
    """Sets logits to minus infinity where the masks are false."""

    def changed(fabric: FabricArchitecture, part: PartArchitecture) -> PartArchitecture:
        operations = alpha(fabric.operations)
        tables = tuple(
            tuple(
                _masked(row, operations(weights))
                for row, weights in zip(table, table_weights, strict=True)
            )
            for table, table_weights in zip(part.alpha, part.alpha_weights, strict=True)
        )
        rows = tuple(
            _masked(row, _input_mask(cell, weights, beta))
            for cell, row, weights in zip(fabric.cells, part.beta, part.beta_weights, strict=True)
        )
        return replace(part, alpha=tables, beta=rows)

    fabrics = {
        where: replace(fabric, parts={n: changed(fabric, p) for n, p in fabric.parts.items()})
        for where, fabric in architecture.fabrics.items()
    }
    return replace(architecture, **fabrics)


def _masked(row: Sequence[float], mask: Bool[np.ndarray, " n"]) -> tuple[float, ...]:
    return tuple(
        value if keep else -math.inf for value, keep in zip(row, mask.tolist(), strict=True)
    )


def _input_mask(
    cell: CellWiring, weights: Float[np.ndarray, "3"], keep: Mask
) -> Bool[np.ndarray, "3"]:
    # Identities read the same map in the same way and count together; each T counts alone.
    groups: dict[object, list[int]] = {}
    for column, connection in enumerate(cell.connections):
        identity = connection.transform == "identity"
        groups.setdefault("identity" if identity else column, []).append(column)
    kept = keep(np.array([weights[group].sum() for group in groups.values()]))
    mask = np.zeros(len(weights), bool)
    for group, stays in zip(groups.values(), kept, strict=True):
        mask[group] = stays
    # A member without weight of its own must not come back.
    return mask & (weights > 0)


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
        name: live_cells(
            fabric,
            np.broadcast_to(part.alpha_weights, (len(fabric.cells), *part.alpha_weights.shape[1:]))[
                None
            ],
            part.beta_weights[None],
            outputs,
        )
        for name, part in fabric.parts.items()
    }


@torch.no_grad()
def transfer_weights(source: PoseFabricNetwork, derived: PoseFabricNetwork) -> None:
    """Copies into a derived network what it shares with the network it comes from.

    alpha and beta are not copied: the derived network's own have been set from its architecture.

    Args:
        source: The whole network.
        derived: Built with `kept`.

    Raises:
        ValueError: An entry of the derived network has no counterpart.
    """
    theirs = source.state_dict()
    skipped = {id(parameter) for parameter in derived.architecture_parameters().values()}
    for name, target in derived.state_dict(keep_vars=True).items():
        if id(target) in skipped:
            continue
        value = _counterpart(name, theirs, source, derived)
        if value is None or value.shape != target.shape:
            raise ValueError(f"{name} of the derived network has no counterpart in its source")
        target.copy_(value)


def _counterpart(
    name: str,
    theirs: Mapping[str, Tensor],
    source: PoseFabricNetwork,
    derived: PoseFabricNetwork,
) -> Tensor | None:
    for where, fabrics in derived.named_fabrics().items():
        prefix = f"{where}.cells."
        if fabrics.kept is not None and name.startswith(prefix):
            part, _, rest = name.removeprefix(prefix).partition(".")
            stacked = theirs.get(prefix + rest)
            row = fabrics.part_names.index(part)
            return None if stacked is None else stacked.chunk(len(fabrics.part_names))[row]
    if name.startswith("adapters.") and name in theirs:
        scale = int(name.split(".")[1])
        readers = source.fabrics.readers[scale]
        pieces = theirs[name].chunk(len(readers))
        rows = [pieces[readers.index(part)] for part in derived.fabrics.readers[scale]]
        return torch.cat(rows)
    return theirs.get(name)
