"""Connections between cells, T of Eq. 2, and what the paper and the authors' public code do differently."""

from dataclasses import dataclass
from typing import Literal

from torch import nn

from pnfs.models.layers import PartBatchNorm2d, PartConv2d, Weighted


@dataclass(frozen=True)
class FabricRules:
    """Choices inside a fabric.

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
POSENFS = FabricRules(
    gain="candidates",
    rectify="sum",
    upsample="norm_first",
    align_corners=True,
    connection_bias=True,
    stem_connections="separate",
    stem_relu=False,
    adapters="where_needed",
)


class Connect(Weighted):
    """T: "down" is a 3x3 convolution at stride 2, "up" a 1x1 convolution and bilinear x2; both are normalised.

    Args:
        parts: P.
        channels: Channels of one part at the cell's scale.
        transform: "down" or "up".
        rules: The variant.
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
