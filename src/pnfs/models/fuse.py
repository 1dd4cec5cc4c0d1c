"""Fusing for inference: mixing weights and batch norms become part of the convolutions in front of them."""

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from pnfs.models.fabric import GridCell
from pnfs.models.layers import Map, PartBatchNorm2d, PartConv2d, Weight, Weighted
from pnfs.models.network import PoseFabricNetwork, PoseNetwork


@torch.no_grad()
def fuse(network: PoseNetwork) -> PoseNetwork:
    """A copy for inference with equal outputs and fewer operations; candidates without weight are dropped.

    Batch norms of backbones and baselines are left to the runtimes, which fuse them too.
    """
    fused = copy.deepcopy(network).eval().requires_grad_(False)
    for fabrics in fused.named_fabrics().values():
        fabrics._template = ()  # The cells of one part alone are not fused.
        grids = list(fabrics.cells.values()) if fabrics.kept is not None else [fabrics.cells]
        shares = (weights.chunk(len(grids)) for weights in fabrics.mixing_weights())
        for grid, alpha, beta in zip(grids, *shares, strict=True):
            for index, wiring in enumerate(fabrics.theta.cells):
                if wiring.name in grid:
                    _fuse_cell(grid[wiring.name], alpha[:, index], beta[:, index])
    if isinstance(fused, PoseFabricNetwork) and fused.adapters and fused.fabrics.kept is None:
        _read_pyramid(fused)
    return fused


def _fuse_cell(place: GridCell, alpha: Tensor, beta: Tensor) -> None:
    """Puts fused layers in place of a cell's T and o, for mixing weights (P, E, O) and (P, 3)."""
    cell = place.cell
    channels = cell.output.out_channels // cell.parts
    place.terms = [
        (fuse_operation(layer, weight, channels), source, columns)
        for layer, source, columns in place.terms
        if bool((weight := beta[:, columns].sum(-1)).any())
    ]
    cell.terms = [
        [
            (fuse_operation(layer, weight, channels), source, row, column)
            for layer, source, row, column in terms
            if bool((weight := alpha[:, row, column]).any())
        ]
        for terms in cell.terms
    ]
    place.transforms = nn.ModuleList(layer for layer, *_ in place.terms)  # type: ignore[assignment]
    cell.edges = nn.ModuleList(layer for terms in cell.terms for layer, *_ in terms)


def _read_pyramid(network: PoseFabricNetwork) -> None:
    """Lets the first cells read the pyramid, through no adapters, where that is no more arithmetic."""
    fabrics: Any = network.fabrics
    adapters: Any = network.adapters
    first = [wiring.name for wiring in fabrics.theta.cells if wiring.layer == fabrics.theta.first_layer]
    terms = [(term[0].layers, adapters[str(term[1])]) for name in first for term in fabrics.cells[name].terms]
    for layers, adapter in terms:
        conv = layers[0] if isinstance(layers, nn.Sequential) else None
        if not isinstance(conv, PartConv2d) or adapter.in_channels > adapter.out_channels // conv.parts:
            return
    for layers, adapter in terms:
        layers[0] = _ThroughAdapter(adapter, layers[0])
    network.adapters = nn.ModuleDict()
    fabrics.readers = {scale: [""] for scale in fabrics.readers}  # All parts read one map.


class _ThroughAdapter(nn.Module):
    """conv(adapter(x)) for a map x that all parts share, as one convolution of x."""

    border: Tensor

    def __init__(self, adapter: PartConv2d, conv: PartConv2d) -> None:
        super().__init__()
        parts, inner, bias = (conv.parts, -1), adapter.weight[..., 0, 0], adapter.bias
        assert bias is not None
        outer = conv.weight.unflatten(0, parts)  # (P, O, I, k, k)
        if conv.depthwise:
            outer = torch.diag_embed(outer.flatten(1))[..., None, None]
        weight = torch.einsum("poikl,pim->pomkl", outer, inner.unflatten(0, parts)).flatten(0, 1)
        self.conv = PartConv2d(1, inner.shape[1], len(weight), weight.shape[-1], stride=conv.stride[0], bias=True)
        self.conv.weight = nn.Parameter(weight)
        # What the adapter's bias adds: less at the border of a larger kernel, where the padding has none.
        border = torch.einsum("poikl,pi->pokl", outer, bias.unflatten(0, parts)).flatten(0, 1)
        alone = border.flatten() if border.shape[-1] == 1 else border.new_zeros(len(border))
        self.conv.bias = nn.Parameter(alone if conv.bias is None else alone + conv.bias)
        self.register_buffer("border", border[:, None])
        self.requires_grad_(False)

    def forward(self, x: Map) -> Map:
        if self.border.shape[-1] == 1:
            return self.conv(x)
        inside = x.new_ones(1, 1, *x.shape[-2:])
        stride, padding = self.conv.stride, self.conv.padding
        return self.conv(x) + F.conv2d(inside, self.border, stride=stride, padding=padding)


class _Fused(nn.Module):
    """weight * o(x) or weight * T(x) for a fixed weight; the weight of a call is ignored."""

    def __init__(self, layers: nn.Module, weight: Weight | None = None) -> None:
        super().__init__()
        self.layers = layers
        self.register_buffer("weight", weight)

    def forward(self, x: Map, _: Weight | None = None) -> Map:
        return self.layers(x) if self.weight is None else self.layers(x, self.weight)


def fuse_operation(operation: nn.Module, weight: Weight, channels: int) -> nn.Module:
    """An operation o or T of `channels` channels a part, in evaluation mode, with a fixed mixing weight.

    One that writes a `forward` of its own stays as it is.
    """
    if type(operation).forward is not Weighted.forward:
        return _Fused(operation, weight)
    assert isinstance(operation, Weighted)
    layers: list[Any] = [copy.deepcopy(layer) for layer in operation.layers]
    norms = [layer for layer in layers if isinstance(layer, PartBatchNorm2d)]
    for norm in norms:
        place = layers.index(norm)
        # The normalisation commutes with an interpolation, whose weights sum to one.
        before = [layer for layer in layers[:place] if not isinstance(layer, nn.Upsample)][-1:]
        if not before or not isinstance(before[0], PartConv2d):
            before = [_scaling(torch.ones_like(weight), channels)]
        statistics: Any = norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
        fused = fuse_conv_bn_weights(before[0].weight, before[0].bias, *statistics)
        before[0].weight, before[0].bias = fused
        if norm is norms[-1]:
            _scale(before[0], weight)
        layers[place : place + 1] = [] if before[0] in layers else before
    return _Fused(nn.Sequential(*layers, *([] if norms else [_scaling(weight, channels)])).requires_grad_(False))


def _scaling(weight: Weight, channels: int) -> PartConv2d:
    """weight * x, as a depthwise 1x1 convolution, which suits every memory layout of a runtime."""
    conv = PartConv2d(len(weight), channels, channels, 1, depthwise=True).to(weight)
    nn.init.ones_(conv.weight)
    _scale(conv, weight)
    return conv


def _scale(conv: PartConv2d, weight: Weight) -> None:
    """Multiplies what a convolution gives by one number a part."""
    for tensor in (conv.weight, conv.bias):
        if tensor is not None:
            factor = weight.repeat_interleave(len(tensor) // len(weight))
            tensor.data = tensor.data * factor.view(-1, *[1] * (tensor.ndim - 1)).to(tensor)
