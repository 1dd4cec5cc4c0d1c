"""Folding a trained network for inference: equal outputs from far fewer operations.

In evaluation mode alpha, beta and the batch norms are constants, so most of a fabric's bookkeeping can be
multiplied into its convolutions:

- Mixing weights (Eq. 1 and 2) and batch norms become part of the convolution before them. A mixing weight is
  not negative, so it may pass through a ReLU.
- A weight on an identity (a border cell's copied inputs, or a skip) needs no product: what is added to it is
  divided by it, and whoever reads the sum multiplies its convolution by it.
- Convolutions in a row without a ReLU between them (an adapter or a cell's output, then a connection) become
  one where that is cheaper.
- What carries no weight, or reaches no output, is not built.
"""

import copy
import operator
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from pnfs.models.backbones import FabricBackbone
from pnfs.models.cell import MixedEdge, cell_edges
from pnfs.models.fabric import NEIGHBOURS, SCALES, CellWiring, Down, GridCell, NeuralFabrics, Up
from pnfs.models.lanes import PartBatchNorm, PartConv2d
from pnfs.models.network import PoseFabricNetwork
from pnfs.models.operations import Operation, Pool, SeparableConv, Skip, Zero
from pnfs.models.subnetworks import PartSubnetworks

Layout = Literal["grouped", "separate"]
"""P parts side by side in grouped convolutions, or each in convolutions of its own."""

# A smaller weight on an identity is multiplied out, since dividing by it could overflow.
_SMALLEST_DIVISOR = 1e-6

Weights = Float[Tensor, " p"]
"""One number for each part of a lane."""


def fuse(network: nn.Module, layout: Layout | Literal["auto"] = "auto") -> nn.Module:
    """A network for inference whose outputs equal those of `network.eval()`; the network stays as it is.

    Args:
        network: A `PoseFabricNetwork`, also a derived one, is folded as this module describes. Of any other
            network the batch norms are folded into the convolutions before them.
        layout: How parts are laid out. A derived network, whose parts differ, is always "separate"; one with
            operations of your own, which cannot be taken apart, "grouped".

    Returns:
        A module with the same `forward`; that of a `PoseFabricNetwork` also has its `joint_maps`, `parts` and
        `stride`.

    Raises:
        ValueError: An unknown layout.
    """
    if layout not in (*get_args(Layout), "auto"):
        raise ValueError(
            f"unknown layout {layout!r}; there are auto, {', '.join(get_args(Layout))}"
        )
    with torch.no_grad():
        if isinstance(network, PoseFabricNetwork):
            return FusedPoseNetwork(network, layout)
        return fold_batch_norms(network)


class FusedPoseNetwork(nn.Module):
    """A folded `PoseFabricNetwork`; made by `fuse`.

    Attributes:
        parts: The part mode.
        stride: Input pixels for each pixel of a score map.
    """

    def __init__(self, network: PoseFabricNetwork, layout: Layout | Literal["auto"]) -> None:
        super().__init__()
        self.parts = network.parts
        self.stride = network.stride
        joints = network.parts.joint_indices
        count = len(network.parts.skeleton)
        selection = F.one_hot(torch.tensor(joints), count).T[..., None, None].float()
        if network.overlap == "mean":
            selection = selection / selection.sum(1, keepdim=True)
        self.in_order = torch.equal(selection[..., 0, 0], torch.eye(count))
        # (K, J, 1, 1): sums and means of maps are a pointwise convolution.
        self.register_buffer("selection", selection, persistent=False)
        self.graph = _fold_network(network, layout)
        self.eval().requires_grad_(False)
        self.to(memory_format=torch.channels_last)

    selection: Tensor

    def forward(self, images: Float[Tensor, "B 3 h w"]) -> Float[Tensor, "B J h/4 w/4"]:
        """Score maps of all parts' joints, part after part; see `PoseFabricNetwork.forward`."""
        height, width = images.shape[-2:]
        if height % 32 or width % 32:
            raise ValueError(f"input height and width must divide by 32, got {height}x{width}")
        return self.graph(images)

    def joint_maps(self, part_maps: Float[Tensor, "B J h w"]) -> Float[Tensor, "B K h w"]:
        """One map a joint, in the skeleton's order; see `PoseNetwork.joint_maps`."""
        return part_maps if self.in_order else F.conv2d(part_maps, self.selection)


