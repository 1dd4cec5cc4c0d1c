"""Fusing for inference: mixing weights and batch norms become part of the convolutions in front of them.

In evaluation mode alpha, beta and the statistics are constants. Every module that can be fused says how in
its method `fuse`; here is what those methods share.

A sum with an identity in it needs no product for the identity's weight: all other terms are divided by it, and
whoever reads the sum multiplies a convolution of its own by it. That factor is the `scale` of the methods.
"""

import copy
import operator
from collections.abc import Iterable, Mapping, Sequence
from functools import reduce

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pnfs.models.layers import Map, PartBatchNorm2d, PartConv2d, Weight, add_scaled, per_channel

SMALLEST_DIVISOR = 1e-6
"""A smaller weight of an identity is multiplied, since a division by it could overflow."""


@torch.no_grad()
def absorb(conv: nn.Module, norm: nn.Module, mixing: Weight | None = None) -> PartConv2d:
    """A convolution equal to `norm(conv(x), mixing)` in evaluation mode."""
    assert isinstance(conv, PartConv2d)
    assert isinstance(norm, PartBatchNorm2d)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight
    shift = -norm.running_mean * scale
    if norm.bias is not None:
        shift = shift + norm.bias
    if conv.bias is not None:
        shift = shift + conv.bias * scale
    if mixing is not None:
        factor = per_channel(mixing, norm.channels)
        scale, shift = scale * factor, shift * factor
    return with_weights(conv, conv.weight * scale[:, None, None, None], shift)


