"""Fusing for inference: mixing weights and batch norms become part of the convolutions in front of them.

In evaluation mode alpha, beta and the statistics are constants, and a fabric is nothing but maps that are sums of
layers of other maps: those of Eq. 2, of Eq. 1, and of the cells' outputs. Here these sums are written down by name
and made smaller.
"""

import copy
import operator
from collections.abc import Mapping, Sequence
from functools import reduce

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from pnfs.models.backbones import FabricBackbone
from pnfs.models.fabric import Grid, GridCell, NeuralFabrics
from pnfs.models.layers import Map, PartBatchNorm2d, PartConv2d, Weight, Weighted
from pnfs.models.network import PoseFabricNetwork, PoseNetwork
from pnfs.models.wiring import SCALES

_SMALLEST_DIVISOR = 1e-6
"""A smaller weight of an identity is multiplied, since a division by it could overflow."""

Term = tuple[str, nn.Module]
"""Name of a map and what is made of it."""


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
    """In the place of `NeuralFabrics`: maps by name, each the sum of layers of earlier ones.

    Args:
        fabrics: In evaluation mode.
        outputs: Scales of the last layer that are read; what reaches none of them is dropped.
        adapters: Scale -> adapter of the input, which is the pyramid then.

    Attributes:
        readers: Scales of the input that are read, as those of `NeuralFabrics`.
    """

    def __init__(
        self, fabrics: NeuralFabrics, outputs: Sequence[int], adapters: Mapping[str, nn.Module]
    ) -> None:
        super().__init__()
        self.sums: dict[str, list[Term]] = {}
        alpha, beta = fabrics.mixing_weights()
        grids = fabrics.cells.items() if fabrics.kept is not None else [("", fabrics.cells)]
        first, last = fabrics.theta.first_layer - 1, fabrics.theta.last_layer
        for (part, grid), *mixing in zip(
            grids, alpha.chunk(len(grids)), beta.chunk(len(grids)), strict=True
        ):
            for scale, parts in fabrics.readers.items():
                place = f"{part}/{first}/{scale}"
                if part in ("", *parts):
                    adapter = _adapter(adapters.get(str(scale)), part, parts)
                    self.sums[place] = [(str(scale), adapter)]
            self._add_cells(part, grid, *mixing)
        rectify = fabrics.rules.rectify == "sum"
        self.rectified = [name for name in self.sums if rectify and name.endswith("/h0")]
        self.outputs = {s: [f"{part}/{last}/{s}" for part, _ in grids] for s in outputs}
        self._drop_unread()
        self._divide_by_identities()
        self._skip_adapters()
        self._drop_unread()
        read = {source for terms in self.sums.values() for source, _ in terms}
        self.readers = {int(source): [""] for source in read if source not in self.sums}
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

    def _add_cells(
        self,
        part: str,
        grid: nn.Module,
        alpha: Float[Tensor, "P cells E O"],
        beta: Float[Tensor, "P cells 3"],
    ) -> None:
        """The sums of Eq. 2, of Eq. 1, and of the cells' outputs, but for candidates without weight."""
        assert isinstance(grid, Grid)
        for index, place in enumerate(grid.theta.cells):
            if place.name not in grid:
                continue
            whole, name = grid[place.name], f"{part}/{place.layer}/{place.scale}"
            assert isinstance(whole, GridCell)
            width = grid.theta.channels * place.scale
            found: dict[str, list[tuple[str, nn.Module, Weight]]] = {
                f"{name}/h0": [
                    (f"{part}/{place.layer - 1}/{scale}", layer, beta[:, index, columns].sum(-1))
                    for layer, scale, columns in whole.terms
                ]
            }
            for node, candidates in enumerate(whole.cell.terms, 1):
                found[f"{name}/h{node}"] = [
                    (f"{name}/h{source}", layer, alpha[:, index, row, column])
                    for layer, source, row, column in candidates
                ]
            for target, terms in found.items():
                self.sums[target] = [
                    (source, _fused(layer, weight, width))
                    for source, layer, weight in terms
                    if bool(weight.any())
                ] or [(f"{name}/h0", _scale(torch.zeros_like(beta[:, index, 0]), width))]
            # (P*C, H*C, 1, 1) -> H times (P*C, C, 1, 1); one of them holds the bias.
            output = whole.cell.output
            self.sums[name] = [
                (f"{name}/h{node}", _conv(weight, None if node > 1 else output.bias, output.parts))
                for node, weight in enumerate(output.weight.chunk(len(whole.cell.terms), 1), 1)
            ]

    def _drop_unread(self) -> None:
        """Drops the sums that reach no output."""
        read = {name for names in self.outputs.values() for name in names}
        for name in reversed(self.sums):
            if name in read:
                read |= {source for source, _ in self.sums[name]}
        self.sums = {name: terms for name, terms in self.sums.items() if name in read}

    def _divide_by_identities(self) -> None:
        """A sum with an identity in it needs no product for the identity's weight.

        All other terms are divided by it, and whoever reads the sum multiplies a convolution by it.
        """
        outputs = [name for names in self.outputs.values() for name in names]
        for name, terms in self.sums.items():
            identities = [i for i, (_, layer) in enumerate(terms) if isinstance(layer, _Scale)]
            readers = [r for ts in self.sums.values() for source, r in ts if source == name]
            others = [layer for i, (_, layer) in enumerate(terms) if i not in identities]
            if len(identities) != 1 or name in outputs:
                continue
            if not all(map(_convs, others)) or not all(map(_reads_linearly, readers)):
                continue
            source, identity = terms[identities[0]]
            assert isinstance(identity, _Scale)
            factor = identity.weight.view(identity.parts, -1)[:, 0].clone()  # (P,)
            if bool((factor < _SMALLEST_DIVISOR).any()):
                continue
            terms[identities[0]] = (source, nn.Identity())
            for layer in others:
                conv = _convs(layer)[-1]
                conv.weight /= _spread(factor, conv)[:, None, None, None]
                if conv.bias is not None:
                    conv.bias /= _spread(factor, conv)
            for layer in readers:
                conv = _convs(layer)[0]
                conv.weight *= _spread(factor, conv)[:, None, None, None]

    def _skip_adapters(self) -> None:
        """Lets convolutions read the pyramid through no adapter where that is no more arithmetic."""
        for terms in self.sums.values():
            for index, (source, layer) in enumerate(terms):
                pyramid, adapter = self.sums.get(source, terms)[0]
                if pyramid in self.sums or not isinstance(adapter, PartConv2d) or "/" not in source:
                    continue
                layers = list(layer) if isinstance(layer, nn.Sequential) else [layer]
                conv = layers[0]
                if not isinstance(conv, PartConv2d) or conv.depthwise:
                    continue
                if adapter.in_channels <= conv.in_channels // conv.parts:
                    through = _ThroughAdapter(adapter, conv)
                    terms[index] = (pyramid, nn.Sequential(through, *layers[1:]))