# --- the folded network's graph ------------------------------------------------------------------


@dataclass(frozen=True)
class _Map:
    """A map that the folded network computes.

    Attributes:
        node: Where it is computed: (B, p*C, h, w), or (B, C, h, w) where `shared`.
        shared: Whether all parts of the lane read the same channels.
    """

    node: fx.Node
    shared: bool


@dataclass
class _Value:
    """A sum of pointwise convolutions, computed when a reader needs it.

    Attributes:
        terms: Maps and the matrices (p or 1, out, in) they are multiplied by; None is the identity.
        bias: (p or 1, out); none beside an identity.
        needed: Whether some reader needs it computed, so that others may as well read the result.
        computed: The result, once it is there.
    """

    terms: list[tuple[_Map, Tensor | None]]
    bias: Tensor | None = None
    needed: bool = True
    computed: _Map | None = None

    def is_map(self) -> bool:
        return self.terms[0][1] is None

    def cheaper_to_skip(self) -> bool:
        """Whether a convolution reads the terms at less cost than the computed value."""
        if self.is_map():
            return False
        matrices = [matrix for _, matrix in self.terms if matrix is not None]
        return sum(m.shape[2] for m in matrices) < matrices[0].shape[1]


@dataclass(frozen=True)
class _Scaled:
    """`factor` >= 0 times a map of `channels` channels a part."""

    map: _Map
    factor: Weights
    channels: int

    @property
    def by_channel(self) -> Float[Tensor, "p C"]:
        return self.factor[:, None].expand(-1, self.channels)


class _Builder:
    """Writes a graph of convolutions, sums, poolings and interpolations."""

    def __init__(self) -> None:
        self.graph = fx.Graph()
        self.root = nn.Module()

    def finish(self, output: fx.Node) -> fx.GraphModule:
        self.graph.output(output)
        module = fx.GraphModule(self.root, self.graph, "FoldedGraph")
        module.graph.eliminate_dead_code()
        module.recompile()
        module.delete_all_unused_submodules()
        return module

    def module(self, name: str, module: nn.Module, *inputs: fx.Node) -> fx.Node:
        name = f"{name}_{len(self.graph.nodes)}"
        self.root.add_module(name, module)
        return self.graph.call_module(name, inputs)

    def conv(
        self,
        name: str,
        x: _Map,
        weight: Float[Tensor, "p o i k k"],
        bias: Float[Tensor, "p o"] | None = None,
        *,
        stride: int = 1,
        dilation: int = 1,
        depthwise: bool = False,
    ) -> _Map:
        """A convolution with part after part in its output channels."""
        parts, out, fan_in, kernel = weight.shape[:4]
        groups = (1 if x.shared else parts) * (out if depthwise else 1)
        layer = nn.Conv2d(
            fan_in * groups,
            parts * out,
            kernel,
            stride=stride,
            padding=dilation * (kernel - 1) // 2,
            dilation=dilation,
            groups=groups,
            bias=bias is not None,
            device="meta",
        )
        layer.weight = _constant(weight.flatten(0, 1))
        if bias is not None:
            layer.bias = _constant(bias.flatten())
        # One part's worth of weights on a shared map gives a shared map.
        return _Map(self.module(name, layer, x.node), x.shared and parts == 1)

    def affine(
        self, x: _Map, scale: Float[Tensor, "p C"], shift: Float[Tensor, "p C"] | None = None
    ) -> _Map:
        """scale * x + shift, as a depthwise 1x1 convolution."""
        return self.conv("scale", x, scale[..., None, None, None], shift, depthwise=True)

    def relu(self, x: _Map) -> _Map:
        return _Map(self.graph.call_function(F.relu, (x.node,)), x.shared)

    def add(self, total: _Map | None, more: _Map) -> _Map:
        if total is None:
            return more
        assert total.shared == more.shared
        return _Map(self.graph.call_function(operator.add, (total.node, more.node)), total.shared)

    def upsample(self, x: _Map, align_corners: bool) -> _Map:
        options = {"scale_factor": 2.0, "mode": "bilinear", "align_corners": align_corners}
        return _Map(self.graph.call_function(F.interpolate, (x.node,), options), x.shared)

    def each(self, x: _Map, parts: int) -> _Map:
        """The map with channels for each part."""
        if not x.shared or parts == 1:
            return _Map(x.node, shared=False)
        return _Map(self.graph.call_function(torch.cat, ([x.node] * parts, 1)), shared=False)

    def compute(self, value: _Value) -> _Map:
        if value.computed is None:
            if value.is_map():
                ((value.computed, _),) = value.terms
            else:
                value.computed = self.read(value, None, None)
        return value.computed

    def read(
        self,
        value: _Value,
        weight: Float[Tensor, "p o m k k"] | None,
        bias: Float[Tensor, "p o"] | None,
        stride: int = 1,
    ) -> _Map:
        """A convolution of a value that is not computed itself; weight None: the value."""
        inner = value.bias
        if weight is not None:
            inner = (
                None if inner is None else torch.einsum("pomkl,pm->pokl", *_matched(weight, inner))
            )
        elif inner is not None:
            inner = inner[..., None, None]
        if inner is not None:
            bias = inner.sum((-1, -2)) + (0 if bias is None else bias)
        total: _Map | None = None
        for x, matrix in value.terms:
            assert matrix is not None
            product = matrix[..., None, None]
            if weight is not None:
                product = torch.einsum("pomkl,pmi->poikl", *_matched(weight, matrix))
            total = self.add(total, self.conv("product", x, product, bias, stride=stride))
            bias = None
        assert total is not None
        if inner is not None and inner.shape[-1] > 1:
            border = _BorderBias(inner.flatten(0, 1)[:, None])
            total = _Map(
                self.module("border", border, total.node, value.terms[0][0].node), total.shared
            )
        return total


