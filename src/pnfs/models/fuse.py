"""Fusing for inference: mixing weights and batch norms become part of the convolutions in front of them.

In evaluation mode alpha, beta and the statistics are constants, and a fabric is nothing but maps that are sums of
layers of other maps (Eq. 2, Eq. 1, the cells' outputs), which are written down by name here and made smaller.
"""

import copy
import operator
from collections.abc import Mapping, Sequence
from functools import reduce
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from pnfs.models.backbones import FabricBackbone
from pnfs.models.fabric import NeuralFabrics
from pnfs.models.layers import Alphas, Betas, Map, PartBatchNorm2d, PartConv2d, Weight, Weighted
from pnfs.models.network import PoseFabricNetwork, PoseNetwork
from pnfs.models.wiring import SCALES

_SMALLEST_DIVISOR = 1e-6  # A division by a smaller weight could overflow.
Term = tuple[str, nn.Sequential]  # A map's name, what is made of it; no layers are the identity.


@torch.no_grad()
def fuse(network: PoseNetwork) -> PoseNetwork:
    """A copy for inference with equal outputs and fewer operations.

    Batch norms with nothing but a convolution in front of them are left to the runtimes, which fuse them too.
    """
    copied = copy.deepcopy(network).eval().requires_grad_(False)
    if not isinstance(copied, PoseFabricNetwork):
        return copied
    fabrics, backbone = copied.fabrics, copied.backbone
    copied.fabrics = _FusedFabrics(fabrics, SCALES[:1], dict(copied.adapters.items()))  # type: ignore[assignment]
    if isinstance(backbone, FabricBackbone):
        read = list(copied.fabrics.readers)
        backbone.fabrics = _FusedFabrics(backbone.fabrics, read, {})  # type: ignore[assignment]
    # The fused fabrics read the pyramid.
    copied.adapters = nn.ModuleDict()
    return copied


