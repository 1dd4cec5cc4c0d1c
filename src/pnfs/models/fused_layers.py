"""Layers of fused networks: convolutions whose weights have taken in others, and what cannot be fused."""

import copy

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from pnfs.models.layers import Map, PartConv2d, Weight


class Scale(PartConv2d):
    """scale * x, as a depthwise 1x1 convolution, which suits every memory layout of a runtime."""


class Repeat(nn.Module):
    """One map for each of P parts."""

    def __init__(self, parts: int) -> None:
        super().__init__()
        self.parts = parts

    def forward(self, x: Map) -> Map:
        return x.repeat(1, self.parts, 1, 1)


class FixedWeight(nn.Module):
    """An operation that says nothing of its layers: x to weight * o(x)."""

    weight: Tensor

    def __init__(self, operation: nn.Module, weight: Weight) -> None:
        super().__init__()
        self.operation = operation
        self.register_buffer("weight", weight.float())

    def forward(self, x: Map) -> Map:
        return self.operation(x, self.weight)


class ThroughAdapter(nn.Module):
    """conv(adapter(x)) for a map x that all parts share, as one convolution of x.

    Args:
        adapter: 1x1 convolution to part after part, with a bias.
        conv: Reads what the adapter makes; 1x1, or 3x3 at stride 2.
    """

    border: Tensor

    def __init__(self, adapter: PartConv2d, conv: PartConv2d) -> None:
        super().__init__()
        assert adapter.bias is not None
        size = (conv.parts, -1)
        outer = conv.weight.double().unflatten(0, size)  # (P, O, I, k, k)
        inner = adapter.weight[..., 0, 0].double().unflatten(0, size)  # (P, I, M)
        weight = torch.einsum("poikl,pim->pomkl", outer, inner).flatten(0, 1)
        self.conv = conv_of(weight.to(conv.weight), conv.bias, 1, stride=conv.stride[0])
        # What the adapter's bias adds; less at the border, where the padding has none.
        border = torch.einsum("poikl,pi->pokl", outer, adapter.bias.double().unflatten(0, size))
        self.register_buffer("border", border.flatten(0, 1)[:, None].to(conv.weight))

    def forward(self, x: Map) -> Map:
        inside = x.new_ones(1, 1, *x.shape[-2:])
        stride, padding = self.conv.stride, self.conv.padding
        return self.conv(x) + F.conv2d(inside, self.border, stride=stride, padding=padding)


def scaling(weight: Weight, channels: int) -> Scale:
    scale = Scale(len(weight), channels, channels, 1, depthwise=True).to(weight)
    scale.weight.copy_(spread(weight, scale)[:, None, None, None])
    return scale


def conv_of(weight: Tensor, bias: Tensor | None, parts: int, stride: int = 1) -> PartConv2d:
    """A convolution of these weights, (P*O, I, k, k)."""
    outputs, inputs, side, _ = weight.shape
    conv = PartConv2d(parts, inputs, outputs // parts, side, stride=stride).to(weight)
    return with_weights(conv, weight, bias)


def with_weights(conv: PartConv2d, weight: Tensor, bias: Tensor | None) -> PartConv2d:
    """A copy with other weights, in the precision of the old ones."""
    changed = copy.deepcopy(conv)
    changed.weight = nn.Parameter(weight.detach().to(conv.weight).clone())
    if bias is not None:
        changed.bias = nn.Parameter(bias.detach().to(conv.weight).clone())
    return changed


def spread(weight: Weight, conv: PartConv2d) -> Float[Tensor, " PC"]:
    """One number a part, repeated for each of the part's output channels."""
    return weight.repeat_interleave(conv.out_channels // len(weight))