@torch.no_grad()
def scaled(conv: PartConv2d, scale: Weight) -> PartConv2d:
    """A convolution equal to `conv(scale * x)`."""
    factor = per_channel(scale, conv.out_channels // conv.parts)
    return with_weights(conv, conv.weight * factor[:, None, None, None], conv.bias)


def with_weights(conv: PartConv2d, weight: Tensor, bias: Tensor | None) -> PartConv2d:
    """A copy with other weights, in the precision of the old ones."""
    changed = copy.deepcopy(conv)
    changed.weight = nn.Parameter(weight.detach().to(conv.weight), requires_grad=False)
    if bias is not None:
        changed.bias = nn.Parameter(bias.detach().to(conv.weight), requires_grad=False)
    return changed


class Scale(PartConv2d):
    """scale * x, as a depthwise 1x1 convolution, which suits every memory layout of a runtime."""

    def __init__(self, scale: Weight, channels: int) -> None:
        super().__init__(len(scale), channels, channels, 1, depthwise=True)
        self.to(scale.device)
        self.weight = nn.Parameter(
            per_channel(scale.detach().float(), channels)[:, None, None, None], requires_grad=False
        )


def scale_by(scale: Weight, channels: int) -> nn.Module:
    """scale * x; nothing to do where the scale is 1."""
    return nn.Identity() if bool((scale == 1).all()) else Scale(scale, channels)


class WithFixedWeight(nn.Module):
    """An operation that knows nothing of fusing: x to weight * o(scale * x)."""

    weight: Tensor
    scale: Tensor

    def __init__(self, operation: nn.Module, weight: Weight, scale: Weight) -> None:
        super().__init__()
        self.operation = operation
        self.register_buffer("weight", weight.float())
        self.register_buffer("scale", scale.float())

    def forward(self, x: Map) -> Map:
        return self.operation(add_scaled(None, x, self.scale), self.weight)


class FusedCell(nn.Module):
    """A cell in its place whose mixing weights are constants: sums of modules of maps.

    Args:
        inputs: Pairs of a scale of the previous layer and a module of the map there; their sum is h_0.
        rectify: Whether h_0 is rectified.
        nodes: For each node h_j pairs of a node i < j and a module of h_i; their sum is h_j.
        outputs: For each node a module; the sum of the results is the cell's output.
    """

    def __init__(
        self,
        inputs: Sequence[tuple[int, nn.Module]],
        rectify: bool,
        nodes: Sequence[Sequence[tuple[int, nn.Module]]],
        outputs: Sequence[nn.Module],
    ) -> None:
        super().__init__()
        self.rectify = rectify
        self.sources = [source for source, _ in inputs]
        self.inputs = nn.ModuleList(module for _, module in inputs)
        self.node_sources = [[source for source, _ in node] for node in nodes]
        self.nodes = nn.ModuleList(nn.ModuleList(module for _, module in node) for node in nodes)
        self.outputs = nn.ModuleList(outputs)

    def forward(self, previous: Mapping[int, Map], *mixing: Tensor) -> Map:
        """As `GridCell.forward`; mixing weights are not read."""
        h_0 = _sum(previous, self.sources, self.inputs)
        hidden = [F.relu(h_0) if self.rectify else h_0]
        for sources, modules in zip(self.node_sources, self.nodes, strict=True):
            assert isinstance(modules, nn.ModuleList)
            hidden.append(_sum(hidden, sources, modules))
        return _sum(hidden, range(1, len(hidden)), self.outputs)


def _sum(
    maps: Mapping[int, Map] | Sequence[Map], sources: Iterable[int], modules: Iterable[nn.Module]
) -> Map:
    terms = [module(maps[source]) for source, module in zip(sources, modules, strict=True)]
    return reduce(operator.add, terms)


class ThroughAdapter(nn.Module):
    """conv(adapter(x)) for a map x that all parts share, as one convolution of x.

    Args:
        adapter: 1x1 convolution to part after part, with a bias.
        conv: Reads what the adapter makes; 1x1, or 3x3 at stride 2.
    """

    def __init__(self, adapter: PartConv2d, conv: PartConv2d) -> None:
        super().__init__()
        assert adapter.bias is not None
        assert conv.bias is not None
        size = (conv.parts, -1)
        outer = conv.weight.double().unflatten(0, size)  # (P, O, I, k, k)
        inner = adapter.weight[..., 0, 0].double().unflatten(0, size)  # (P, I, M)
        weight = torch.einsum("poikl,pim->pomkl", outer, inner).flatten(0, 1)
        border = torch.einsum("poikl,pi->pokl", outer, adapter.bias.double().unflatten(0, size))
        self.conv = PartConv2d(
            1,
            adapter.in_channels,
            len(weight),
            conv.kernel_size[0],
            stride=conv.stride[0],
            bias=True,
        )
        self.conv = with_weights(self.conv.to(conv.weight), weight, conv.bias)
        # What the adapter's bias adds; less at the border, where the padding has none.
        self.register_buffer("border", border.flatten(0, 1)[:, None].to(conv.weight))

    border: Tensor

    def forward(self, x: Map) -> Map:
        inside = x.new_ones(1, 1, *x.shape[-2:])
        bias = F.conv2d(inside, self.border, stride=self.conv.stride, padding=self.conv.padding)
        return self.conv(x) + bias


@torch.no_grad()
def skip_adapters(cells: Iterable[FusedCell], adapters: Mapping[str, nn.Module]) -> set[int]:
    """Lets convolutions read the pyramid through no adapter where that is no more arithmetic.

    They then read it at the key -scale.

    Args:
        cells: Cells that read adapted maps.
        adapters: str(scale) -> convolution.

    Returns:
        The scales that have to be adapted still.
    """
    needed = set()
    for cell in cells:
        for index, (scale, module) in enumerate(zip(cell.sources, cell.inputs, strict=True)):
            adapter = adapters.get(str(scale))
            if isinstance(module, nn.Sequential) and isinstance(adapter, PartConv2d):
                conv = module[0]
                assert isinstance(conv, PartConv2d)
                if adapter.in_channels <= conv.in_channels // conv.parts:
                    module[0] = ThroughAdapter(adapter, conv)
                    cell.sources[index] = -scale
                    continue
            needed.add(scale)
    return needed
