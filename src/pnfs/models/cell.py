"""The cell: hidden nodes h_1 ... h_H, densely connected by mixed operations (Eq. 1)."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pnfs.errors import PnfsError
from pnfs.models.layers import Map, PartConv2d
from pnfs.models.operations import Operations, Skip, weighted_sum


def cell_edges(nodes: int) -> list[tuple[int, int]]:
    """The H(H+1)/2 edges (i, j), i < j, in the order of the rows of alpha."""
    return [(i, j) for j in range(1, nodes + 1) for i in range(j)]


class Cell(nn.Module):
    """h_j = sum over i < j and o of softmax(alpha^(i,j))_o * o(h_i); then a 1x1 convolution of all h_j.

    `parts`, `channels`, `nodes`, `operations` are P, those of one part, H >= 1 and O; `kept` holds for each edge
    the names of the operations to build, None for all.

    Attributes:
        terms: For each node its candidates: the operation, the node that it reads, its row and column in alpha.
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
        self.parts = parts
        edges = cell_edges(nodes)
        if kept is not None and len(kept) != len(edges):
            raise PnfsError(f"a cell of H={nodes} has {len(edges)} edges, {len(kept)} are listed")
        self.edges = nn.ModuleList()
        self.terms: list[list[tuple[nn.Module, int, int, int]]] = [[] for _ in range(nodes)]
        for row, (source, target) in enumerate(edges):
            built = {
                name: (build(parts, channels), column)
                for column, (name, build) in enumerate(operations.items())
                if build is not None and (kept is None or name in kept[row])
            }
            self.edges.append(nn.ModuleDict({name: o for name, (o, _) in built.items()}))
            self.terms[target - 1] += [(o, source, row, column) for o, column in built.values()]
        for terms in self.terms:
            terms.sort(key=lambda term: isinstance(term[0], Skip))
        self.output = PartConv2d(parts, nodes * channels, channels, 1, bias=True)

    def forward(self, h_0: Map, mixing: Float[Tensor, "P E O"]) -> Map:
        hidden = [h_0]
        for terms in self.terms:
            total = weighted_sum([(o, hidden[source], mixing[:, row, column]) for o, source, row, column in terms])
            hidden.append(torch.zeros_like(h_0) if total is None else total)
        if len(hidden) == 2:
            return self.output(hidden[1])
        # (B, P*C, h, w) H times -> (B, P*H*C, h, w): a part's nodes stand side by side.
        for node, h in enumerate(hidden):
            hidden[node] = h.unflatten(1, (self.parts, -1))
        joined = torch.cat(hidden[1:], dim=2).flatten(1, 2)
        return self.output(joined.contiguous(memory_format=torch.channels_last))