class _Scale(PartConv2d):
    """scale * x, as a depthwise 1x1 convolution, which suits every memory layout of a runtime."""


class _Repeat(nn.Module):
    """One map for each of P parts."""

    def __init__(self, parts: int) -> None:
        super().__init__()
        self.parts = parts

    def forward(self, x: Map) -> Map:
        return x.repeat(1, self.parts, 1, 1)


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
        self.conv = _conv(weight.to(conv.weight), conv.bias, 1, stride=conv.stride[0])
        # What the adapter's bias adds; less at the border, where the padding has none.
        border = torch.einsum("poikl,pi->pokl", outer, adapter.bias.double().unflatten(0, size))
        self.register_buffer("border", border.flatten(0, 1)[:, None].to(conv.weight))

    def forward(self, x: Map) -> Map:
        inside = x.new_ones(1, 1, *x.shape[-2:])
        stride, padding = self.conv.stride, self.conv.padding
        return self.conv(x) + F.conv2d(inside, self.border, stride=stride, padding=padding)


def _fused(operation: nn.Module, weight: Weight, channels: int) -> nn.Module:
    """For inference: a layer from x to weight * o(x), or weight * T(x)."""
    if type(operation).forward is not Weighted.forward:
        return _FixedWeight(operation, weight)
    assert isinstance(operation, Weighted)
    norms = [layer for layer in operation.layers if isinstance(layer, PartBatchNorm2d)]
    layers: list[nn.Module] = []
    for layer in operation.layers:
        if not isinstance(layer, PartBatchNorm2d):
            layers.append(copy.deepcopy(layer))
            continue
        # The normalisation commutes with an interpolation, whose weights sum to one.
        place = len(layers) - 1
        while place >= 0 and isinstance(layers[place], nn.Upsample):
            place -= 1
        if place < 0 or not isinstance(layers[place], PartConv2d):
            layers.append(_scale(torch.ones_like(weight), layer.num_features // len(weight)))
            place = len(layers) - 1
        layers[place] = _absorb(layers[place], layer, weight if layer is norms[-1] else None)
    if not norms:
        layers.append(_scale(weight, channels))
    return layers[0] if len(layers) == 1 else nn.Sequential(*layers)


def _absorb(conv: nn.Module, norm: PartBatchNorm2d, mixing: Weight | None) -> PartConv2d:
    """A convolution equal to `norm(conv(x))` in evaluation mode, times the mixing weights."""
    assert isinstance(conv, PartConv2d)
    mean, var = norm.running_mean, norm.running_var
    assert mean is not None
    assert var is not None
    weight, bias = fuse_conv_bn_weights(
        conv.weight, conv.bias, mean, var, norm.eps, norm.weight, norm.bias
    )
    if mixing is not None:
        factor = _spread(mixing, conv)
        weight, bias = weight * factor[:, None, None, None], bias * factor
    return _with(conv, weight, bias)


def _scale(weight: Weight, channels: int) -> _Scale:
    scale = _Scale(len(weight), channels, channels, 1, depthwise=True).to(weight)
    scale.weight.copy_(_spread(weight, scale)[:, None, None, None])
    return scale


def _conv(weight: Tensor, bias: Tensor | None, parts: int, stride: int = 1) -> PartConv2d:
    """A convolution of these weights, (P*O, I, k, k)."""
    outputs, inputs, side, _ = weight.shape
    conv = PartConv2d(parts, inputs, outputs // parts, side, stride=stride).to(weight)
    return _with(conv, weight, bias)


def _with(conv: PartConv2d, weight: Tensor, bias: Tensor | None) -> PartConv2d:
    """A copy with other weights, in the precision of the old ones."""
    changed = copy.deepcopy(conv)
    changed.weight = nn.Parameter(weight.detach().to(conv.weight).clone())
    if bias is not None:
        changed.bias = nn.Parameter(bias.detach().to(conv.weight).clone())
    return changed


def _adapter(adapter: nn.Module | None, part: str, parts: Sequence[str]) -> nn.Module:
    """What stands in front of all parts' fabrics, or of one part's in a derived network."""
    if adapter is None:
        return nn.Identity() if part or len(parts) == 1 else _Repeat(len(parts))
    assert isinstance(adapter, PartConv2d)
    assert adapter.bias is not None
    if not part:
        return adapter
    weight, bias = (x.chunk(len(parts))[parts.index(part)] for x in (adapter.weight, adapter.bias))
    return _conv(weight, bias, 1)


def _spread(weight: Weight, conv: PartConv2d) -> Float[Tensor, " PC"]:
    """One number a part, repeated for each of the part's output channels."""
    return weight.repeat_interleave(conv.out_channels // len(weight))


def _convs(layer: nn.Module) -> list[PartConv2d]:
    layers = layer if isinstance(layer, nn.Sequential) else [layer]
    return [inner for inner in layers if isinstance(inner, PartConv2d)]


def _reads_linearly(layer: nn.Module) -> bool:
    """Whether scaling its first convolution is scaling its input."""
    layers = list(layer) if isinstance(layer, nn.Sequential) else [layer]
    while layers and isinstance(layers[0], nn.ReLU | nn.AvgPool2d | nn.MaxPool2d | nn.Upsample):
        layers.pop(0)
    return bool(layers) and isinstance(layers[0], PartConv2d)
