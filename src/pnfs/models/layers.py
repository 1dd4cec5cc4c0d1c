"""Convolution and batch norm for P parts side by side in the channels: one part is one group."""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

Map = Float[Tensor, "B PC h w"]
"""A map of P parts, part after part in the channels."""

Weight = Float[Tensor, " P"]
"""One mixing weight a part."""


class PartConv2d(nn.Conv2d):
    """P convolutions of one shape as one grouped convolution, (B, P*in, h, w) to (B, P*out, h', w').

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
        super().__init__(
            parts * in_channels,
            parts * out_channels,
            kernel_size,
            stride=stride,
            padding=dilation * (kernel_size - 1) // 2,
            dilation=dilation,
            groups=parts * (in_channels if depthwise else 1),
            bias=bias,
        )
        self.parts = parts
        self.depthwise = depthwise

    def forward(self, x: Float[Tensor, "B PI h w"]) -> Float[Tensor, "B PO h' w'"]:
        # cuDNN's grouped kernels are slower than ordinary ones with P times the arithmetic.
        if x.is_cuda and self.parts > 1 and not self.depthwise:
            weight = block_diagonal(self.weight, self.parts)
            return F.conv2d(x, weight, self.bias, self.stride, self.padding, self.dilation)
        if self.depthwise and self.dilation == (2, 2) and self.bias is None and _phases_pay(x):
            return dilated_as_phases(x, self.weight)
        return super().forward(x)


def block_diagonal(weight: Float[Tensor, "PO I k k"], parts: int) -> Float[Tensor, "PO PI k k"]:
    """Weights of a grouped convolution as those of an ordinary one, zero between groups."""
    out, inputs, *kernel = weight.shape
    eye = torch.eye(parts, device=weight.device, dtype=weight.dtype)
    blocks = weight.view(parts, out // parts, 1, inputs, *kernel)
    return (blocks * eye[:, None, :, None, None, None]).reshape(out, parts * inputs, *kernel)


def _phases_pay(x: Map) -> bool:
    """Whether a dilated depthwise convolution is slow: cuDNN's, and on a CPU the gradient of oneDNN's."""
    if x.is_cuda:
        return True
    return torch.is_grad_enabled() and x.is_contiguous(memory_format=torch.channels_last)


def dilated_as_phases(x: Map, weight: Float[Tensor, "PC 1 k k"]) -> Map:
    """A depthwise convolution of rate 2 as one of rate 1 on the four phases of the pixels."""
    batch, channels, height, width = x.shape
    padding = weight.shape[-1] // 2
    if height % 2 or width % 2:
        return F.conv2d(x, weight, padding=2 * padding, dilation=2, groups=channels)
    # (B, C, h, w) -> (2, 2, B, h/2, w/2, C) -> (4B, C, h/2, w/2), channels-last.
    phases = x.permute(0, 2, 3, 1).reshape(batch, height // 2, 2, width // 2, 2, channels)
    phases = phases.permute(2, 4, 0, 1, 3, 5).reshape(-1, height // 2, width // 2, channels)
    out = F.conv2d(phases.permute(0, 3, 1, 2), weight, padding=padding, groups=channels)
    out = out.permute(0, 2, 3, 1).reshape(2, 2, batch, height // 2, width // 2, channels)
    out = out.permute(2, 3, 0, 4, 1, 5).reshape(batch, height, width, channels)
    return out.permute(0, 3, 1, 2)


class PartBatchNorm2d(nn.BatchNorm2d):
    """Batch norm of P parts, times one mixing weight a part.

    The mixing weight enters as the affine scale, so that Eq. 1 and 2 cost no pass over the maps of their own.
    A ReLU may follow: mixing weights are not negative.

    Args:
        parts: P.
        channels: Channels of one part.
        affine: Whether scale and shift are learned.
    """

    def __init__(self, parts: int, channels: int, *, affine: bool) -> None:
        super().__init__(parts * channels, affine=affine)
        self.channels = channels
        # Only an average without momentum needs the count; all other tensors hold part after part.
        self.register_buffer("num_batches_tracked", None)

    def _load_from_state_dict(self, *args: Any) -> None:
        # Not the parent's, which asks old state dicts for the count.
        nn.Module._load_from_state_dict(self, *args)

    def forward(self, x: Map, mixing: Weight | None = None) -> Map:
        scale, shift = self.weight, self.bias
        if mixing is not None:
            factor = per_channel(mixing, self.channels)
            scale = factor if scale is None else scale * factor
            # Without a shift, some kernels refuse a scale that stands alone.
            shift = torch.zeros_like(factor) if shift is None else shift * factor
        momentum = 0.0 if self.momentum is None else self.momentum
        return F.batch_norm(
            x, self.running_mean, self.running_var, scale, shift, self.training, momentum, self.eps
        )


def per_channel(weights: Weight, channels: int) -> Float[Tensor, " PC"]:
    """One number a part, repeated for each of the part's channels.

    The result owns its memory: PyTorch's channels-last batch norm reads the scale of an expanded tensor past
    its end in the backward pass.
    """
    return weights.repeat_interleave(channels)


def add_scaled(total: Map | None, x: Map, weights: Weight) -> Map:
    """`total` plus x times one weight a part, without the product in between; None stands for zero."""
    scale = per_channel(weights, x.shape[1] // len(weights)).view(1, -1, 1, 1)
    if total is None:
        return x * scale
    one_on_cpu = x.device.type == "cpu" and len(weights) == 1 and x.dtype == weights.dtype
    # Compilers leave out the product by themselves.
    if one_on_cpu and not torch.compiler.is_compiling():
        return _AddScaled.apply(total, x, weights)
    return torch.addcmul(total, x, scale)


class _AddScaled(torch.autograd.Function):
    """total + x * weight for one weight, whose gradient is a dot product: grad * x is never written."""

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


def double_size(x: Map, align_corners: bool = False) -> Map:
    """Bilinear interpolation to twice the size.

    Compiled for training it is written as sums of shifted maps, whose gradient needs no atomic additions; those
    took a sixth of a step on an H100. Not in an exported graph: runtimes have one kernel for interpolation.
    """
    if align_corners or not torch.compiler.is_compiling() or torch.compiler.is_exporting():
        return F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=align_corners)
    return shifted_sums(x)


def shifted_sums(x: Map) -> Map:
    """`double_size` with corners not aligned, in additions: pixel i becomes pixels 2i and 2i + 1."""
    for axis in (-2, -1):
        before = torch.cat([x.narrow(axis, 0, 1), x.narrow(axis, 0, x.shape[axis] - 1)], axis)
        after = torch.cat([x.narrow(axis, 1, x.shape[axis] - 1), x.narrow(axis, -1, 1)], axis)
        even, odd = 0.75 * x + 0.25 * before, 0.75 * x + 0.25 * after
        x = torch.stack([even, odd], dim=axis).flatten(axis - 1, axis)
    return x
