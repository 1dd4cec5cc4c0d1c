"""The cell: hidden nodes h_1 ... h_H, densely connected by mixed operations (Eq. 1)."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pnfs.models.fuse import SMALLEST_DIVISOR, Scale, scaled, with_weights
from pnfs.models.layers import Map, PartConv2d, Weight
from pnfs.models.operations import Operation, Operations, Skip


def cell_edges(nodes: int) -> list[tuple[int, int]]:
    """The H(H+1)/2 edges (i, j), i < j, in the order of the rows of alpha."""
    return [(i, j) for j in range(1, nodes + 1) for i in range(j)]


class Cell(nn.Module):
    """h_j = sum over i < j and o of softmax(alpha^(i,j))_o * o(h_i); then a 1x1 convolution of all h_j.

    Args:
        parts: P.
        channels: Channels of one part.
        nodes: H >= 1.
        operations: Name -> factory of a candidate operation, in the order of alpha's columns.
        kept: For each edge the names of the operations to build; None for all.
    """

    def __init__(
        self,
        parts: int,
        channels: int,
        nodes: int,
        operations: Operations,
        kept: Sequence[Sequence[str]] | None = None,
    ) -> None:
        super().__init__()
        self.parts, self.channels, self.nodes = parts, channels, nodes
        wiring = cell_edges(nodes)
        if kept is not None and len(kept) != len(wiring):
            raise ValueError(f"a cell of H={nodes} has {len(wiring)} edges, {len(kept)} are listed")
        self.columns = {name: column for column, name in enumerate(operations)}
        self.edges = nn.ModuleList(
            nn.ModuleDict(
                {
                    name: build(parts, channels)
                    for name, build in operations.items()
                    if build is not None and (kept is None or name in kept[edge])
                }
            )
            for edge in range(len(wiring))
        )
        self.output = PartConv2d(parts, nodes * channels, channels, 1, bias=True)

    def candidates(self, node: int) -> list[tuple[int, int, int, Operation]]:
        """Of each operation that feeds a node: its edge's row and its column of alpha, its source, itself."""
        found = [
            (edge, self.columns[name], source, operation)
            for edge, (source, target) in enumerate(cell_edges(self.nodes))
            if target == node
            for name, operation in self.edges[edge].items()  # type: ignore[operator]
        ]
        # A skip that is added onto a sum costs one pass over the maps.
        return sorted(found, key=lambda candidate: isinstance(candidate[-1], Skip))

    def forward(self, h_0: Map, mixing: Float[Tensor, "P E O"]) -> Map:
        hidden = [h_0]
        for node in range(1, self.nodes + 1):
            total: Map | None = None
            for edge, column, source, operation in self.candidates(node):
                total = operation.add_to(total, hidden[source], mixing[:, edge, column])
            hidden.append(torch.zeros_like(h_0) if total is None else total)
        if self.nodes == 1:
            return self.output(hidden[1])
        # (B, P*C, h, w) H times -> (B, P*H*C, h, w): a part's nodes stand side by side.
        split = [h.unflatten(1, (self.parts, -1)) for h in hidden[1:]]
        joined = torch.cat(split, dim=2).flatten(1, 2)
        return self.output(joined.contiguous(memory_format=torch.channels_last))

    def fuse(
        self, mixing: Float[Tensor, "P E O"], live: Sequence[Sequence[str]], scale: Weight
    ) -> tuple[list[list[tuple[int, nn.Module]]], list[nn.Module]]:
        """Nodes and outputs of a `FusedCell`.

        Args:
            mixing: softmax(alpha).
            live: For each edge the operations that carry weight.
            scale: Factor on h_0.
        """
        scales, nodes = [scale], []
        names = list(self.columns)
        for node in range(1, self.nodes + 1):
            terms = [
                (operation, source, mixing[:, edge, column])
                for edge, column, source, operation in self.candidates(node)
                if names[column] in live[edge]
            ]
            divisor = torch.ones_like(scale)
            for operation, source, weight in terms:
                passed = weight * scales[source]
                if isinstance(operation, Skip) and bool((passed >= SMALLEST_DIVISOR).all()):
                    divisor = passed
            nodes.append([(i, o.fuse(w / divisor, scales[i])) for o, i, w in terms])
            if not terms:
                nodes[-1].append((0, Scale(torch.zeros_like(scale), self.channels)))
            scales.append(divisor)
        # (P*C, H*C, 1, 1) -> H times (P*C, C, 1, 1); one of them holds the bias.
        outputs: list[nn.Module] = []
        for factor, weight in zip(scales[1:], self.output.weight.chunk(self.nodes, 1), strict=True):
            conv = PartConv2d(self.parts, self.channels, self.channels, 1, bias=not outputs)
            bias = None if outputs else self.output.bias
            outputs.append(scaled(with_weights(conv.to(weight), weight, bias), factor))
        return nodes, outputs
