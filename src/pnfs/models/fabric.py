"""Cell-based neural fabrics: a grid of cells, scale x layer, and how they are wired (Eq. 2)."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from pnfs.models.cell import Cell, cell_edges
from pnfs.models.lanes import (
    Form,
    Lanes,
    PartBatchNorm,
    PartConv2d,
    add_lanes,
    add_scaled,
    double_size,
)
from pnfs.models.operations import SUBNETWORK_OPERATIONS, OperationFactory

SCALES: tuple[int, ...] = (4, 8, 16, 32)
"""Strides of the paper's grid: 1/4, 1/8, 1/16 and 1/32 of the input."""

Neighbour = Literal["finer", "same", "coarser"]
NEIGHBOURS: tuple[Neighbour, ...] = get_args(Neighbour)
"""The order of beta's three columns."""

Transform = Literal["down", "identity", "up"]


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


@dataclass(frozen=True)
class Connection:
    """One of a cell's three candidate inputs, after footnote 2 has filled in missing neighbours."""

    neighbour: Neighbour
    """Whose place it takes, which is whose weight in beta it gets."""
    source: int
    """The scale it reads in the previous layer."""
    transform: Transform


@dataclass(frozen=True)
class CellWiring:
    """A cell of the grid and what feeds it."""

    layer: int
    """1-based."""
    scale: int
    connections: tuple[Connection, ...]
    """In the order of beta's columns."""

    @property
    def name(self) -> str:
        return f"layer{self.layer}_scale{self.scale}"


@dataclass(frozen=True)
class KeptCell:
    """What is left of a cell in a derived network.

    Args:
        inputs: The neighbours whose connections are left, at least one.
        edges: For each edge of the cell the names of the operations that are left.
    """

    inputs: Sequence[Neighbour]
    edges: Sequence[Sequence[str]]

    def __post_init__(self) -> None:
        if not self.inputs or any(name not in NEIGHBOURS for name in self.inputs):
            raise ValueError(
                f"a kept cell needs inputs among {', '.join(NEIGHBOURS)}, got {list(self.inputs)}"
            )


Kept = Mapping[str, Mapping[str, KeptCell]]
"""Part -> name of a cell that is left -> what is left of it."""


def layer_scales(layer: int, layers: int, scales: Sequence[int] = SCALES) -> tuple[int, ...]:
    """Scales that have a cell in layer `layer` (1-based) of `layers`: the fan of the paper's Fig. 1 and 4."""
    return tuple(scales[: min(layer + 1, len(scales), layers - layer + 1)])


def wire_fabric(
    *,
    layers: int,
    first_layer: int,
    last_layer: int,
    input_scales: Sequence[int],
    scales: Sequence[int] = SCALES,
) -> list[CellWiring]:
    """The cells of layers `first_layer`..`last_layer` and their inputs (Eq. 2, footnote 2).

    A cell without a finer or coarser neighbour takes its same-scale input for it. A cell at a scale that
    the previous layer lacks takes the finer input for all three, each with its own transform.

    Args:
        layers: L of the whole fabric, which gives the grid its shape.
        first_layer: First layer to build, 1-based.
        last_layer: Last layer to build, inclusive.
        input_scales: Scales of the maps that feed the first layer.
        scales: The grid's scales, from fine to coarse; each twice the one before.

    Raises:
        ValueError: The range is not within 1..L, scales do not double, or a cell has no input.
    """
    if not 1 <= first_layer <= last_layer <= layers:
        raise ValueError(
            f"layers {first_layer} to {last_layer} are not a range within 1 to {layers}"
        )
    if any(coarse != 2 * fine for fine, coarse in itertools.pairwise(scales)):
        raise ValueError(f"each scale must be twice the one before, got {tuple(scales)}")
    previous = tuple(input_scales)
    wiring = []
    for layer in range(first_layer, last_layer + 1):
        present = layer_scales(layer, layers, scales)
        for scale in present:
            wiring.append(CellWiring(layer, scale, _connections(layer, scale, previous)))
        previous = present
    return wiring


