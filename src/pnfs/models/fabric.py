"""A cell-based neural fabric: the grid of cells and the mixture that feeds each (Eq. 2)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from pnfs.models.cell import Cell
from pnfs.models.fuse import SMALLEST_DIVISOR, FusedCell, absorb, scale_by
from pnfs.models.layers import Map, PartBatchNorm2d, PartConv2d, Weight, add_scaled, double_size
from pnfs.models.operations import Operations
from pnfs.models.wiring import NEIGHBOURS, CellWiring, KeptCell, KeptCells, Theta, live_cells


@dataclass(frozen=True)
class FabricRules:
    """What the paper and the authors' public code do differently inside a fabric.

    Args:
        gain: "one": mixing weights are the softmax. "candidates": they are multiplied by the number of
            candidates (|O| in a cell, 3 between cells).
        rectify: "connection": a ReLU follows the normalisation of each transforming connection T.
            "sum": T has none, the mixture h_0 is rectified.
        upsample: "conv_first": 1x1 convolution, bilinear x2, normalisation.
            "norm_first": 1x1 convolution, normalisation, bilinear x2.
        align_corners: Which bilinear interpolation.
        connection_bias: Whether the convolutions of T have a bias in front of the normalisation.
        stem_connections: "shared": a first-layer cell at 1/8 reads the stem through one T.
            "separate": through three, one for each missing neighbour.
        stem_relu: Whether the stem's first convolution is followed by a ReLU.
        adapters: "always": each part sees the pyramid through its own 1x1 convolutions.
            "where_needed": only where the backbone's channels differ from the fabric's.
    """

    gain: Literal["one", "candidates"] = "one"
    rectify: Literal["connection", "sum"] = "connection"
    upsample: Literal["conv_first", "norm_first"] = "conv_first"
    align_corners: bool = False
    connection_bias: bool = False
    stem_connections: Literal["shared", "separate"] = "shared"
    stem_relu: bool = True
    adapters: Literal["always", "where_needed"] = "always"


PAPER = FabricRules()
REFERENCE = FabricRules(
    gain="candidates",
    rectify="sum",
    upsample="norm_first",
    align_corners=True,
    connection_bias=True,
    stem_connections="separate",
    stem_relu=False,
    adapters="where_needed",
)


class Connect(nn.Module):
    """T times its mixing weight.

    "down" is a 3x3 convolution at stride 2, "up" a 1x1 convolution and bilinear x2; both are normalised.

    Args:
        parts: P.
        channels: Channels of one part at the cell's scale.
        transform: "down" or "up".
        rules: Paper or reference behaviour.
    """

    def __init__(self, parts: int, channels: int, transform: str, rules: FabricRules) -> None:
        super().__init__()
        self.up = transform == "up"
        self.rules = rules
        inside, kernel, stride = (2 * channels, 1, 1) if self.up else (channels // 2, 3, 2)
        bias = rules.connection_bias
        self.conv = PartConv2d(parts, inside, channels, kernel, stride=stride, bias=bias)
        self.norm = PartBatchNorm2d(parts, channels, affine=True)

    def forward(self, x: Map, weight: Weight) -> Map:
        # The mixing weight may be applied before the interpolation: both are linear.
        x = self._double(self.conv(x), "conv_first")
        return self._double(self._rectify(self.norm(x, weight)), "norm_first")

    def _double(self, x: Map, order: str) -> Map:
        doubles = self.up and self.rules.upsample == order
        return double_size(x, self.rules.align_corners) if doubles else x

    def _rectify(self, x: Map) -> Map:
        return F.relu_(x) if self.rules.rectify == "connection" else x

    def fuse(self, weight: Weight) -> nn.Module:
        """For inference: a module from x to weight * T(x)."""
        # The normalisation commutes with the interpolation, whose weights sum to one.
        layers: list[nn.Module] = [absorb(self.conv, self.norm, weight)]
        if self.rules.rectify == "connection":
            layers.append(nn.ReLU(inplace=True))
        if self.up:
            corners = self.rules.align_corners
            double = nn.Upsample(scale_factor=2.0, mode="bilinear", align_corners=corners)
            layers.insert(1 if self.rules.upsample == "conv_first" else len(layers), double)
        return nn.Sequential(*layers)


class GridCell(nn.Module):
    """A cell in its place: h_0 = sum over k of softmax(beta)_k * T_k(neighbour_k)  (Eq. 2), then Eq. 1.

    Args:
        wiring: Where it stands and what feeds it.
        parts: P.
        channels: Channels of one part.
        nodes: H.
        operations: Candidate operations O.
        rules: Paper or reference behaviour.
        kept: What is left of the cell; None for everything.
    """

    def __init__(
        self,
        wiring: CellWiring,
        parts: int,
        channels: int,
        nodes: int,
        operations: Operations,
        rules: FabricRules,
        kept: KeptCell | None = None,
    ) -> None:
        super().__init__()
        self.channels, self.rules = channels, rules
        self.connections = [
            c for c in wiring.connections if kept is None or c.neighbour in kept.inputs
        ]
        # Three candidates through one T are that T with the sum of their weights.
        shared = rules.stem_connections == "shared" and wiring.layer == 1 and wiring.reads_one_map
        self.owners = {
            c.neighbour: NEIGHBOURS[0] if shared else c.neighbour
            for c in self.connections
            if c.transform != "identity"
        }
        transforms = {self.owners.get(c.neighbour): c.transform for c in self.connections}
        self.transforms = nn.ModuleDict(
            {
                owner: Connect(parts, channels, transform, rules)
                for owner, transform in transforms.items()
                if owner is not None
            }
        )
        self.cell = Cell(parts, channels, nodes, operations, None if kept is None else kept.edges)

    def inputs(self, beta: Float[Tensor, "P 3"]) -> dict[str | None, tuple[int, Weight]]:
        """What h_0 is the sum of: name of a T, None for the identity -> the scale it reads, its weight."""
        found: dict[str | None, tuple[int, Weight]] = {}
        for c in self.connections:
            owner = self.owners.get(c.neighbour)
            weight = beta[:, NEIGHBOURS.index(c.neighbour)]
            found[owner] = (c.source, found[owner][1] + weight if owner in found else weight)
        # The identity is added onto the sum of the others.
        return dict(sorted(found.items(), key=lambda item: item[0] is None))

    def forward(
        self,
        previous: Mapping[int, Map],
        alpha: Float[Tensor, "P E O"],
        beta: Float[Tensor, "P 3"],
    ) -> Map:
        """Maps of the previous layer, scale -> (B, P*C*s, h/s, w/s), to the cell's output."""
        h_0: Map | None = None
        for owner, (source, weight) in self.inputs(beta).items():
            if owner is None:
                h_0 = add_scaled(h_0, previous[source], weight)
            else:
                term = self.transforms[owner](previous[source], weight)
                h_0 = term if h_0 is None else h_0 + term
        assert h_0 is not None  # A cell has at least one connection.
        return self.cell(F.relu(h_0) if self.rules.rectify == "sum" else h_0, alpha)

    def fuse(
        self, alpha: Float[Tensor, "P E O"], beta: Float[Tensor, "P 3"], live: KeptCell
    ) -> FusedCell:
        """For inference, with the mixing weights built in and without what carries none."""
        self.connections = [c for c in self.connections if c.neighbour in live.inputs]
        inputs = self.inputs(beta)
        divisor = torch.ones_like(beta[:, 0])
        if None in inputs and bool((inputs[None][1] >= SMALLEST_DIVISOR).all()):
            divisor = inputs[None][1]
        terms: list[tuple[int, nn.Module]] = []
        for owner, (source, weight) in inputs.items():
            if owner is None:
                terms.append((source, scale_by(weight / divisor, self.channels)))
            else:
                terms.append((source, self.transforms[owner].fuse(weight / divisor)))  # type: ignore[operator]
        nodes, outputs = self.cell.fuse(alpha, live.edges, divisor)
        return FusedCell(terms, self.rules.rectify == "sum", nodes, outputs)


