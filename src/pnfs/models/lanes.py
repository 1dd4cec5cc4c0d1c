"""Layers that hold P parts in one weights layout and compute them in any number of lanes.

Activations travel as a list of *lanes*. Each lane carries an equal share of the P parts side by
side in its channels: P lanes of shape (B, C, h, w) run the parts one after another, one lane of
shape (B, P*C, h, w) runs them together in grouped convolutions. Weights are stored once, part after
part along the first dimension; a lane takes its share of them as a view. So the number of lanes
is a matter of speed alone and can change from call to call.
"""

from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

Form = Literal["loop", "grouped", "batched", "dense"]
"""How P parts run: one after another; together in grouped convolutions; together, with pointwise
convolutions as batched matrix products; together, in ordinary convolutions whose weights are zero
between parts: P times the arithmetic, which tensor cores have to spare, and no slow grouped kernels."""

FORMS: tuple[Form, ...] = ("loop", "grouped", "batched", "dense")

Lanes = list[Tensor]


def merge_lanes(lanes: Lanes) -> Float[Tensor, "B PC h w"]:
    """All parts side by side in the channels."""
    return lanes[0] if len(lanes) == 1 else torch.cat(lanes, dim=1)


def add_lanes(total: Lanes | None, more: Lanes | None) -> Lanes | None:
    """Sum of two contributions; None stands for zero."""
    if total is None or more is None:
        return more if total is None else total
    return [a + b for a, b in zip(total, more, strict=True)]


