"""Layers for P parts side by side in the channels, one part a group, and weighted sequences of them."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

Map = Float[Tensor, "B PC h w"]  # A map of P parts, part after part in the channels.
Weight = Float[Tensor, " P"]  # One mixing weight a part.
Alphas = Float[Tensor, "P cells E O"]  # All mixing weights of Eq. 1.
Betas = Float[Tensor, "P cells 3"]  # All mixing weights of Eq. 2.


class PartConv2d(nn.Conv2d):
    """P convolutions of one shape as one grouped convolution, (B, P*in, h, w) to (B, P*out, h', w').

    Channels are those of one part, the padding keeps the size at stride 1; `depthwise` is one filter a channel.
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
        if self.depthwise and self.dilation == (2, 2) and self.bias is None:
            channels_last = x.is_contiguous(memory_format=torch.channels_last)
            # Slow in cuDNN, and on a CPU the gradient is in oneDNN.
            if x.is_cuda or (torch.is_grad_enabled() and channels_last):
                return dilated_as_phases(x, self.weight)
        return super().forward(x)


def block_diagonal(weight: Float[Tensor, "PO I k k"], parts: int) -> Float[Tensor, "PO PI k k"]:
    """Weights of a grouped convolution as those of an ordinary one, zero between groups."""
    out, inputs, *kernel = weight.shape
    eye = torch.eye(parts, device=weight.device, dtype=weight.dtype)
    blocks = weight.view(parts, out // parts, 1, inputs, *kernel)
    return (blocks * eye[:, None, :, None, None, None]).reshape(out, parts * inputs, *kernel)


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
    """Batch norm of P parts with `channels` channels each; `affine`: scale and shift are learned."""

    def __init__(self, parts: int, channels: int, *, affine: bool) -> None:
        super().__init__(parts * channels, affine=affine)
        # Only an average without momentum needs the count; all other tensors hold part after part.
        self.register_buffer("num_batches_tracked", None)

    def _load_from_state_dict(self, *args: Any) -> None:
        # The parent's asks old state dicts for the count.
        nn.Module._load_from_state_dict(self, *args)


class Weighted(nn.Module):
    """`layers` in sequence for P parts, times one mixing weight a part: weight * o(x), weight * T(x).

    The weight enters as the scale of the last `PartBatchNorm2d`, where it costs no pass over the map; what follows
    must be linear or a ReLU, since mixing weights are not negative. Without a batch norm the result is multiplied.
    `layers` is a `nn.Sequential`, or a list of modules that are attributes too.
    """

    layers: Sequence[nn.Module] | nn.Sequential = ()

    def forward(self, x: Map, weight: Weight) -> Map:
        last = None
        for layer in self.layers:
            last = layer if isinstance(layer, PartBatchNorm2d) else last
        for layer in self.layers:
            if layer is not last or last is None:
                x = layer(x)
                continue
            # Repeated, since PyTorch's channels-last batch norm reads an expanded scale past its end.
            factor = weight.repeat_interleave(last.num_features // len(weight))
            scale = factor if last.weight is None else last.weight * factor
            # Without a shift, some kernels refuse a scale that stands alone.
            shift = torch.zeros_like(factor) if last.bias is None else last.bias * factor
            momentum, mean, var = last.momentum or 0.0, last.running_mean, last.running_var
            x = F.batch_norm(x, mean, var, scale, shift, last.training, momentum, last.eps)
        if last is not None:
            return x
        return x * spread(weight, x)


def spread(weight: Weight, x: Map) -> Float[Tensor, "1 PC 1 1"]:
    """One number a part for each channel of a map."""
    return weight.repeat_interleave(x.shape[1] // len(weight)).view(1, -1, 1, 1)


def shifted_sums(x: Map) -> Map:
    """Bilinear interpolation to twice the size, corners not aligned: pixel i becomes pixels 2i and 2i + 1.

    For compiled training: the gradient needs no atomic additions, which took a sixth of a step on an H100.
    """
    for axis in (-2, -1):
        before = torch.cat([x.narrow(axis, 0, 1), x.narrow(axis, 0, x.shape[axis] - 1)], axis)
        after = torch.cat([x.narrow(axis, 1, x.shape[axis] - 1), x.narrow(axis, -1, 1)], axis)
        even, odd = 0.75 * x + 0.25 * before, 0.75 * x + 0.25 * after
        x = torch.stack([even, odd], dim=axis).flatten(axis - 1, axis)
    return x