def _connections(layer: int, scale: int, previous: tuple[int, ...]) -> tuple[Connection, ...]:
    finer, coarser = scale // 2, scale * 2
    if scale not in previous:
        if finer not in previous:
            raise ValueError(
                f"the cell at layer {layer}, scale 1/{scale} has no input: the layer before it "
                f"has scales {', '.join(f'1/{s}' for s in previous)}"
            )
        return tuple(Connection(neighbour, finer, "down") for neighbour in NEIGHBOURS)
    same = Connection("same", scale, "identity")
    return (
        Connection("finer", finer, "down")
        if finer in previous
        else Connection("finer", scale, "identity"),
        same,
        Connection("coarser", coarser, "up")
        if coarser in previous
        else Connection("coarser", scale, "identity"),
    )


class Down(nn.Module):
    """T from a finer scale: 3x3 convolution at stride 2, channels doubled, normalised."""

    def __init__(self, parts: int, channels: int, rules: FabricRules) -> None:
        super().__init__()
        self.conv = PartConv2d(
            parts, channels // 2, channels, 3, stride=2, bias=rules.connection_bias
        )
        self.norm = PartBatchNorm(parts, channels, affine=True, relu=rules.rectify == "connection")

    def forward(self, lanes: Lanes, mixing: list[Tensor], form: Form) -> Lanes:
        return self.norm(self.conv(lanes, form), mixing)


class Up(nn.Module):
    """T from a coarser scale: 1x1 convolution, channels halved, bilinear x2, normalised."""

    def __init__(self, parts: int, channels: int, rules: FabricRules) -> None:
        super().__init__()
        self.norm_first = rules.upsample == "norm_first"
        self.align_corners = rules.align_corners
        self.conv = PartConv2d(parts, 2 * channels, channels, 1, bias=rules.connection_bias)
        self.norm = PartBatchNorm(parts, channels, affine=True, relu=rules.rectify == "connection")

    def forward(self, lanes: Lanes, mixing: list[Tensor], form: Form) -> Lanes:
        lanes = self.conv(lanes, form)
        # The mixing weight may be applied before the interpolation: both are linear.
        if self.norm_first:
            return self._upsample(self.norm(lanes, mixing))
        return self.norm(self._upsample(lanes), mixing)

    def _upsample(self, lanes: Lanes) -> Lanes:
        if torch.compiler.is_compiling() and not self.align_corners:
            return [double_size(x) for x in lanes]
        return [
            F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=self.align_corners)
            for x in lanes
        ]


class GridCell(nn.Module):
    """A cell in its place: the mixture of its three inputs (Eq. 2), then the cell (Eq. 1)."""

    def __init__(
        self,
        wiring: CellWiring,
        parts: int,
        channels: int,
        nodes: int,
        operations: Mapping[str, OperationFactory],
        rules: FabricRules,
        shared_input: bool,
        kept: KeptCell | None = None,
    ) -> None:
        super().__init__()
        self.wiring = wiring
        self.connections = [
            c for c in wiring.connections if kept is None or c.neighbour in kept.inputs
        ]
        self.channels = channels
        self.rectify = rules.rectify == "sum"
        # Three equal candidates with weights that sum to one need one transform, not three.
        self.shared_input = shared_input
        self.transforms = nn.ModuleDict()
        for connection in wiring.connections[:1] if shared_input else self.connections:
            if connection.transform == "down":
                self.transforms[connection.neighbour] = Down(parts, channels, rules)
            elif connection.transform == "up":
                self.transforms[connection.neighbour] = Up(parts, channels, rules)
        edges = None if kept is None else kept.edges
        self.cell = Cell(parts, channels, nodes, operations, edges)

    def forward(
        self,
        previous: Mapping[int, Lanes],
        alpha: Float[Tensor, "P E O"],
        beta: Float[Tensor, "P 3"],
        form: Form,
    ) -> Lanes:
        mixed = self._mix_inputs(previous, beta, form)
        if self.rectify:
            mixed = [F.relu(x) for x in mixed]
        return self.cell(mixed, alpha, form)

    def _mix_inputs(
        self, previous: Mapping[int, Lanes], beta: Float[Tensor, "P 3"], form: Form
    ) -> Lanes:
        if self.shared_input:
            connection = self.wiring.connections[0]
            lanes = previous[connection.source]
            columns = [NEIGHBOURS.index(c.neighbour) for c in self.connections]
            weights = list(beta[:, columns].sum(-1).chunk(len(lanes)))
            return self.transforms[connection.neighbour](lanes, weights, form)
        share = {name: beta[:, index] for index, name in enumerate(NEIGHBOURS)}
        total: Lanes | None = None
        for connection in self.connections:
            if connection.transform != "identity":
                lanes = previous[connection.source]
                weights = list(share[connection.neighbour].chunk(len(lanes)))
                transform = self.transforms[connection.neighbour]
                total = add_lanes(total, transform(lanes, weights, form))
        passed = [c for c in self.connections if c.transform == "identity"]
        if passed:
            # All identities read the cell's own scale: one product with the sum of their weights.
            lanes = previous[self.wiring.scale]
            weight = torch.stack([share[c.neighbour] for c in passed]).sum(0)
            total = add_scaled(total, lanes, weight.chunk(len(lanes)))
        assert total is not None  # A cell has at least one connection.
        return total