def add_scaled(total: Lanes | None, lanes: Lanes, mixing: Sequence[Tensor]) -> Lanes:
    """`total` plus the lanes times one weight a part, without the product in between.

    Args:
        total: Lanes of (B, p*C, h, w); None stands for zero.
        lanes: Of the same shapes.
        mixing: p weights for each lane.
    """
    out = []
    for lane, (x, weights) in enumerate(zip(lanes, mixing, strict=True)):
        scale = per_channel(weights, x.shape[1] // len(weights)).view(1, -1, 1, 1)
        if total is None:
            out.append(x * scale)
        elif _dot_product_pays(x, weights):
            out.append(_AddScaled.apply(total[lane], x, weights))
        else:
            out.append(torch.addcmul(total[lane], x, scale))
    return out


def _dot_product_pays(x: Tensor, weights: Tensor) -> bool:
    """Whether `_AddScaled` can be taken and helps; compilers leave out the product by themselves."""
    return (
        len(weights) == 1
        and x.device.type == "cpu"
        and x.dtype == weights.dtype
        and not torch.compiler.is_compiling()
    )


class _AddScaled(torch.autograd.Function):
    """total + x * weight for one weight, whose gradient is a dot product: g * x is never written."""

    @staticmethod
    def forward(ctx: Any, total: Tensor, x: Tensor, weight: Float[Tensor, "1"]) -> Tensor:
        ctx.save_for_backward(x, weight)
        return torch.addcmul(total, x, weight)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        (grad,) = grads
        x, weight = ctx.saved_tensors
        along = None
        if ctx.needs_input_grad[2]:
            pair = [grad, x]
            if not x.is_contiguous():  # (B, C, h, w) -> (B, h, w, C), as channels-last memory is.
                pair = [t.permute(0, 2, 3, 1) for t in pair]
            along = torch.dot(*(t.reshape(-1) for t in pair)).view(1)
        return grad, grad * weight, along


def per_channel(weights: Float[Tensor, " p"], channels: int) -> Float[Tensor, " pC"]:
    """One number a part, repeated for each of the part's channels.

    The result owns its memory: PyTorch's channels-last batch normalisation reads the scale of an
    expanded tensor past its end in the backward pass.
    """
    return weights.repeat_interleave(channels)


class PartConv2d(nn.Module):
    """P convolutions of the same shape.

    Args:
        parts: P.
        in_channels: Input channels of one part.
        out_channels: Output channels of one part.
        kernel_size: Side of the kernel; the padding keeps the size at stride 1.
        stride: Stride.
        dilation: Dilation.
        depthwise: One filter a channel.
        bias: Whether outputs have a bias.
    """

    def __init__(
        self,
        parts: int,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        stride: int = 1,
        dilation: int = 1,
        depthwise: bool = False,
        bias: bool = False,
    ) -> None:
        super().__init__()
        self.parts = parts
        self.stride = stride
        self.dilation = dilation
        self.padding = dilation * (kernel_size - 1) // 2
        self.groups = in_channels if depthwise else 1
        self.pointwise = kernel_size == 1 and stride == 1 and not depthwise
        fan_in = in_channels // self.groups
        self.weight = nn.Parameter(
            torch.empty(parts * out_channels, fan_in, kernel_size, kernel_size)
        )
        self.bias = nn.Parameter(torch.empty(parts * out_channels)) if bias else None
        # PyTorch's default initialisation of a convolution; the fan-in is that of one part.
        bound = (fan_in * kernel_size**2) ** -0.5
        nn.init.uniform_(self.weight, -bound, bound)
        if self.bias is not None:
            nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, lanes: Lanes, form: Form) -> Lanes:
        """(B, p*in, h, w) to (B, p*out, h', w') in each lane, p = P / number of lanes."""
        count = len(lanes)
        weights = self.weight.chunk(count)
        biases = [None] * count if self.bias is None else self.bias.chunk(count)
        parts = self.parts // count
        if form == "dense" and self.groups == 1 and parts > 1:
            return [
                F.conv2d(
                    x,
                    block_diagonal(weight, parts),
                    bias,
                    stride=self.stride,
                    padding=self.padding,
                    dilation=self.dilation,
                )
                for x, weight, bias in zip(lanes, weights, biases, strict=True)
            ]
        if form == "batched" and self.pointwise and parts > 1:
            return [
                _pointwise_as_matmul(x, weight, bias, parts)
                for x, weight, bias in zip(lanes, weights, biases, strict=True)
            ]
        if self.groups > 1 and self.dilation == 2 and self.bias is None and _phases_pay(lanes[0]):
            return [
                _dilated_as_phases(x, weight, self.padding // 2)
                for x, weight in zip(lanes, weights, strict=True)
            ]
        return [
            F.conv2d(
                x,
                weight,
                bias,
                stride=self.stride,
                padding=self.padding,
                dilation=self.dilation,
                groups=parts * self.groups,
            )
            for x, weight, bias in zip(lanes, weights, biases, strict=True)
        ]


def _phases_pay(x: Float[Tensor, "B C h w"]) -> bool:
    """Whether a dilated depthwise convolution is slow enough to be rewritten by `_dilated_as_phases`.

    cuDNN has no fast kernels for them: on an H100 its own took a quarter of the training step. On a CPU
    the gradient of oneDNN's is the slow one, five times as slow as that of the phases.
    """
    if x.is_cuda:
        return True
    return torch.is_grad_enabled() and x.is_contiguous(memory_format=torch.channels_last)


def _dilated_as_phases(
    x: Float[Tensor, "B C h w"], weight: Float[Tensor, "C 1 k k"], padding: int
) -> Float[Tensor, "B C h w"]:
    """A depthwise convolution of rate 2 as one of rate 1 on the four phases of the pixels."""
    batch, channels, height, width = x.shape
    if height % 2 or width % 2:
        return F.conv2d(x, weight, padding=2 * padding, dilation=2, groups=channels)
    # (B, C, h, w) -> (2, 2, B, h/2, w/2, C) -> (4B, C, h/2, w/2), channels-last.
    phases = x.permute(0, 2, 3, 1).reshape(batch, height // 2, 2, width // 2, 2, channels)
    phases = phases.permute(2, 4, 0, 1, 3, 5).reshape(-1, height // 2, width // 2, channels)
    out = F.conv2d(phases.permute(0, 3, 1, 2), weight, padding=padding, groups=channels)
    out = out.permute(0, 2, 3, 1).reshape(2, 2, batch, height // 2, width // 2, channels)
    out = out.permute(2, 3, 0, 4, 1, 5).reshape(batch, height, width, channels)
    return out.permute(0, 3, 1, 2)


def double_size(x: Float[Tensor, "B C h w"]) -> Float[Tensor, "B C 2h 2w"]:
    """Bilinear interpolation to twice the size (corners not aligned), written as sums of shifted maps.

    The same numbers as `F.interpolate`. Compiled, its gradient needs no atomic additions, which took a
    sixth of the training step on an H100.
    """
    for axis in (-2, -1):
        before = torch.cat([x.narrow(axis, 0, 1), x.narrow(axis, 0, x.shape[axis] - 1)], axis)
        after = torch.cat([x.narrow(axis, 1, x.shape[axis] - 1), x.narrow(axis, -1, 1)], axis)
        even, odd = 0.75 * x + 0.25 * before, 0.75 * x + 0.25 * after
        # Interleaved: pixel i becomes pixels 2i and 2i + 1.
        x = torch.stack([even, odd], dim=axis).flatten(axis - 1, axis)
    return x


def block_diagonal(weight: Float[Tensor, "pO C k k"], parts: int) -> Float[Tensor, "pO pC k k"]:
    """Weights of a grouped convolution as those of an ordinary one, zero between groups."""
    outputs, inputs, height, width = weight.shape
    blocks = weight.view(parts, outputs // parts, 1, inputs, height, width)
    eye = torch.eye(parts, device=weight.device, dtype=weight.dtype)
    # (p, O, p, C, k, k): each part's outputs read its own inputs only.
    spread = blocks * eye[:, None, :, None, None, None]
    return spread.reshape(outputs, parts * inputs, height, width)


def _pointwise_as_matmul(
    x: Float[Tensor, "B pC h w"],
    weight: Float[Tensor, "pO C 1 1"],
    bias: Float[Tensor, " pO"] | None,
    parts: int,
) -> Float[Tensor, "B pO h w"]:
    batch, _, height, width = x.shape
    # In channels-last memory this is a view: (B, pC, h, w) -> (Bhw, p, C) -> (p, Bhw, C).
    rows = x.permute(0, 2, 3, 1).reshape(batch * height * width, parts, -1).transpose(0, 1)
    matrices = weight.view(parts, -1, weight.shape[1]).transpose(1, 2)  # (p, C, O)
    out = torch.bmm(rows, matrices).transpose(0, 1)  # (Bhw, p, O)
    out = out.reshape(batch, height, width, -1)
    if bias is not None:
        out = out + bias
    return out.permute(0, 3, 1, 2)


class PartBatchNorm(nn.Module):
    """Batch normalisation of P parts, whose result is multiplied by one weight a part.

    The mixing weights of a fabric (Eq. 1 and 2) enter here as the affine scale, so that mixing costs
    no pass over the activations of its own. The weights must not be negative where a ReLU
    follows, since it is the ReLU of the product that is taken.

    Args:
        parts: P.
        channels: Channels of one part.
        affine: Whether scale and shift are learned.
        relu: Whether the result is rectified.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, parts: int, channels: int, *, affine: bool, relu: bool) -> None:
        super().__init__()
        self.channels = channels
        self.relu = relu
        self.momentum = 0.1
        self.eps = 1e-5
        self.weight = nn.Parameter(torch.ones(parts * channels)) if affine else None
        self.bias = nn.Parameter(torch.zeros(parts * channels)) if affine else None
        self.register_buffer("running_mean", torch.zeros(parts * channels))
        self.register_buffer("running_var", torch.ones(parts * channels))

    def forward(self, lanes: Lanes, mixing: list[Tensor] | None = None) -> Lanes:
        """Same shapes out; `mixing` holds p weights for each lane."""
        count = len(lanes)
        means = self.running_mean.chunk(count)
        variances = self.running_var.chunk(count)
        scales = [None] * count if self.weight is None else list(self.weight.chunk(count))
        shifts = [None] * count if self.bias is None else list(self.bias.chunk(count))
        out = []
        for lane, x in enumerate(lanes):
            scale, shift = scales[lane], shifts[lane]
            if mixing is not None:
                factor = per_channel(mixing[lane], self.channels)
                scale = factor if scale is None else scale * factor
                shift = None if shift is None else shift * factor
            y = F.batch_norm(
                x,
                means[lane],
                variances[lane],
                scale,
                # Without a shift, some kernels refuse a scale that stands alone.
                torch.zeros_like(scale) if shift is None and scale is not None else shift,
                self.training,
                self.momentum,
                self.eps,
            )
            out.append(F.relu_(y) if self.relu else y)
        return out
