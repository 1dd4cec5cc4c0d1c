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

from pnfs.models import PoseFabricNetwork
from pnfs.models.architecture import Architecture, FabricArchitecture, PartArchitecture
from pnfs.models.backbones import FabricBackbone
from pnfs.models.fabric import NEIGHBOURS, CellWiring, KeptCell, Neighbour, NeuralFabrics

Row = Sequence[float]

ZERO = "zero"
"""The candidate operation that contributes nothing."""


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
    """
    for name, value in (("alpha", alpha_threshold), ("beta", beta_threshold)):
        if not 0 <= value <= 1:
            raise ValueError(f"{name}_threshold must be between 0 and 1, got {value}")

    def strong(weights: np.ndarray, threshold: float) -> np.ndarray:
        return (weights >= threshold) | (weights == weights.max())

    return _change(
        architecture,
        alpha=lambda weights, _: strong(weights, alpha_threshold),
        beta=lambda weights: strong(weights, beta_threshold),
    )


def discretise(architecture: Architecture) -> Architecture:
    """Keeps the strongest operation of each edge (zero left aside) and the strongest input of each cell.

    This is the discretisation after a DARTS search, which the paper does without; inputs of a cell that
    read the same map in the same way count together.
    """

    def strongest(weights: np.ndarray, operations: Sequence[str]) -> np.ndarray:
        candidates = np.array(weights)
        if any(name != ZERO for name in operations):
            candidates[[name == ZERO for name in operations]] = -1
        return np.arange(len(weights)) == candidates.argmax()

    return _change(architecture, alpha=strongest, beta=lambda weights: weights == weights.max())


def _change(
    architecture: Architecture,
    alpha: Callable[[np.ndarray, Sequence[str]], np.ndarray],
    beta: Callable[[np.ndarray], np.ndarray],
) -> Architecture:
    """Sets logits to minus infinity where the masks are false."""

    def fabric(found: FabricArchitecture) -> FabricArchitecture:
        parts = []
        for part in found.parts:
            tables = tuple(
                tuple(_masked(row, alpha(_softmax(row), found.operations)) for row in table)
                for table in part.alpha
            )
            rows = tuple(
                _masked(row, _input_mask(cell, row, beta))
                for cell, row in zip(found.cells, part.beta, strict=True)
            )
            parts.append(replace(part, alpha=tables, beta=rows))
        return replace(found, parts=tuple(parts))

    backbone = architecture.backbone
    return replace(
        architecture,
        subnetworks=fabric(architecture.subnetworks),
        backbone=None if backbone is None else fabric(backbone),
    )


def _softmax(row: Row) -> np.ndarray:
    logits = np.asarray(row, np.float64)
    weights = np.exp(logits - logits.max())
    return weights / weights.sum()


def _masked(row: Row, mask: np.ndarray) -> tuple[float, ...]:
    return tuple(
        value if keep else -math.inf for value, keep in zip(row, mask.tolist(), strict=True)
    )


def _input_groups(cell: CellWiring) -> list[list[int]]:
    """Columns of beta that read the same map in the same way: identities; transforms are apart."""
    identities = [i for i, c in enumerate(cell.connections) if c.transform == "identity"]
    others = [[i] for i, c in enumerate(cell.connections) if c.transform != "identity"]
    return ([identities] if identities else []) + others


def _input_mask(cell: CellWiring, row: Row, keep: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    weights = _softmax(row)
    groups = _input_groups(cell)
    kept = keep(np.array([weights[group].sum() for group in groups]))
    mask = np.zeros(len(weights), bool)
    for group, stays in zip(groups, kept.tolist(), strict=True):
        mask[group] = stays
    # A member without weight of its own must not come back.
    return mask & (weights > 0)


def kept_cells(
    fabric: FabricArchitecture, part: PartArchitecture, outputs: Sequence[int]
) -> dict[str, KeptCell]:
    """What of a part's fabric carries weight and reaches one of the output scales.

    Args:
        fabric: The fabric.
        part: One of its parts.
        outputs: Scales of the last layer that are read.
    """
    last = fabric.cells[-1].layer
    wanted = {(last, scale) for scale in outputs}
    kept: dict[str, KeptCell] = {}
    for index in range(len(fabric.cells) - 1, -1, -1):
        cell = fabric.cells[index]
        if (cell.layer, cell.scale) not in wanted:
            continue
        inputs = _live_inputs(cell, part.beta[index])
        table = part.alpha[index if fabric.alpha_per_cell else 0]
        kept[cell.name] = KeptCell(
            inputs=inputs,
            edges=tuple(
                tuple(
                    name
                    for name, weight in zip(fabric.operations, _softmax(row), strict=True)
                    if weight > 0 and name != ZERO
                )
                for row in table
            ),
        )
        sources = {c.neighbour: c.source for c in cell.connections}
        wanted |= {(cell.layer - 1, sources[name]) for name in inputs}
    return dict(reversed(kept.items()))


def _live_inputs(cell: CellWiring, row: Row) -> tuple[Neighbour, ...]:
    weights = _softmax(row)
    return tuple(name for name, weight in zip(NEIGHBOURS, weights, strict=True) if weight > 0)


def kept_settings(architecture: Architecture) -> dict[str, Mapping[str, Mapping[str, KeptCell]]]:
    """What is left of each fabric: "subnetworks", and "backbone" where that is a fabric."""
    subnetworks = architecture.subnetworks
    finest = min(subnetworks.scales)
    found: dict[str, Mapping[str, Mapping[str, KeptCell]]] = {
        "subnetworks": {
            part.name: kept_cells(subnetworks, part, [finest]) for part in subnetworks.parts
        }
    }
    backbone = architecture.backbone
    if backbone is not None:
        first = subnetworks.cells[0].layer
        sources = {cell.name: cell for cell in subnetworks.cells if cell.layer == first}
        read = {
            connection.source
            for left in found["subnetworks"].values()
            for name, cell in left.items()
            if name in sources
            for connection in sources[name].connections
            if connection.neighbour in cell.inputs
        }
        found["backbone"] = {
            part.name: kept_cells(backbone, part, sorted(read)) for part in backbone.parts
        }
    return found


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
    own = derived.architecture_parameters()
    skipped = {id(parameter) for parameter in own.values()}
    for name, target in derived.state_dict(keep_vars=True).items():
        if id(target) in skipped:
            continue
        value = _counterpart(name, theirs, source, derived)
        if value is None or value.shape != target.shape:
            raise ValueError(f"{name} of the derived network has no counterpart in its source")
        target.copy_(value)


def _counterpart(
    name: str,
    theirs: Mapping[str, torch.Tensor],
    source: PoseFabricNetwork,
    derived: PoseFabricNetwork,
) -> torch.Tensor | None:
    for prefix, fabrics in _fabric_prefixes(derived).items():
        if fabrics.kept is not None and name.startswith(f"{prefix}.cells."):
            part, _, rest = name.removeprefix(f"{prefix}.cells.").partition(".")
            stacked = theirs.get(f"{prefix}.cells.{rest}")
            index = fabrics.part_names.index(part)
            return None if stacked is None else stacked.chunk(len(fabrics.part_names))[index]
    if name.startswith("subnetworks.adapters."):
        scale = int(name.split(".")[2])
        stacked = theirs.get(name)
        if stacked is None:
            return None
        pieces = stacked.chunk(len(source.subnetworks.readers[scale]))
        rows = [
            source.subnetworks.readers[scale].index(p) for p in derived.subnetworks.readers[scale]
        ]
        return torch.cat([pieces[row] for row in rows])
    return theirs.get(name)


def _fabric_prefixes(network: PoseFabricNetwork) -> dict[str, NeuralFabrics]:
    prefixes = {"subnetworks.fabrics": network.subnetworks.fabrics}
    if isinstance(network.backbone, FabricBackbone):
        prefixes["backbone.fabrics"] = network.backbone.fabrics
    return prefixes
