"""Candidate operations of an edge (section III-B). A new one is a class here and a line of YAML."""

from collections.abc import Callable, Mapping
from functools import partial

from torch import nn

from pnfs.models.layers import PartBatchNorm2d, PartConv2d, Weighted


class Operation(Weighted):
    """A candidate operation o for P parts, built from (parts, channels of one part).

    A subclass puts its sequence into `layers`, or writes `forward(x, weight)`, which gives weight * o(x), of the
    same shape as x (B, P*C, h, w); `weight` (P,) is the mixing weight softmax(alpha)_o of each part.

    Parameters and buffers hold part after part along their first dimension, as those of `PartConv2d` and
    `PartBatchNorm2d` do: on a CPU one part may run after the other, and a derived network holds them apart.
    """


class Skip(Operation):
    """The identity."""

    def __init__(self, parts: int, channels: int) -> None:
        super().__init__()


class SeparableConv(Operation):
    """Depthwise-pointwise-BN-ReLU, `repeats` times; BN without affine parameters.

    Args:
        parts: P.
        channels: Channels of one part.
        kernel_size: Side of the depthwise kernel.
        dilation: Rate of the depthwise kernel.
        repeats: 2 for the paper's separable convolution, 1 for the dilated one.
    """

    def __init__(
        self,
        parts: int,
        channels: int,
        *,
        kernel_size: int = 3,
        dilation: int = 1,
        repeats: int = 2,
    ) -> None:
        super().__init__()
        self.depthwise = nn.ModuleList(
            PartConv2d(parts, channels, channels, kernel_size, dilation=dilation, depthwise=True)
            for _ in range(repeats)
        )
        self.pointwise = nn.ModuleList(
            PartConv2d(parts, channels, channels, 1) for _ in range(repeats)
        )
        self.norm = nn.ModuleList(
            PartBatchNorm2d(parts, channels, affine=False) for _ in range(repeats)
        )
        repeated = zip(self.depthwise, self.pointwise, self.norm, strict=True)
        self.layers = [x for triple in repeated for x in (*triple, nn.ReLU(inplace=True))]


class Pool(Operation):
    """3x3 average or max pooling at stride 1, then BN without affine parameters.

    The average leaves the padding out of its count, as the public implementation does.

    Args:
        parts: P.
        channels: Channels of one part.
        maximum: Max pooling in place of average pooling.
    """

    def __init__(self, parts: int, channels: int, *, maximum: bool) -> None:
        super().__init__()
        self.pool = (
            nn.MaxPool2d(3, stride=1, padding=1)
            if maximum
            else nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False)
        )
        self.norm = PartBatchNorm2d(parts, channels, affine=False)
        self.layers = [self.pool, self.norm]


OperationFactory = Callable[[int, int], Operation]
"""Builds an operation from (parts, channels of one part)."""

Operations = Mapping[str, OperationFactory | None]
"""Name -> factory, in the order of alpha's columns. None is no connection: it takes part in the softmax and is
never built."""

ZERO = "zero"
"""The paper's name of no connection."""

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
