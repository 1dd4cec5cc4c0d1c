"""The P neural fabrics of a network: their alpha and beta, and how the parts run."""

from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call

from pnfs.models.fabric import PAPER, FabricRules, Grid
from pnfs.models.fuse import FusedCell
from pnfs.models.layers import Map
from pnfs.models.operations import SUBNETWORK_OPERATIONS, Operations
from pnfs.models.wiring import (
    NEIGHBOURS,
    SCALES,
    KeptCell,
    KeptCells,
    Theta,
    sources,
)


def softmax(logits: Float[Tensor, "*table O"]) -> Float[Tensor, "*table O"]:
    """Mixing weights of Eq. 1 and Eq. 2."""
    return logits.softmax(-1)


class NeuralFabrics(nn.Module):
    """P cell-based neural fabrics of one shape Theta = (L, scales, H, C, O), or a range of their layers.

    A fabric backbone keeps the first layers, a fabric subnetwork the last; both are this class. Each part has
    its own weights, alpha and beta.

    Args:
        part_names: The P parts' names.
        layers: L of the whole fabric.
        first_layer: First layer to build, 1-based.
        last_layer: Last layer to build; None for L.
        input_scales: Scales of the maps that feed the first layer.
        channels: C; a cell at scale 1/s has C*s channels.
        nodes: H, hidden nodes of a cell.
        operations: Candidate operations O.
        alpha_per_cell: One alpha a cell in place of one a fabric.
        rules: Paper or reference behaviour.
        kept: In a derived network, what is left of each part; None for everything.

    Attributes:
        theta: The shape.
        alpha: For each part (E, |O|), or (cells, E, |O|); E = H(H+1)/2. Zero at the start.
        beta: For each part (cells, 3), columns finer, same, coarser. Zero at the start.
        relaxation: Logits to mixing weights along the last dimension, in training mode; softmax unless a
            search strategy puts another in its place. Evaluation always takes the softmax.
        readers: Scale of the input -> the parts that read it, whose channels stand side by side there.

    Raises:
        ValueError: A shape that cannot be, or `kept` does not fit it.
    """

    def __init__(
        self,
        *,
        part_names: Sequence[str] = ("whole",),
        layers: int = 6,
        first_layer: int = 1,
        last_layer: int | None = None,
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
                raise ValueError(f"a part cannot be named {part!r}; choose another name")
        self.part_names = tuple(part_names)
        self.theta = Theta(
            layers=layers,
            first_layer=first_layer,
            last_layer=layers if last_layer is None else last_layer,
            input_scales=tuple(input_scales),
            channels=channels,
            nodes=nodes,
            operations=tuple(operations),
            alpha_per_cell=alpha_per_cell,
        )
        self.rules = rules
        self.kept = kept
        one = (self.theta, 1, operations, rules)
        if kept is None:
            self.cells: nn.ModuleDict = Grid(self.theta, len(self.part_names), operations, rules)
            # One part without weights, for `_each_part`; in a tuple, so that it is no submodule.
            with torch.device("meta"):
                self._template: tuple[Grid, ...] = (Grid(*one),) if len(self.part_names) > 1 else ()
            for grid in self._template:
                _check_layout(self.cells, grid, len(self.part_names))
            whole = {cell.name: KeptCell(NEIGHBOURS, ()) for cell in self.theta.cells}
            self.readers = _readers(self.theta, dict.fromkeys(self.part_names, whole))
        else:
            _check_kept(self.theta, self.part_names, kept)
            # What is left differs from part to part: each part has cells of its own.
            grids = {part: Grid(*one, kept[part]) for part in self.part_names}
            self.cells = nn.ModuleDict(grids)
            self._template = ()
            self.readers = _readers(self.theta, kept)
        self.alpha, self.beta = (
            nn.ParameterDict({part: nn.Parameter(torch.zeros(shape)) for part in self.part_names})
            for shape in (self.theta.alpha_shape, self.theta.beta_shape)
        )
        self.relaxation: Callable[[Tensor], Tensor] = softmax

    def mixing_weights(self) -> tuple[Float[Tensor, "P cells E O"], Float[Tensor, "P cells 3"]]:
        """The weights of every candidate in Eq. 1 and Eq. 2, for all parts and cells."""
        relax = self.relaxation if self.training else softmax
        alpha = relax(torch.stack([self.alpha[part] for part in self.part_names]))
        beta = relax(torch.stack([self.beta[part] for part in self.part_names]))
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
        if self.kept is None and not self._in_turn_pays(inputs):
            return self.cells(inputs, alpha, beta)
        maps = {scale: x.chunk(len(self.readers[scale]), 1) for scale, x in inputs.items()}
        outputs: dict[int, list[Map]] = {}
        for index, (part, run) in enumerate(zip(self.part_names, self._each_part(), strict=True)):
            own = {
                # A copy for the part alone is cheaper than strides in every convolution that reads it.
                scale: x[self.readers[scale].index(part)].contiguous(
                    memory_format=torch.channels_last
                )
                for scale, x in maps.items()
                if part in self.readers[scale]
            }
            row = slice(index, index + 1)
            for scale, x in run(own, alpha[row], beta[row]).items():
                outputs.setdefault(scale, []).append(x)
        return {scale: torch.cat(x, dim=1) for scale, x in outputs.items()}

    def _in_turn_pays(self, inputs: Mapping[int, Map]) -> bool:
        """Whether one part after another is faster than all together.

        Measured on two CPU cores, channels-last: small maps are faster together, and so is inference at batch 1
        for any number of parts; large batches are faster in turn.
        """
        finest = inputs[min(inputs)]
        parts = len(self.part_names)
        if not self._template or finest.device.type != "cpu" or torch.compiler.is_compiling():
            return False
        if self.training:
            return parts > 3 or finest[:, 0].numel() > _FEW_PIXELS
        return parts > 3 and len(finest) > 2

    def _each_part(self) -> Iterator[Callable[..., dict[int, Map]]]:
        """Each part's `Grid.forward`."""
        if self.kept is not None:
            yield from self.cells.values()
            return
        one = self._template[0]
        one.train(self.training)
        tensors = [*self.cells.named_parameters(), *self.cells.named_buffers()]
        # All tensors hold part after part along the first dimension.
        pieces = {name: tensor.chunk(len(self.part_names)) for name, tensor in tensors}
        for index in range(len(self.part_names)):
            own = {name: piece[index] for name, piece in pieces.items()}
            yield lambda *args, own=own: functional_call(one, own, args)

    def fuse(self, outputs: Sequence[int]) -> None:
        """Prepares this fabric for inference, for good: mixing weights become constants of its cells.

        Args:
            outputs: Scales of the last layer that are read; what reaches none of them is dropped.
        """
        alpha, beta = (weights.detach() for weights in self.eval().mixing_weights())
        live: dict[str, KeptCells]
        if isinstance(self.cells, Grid):
            live = dict.fromkeys(self.part_names, self.cells.fuse(alpha, beta, outputs))
        else:
            shares = zip(self.cells.items(), alpha.split(1), beta.split(1), strict=True)
            live = {part: grid.fuse(a, b, outputs) for (part, grid), a, b in shares}  # type: ignore[operator]
        left = _readers(self.theta, live)
        self.readers = {scale: parts for scale, parts in self.readers.items() if scale in left}
        self._template = ()

    def first_cells(self) -> list[FusedCell]:
        """The fused cells of the first layer; none where parts differ in shape."""
        names = {cell.name for cell in self.theta.cells if cell.layer == self.theta.first_layer}
        found = [cell for name, cell in self.cells.items() if name in names]
        return [cell for cell in found if isinstance(cell, FusedCell)]


_FEW_PIXELS = 2**14
"""Pixels of a batch's finest maps up to which starting a kernel a part costs more than it gains."""


def _readers(theta: Theta, kept: Mapping[str, KeptCells]) -> dict[int, list[str]]:
    read = {part: sources(theta, cells) for part, cells in kept.items()}
    return {
        scale: [part for part in read if scale in read[part]]
        for scale in sorted(set().union(*read.values()))
    }


def _check_layout(cells: nn.Module, one: nn.Module, parts: int) -> None:
    """Refuses operations with a tensor of which a part has no share, as in derived networks.

    Raises:
        ValueError: Names the tensor.
    """
    shares = one.state_dict()
    for name, tensor in cells.state_dict().items():
        share = shares.get(name)
        if (
            share is None
            or not share.ndim
            or tensor.shape != (parts * len(share), *share.shape[1:])
        ):
            raise ValueError(
                f"{name} has shape {tuple(tensor.shape)}: every tensor of an operation must hold part after "
                "part along its first dimension, as those of PartConv2d and PartBatchNorm2d do"
            )


def _check_kept(theta: Theta, part_names: Sequence[str], kept: Mapping[str, KeptCells]) -> None:
    known = {cell.name for cell in theta.cells}
    for part in part_names:
        if part not in kept:
            raise ValueError(f"kept says nothing about part {part!r}")
        unknown = [name for name in kept[part] if name not in known]
        if unknown:
            raise ValueError(f"kept, part {part!r}: there is no cell {', '.join(unknown)}")
