"""Candidate operations of a cell's edges (section III-B)."""

from collections.abc import Callable, Mapping
from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from pnfs.models.lanes import Form, Lanes, PartBatchNorm, PartConv2d, add_lanes, add_scaled


class Operation(nn.Module):
    """A candidate operation for P parts: same shape out as in, multiplied by its mixing weight.

    `forward(lanes, mixing, form)` takes lanes of shape (B, p*C, h, w) and, for each lane, the p
    mixing weights softmax(alpha)_o. It returns lanes of the same shapes, or None for a
    contribution that is zero everywhere.
    """

    def forward(self, lanes: Lanes, mixing: list[Tensor], form: Form) -> Lanes | None:
        raise NotImplementedError(f"{type(self).__name__} defines no forward")

    def add_to(
        self, total: Lanes | None, lanes: Lanes, mixing: list[Tensor], form: Form
    ) -> Lanes | None:
        """`total` plus this operation's contribution; None stands for zero."""
        return add_lanes(total, self(lanes, mixing, form))


OperationFactory = Callable[[int, int], Operation]
"""Builds an operation from (parts, channels)."""


class Zero(Operation):
    """No connection; takes part in the softmax and costs nothing."""

    def __init__(self, parts: int, channels: int) -> None:
        super().__init__()

    def forward(self, lanes: Lanes, mixing: list[Tensor], form: Form) -> None:
        return None


class Skip(Operation):
    """The identity."""

    def __init__(self, parts: int, channels: int) -> None:
        super().__init__()

    def forward(self, lanes: Lanes, mixing: list[Tensor], form: Form) -> Lanes:
        return add_scaled(None, lanes, mixing)

    def add_to(self, total: Lanes | None, lanes: Lanes, mixing: list[Tensor], form: Form) -> Lanes:
        return add_scaled(total, lanes, mixing)


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
            PartBatchNorm(parts, channels, affine=False, relu=True) for _ in range(repeats)
        )

    def forward(self, lanes: Lanes, mixing: list[Tensor], form: Form) -> Lanes:
        last = len(self.norm) - 1
        for step, (depthwise, pointwise, norm) in enumerate(
            zip(self.depthwise, self.pointwise, self.norm, strict=True)
        ):
            lanes = pointwise(depthwise(lanes, form), form)
            lanes = norm(lanes, mixing if step == last else None)
        return lanes


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
        self.maximum = maximum
        self.norm = PartBatchNorm(parts, channels, affine=False, relu=False)

    def forward(self, lanes: Lanes, mixing: list[Tensor], form: Form) -> Lanes:
        if self.maximum:
            pooled = [F.max_pool2d(x, 3, stride=1, padding=1) for x in lanes]
        else:
            pooled = [
                F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False) for x in lanes
            ]
        return self.norm(pooled, mixing)


SUBNETWORK_OPERATIONS: Mapping[str, OperationFactory] = {
    "zero": Zero,
    "skip": Skip,
    "sep_conv_3x3": SeparableConv,
    "dil_conv_3x3": partial(SeparableConv, dilation=2, repeats=1),
}
"""The candidates of a fabric subnetwork: the paper leaves the pools out there."""

BACKBONE_OPERATIONS: Mapping[str, OperationFactory] = {
    **SUBNETWORK_OPERATIONS,
    "avg_pool_3x3": partial(Pool, maximum=False),
    "max_pool_3x3": partial(Pool, maximum=True),
}
"""All six candidates of the paper, as a fabric backbone uses them."""
