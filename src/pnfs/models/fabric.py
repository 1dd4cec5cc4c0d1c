"""P cell-based neural fabrics: the grid of cells and the mixture that feeds each (Eq. 2)."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call

from pnfs.errors import PnfsError
from pnfs.models.cell import Cell
from pnfs.models.layers import Alphas, Betas, Map, PartBatchNorm2d, PartConv2d, Weighted
from pnfs.models.operations import PAPER, SUBNETWORK_OPERATIONS, FabricRules, Operations, Skip, weighted_sum
from pnfs.models.wiring import NEIGHBOURS, SCALES, CellWiring, KeptCell, KeptCells, Theta, sources

softmax: Callable[[Tensor], Tensor] = partial(torch.softmax, dim=-1)
"""Mixing weights of Eq. 1 and Eq. 2."""
FEW_PIXELS = 2**14
"""Pixels of a batch's finest maps up to which starting a kernel a part costs more than it gains."""


class Connect(Weighted):
    """T: "down" is a 3x3 convolution at stride 2, "up" a 1x1 convolution and bilinear x2; both are normalised.

    `channels` are those of one part at the cell's scale.
    """

    def __init__(self, parts: int, channels: int, transform: str, rules: FabricRules) -> None:
        super().__init__()
        up = transform == "up"
        inside, kernel, stride = (2 * channels, 1, 1) if up else (channels // 2, 3, 2)
        bias = rules.connection_bias
        self.conv = PartConv2d(parts, inside, channels, kernel, stride=stride, bias=bias)
        self.norm = PartBatchNorm2d(parts, channels, affine=True)
        layers: list[nn.Module] = [self.conv, self.norm]
        if rules.rectify == "connection":
            layers.append(nn.ReLU(inplace=True))
        if up:
            corners = rules.align_corners
            double = nn.Upsample(scale_factor=2.0, mode="bilinear", align_corners=corners)
            layers.insert(1 if rules.upsample == "conv_first" else len(layers), double)
        self.layers = layers


class GridCell(nn.Module):
    """A cell in its place: h_0 = sum over k of softmax(beta)_k * T_k(neighbour_k)  (Eq. 2), then Eq. 1.

    `channels` are those of one part; `kept` is what is left of the cell, None for everything.

    Attributes:
        terms: What h_0 is the sum of: T or the identity, the scale that it reads, its columns in beta.
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
        self.rectify = rules.rectify == "sum"
        # Three candidates through one T are that T with the sum of their weights, as identities are.
        one_map = wiring.layer == 1 and all(c.transform == "down" for c in wiring.connections)
        shared = rules.stem_connections == "shared" and one_map
        # Name of T, "" for the identity -> how it changes the scale, the scale it reads, its columns in beta.
        found: dict[str, tuple[str, int, list[int]]] = {}
        for column, c in enumerate(wiring.connections):
            if kept is None or c.neighbour in kept.inputs:
                name = NEIGHBOURS[0] if shared else c.neighbour
                name = "" if c.transform == "identity" else name
                found.setdefault(name, (c.transform, c.source, []))[2].append(column)
        self.transforms = nn.ModuleDict(
            {name: Connect(parts, channels, t, rules) for name, (t, _, _) in found.items() if name}
        )
        self.terms: list[tuple[nn.Module, int, list[int]]] = [
            (self.transforms[name] if name else Skip(parts, channels), source, columns)
            for name, (_, source, columns) in found.items()
        ]
        self.terms.sort(key=lambda term: isinstance(term[0], Skip))
        self.cell = Cell(parts, channels, nodes, operations, None if kept is None else kept.edges)

    def forward(
        self, previous: Mapping[int, Map], alpha: Float[Tensor, "P E O"], beta: Float[Tensor, "P 3"]
    ) -> Map:
        """Maps of the previous layer, scale -> (B, P*C*s, h/s, w/s), to the cell's output."""
        weights = [sum([beta[:, n] for n in rest], beta[:, first]) for *_, (first, *rest) in self.terms]
        terms = zip(self.terms, weights, strict=True)
        h_0 = weighted_sum([(t, previous[source], weight) for (t, source, _), weight in terms])
        assert h_0 is not None  # A cell has at least one connection.
        return self.cell(F.relu(h_0) if self.rectify else h_0, alpha)


class Grid(nn.ModuleDict):
    """The cells of one or several parts of the same shape, by name; `kept` says what is left of each."""

    def __init__(
        self, theta: Theta, parts: int, operations: Operations, rules: FabricRules, kept: KeptCells | None = None
    ) -> None:
        super().__init__()
        self.theta = theta
        for cell in theta.cells:
            if kept is None or cell.name in kept:
                width = theta.channels * cell.scale
                left = None if kept is None else kept[cell.name]
                self[cell.name] = GridCell(cell, parts, width, theta.nodes, operations, rules, left)

    def forward(self, inputs: Mapping[int, Map], alpha: Alphas, beta: Betas) -> dict[int, Map]:
        """Maps of the layer before, scale -> (B, P*C*s, h/s, w/s), to those of the last layer."""
        layers: dict[int, dict[int, Map]] = {self.theta.first_layer - 1: dict(inputs)}
        for index, cell in enumerate(self.theta.cells):
            outputs = layers.setdefault(cell.layer, {})
            if cell.name in self:
                previous = layers[cell.layer - 1]
                outputs[cell.scale] = self[cell.name](previous, alpha[:, index], beta[:, index])
        return layers[self.theta.last_layer]


class NeuralFabrics(nn.Module):
    """P cell-based neural fabrics of one shape Theta = (L, scales, H, C, O), each with weights, alpha and beta.

    Of L = `layers` the first m = `first_layers` (a fabric backbone) or the last n = `last_layers` (a fabric
    subnetwork) are built, None for all, on maps at `input_scales`. A cell at scale 1/s has C*s channels (C =
    `channels`) and H = `nodes` hidden nodes, with one alpha a fabric or `alpha_per_cell`. `kept` is what is left
    of each part in a derived network, None for everything. PnfsError where a shape cannot be.

    Attributes:
        alpha: For each part (E, |O|), or (cells, E, |O|); E = H(H+1)/2. Zero at the start.
        beta: For each part (cells, 3), columns finer, same, coarser. Zero at the start.
        relaxation: Logits to mixing weights along the last dimension, in training mode; softmax unless a
            search strategy puts another in its place. Evaluation always takes the softmax.
        readers: Scale of the input -> the parts that read it, whose channels stand side by side there.
    """

    def __init__(
        self,
        *,
        part_names: Sequence[str] = ("whole",),
        layers: int = 6,
        first_layers: int | None = None,
        last_layers: int | None = None,
        input_scales: Sequence[int] = SCALES,
        channels: int = 10,
        nodes: int = 1,
        operations: Operations = SUBNETWORK_OPERATIONS,
        alpha_per_cell: bool = False,
        rules: FabricRules = PAPER,
        kept: Mapping[str, KeptCells] | None = None,
    ) -> None:
        super().__init__()
        for part in part_names:
            if hasattr(nn.ParameterDict, part):
                raise PnfsError(f"a part cannot be named {part!r}; choose another name")
        self.part_names = tuple(part_names)
        self.theta = Theta(
            layers=layers,
            first_layer=1 if last_layers is None else layers - last_layers + 1,
            last_layer=layers if first_layers is None else first_layers,
            input_scales=tuple(input_scales),
            channels=channels,
            nodes=nodes,
            operations=tuple(operations),
            alpha_per_cell=alpha_per_cell,
        )
        self.rules, self.kept = rules, kept
        one, self._template = (self.theta, 1, operations, rules), ()
        whole = {cell.name: KeptCell(NEIGHBOURS, ()) for cell in self.theta.cells}
        if kept is None:
            self.cells: nn.ModuleDict = Grid(self.theta, len(self.part_names), operations, rules)
            if len(self.part_names) > 1:
                # One part without weights, to run part after part; in a tuple, so that it is no submodule.
                with torch.device("meta"):
                    self._template: tuple[Grid, ...] = (Grid(*one),)
                _check_shares(self.cells, self._template[0], len(self.part_names))
            kept = dict.fromkeys(self.part_names, whole)
        else:
            for part in self.part_names:
                if part not in kept or not set(whole).issuperset(kept[part]):
                    raise PnfsError(f"kept: part {part!r} must be there, cells among {[*whole]}")
            # What is left differs from part to part: each part has cells of its own.
            self.cells = nn.ModuleDict({part: Grid(*one, kept[part]) for part in self.part_names})
        read = {part: sources(self.theta, kept[part]) for part in self.part_names}
        scales = sorted(set().union(*read.values()))
        self.readers = {scale: [part for part in read if scale in read[part]] for scale in scales}
        self.alpha, self.beta = (
            nn.ParameterDict({part: nn.Parameter(torch.zeros(shape)) for part in self.part_names})
            for shape in (self.theta.alpha_shape, self.theta.beta_shape)
        )
        self.relaxation = softmax

    def mixing_weights(self) -> tuple[Alphas, Betas]:
        relax = self.relaxation if self.training else softmax
        # In the order of the parts; a ParameterDict sorts them.
        alpha = relax(torch.stack(list(map(self.alpha.__getitem__, self.part_names))))
        beta = relax(torch.stack(list(map(self.beta.__getitem__, self.part_names))))
        if not self.theta.alpha_per_cell:
            alpha = alpha.unsqueeze(1).expand(-1, len(self.theta.cells), -1, -1)
        if self.rules.gain == "candidates":
            alpha, beta = alpha * alpha.shape[-1], beta * beta.shape[-1]
        return alpha, beta

    def forward(self, inputs: Mapping[int, Map]) -> dict[int, Map]:
        """Maps of the layer before, scale -> (B, P*C*s, h/s, w/s), to those of the last layer.

        Where not all parts read a scale, its map holds the channels of those that do; see `readers`.
        """
        alpha, beta = self.mixing_weights()
        finest, parts = inputs[min(inputs)], len(self.part_names)
        in_turn = False
        if self._template and finest.is_cpu and not torch.compiler.is_compiling():
            # One part after the other is faster on a CPU (two cores, channels-last) but for small maps, and for
            # inference at batch 1 with any number of parts.
            large = finest[:, 0].numel() > FEW_PIXELS if self.training else len(finest) > 2
            in_turn = large or parts > 3 if self.training else large and parts > 3
        if self.kept is None and not in_turn:
            return self.cells(inputs, alpha, beta)
        # All tensors of a grid hold part after part along the first dimension.
        shares: dict[str, tuple[Tensor, ...]] = {}
        for grid in self._template:
            grid.train(self.training)
            for name, tensor in (*self.cells.named_parameters(), *self.cells.named_buffers()):
                shares[name] = tensor.chunk(parts)
        maps = {scale: x.chunk(len(self.readers[scale]), 1) for scale, x in inputs.items()}
        outputs: dict[int, list[Map]] = {}
        for index, part in enumerate(self.part_names):
            tensors = {name: share[index] for name, share in shares.items()}
            own: dict[int, Map] = {}
            for scale, share in maps.items():
                if part in self.readers[scale]:
                    x = share[self.readers[scale].index(part)]
                    # A copy for the part alone is cheaper than strides in every convolution that reads it.
                    own[scale] = x.contiguous(memory_format=torch.channels_last)
            grid = self._template[0] if self._template else self.cells[part]
            row = slice(index, index + 1)
            for scale, x in functional_call(grid, tensors, (own, alpha[row], beta[row])).items():
                outputs.setdefault(scale, []).append(x)
        return {scale: torch.cat(found, dim=1) for scale, found in outputs.items()}


def _check_shares(cells: nn.Module, one: nn.Module, parts: int) -> None:
    """Refuses operations with a tensor of which a part has no share."""
    shares = one.state_dict()
    for name, tensor in cells.state_dict().items():
        share = shares.get(name, torch.empty(()))
        if not share.ndim or tensor.shape != (parts * len(share), *share.shape[1:]):
            rule = "tensors of an operation hold part after part along their first dimension"
            raise PnfsError(f"{name} has shape {tuple(tensor.shape)}: {rule}, as in PartConv2d")
