"""A fabric as the backbone: the first m layers of the grid on a small stem (Fabric-1/2/3 of Fig. 5)."""

from collections.abc import Mapping, Sequence

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from pnfs.models.backbones.pyramid import Backbone
from pnfs.models.fabric import PAPER, FabricRules
from pnfs.models.fabrics import NeuralFabrics
from pnfs.models.operations import BACKBONE_OPERATIONS, Operations
from pnfs.models.wiring import SCALES, KeptCells


class Stem(nn.Module):
    """Two stride-2 convolutions of 64 channels to 1/4, then a 1x1 convolution to the fabric's."""

    def __init__(self, channels: int, rectify_first: bool) -> None:
        super().__init__()
        self.rectify_first = rectify_first
        self.conv1 = nn.Conv2d(3, 64, 3, stride=2, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(64)
        self.conv2 = nn.Conv2d(64, 64, 3, stride=2, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(64)
        self.project = nn.Conv2d(64, channels, 1, bias=False)

    def forward(self, images: Float[Tensor, "B 3 h w"]) -> Float[Tensor, "B C h/4 w/4"]:
        x = self.norm1(self.conv1(images))
        if self.rectify_first:
            x = F.relu(x)
        return self.project(F.relu(self.norm2(self.conv2(x))))


class FabricBackbone(Backbone):
    """The first `backbone_layers` layers of a fabric of `layers` layers.

    Args:
        layers: L; None for the smallest L whose layer m still has all four scales, m + 3.
        backbone_layers: m, how many first layers are kept.
        channels: C.
        nodes: H.
        operations: Candidate operations O; all six by default.
        alpha_per_cell: One alpha a cell in place of one for the backbone.
        rules: Paper or reference behaviour.
        weights: Only "none": there are no published weights of a fabric.
        kept: In a derived network, what is left of the fabric.

    Raises:
        ValueError: Layer m has fewer than four scales, so that there is no pyramid.
    """

    def __init__(
        self,
        *,
        layers: int | None = None,
        backbone_layers: int = 4,
        channels: int = 12,
        nodes: int = 1,
        operations: Operations = BACKBONE_OPERATIONS,
        alpha_per_cell: bool = False,
        rules: FabricRules = PAPER,
        weights: str = "none",
        kept: Mapping[str, KeptCells] | None = None,
    ) -> None:
        super().__init__()
        if weights != "none":
            raise ValueError(
                f"backbone.weights={weights}: a fabric backbone has no published weights; use none"
            )
        self.stem = Stem(channels * SCALES[0], rectify_first=rules.stem_relu)
        self.fabrics = NeuralFabrics(
            part_names=("backbone",),
            layers=backbone_layers + 3 if layers is None else layers,
            first_layer=1,
            last_layer=backbone_layers,
            input_scales=SCALES[:1],
            channels=channels,
            nodes=nodes,
            operations=operations,
            alpha_per_cell=alpha_per_cell,
            rules=rules,
            kept=kept,
        )
        found = self.fabrics.theta.output_scales
        if found != SCALES:
            raise ValueError(
                f"layer {backbone_layers} of {self.fabrics.theta.layers} has only the scales "
                f"{', '.join(f'1/{s}' for s in found)}; a backbone needs 1/4 to 1/32: keep at least "
                "3 layers and leave at least 3 more in `layers`"
            )
        self.channels = tuple(channels * scale for scale in SCALES)

    def forward(self, images: Float[Tensor, "B 3 h w"]) -> list[Float[Tensor, "B C_s h_s w_s"]]:
        outputs = self.fabrics({SCALES[0]: self.stem(images)})
        # A derived backbone lacks the scales that no part reads.
        return [outputs[s] if s in outputs else images.new_empty(0) for s in SCALES]

    def fuse(self, scales: Sequence[int]) -> None:
        self.fabrics.fuse(scales)
