"""The P part subnetworks behind one interface: adapters, fabrics and vector heads."""

from collections.abc import Mapping, Sequence
from typing import Literal

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from pnfs.body import PartMode
from pnfs.models.fabric import PAPER, SCALES, FabricRules, Kept, NeuralFabrics
from pnfs.models.lanes import FORMS, Form, Lanes, PartConv2d
from pnfs.models.operations import SUBNETWORK_OPERATIONS, OperationFactory
from pnfs.models.vectors import VectorHead


class PartSubnetworks(nn.Module):
    """One cell-based neural fabric for each body part, all on the same feature pyramid.

    Args:
        parts: The part mode (Table I).
        pyramid_channels: Channels of the backbone's maps at 1/4, 1/8, 1/16, 1/32.
        layers: L of the whole fabric.
        subnetwork_layers: n, how many last layers are kept.
        channels: C.
        nodes: H.
        operations: Candidate operations O.
        alpha_per_cell: One alpha a cell in place of one a fabric.
        rules: Paper or reference behaviour.
        vector_dim: d.
        form: How the parts run; "auto" takes what was measured as the fastest. A derived network,
            whose parts differ in shape, always runs them one after another.
        kept: In a derived network, what is left of each part's fabric.
    """

    def __init__(
        self,
        *,
        parts: PartMode,
        pyramid_channels: Sequence[int],
        layers: int = 6,
        subnetwork_layers: int = 3,
        channels: int = 10,
        nodes: int = 1,
        operations: Mapping[str, OperationFactory] = SUBNETWORK_OPERATIONS,
        alpha_per_cell: bool = False,
        rules: FabricRules = PAPER,
        vector_dim: int = 8,
        form: Form | Literal["auto"] = "auto",
        kept: Kept | None = None,
    ) -> None:
        super().__init__()
        if not 1 <= subnetwork_layers <= layers:
            raise ValueError(f"subnetwork_layers={subnetwork_layers} is not within 1 to {layers}")
        if form not in (*FORMS, "auto"):
            raise ValueError(f"unknown form {form!r}; there are auto, {', '.join(FORMS)}")
        self.parts = len(parts)
        self.form: Form | Literal["auto"] = form
        self.fabrics = NeuralFabrics(
            part_names=parts.names,
            layers=layers,
            first_layer=layers - subnetwork_layers + 1,
            input_scales=SCALES,
            channels=channels,
            nodes=nodes,
            operations=operations,
            alpha_per_cell=alpha_per_cell,
            rules=rules,
            kept=kept,
        )
        needed = [channels * scale for scale in SCALES]
        self.adapters = nn.ModuleDict()
        self.readers = {
            scale: [parts.names.index(part) for part in readers]
            for scale, readers in self.fabrics.used_inputs().items()
        }
        for scale, have, want in zip(SCALES, pyramid_channels, needed, strict=True):
            users = len(self.readers.get(scale, ()))
            if users and (rules.adapters == "always" or list(pyramid_channels) != needed):
                # One convolution serves all parts, since all of them read the same map.
                self.adapters[str(scale)] = PartConv2d(1, have, users * want, 1, bias=True)
        self.head = VectorHead(SCALES[0] * channels, parts.joint_counts, vector_dim)

    def forward(
        self, pyramid: Sequence[Float[Tensor, "B C_s h_s w_s"]]
    ) -> Float[Tensor, "B J d h w"]:
        """The pyramid (1/4 first) to the vectors of all parts' joints, J = sum(J_p), at 1/4."""
        form = self.choose_form(pyramid[0])
        return self.head(self.fabrics(self.adapt(pyramid, form), form)[SCALES[0]], form)

    def adapt(
        self, pyramid: Sequence[Float[Tensor, "B C_s h_s w_s"]], form: Form
    ) -> dict[int, Lanes]:
        """The pyramid as each part sees it: scale -> lanes of (B, p*C*s, h/s, w/s)."""
        return {
            scale: self._adapt(scale, x, form) for scale, x in zip(SCALES, pyramid, strict=True)
        }

    def calibrate(self, pyramid: Sequence[Float[Tensor, "B C_s h_s w_s"]]) -> None:
        """Brings the scores on this pyramid to the head's initial score; see `VectorHead.calibrate`."""
        form = self.choose_form(pyramid[0])
        self.head.calibrate(self.fabrics(self.adapt(pyramid, form), form)[SCALES[0]])

    def _adapt(self, scale: int, x: Float[Tensor, "B C h w"], form: Form) -> Lanes:
        key = str(scale)
        readers = self.readers.get(scale, [])
        if form != "loop":
            if key not in self.adapters:
                return [x.repeat(1, self.parts, 1, 1)]
            return self.adapters[key]([x], form)
        if key not in self.adapters:
            return [x] * self.parts
        # A part that does not read this scale gets nothing in its place.
        lanes = [x.new_empty(0)] * self.parts
        for part, lane in zip(
            readers, _conv_in_slices(self.adapters[key], x, len(readers)), strict=True
        ):
            lanes[part] = lane
        return lanes

    def choose_form(self, finest: Float[Tensor, "B C h w"]) -> Form:
        """How the parts run for a pyramid with this finest map; a matter of speed alone."""
        if self.fabrics.kept is not None:
            return "loop"
        if self.form != "auto":
            return self.form
        if finest.is_cuda:
            return "dense"
        # Measured on two CPU cores, channels-last (experiments/bench/cpu): grouping pays off where maps are
        # small, and for any number of parts at batch 1 inference; large batches train faster in a loop.
        if self.training:
            small = self.parts <= 3 and finest[:, 0].numel() <= _FEW_PIXELS
        else:
            small = self.parts <= 3 or len(finest) <= 2
        return "grouped" if small else "loop"


_FEW_PIXELS = 2**14
"""Pixels of a batch's finest maps up to which launching a kernel a part costs more than grouping."""


def _conv_in_slices(adapter: nn.Module, x: Tensor, count: int) -> Lanes:
    assert isinstance(adapter, PartConv2d)
    assert adapter.bias is not None
    return [
        F.conv2d(x, weight, bias)
        for weight, bias in zip(adapter.weight.chunk(count), adapter.bias.chunk(count), strict=True)
    ]