class _FusedFabrics(nn.Module):
    """In the place of `NeuralFabrics` in evaluation mode: maps by name, each the sum of layers of earlier ones.

    What reaches none of the last layer's scales `outputs` is dropped. With `adapters`, scale -> adapter, the input
    is the pyramid.
    """

    def __init__(self, fabrics: NeuralFabrics, outputs: Sequence[int], adapters: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.sums: dict[str, list[Term]] = {}
        grids = fabrics.cells.items() if fabrics.kept is not None else [("", fabrics.cells)]
        first, last = fabrics.theta.first_layer - 1, fabrics.theta.last_layer
        shares = (weights.chunk(len(grids)) for weights in fabrics.mixing_weights())
        for (part, grid), alpha, beta in zip(grids, *shares, strict=True):
            for scale, parts in fabrics.readers.items():
                if part in ("", *parts):
                    adapter = _adapter(adapters.get(str(scale)), part, parts)
                    self.sums[f"{part}/{first}/{scale}"] = [(str(scale), adapter)]
            self._add_cells(part, grid, alpha, beta)
        rectify = fabrics.rules.rectify == "sum"
        self.rectified = [name for name in self.sums if rectify and name.endswith("/h0")]
        self.outputs = {s: [f"{part}/{last}/{s}" for part, _ in grids] for s in outputs}
        self._drop_unread()
        self._divide_by_identities()
        self._skip_adapters()
        self._drop_unread()
        read = {int(n) for terms in self.sums.values() for n, _ in terms if n not in self.sums}
        # Without an adapter the network repeats a map for each part of a grid.
        together = fabrics.kept is None and not adapters
        self.readers = {scale: fabrics.readers[scale] if together else [""] for scale in read}
        self.layers = nn.ModuleList(layer for terms in self.sums.values() for _, layer in terms)
        self.requires_grad_(False)

    def forward(self, inputs: Mapping[int, Map]) -> dict[int, Map]:
        maps = {str(scale): x for scale, x in inputs.items()}
        for name, terms in self.sums.items():
            total = reduce(operator.add, [layer(maps[source]) for source, layer in terms])
            maps[name] = F.relu(total) if name in self.rectified else total
        return {
            scale: torch.cat([maps[name] for name in names], 1) if names[1:] else maps[names[0]]
            for scale, names in self.outputs.items()
        }

    def _add_cells(self, part: str, grid: Any, alpha: Alphas, beta: Betas) -> None:
        """The sums of Eq. 2, of Eq. 1, and of the cells' outputs, but for candidates without weight."""
        for index, place in enumerate(grid.theta.cells):
            if place.name not in grid:
                continue
            whole, name = grid[place.name], f"{part}/{place.layer}/{place.scale}"
            width, before = grid.theta.channels * place.scale, f"{part}/{place.layer - 1}"
            found = {
                "h0": [
                    (f"{before}/{scale}", layer, beta[:, index, columns].sum(-1))
                    for layer, scale, columns in whole.terms
                ]
            }
            for node, candidates in enumerate(whole.cell.terms, 1):
                found[f"h{node}"] = [
                    (f"{name}/h{source}", layer, alpha[:, index, row, column])
                    for layer, source, row, column in candidates
                ]
            nothing = _scaling(torch.zeros_like(beta[:, index, 0]), width)
            for target, terms in found.items():
                self.sums[f"{name}/{target}"] = [
                    (source, fuse_operation(layer, weight, width))
                    for source, layer, weight in terms
                    if bool(weight.any())
                ] or [(f"{name}/h0", nn.Sequential(nothing))]
            # (P*C, H*C, 1, 1) -> H times (P*C, C, 1, 1); one of them holds the bias.
            output, self.sums[name] = whole.cell.output, []
            for node, weight in enumerate(output.weight.chunk(len(whole.cell.terms), 1), 1):
                conv = _conv(weight, output.bias if node == 1 else None, output.parts)
                self.sums[name].append((f"{name}/h{node}", nn.Sequential(conv)))

    def _drop_unread(self) -> None:
        """Drops the sums that reach no output."""
        read = {name for names in self.outputs.values() for name in names}
        for name in reversed(self.sums):
            read |= {source for source, _ in self.sums[name]} if name in read else set()
        self.sums = {name: terms for name, terms in self.sums.items() if name in read}

    def _divide_by_identities(self) -> None:
        """A sum with an identity in it needs no product for the identity's weight.

        All other terms are divided by it, and whoever reads the sum multiplies a convolution by it.
        """
        outputs = [name for names in self.outputs.values() for name in names]
        for name, terms in self.sums.items():
            weighted = [n for n, (_, x) in enumerate(terms) if [*map(type, x)] == [_Scale]]
            others = [layers for n, (_, layers) in enumerate(terms) if n not in weighted]
            readers = [x for found in self.sums.values() for source, x in found if source == name]
            linear = all(map(_convs, others)) and all(map(_reads_linearly, readers))
            if len(weighted) != 1 or name in outputs or not linear:
                continue
            source, (identity,) = terms[weighted[0]][0], _convs(terms[weighted[0]][1])
            factor = identity.weight.view(identity.parts, -1)[:, 0].clone()  # (P,)
            if bool((factor < _SMALLEST_DIVISOR).any()):
                continue
            terms[weighted[0]] = (source, nn.Sequential())
            for conv in (_convs(layers)[-1] for layers in others):
                _set(conv, _scaled(conv.weight, 1 / factor), _scaled(conv.bias, 1 / factor))
            for conv in (_convs(layers)[0] for layers in readers):
                _set(conv, _scaled(conv.weight, factor), conv.bias)

    def _skip_adapters(self) -> None:
        """Lets convolutions read the pyramid through no adapter where that is no more arithmetic."""
        for terms in self.sums.values():
            for index, (source, layers) in enumerate(terms):
                pyramid, adapter = self.sums.get(source, terms)[0]
                adapter, conv = next(iter(adapter), None), next(iter(layers), None)
                if pyramid in self.sums or "/" not in source or not isinstance(adapter, PartConv2d):
                    continue
                if not isinstance(conv, PartConv2d) or conv.depthwise:
                    continue
                if adapter.in_channels <= conv.in_channels // conv.parts:
                    through = _ThroughAdapter(adapter, conv)
                    terms[index] = (pyramid, nn.Sequential(through, *layers[1:]))


def fuse_operation(operation: nn.Module, weight: Weight, channels: int) -> nn.Sequential:
    """Layers from x to weight * o(x), or weight * T(x), of `channels` channels a part, in evaluation mode."""
    if type(operation).forward is not Weighted.forward:
        return nn.Sequential(_FixedWeight(operation, weight))
    assert isinstance(operation, Weighted)
    norms = [n for n, layer in enumerate(operation.layers) if isinstance(layer, PartBatchNorm2d)]
    layers: list[Any] = []
    for n, original in enumerate(operation.layers):
        layer: Any = copy.deepcopy(original)
        if n not in norms:
            layers.append(layer)
            continue
        # The normalisation commutes with an interpolation, whose weights sum to one.
        convs = [x for x in layers if not isinstance(x, nn.Upsample)][-1:]
        if not convs or not isinstance(convs[0], PartConv2d):
            convs = [_scaling(torch.ones_like(weight), layer.num_features // len(weight))]
            layers += convs
        conv, statistics = convs[0], (layer.running_mean, layer.running_var, layer.eps)
        fused = fuse_conv_bn_weights(conv.weight, conv.bias, *statistics, layer.weight, layer.bias)
        _set(conv, *(fused if n < norms[-1] else (_scaled(x, weight) for x in fused)))
    return nn.Sequential(*layers, *([] if norms else [_scaling(weight, channels)]))


def _adapter(adapter: nn.Module | None, part: str, parts: Sequence[str]) -> nn.Sequential:
    """What stands in front of all parts' fabrics, or of one part's in a derived network."""
    if adapter is None or not part:
        return nn.Sequential(*([] if adapter is None else [adapter]))
    weight, bias = (x.chunk(len(parts))[parts.index(part)] for x in adapter.parameters())
    return nn.Sequential(_conv(weight, bias, 1))


def _convs(layers: nn.Sequential) -> list[PartConv2d]:
    return [layer for layer in layers if isinstance(layer, PartConv2d)]


def _reads_linearly(layers: nn.Sequential) -> bool:
    """Whether scaling its first convolution is scaling its input."""
    scalable = nn.ReLU | nn.AvgPool2d | nn.MaxPool2d | nn.Upsample
    others = [layer for layer in layers if not isinstance(layer, scalable)]
    return bool(others) and isinstance(others[0], PartConv2d)


class _Scale(PartConv2d):
    """scale * x, as a depthwise 1x1 convolution, which suits every memory layout of a runtime."""


def _scaling(weight: Weight, channels: int) -> _Scale:
    scale = _Scale(len(weight), channels, channels, 1, depthwise=True).to(weight)
    nn.init.ones_(scale.weight)
    return _set(scale, _scaled(scale.weight, weight), None)


class _FixedWeight(nn.Module):
    """An operation that says nothing of its layers: x to weight * o(x)."""

    weight: Tensor

    def __init__(self, operation: nn.Module, weight: Weight) -> None:
        super().__init__()
        self.operation = operation
        self.register_buffer("weight", weight.float())

    def forward(self, x: Map) -> Map:
        return self.operation(x, self.weight)


class _ThroughAdapter(nn.Module):
    """conv(adapter(x)) for a map x that all parts share, as one convolution of x; 1x1, or 3x3 at stride 2."""

    border: Tensor

    def __init__(self, adapter: PartConv2d, conv: PartConv2d) -> None:
        super().__init__()
        assert adapter.bias is not None
        size = (conv.parts, -1)
        outer = conv.weight.double().unflatten(0, size)  # (P, O, I, k, k)
        inner = adapter.weight[..., 0, 0].double().unflatten(0, size)  # (P, I, M)
        weight = torch.einsum("poikl,pim->pomkl", outer, inner).flatten(0, 1)
        self.conv = _conv(weight.to(conv.weight), conv.bias, 1, stride=conv.stride[0])
        # What the adapter's bias adds; less at the border, where the padding has none.
        border = torch.einsum("poikl,pi->pokl", outer, adapter.bias.double().unflatten(0, size))
        self.register_buffer("border", border.flatten(0, 1)[:, None].to(conv.weight))

    def forward(self, x: Map) -> Map:
        inside = x.new_ones(1, 1, *x.shape[-2:])
        stride, padding = self.conv.stride, self.conv.padding
        return self.conv(x) + F.conv2d(inside, self.border, stride=stride, padding=padding)


def _conv(weight: Tensor, bias: Tensor | None, parts: int, stride: int = 1) -> PartConv2d:
    """A convolution of these weights, (P*O, I, k, k)."""
    outputs, inputs, side, _ = weight.shape
    conv = PartConv2d(parts, inputs, outputs // parts, side, stride=stride).to(weight)
    return _set(conv, weight, bias)


def _set(conv: Any, weight: Tensor, bias: Tensor | None) -> Any:
    """The convolution with these weights, in the precision of the old ones."""
    precision = conv.weight
    conv.weight = nn.Parameter(weight.detach().to(precision).clone())
    conv.bias = None if bias is None else nn.Parameter(bias.detach().to(precision).clone())
    return conv


def _scaled(tensor: Any, weight: Weight) -> Any:
    """A tensor of all parts' output channels, times one number a part; None stays None."""
    if tensor is None:
        return None
    spread = weight.repeat_interleave(len(tensor) // len(weight))
    return tensor * spread.view(-1, *[1] * (tensor.ndim - 1))