class Grid(nn.ModuleDict):
    """The cells of one or several parts of the same shape, by name.

    Args:
        theta: The fabrics' shape.
        parts: P.
        operations: Candidate operations O.
        rules: Paper or reference behaviour.
        kept: What is left of each cell; None for everything.
    """

    def __init__(
        self,
        theta: Theta,
        parts: int,
        operations: Operations,
        rules: FabricRules,
        kept: KeptCells | None = None,
    ) -> None:
        super().__init__()
        self.theta = theta
        for cell in theta.cells:
            if kept is None or cell.name in kept:
                width = theta.channels * cell.scale
                left = None if kept is None else kept[cell.name]
                self[cell.name] = GridCell(cell, parts, width, theta.nodes, operations, rules, left)

    def forward(
        self,
        inputs: Mapping[int, Map],
        alpha: Float[Tensor, "P cells E O"],
        beta: Float[Tensor, "P cells 3"],
    ) -> dict[int, Map]:
        """Maps of the layer before, scale -> (B, P*C*s, h/s, w/s), to those of the last layer."""
        layers: dict[int, dict[int, Map]] = {self.theta.first_layer - 1: dict(inputs)}
        for index, cell in enumerate(self.theta.cells):
            outputs = layers.setdefault(cell.layer, {})
            if cell.name in self:
                previous = layers[cell.layer - 1]
                outputs[cell.scale] = self[cell.name](previous, alpha[:, index], beta[:, index])
        return layers[self.theta.last_layer]

    def fuse(
        self,
        alpha: Float[Tensor, "P cells E O"],
        beta: Float[Tensor, "P cells 3"],
        outputs: Sequence[int],
    ) -> KeptCells:
        """Puts fused cells in the cells' place and drops those that reach no output; returns what is live."""
        live = live_cells(self.theta, alpha.cpu().numpy(), beta.cpu().numpy(), outputs)
        for index, cell in enumerate(self.theta.cells):
            if cell.name not in self:
                continue
            whole = self.pop(cell.name)
            if cell.name in live:
                mixing = (alpha[:, index], beta[:, index])
                self[cell.name] = whole.fuse(*mixing, live[cell.name])  # type: ignore[operator]
        return live