def _matched(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Both with the larger number of parts."""
    parts = max(len(a), len(b))
    return a.expand(parts, *a.shape[1:]), b.expand(parts, *b.shape[1:])


def _constant(value: Tensor) -> nn.Parameter:
    return nn.Parameter(value.float().contiguous(), requires_grad=False)


class _BorderBias(nn.Module):
    """Takes away what zero padding keeps out of a stride-2 convolution of a map with a bias.

    Args:
        weight: The bias behind each tap of the kernel, (O, 1, 3, 3); the convolution's own bias holds the
            sum of all taps.
    """

    def __init__(self, weight: Float[Tensor, "O 1 3 3"]) -> None:
        super().__init__()
        self.weight = _constant(weight)
        self.whole = _constant(weight.sum((1, 2, 3))[:, None, None])

    def forward(
        self, y: Float[Tensor, "B O h w"], x: Float[Tensor, "B I 2h 2w"]
    ) -> Float[Tensor, "B O h w"]:
        inside = x.new_ones(1, 1, x.shape[2], x.shape[3])
        return y + (F.conv2d(inside, self.weight, stride=2, padding=1) - self.whole)


class _AsItIs(nn.Module):
    """An operation that this module knows nothing of, with its mixing weights fixed."""

    def __init__(self, operation: Operation, mixing: Weights) -> None:
        super().__init__()
        self.operation = copy.deepcopy(operation).eval()
        self.register_buffer("mixing", mixing.float())

    mixing: Tensor

    def forward(self, x: Float[Tensor, "B pC h w"]) -> Float[Tensor, "B pC h w"]:
        out = self.operation([x], [self.mixing], "grouped")
        return torch.zeros_like(x) if out is None else out[0]


class _Scores(nn.Module):
    """Squashed lengths of vectors that lie in the channels.

    Args:
        sums: (J, J'*d): ones where a channel belongs to a map.
        squash: Whether the sum of squares is squashed; otherwise channels are only selected.
    """

    def __init__(self, sums: Float[Tensor, "J V"], squash: bool) -> None:
        super().__init__()
        self.squash = squash
        # A sum over groups of channels suits every memory layout as a pointwise convolution.
        self.sums = _constant(sums[..., None, None])

    def forward(self, vectors: Float[Tensor, "B V h w"]) -> Float[Tensor, "B J h w"]:
        if not self.squash:
            return F.conv2d(vectors, self.sums)
        squared = F.conv2d(vectors * vectors, self.sums)
        return squared / (1 + squared)


# --- a fabric ------------------------------------------------------------------------------------


class _Lane:
    """Folds some parts of a fabric, side by side.

    Args:
        builder: Where the graph is written.
        fabrics: The fabric.
        parts: Indices of the parts: one, or all of them.
    """

    def __init__(self, builder: _Builder, fabrics: NeuralFabrics, parts: Sequence[int]) -> None:
        self.builder = builder
        self.fabrics = fabrics
        self.parts = list(parts)
        self.alpha, self.beta = (weights[self.parts] for weights in _mixing_weights(fabrics))
        cells = fabrics.cells
        if fabrics.kept is not None:
            own = cells[fabrics.part_names[self.parts[0]]]
            assert isinstance(own, nn.ModuleDict)
            cells = own
        self.cells = {name: cell for name, cell in cells.items() if isinstance(cell, GridCell)}

    def run(self, inputs: Mapping[int, _Value], wanted: Iterable[int]) -> dict[int, _Value]:
        """Maps of the layer before, by scale, to those of the last layer at the wanted scales."""
        live = self.live_inputs(wanted)
        previous, current = dict(inputs), {}
        layer = self.fabrics.wiring[0].layer
        self._mark_needed(layer, previous, live)
        for index, cell in enumerate(self.fabrics.wiring):
            if cell.layer != layer:
                previous, current, layer = current, {}, cell.layer
                self._mark_needed(layer, previous, live)
            if cell.name in live:
                mixed = self._mix_inputs(cell, live[cell.name], previous)
                current[cell.scale] = self._cell(self.cells[cell.name], self.alpha[:, index], mixed)
        return current

    def live_inputs(self, wanted: Iterable[int]) -> dict[str, dict[str, Weights]]:
        """Cell -> neighbour -> weights, of what carries weight and reaches a wanted scale."""
        wiring = self.fabrics.wiring
        reached = {(wiring[-1].layer, scale) for scale in wanted}
        live: dict[str, dict[str, Weights]] = {}
        for index in range(len(wiring) - 1, -1, -1):
            cell = wiring[index]
            if (cell.layer, cell.scale) not in reached or cell.name not in self.cells:
                continue
            live[cell.name] = {}
            for connection in self.cells[cell.name].connections:
                weights = self.beta[:, index, NEIGHBOURS.index(connection.neighbour)]
                if bool((weights > 0).any()):
                    live[cell.name][connection.neighbour] = weights
                    reached.add((cell.layer - 1, connection.source))
        return live

    def sources(self, wanted: Iterable[int]) -> set[int]:
        """Scales of the first layer's inputs that reach a wanted scale."""
        live = self.live_inputs(wanted)
        first = self.fabrics.wiring[0].layer
        return {
            connection.source
            for cell in self.fabrics.wiring
            if cell.layer == first and cell.name in live
            for connection in cell.connections
            if connection.neighbour in live[cell.name]
        }

    def _mark_needed(
        self, layer: int, values: Mapping[int, _Value], live: Mapping[str, Mapping[str, Weights]]
    ) -> None:
        """Identities need their input computed, and so do 3x3 convolutions unless it is wider."""
        for value in values.values():
            value.needed = False
        for cell in self.fabrics.wiring:
            if cell.layer != layer or cell.name not in live:
                continue
            for connection in cell.connections:
                value = values.get(connection.source)
                if connection.neighbour not in live[cell.name] or value is None:
                    continue
                if connection.transform == "identity" or (
                    connection.transform == "down" and not value.cheaper_to_skip()
                ):
                    value.needed = True

    # --- Eq. 2 ---

    def _mix_inputs(
        self, wiring: CellWiring, live: Mapping[str, Weights], previous: Mapping[int, _Value]
    ) -> _Scaled:
        """h_0 of a cell."""
        cell = self.cells[wiring.name]
        identities = [
            live[c.neighbour]
            for c in cell.connections
            if c.transform == "identity" and c.neighbour in live
        ]
        total, divisor = None, torch.ones(len(self.parts), dtype=torch.double)
        if identities:
            same = self._each(self.builder.compute(previous[wiring.scale]))
            weights = torch.stack(identities).sum(0)
            total, divisor = self._first_summand(_Scaled(same, weights, cell.channels))
        for transform, source, weights in self._transforms(cell, live):
            more = self._connect(transform, previous[source], weights / divisor)
            total = self.builder.add(total, self._each(more))
        assert total is not None  # A live cell has an input.
        total = self.builder.relu(total) if cell.rectify else total
        return _Scaled(total, divisor, cell.channels)

    def _transforms(
        self, cell: GridCell, live: Mapping[str, Weights]
    ) -> list[tuple[nn.Module, int, Weights]]:
        """Connections that are no identity: T, the scale it reads, its weights."""
        if cell.shared_input:
            first = cell.wiring.connections[0]
            together = torch.stack(list(live.values())).sum(0)
            return [(cell.transforms[first.neighbour], first.source, together)]
        return [
            (cell.transforms[c.neighbour], c.source, live[c.neighbour])
            for c in cell.connections
            if c.transform != "identity" and c.neighbour in live
        ]

    def _connect(self, transform: nn.Module, value: _Value, mixing: Weights) -> _Map:
        assert isinstance(transform, (Down, Up))
        weight, bias = self._folded(transform.conv, transform.norm, mixing)
        stride = transform.conv.stride
        if value.cheaper_to_skip() or (not value.needed and not value.is_map()):
            out = self.builder.read(value, weight, bias, stride)
        else:
            source = self.builder.compute(value)
            out = self.builder.conv("connection", source, weight, bias, stride=stride)
        if isinstance(transform, Up):
            # The normalisation commutes with the interpolation, whose weights sum to one.
            out = self.builder.upsample(out, transform.align_corners)
        return self.builder.relu(out) if transform.norm.relu else out

    def _first_summand(self, source: _Scaled) -> tuple[_Map, Weights]:
        """A sum's first summand, and what the whole sum is divided by."""
        if bool((source.factor >= _SMALLEST_DIVISOR).all()):
            return source.map, source.factor
        return self._multiplied(source), torch.ones_like(source.factor)

    def _multiplied(self, x: _Scaled) -> _Map:
        return self.builder.affine(x.map, x.by_channel)

    # --- Eq. 1 ---

    def _cell(self, grid_cell: GridCell, alpha: Float[Tensor, "p E O"], h_0: _Scaled) -> _Value:
        cell = grid_cell.cell
        hidden = [h_0]
        for node in range(1, cell.nodes + 1):
            incoming = [
                (edge, source)
                for edge, (source, target) in enumerate(cell_edges(cell.nodes))
                if target == node
            ]
            hidden.append(self._node(cell.edges, alpha, incoming, hidden))
        matrices = self._own(cell.output.weight)[..., 0, 0].chunk(cell.nodes, dim=2)
        assert cell.output.bias is not None
        return _Value(
            [
                (node.map, matrix * node.factor[:, None, None])
                for node, matrix in zip(hidden[1:], matrices, strict=True)
            ],
            self._own(cell.output.bias),
        )

    def _node(
        self,
        edges: nn.ModuleList,
        alpha: Float[Tensor, "p E O"],
        incoming: Sequence[tuple[int, int]],
        hidden: Sequence[_Scaled],
    ) -> _Scaled:
        """One hidden node: the sum of all candidates of its incoming edges (edge, source)."""
        skips: dict[int, Weights] = {}
        others: list[tuple[Operation, _Scaled, Weights]] = []
        for edge, source in incoming:
            mixed = edges[edge]
            assert isinstance(mixed, MixedEdge)
            for column, operation in zip(mixed.columns, mixed.operations.values(), strict=True):
                weights = alpha[:, edge, column]
                if isinstance(operation, Zero) or not bool((weights > 0).any()):
                    continue
                if isinstance(operation, Skip):
                    skips[source] = weights * hidden[source].factor
                else:
                    assert isinstance(operation, Operation)
                    others.append((operation, hidden[source], weights))
        total, divisor = None, torch.ones(len(self.parts), dtype=torch.double)
        for source, factor in skips.items():
            if total is None:
                total, divisor = self._first_summand(replace(hidden[source], factor=factor))
            else:
                more = self._multiplied(replace(hidden[source], factor=factor / divisor))
                total = self.builder.add(total, more)
        for operation, source, weights in others:
            more = self._operation(operation, source, weights / divisor)
            total = self.builder.add(total, more)
        if total is None:
            # Only candidates that are zero everywhere.
            total = self._multiplied(replace(hidden[0], factor=torch.zeros_like(divisor)))
        return _Scaled(total, divisor, hidden[0].channels)

    def _operation(self, operation: Operation, source: _Scaled, mixing: Weights) -> _Map:
        x = source.map
        if isinstance(operation, SeparableConv):
            last = len(operation.norm) - 1
            for step, layers in enumerate(
                zip(operation.depthwise, operation.pointwise, operation.norm, strict=True)
            ):
                depthwise, pointwise, norm = layers
                assert isinstance(depthwise, PartConv2d)
                filters = self._own(depthwise.weight)
                if step == 0:
                    filters = filters * source.factor[:, None, None, None, None]
                x = self.builder.conv(
                    "depthwise", x, filters, dilation=depthwise.dilation, depthwise=True
                )
                weight, bias = self._folded(pointwise, norm, mixing if step == last else None)
                x = self.builder.relu(self.builder.conv("pointwise", x, weight, bias))
            return x
        if isinstance(operation, Pool):
            scale, shift = self._normalisation(operation.norm, mixing)
            options: dict[str, Any] = {"stride": 1, "padding": 1}
            if not operation.maximum:
                options["count_include_pad"] = False
            pool = F.max_pool2d if operation.maximum else F.avg_pool2d
            pooled = self.builder.graph.call_function(pool, (x.node, 3), options)
            return self.builder.affine(
                _Map(pooled, x.shared), scale * source.factor[:, None], shift
            )
        # Its response to a scaled input is not known.
        node = self.builder.module(
            "operation", _AsItIs(operation, mixing), self._multiplied(source).node
        )
        return _Map(node, shared=False)

    # --- what the modules hold, for this lane's parts ---

    def _own(self, stacked: Tensor) -> Float[Tensor, "p n ..."]:
        """This lane's share of a tensor that holds part after part."""
        count = 1 if self.fabrics.kept is not None else len(self.fabrics.part_names)
        split = stacked.detach().double().cpu().unflatten(0, (count, -1))
        return split if self.fabrics.kept is not None else split[self.parts]

    def _normalisation(
        self, norm: nn.Module, mixing: Weights | None
    ) -> tuple[Float[Tensor, "p C"], Float[Tensor, "p C"]]:
        """Scale and shift of a batch norm in evaluation mode, mixing weights included."""
        assert isinstance(norm, PartBatchNorm)
        scale = (self._own(norm.running_var) + norm.eps).rsqrt()
        if norm.weight is not None:
            scale = scale * self._own(norm.weight)
        shift = -self._own(norm.running_mean) * scale
        if norm.bias is not None:
            shift = shift + self._own(norm.bias)
        if mixing is not None:
            scale, shift = scale * mixing[:, None], shift * mixing[:, None]
        return scale, shift

    def _folded(
        self, conv: nn.Module, norm: nn.Module, mixing: Weights | None
    ) -> tuple[Float[Tensor, "p o i k k"], Float[Tensor, "p o"]]:
        """Weights and bias of a convolution with the batch norm behind it."""
        assert isinstance(conv, PartConv2d)
        scale, shift = self._normalisation(norm, mixing)
        if conv.bias is not None:
            shift = shift + self._own(conv.bias) * scale
        return self._own(conv.weight) * scale[..., None, None, None], shift

    def _each(self, x: _Map) -> _Map:
        return self.builder.each(x, len(self.parts))


def _mixing_weights(
    fabrics: NeuralFabrics,
) -> tuple[Float[Tensor, "P cells E O"], Float[Tensor, "P cells 3"]]:
    """The weights of evaluation, whatever mode the fabric is in."""
    was_training = fabrics.training
    fabrics.training = False
    alpha, beta = fabrics.mixing_weights()
    fabrics.training = was_training
    return alpha.detach().double().cpu(), beta.detach().double().cpu()


# --- the whole network ---------------------------------------------------------------------------


def _fold_network(network: PoseFabricNetwork, layout: Layout | Literal["auto"]) -> fx.GraphModule:
    builder = _Builder()
    images = builder.graph.placeholder("images")
    subnetworks = network.subnetworks
    fabrics = subnetworks.fabrics
    everyone = range(subnetworks.parts)
    if _choose_layout(fabrics, layout) == "separate":
        lanes = [_Lane(builder, fabrics, [part]) for part in everyone]
    else:
        lanes = [_Lane(builder, fabrics, everyone)]
    finest = SCALES[0]
    read = set().union(*(lane.sources([finest]) for lane in lanes))
    pyramid = _fold_backbone(builder, network.backbone, images, read)
    maps = []
    for lane in lanes:
        inputs = {
            scale: _adapted(builder, subnetworks, scale, pyramid[scale], lane.parts)
            for scale in sorted(lane.sources([finest]))
        }
        value = lane.run(inputs, [finest])[finest]
        features = builder.relu(builder.each(builder.compute(value), len(lane.parts)))
        maps.append(_fold_head(builder, network, lane.parts, features).node)
    joined = maps[0] if len(maps) == 1 else builder.graph.call_function(torch.cat, (maps, 1))
    return builder.finish(joined)


def _choose_layout(fabrics: NeuralFabrics, layout: Layout | Literal["auto"]) -> Layout:
    if fabrics.kept is not None:
        return "separate"
    known = (Zero, Skip, SeparableConv, Pool)
    unknown = any(
        isinstance(module, Operation) and not isinstance(module, known)
        for module in fabrics.modules()
    )
    if layout == "auto" or unknown:
        return "grouped"
    return layout


def _fold_backbone(
    builder: _Builder, backbone: nn.Module, images: fx.Node, scales: Iterable[int]
) -> dict[int, _Value]:
    """The backbone's maps at the scales that are read."""
    if isinstance(backbone, FabricBackbone):
        lane = _Lane(builder, backbone.fabrics, [0])
        stem = backbone.stem
        x = _Map(
            builder.module("stem", fuse_conv_bn_eval(*_eval(stem.conv1, stem.norm1)), images), True
        )
        if stem.rectify_first:
            x = builder.relu(x)
        second = fuse_conv_bn_eval(*_eval(stem.conv2, stem.norm2))
        x = builder.relu(_Map(builder.module("stem", second, x.node), shared=True))
        project = stem.project.weight.detach().double().cpu()[None, ..., 0, 0]
        outputs = lane.run({SCALES[0]: _Value([(x, project)])}, scales)
        return {scale: _seen_by_all(value) for scale, value in outputs.items()}
    pyramid = builder.module("backbone", fold_batch_norms(backbone), images)
    return {
        scale: _Value(
            [(_Map(builder.graph.call_function(operator.getitem, (pyramid, index)), True), None)]
        )
        for index, scale in enumerate(SCALES)
    }


def _seen_by_all(value: _Value) -> _Value:
    """What one part computed, as a source of all parts."""
    terms = [(replace(x, shared=True), matrix) for x, matrix in value.terms]
    return _Value(terms, value.bias)


def _adapted(
    builder: _Builder,
    subnetworks: PartSubnetworks,
    scale: int,
    value: _Value,
    parts: Sequence[int],
) -> _Value:
    """A map of the pyramid as these parts see it."""
    key = str(scale)
    if key not in subnetworks.adapters:
        return value
    adapter = subnetworks.adapters[key]
    readers = subnetworks.readers[scale]
    assert isinstance(adapter, PartConv2d)
    assert adapter.bias is not None
    rows = [readers.index(part) for part in parts]

    def own(stacked: Tensor) -> Tensor:
        return stacked.detach().double().cpu().unflatten(0, (len(readers), -1))[rows]

    weight, bias = own(adapter.weight)[..., 0, 0], own(adapter.bias)
    if value.is_map() or sum(m.shape[2] for _, m in value.terms if m is not None) > weight.shape[2]:
        return _Value([(builder.compute(value), weight)], bias)
    if value.bias is not None:
        bias = bias + torch.einsum("pom,pm->po", *_matched(weight, value.bias))
    terms = [
        (x, torch.einsum("pom,pmi->poi", *_matched(weight, matrix)))
        for x, matrix in value.terms
        if matrix is not None
    ]
    return _Value([*terms], bias)


def _fold_head(
    builder: _Builder, network: PoseFabricNetwork, parts: Sequence[int], features: _Map
) -> _Map:
    """Features of some parts to the score maps of their joints, part after part."""
    head = network.subnetworks.head
    dim = head.vector_dim
    sizes = [count * dim for count in head.joint_counts]
    weights = head.weight.detach().double().cpu()[..., 0, 0].split(sizes)
    biases = head.bias.detach().double().cpu().split(sizes)
    # Grouped convolutions need parts of equal width: the smaller ones are filled up with zeros.
    width = max(sizes[part] for part in parts)
    weight = torch.stack([F.pad(weights[p], (0, 0, 0, width - sizes[p])) for p in parts])
    bias = torch.stack([F.pad(biases[p], (0, width - sizes[p])) for p in parts])
    vectors = builder.conv("head", features, weight[..., None, None], bias)
    owner = torch.cat(
        [
            offset * width // dim + torch.arange(head.joint_counts[part])
            for offset, part in enumerate(parts)
        ]
    )
    channels = torch.arange(len(parts) * width) // dim
    sums = (channels == owner[:, None]).double()
    if dim == 1 and torch.equal(sums, torch.eye(len(sums), dtype=torch.double)):
        return vectors
    return _Map(builder.module("scores", _Scores(sums, squash=dim > 1), vectors.node), shared=False)


# --- convolutional backbones and baselines -------------------------------------------------------


def _eval(*modules: nn.Module) -> list:
    return [copy.deepcopy(module).eval() for module in modules]


def fold_batch_norms(network: nn.Module) -> nn.Module:
    """A copy in evaluation mode whose batch norms are folded into the convolutions before them.

    Which convolution a batch norm follows is seen in a forward pass on noise.

    Args:
        network: Takes images (1, 3, 64, 64).

    Raises:
        ValueError: The copy's outputs differ: a convolution that a batch norm follows has other readers.
    """
    folded = copy.deepcopy(network).eval().requires_grad_(False)
    example = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    reference = next(folded.parameters())
    example = example.to(reference)
    names = {module: name for name, module in folded.named_modules()}
    pairs, before = _convolutions_before_norms(folded, example)
    for conv, norm in pairs:
        folded.set_submodule(names[conv], _fold_pair(conv, norm))
        # timm's normalisation layers hold the activation that follows.
        rest = [getattr(norm, name) for name in ("drop", "act") if hasattr(norm, name)]
        folded.set_submodule(names[norm], nn.Sequential(*rest) if rest else nn.Identity())
    for a, b in zip(_flat(before), _flat(folded(example)), strict=True):
        if not torch.allclose(a, b, rtol=1e-3, atol=1e-3 * float(a.abs().max())):
            raise ValueError(
                f"{type(network).__name__}: its batch norms cannot be folded, since a convolution in "
                "front of one is read elsewhere too"
            )
    return folded


def _convolutions_before_norms(
    network: nn.Module, example: Tensor
) -> tuple[list[tuple[nn.Module, nn.Module]], object]:
    """Pairs of a convolution and the batch norm that reads its output; and the network's outputs."""
    made: dict[int, tuple[nn.Module, Tensor]] = {}
    pairs = []

    def after_conv(module: nn.Module, _: object, output: Tensor) -> None:
        # The tensor is kept alive, so that its id stays its own.
        made[id(output)] = (module, output)

    def before_norm(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if id(inputs[0]) in made:
            pairs.append((made[id(inputs[0])][0], module))

    hooks = []
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            hooks.append(module.register_forward_hook(after_conv))
        elif isinstance(module, nn.BatchNorm2d):
            hooks.append(module.register_forward_pre_hook(before_norm))
    outputs = network(example)
    for hook in hooks:
        hook.remove()
    return pairs, outputs


def _fold_pair(conv: nn.Module, norm: nn.Module) -> nn.Module:
    assert isinstance(conv, (nn.Conv2d, nn.ConvTranspose2d))
    assert isinstance(norm, nn.BatchNorm2d)
    return fuse_conv_bn_eval(conv, norm, transpose=isinstance(conv, nn.ConvTranspose2d))


def _flat(outputs: object) -> list[Tensor]:
    if isinstance(outputs, Tensor):
        return [outputs]
    assert isinstance(outputs, (list, tuple))
    return [x for output in outputs for x in _flat(output)]