class NeuralFabrics(nn.Module):
    """P cell-based neural fabrics of one shape Theta = (L, scales, H, C, O), or a range of layers.

    A fabric backbone keeps the first layers, a fabric subnetwork the last; both are this class. Each
    part has its own weights, alpha and beta. How the parts run is the caller's number of lanes and
    `form`; the weights know nothing of it.

    Args:
        part_names: The P parts' names.
        layers: L of the whole fabric.
        first_layer: First layer to build, 1-based.
        last_layer: Last layer to build; None for L.
        input_scales: Scales of the maps that feed the first layer.
        scales: The grid's scales.
        channels: C; a cell at scale 1/s has C*s channels.
        nodes: H, hidden nodes of a cell.
        operations: Candidate operations O.
        alpha_per_cell: One alpha a cell in place of one a fabric.
        rules: Paper or reference behaviour.
        kept: In a derived network, what is left of each part; None for everything.

    Attributes:
        alpha: For each part (E, |O|), or (cells, E, |O|); E = H(H+1)/2. Zero at the start.
        beta: For each part (cells, 3), columns finer, same, coarser. Zero at the start.
        relaxation: Logits to mixing weights along the last dimension, in training mode; softmax unless a
            search strategy puts another in its place. Evaluation always takes the softmax.
    """

    def __init__(
        self,
        *,
        part_names: Sequence[str] = ("whole",),
        layers: int = 6,
        first_layer: int = 1,
        last_layer: int | None = None,
        input_scales: Sequence[int] = SCALES,
        scales: Sequence[int] = SCALES,
        channels: int = 10,
        nodes: int = 1,
        operations: Mapping[str, OperationFactory] = SUBNETWORK_OPERATIONS,
        alpha_per_cell: bool = False,
        rules: FabricRules = PAPER,
        kept: Kept | None = None,
    ) -> None:
        super().__init__()
        if nodes < 1 or channels < 1 or not operations:
            raise ValueError(
                f"a cell needs at least one node, channel and operation, got H={nodes}, "
                f"C={channels}, {len(operations)} operations"
            )
        for part in part_names:
            if hasattr(nn.ParameterDict, part):
                raise ValueError(f"a part cannot be named {part!r}; choose another name")
        self.part_names = tuple(part_names)
        self.operation_names = tuple(operations)
        self.layers = layers
        self.channels = channels
        self.nodes = nodes
        self.rules = rules
        self.alpha_per_cell = alpha_per_cell
        self.wiring = wire_fabric(
            layers=layers,
            first_layer=first_layer,
            last_layer=layers if last_layer is None else last_layer,
            input_scales=input_scales,
            scales=scales,
        )
        from_stem = first_layer == 1 and rules.stem_connections == "shared"

        def grid_cell(cell: CellWiring, parts: int, left: KeptCell | None) -> GridCell:
            shared = from_stem and cell.layer == first_layer and _reads_one_input_three_times(cell)
            width = channels * cell.scale
            return GridCell(cell, parts, width, nodes, operations, rules, shared, left)

        self.kept = kept
        if kept is None:
            parts = len(self.part_names)
            self.cells = nn.ModuleDict({c.name: grid_cell(c, parts, None) for c in self.wiring})
        else:
            self._check_kept(kept)
            # What is left differs from part to part: each part has cells of its own.
            self.cells = nn.ModuleDict(
                {
                    part: nn.ModuleDict(
                        {
                            c.name: grid_cell(c, 1, kept[part][c.name])
                            for c in self.wiring
                            if c.name in kept[part]
                        }
                    )
                    for part in self.part_names
                }
            )
        table = (len(cell_edges(nodes)), len(operations))
        alpha_shape = (len(self.wiring), *table) if alpha_per_cell else table
        self.alpha = nn.ParameterDict(
            {part: nn.Parameter(torch.zeros(alpha_shape)) for part in self.part_names}
        )
        self.beta = nn.ParameterDict(
            {part: nn.Parameter(torch.zeros(len(self.wiring), 3)) for part in self.part_names}
        )
        self.relaxation: Callable[[Tensor], Tensor] = _softmax

    @property
    def output_scales(self) -> tuple[int, ...]:
        last = self.wiring[-1].layer
        return tuple(cell.scale for cell in self.wiring if cell.layer == last)

    def mixing_weights(self) -> tuple[Float[Tensor, "P cells E O"], Float[Tensor, "P cells 3"]]:
        """The weights of every candidate in Eq. 1 and Eq. 2, for all parts and cells."""
        relax = self.relaxation if self.training else _softmax
        alpha = relax(torch.stack([self.alpha[part] for part in self.part_names]))
        beta = relax(torch.stack([self.beta[part] for part in self.part_names]))
        if not self.alpha_per_cell:
            alpha = alpha.unsqueeze(1).expand(-1, len(self.wiring), -1, -1)
        if self.rules.gain == "candidates":
            alpha, beta = alpha * alpha.shape[-1], beta * beta.shape[-1]
        return alpha, beta

    def forward(self, inputs: Mapping[int, Lanes], form: Form) -> dict[int, Lanes]:
        """Maps of the layer before, scale -> lanes of (B, p*C*s, h/s, w/s), to those of the last."""
        alpha, beta = self.mixing_weights()
        if self.kept is None:
            return self._run(self.cells, inputs, alpha, beta, form)
        outputs: dict[int, Lanes] = {}
        for index, part in enumerate(self.part_names):
            own = {scale: [_part_of(x, index, len(self.part_names))] for scale, x in inputs.items()}
            cells = self.cells[part]
            assert isinstance(cells, nn.ModuleDict)
            share = slice(index, index + 1)
            for scale, lanes in self._run(cells, own, alpha[share], beta[share], "loop").items():
                outputs.setdefault(scale, []).extend(lanes)
        return outputs

    def _run(
        self,
        cells: nn.ModuleDict,
        inputs: Mapping[int, Lanes],
        alpha: Float[Tensor, "p cells E O"],
        beta: Float[Tensor, "p cells 3"],
        form: Form,
    ) -> dict[int, Lanes]:
        previous: dict[int, Lanes] = dict(inputs)
        current: dict[int, Lanes] = {}
        for index, cell in enumerate(self.wiring):
            if index > 0 and cell.layer != self.wiring[index - 1].layer:
                previous, current = current, {}
            if cell.name in cells:
                current[cell.scale] = cells[cell.name](
                    previous, alpha[:, index], beta[:, index], form
                )
        return current

    def _check_kept(self, kept: Kept) -> None:
        known = {cell.name for cell in self.wiring}
        for part in self.part_names:
            if part not in kept:
                raise ValueError(f"kept says nothing about part {part!r}")
            unknown = [name for name in kept[part] if name not in known]
            if unknown:
                raise ValueError(f"kept, part {part!r}: there is no cell {', '.join(unknown)}")

    def used_inputs(self) -> dict[int, list[str]]:
        """Scale of the maps that feed the fabrics -> parts that read them."""
        first = self.wiring[0].layer
        used: dict[int, list[str]] = {}
        for part in self.part_names:
            cells = self.cells if self.kept is None else self.cells[part]
            assert isinstance(cells, nn.ModuleDict)
            scales: set[int] = set()
            for cell in cells.values():
                assert isinstance(cell, GridCell)
                if cell.wiring.layer == first:
                    scales.update(connection.source for connection in cell.connections)
            for scale in sorted(scales):
                used.setdefault(scale, []).append(part)
        return used


def _reads_one_input_three_times(cell: CellWiring) -> bool:
    return all(c.transform == "down" for c in cell.connections)


def _part_of(lanes: Lanes, index: int, parts: int) -> Tensor:
    return lanes[0].chunk(parts, dim=1)[index] if len(lanes) == 1 else lanes[index]


def _softmax(logits: Tensor) -> Tensor:
    return logits.softmax(-1)
