"""Fusing for inference: mixing weights and batch norms become part of the convolutions in front of them."""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from pnfs.models.fabric import GridCell
from pnfs.models.layers import Map, PartBatchNorm2d, PartConv2d, Weight, Weighted
from pnfs.models.network import PoseNetwork


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


class _Fused(nn.Module):
    """weight * o(x) or weight * T(x) for a fixed weight, that of a call is left aside."""

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
