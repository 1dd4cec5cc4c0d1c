"""The cell: a small graph of hidden nodes with mixed operations on its edges (Eq. 1)."""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pnfs.models.lanes import Form, Lanes, PartConv2d, add_lanes
from pnfs.models.operations import Operation, OperationFactory


def cell_edges(nodes: int) -> list[tuple[int, int]]:
    """The H(H+1)/2 edges (i, j), i < j, in the order of the rows of alpha."""
    return [(i, j) for j in range(1, nodes + 1) for i in range(j)]


class MixedEdge(nn.Module):
    """One edge: the sum of all candidate operations, each times its mixing weight.

    Args:
        parts: P.
        channels: Channels of one part.
        operations: Name -> factory of a candidate operation, in the order of alpha's columns.
        kept: Names of the operations to build; None for all.
    """

    def __init__(
        self,
        parts: int,
        channels: int,
        operations: Mapping[str, OperationFactory],
        kept: Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        self.operations = nn.ModuleDict(
            {
                name: factory(parts, channels)
                for name, factory in operations.items()
                if kept is None or name in kept
            }
        )
        self.columns = [column for column, name in enumerate(operations) if name in self.operations]

    def forward(self, lanes: Lanes, mixing: Float[Tensor, "P O"], form: Form) -> Lanes | None:
        total: Lanes | None = None
        # The skip stands in front; added last, onto the sum of the others, it costs one pass over the maps.
        candidates = [*zip(self.columns, self.operations.values(), strict=True)]
        for column, operation in reversed(candidates):
            assert isinstance(operation, Operation)
            weights = list(mixing[:, column].chunk(len(lanes)))
            total = operation.add_to(total, lanes, weights, form)
        return total


class Cell(nn.Module):
    """H hidden nodes: h_j = sum over i < j and o of softmax(alpha^(i,j))_o * o(h_i)  (Eq. 1).

    The output is a 1x1 convolution of all hidden nodes side by side, back to the cell's channels.

    Args:
        parts: P.
        channels: Channels of one part.
        nodes: H >= 1.
        operations: Name -> factory of a candidate operation.
        kept: For each edge the names of the operations to build; None for all.
    """

    def __init__(
        self,
        parts: int,
        channels: int,
        nodes: int,
        operations: Mapping[str, OperationFactory],
        kept: Sequence[Sequence[str]] | None = None,
    ) -> None:
        super().__init__()
        self.nodes = nodes
        self.channels = channels
        count = len(cell_edges(nodes))
        if kept is not None and len(kept) != count:
            raise ValueError(f"a cell of H={nodes} has {count} edges, {len(kept)} are listed")
        self.edges = nn.ModuleList(
            MixedEdge(parts, channels, operations, None if kept is None else kept[edge])
            for edge in range(count)
        )
        self.output = PartConv2d(parts, nodes * channels, channels, 1, bias=True)

    def forward(self, lanes: Lanes, mixing: Float[Tensor, "P E O"], form: Form) -> Lanes:
        """h_0 (B, p*C, h, w) in each lane to the cell's output of the same shape."""
        hidden = [lanes]
        wiring = cell_edges(self.nodes)
        for node in range(1, self.nodes + 1):
            total: Lanes | None = None
            for edge, (source, target) in enumerate(wiring):
                if target == node:
                    contribution = self.edges[edge](hidden[source], mixing[:, edge], form)
                    total = add_lanes(total, contribution)
            # Only candidates that are zero everywhere: the node is zero.
            hidden.append([torch.zeros_like(x) for x in lanes] if total is None else total)
        return self.output(self._concatenate(hidden[1:]), form)

    def _concatenate(self, hidden: list[Lanes]) -> Lanes:
        """H times (B, p*C, h, w) to (B, p*H*C, h, w): a part's nodes stand side by side."""
        if len(hidden) == 1:
            return hidden[0]
        joined = []
        for nodes in zip(*hidden, strict=True):
            # (B, p*C, h, w) -> (B, p, C, h, w), joined along C.
            split = [x.unflatten(1, (-1, self.channels)) for x in nodes]
            flat = torch.cat(split, dim=2).flatten(1, 2)
            joined.append(flat.contiguous(memory_format=torch.channels_last))
        return joined
