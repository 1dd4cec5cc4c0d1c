"""Candidate operations o of a cell (Eq. 1), and the rules of the fabrics that they stand in.

A new operation (section III-B) is a class like those here and a line of YAML.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import nn

from pnfs.errors import PnfsError
from pnfs.models.layers import Map, PartBatchNorm2d, PartConv2d, Weight, Weighted, spread


class Operation(Weighted):
    """A candidate operation o for P parts, built from (parts, channels of one part).

    A subclass puts its sequence into `layers`, or writes `forward(x, weight)`, which gives weight * o(x), of the
    same shape as x (B, P*C, h, w); `weight` (P,) is the mixing weight softmax(alpha)_o of each part. Tensors hold
    part after part along their first dimension, as those of `PartConv2d` and `PartBatchNorm2d` do: parts may run
    one after the other, and a derived network holds them apart.
    """


class Skip(Operation):
    """The identity."""

    def __init__(self, parts: int, channels: int) -> None:
        super().__init__()


def weighted_sum(terms: Sequence[tuple[nn.Module, Map, Weight]]) -> Map | None:
    """Sum of weight * o(x); a skip is added onto the others in one pass over the maps, so it should come last."""
    total: Map | None = None
    for operation, x, weight in terms:
        if total is not None and isinstance(operation, Skip):
            total = torch.addcmul(total, x, spread(weight, x))
        else:
            term = operation(x, weight)
            total = term if total is None else total + term
    return total


class SeparableConv(Operation):
    """Depthwise-pointwise-BN-ReLU, `repeats` times (1 where dilated); BN without affine parameters."""

    def __init__(
        self, parts: int, channels: int, kernel_size: int = 3, dilation: int = 1, repeats: int = 2
    ) -> None:
        super().__init__()
        if min(kernel_size, dilation, repeats) < 1:
            raise PnfsError("kernel_size, dilation and repeats of an operation must be at least 1")
        conv, turns = partial(PartConv2d, parts, channels, channels), range(repeats)
        spatial = {"dilation": dilation, "depthwise": True}
        self.depthwise = nn.ModuleList(conv(kernel_size, **spatial) for _ in turns)
        self.pointwise = nn.ModuleList(conv(1) for _ in turns)
        self.norm = nn.ModuleList(PartBatchNorm2d(parts, channels, affine=False) for _ in turns)
        repeated = zip(self.depthwise, self.pointwise, self.norm, strict=True)
        self.layers = [x for triple in repeated for x in (*triple, nn.ReLU(inplace=True))]


class Pool(Operation):
    """3x3 max or average pooling at stride 1, then BN without affine parameters.

    The average leaves the padding out of its count, as the public implementation does.
    """

    def __init__(self, parts: int, channels: int, *, maximum: bool) -> None:
        super().__init__()
        average = nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False)
        self.pool = nn.MaxPool2d(3, stride=1, padding=1) if maximum else average
        self.norm = PartBatchNorm2d(parts, channels, affine=False)
        self.layers = [self.pool, self.norm]


OperationFactory = Callable[[int, int], Operation]  # From (parts, channels of one part).
Operations = Mapping[str, OperationFactory | None]
"""Name -> factory, in the order of alpha's columns. None is no connection: it takes part in the softmax and is
never built."""
ZERO = "zero"  # The paper's name of no connection.

SUBNETWORK_OPERATIONS: Operations = {
    ZERO: None,
    "skip": Skip,
    "sep_conv_3x3": SeparableConv,
    "dil_conv_3x3": partial(SeparableConv, dilation=2, repeats=1),
}
"""The candidates of a fabric subnetwork: the paper leaves the pools out there."""

BACKBONE_OPERATIONS: Operations = {
    **SUBNETWORK_OPERATIONS,
    "avg_pool_3x3": partial(Pool, maximum=False),
    "max_pool_3x3": partial(Pool, maximum=True),
}
"""All six candidates of the paper, as a fabric backbone uses them."""


@dataclass(frozen=True)
class FabricRules:
    """What the paper (first choices) and the authors' public code (second ones) do differently in a fabric."""

    # Mixing weights are the softmax, or that times the number of candidates (|O| in a cell, 3 between cells).
    gain: Literal["one", "candidates"] = "one"
    # A ReLU follows each T, or T has none and the mixture h_0 is rectified.
    rectify: Literal["connection", "sum"] = "connection"
    # 1x1 convolution, bilinear x2, normalisation; or bilinear x2 comes last.
    upsample: Literal["conv_first", "norm_first"] = "conv_first"
    align_corners: bool = False  # In the bilinear interpolation.
    connection_bias: bool = False  # Whether the convolutions of T have a bias in front of the normalisation.
    # A first-layer cell at 1/8 reads the stem through one T, or through three.
    stem_connections: Literal["shared", "separate"] = "shared"
    stem_relu: bool = True  # Whether the stem's first convolution is followed by a ReLU.
    # Each part sees the pyramid through its own 1x1 convolutions, or only where the backbone's channels differ.
    adapters: Literal["always", "where_needed"] = "always"


PAPER = FabricRules()
POSENFS = FabricRules(
    gain="candidates", rectify="sum", upsample="norm_first", align_corners=True, connection_bias=True,
    stem_connections="separate", stem_relu=False, adapters="where_needed",
)  # fmt: skip
