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
from pnfs.models.fused_layers import (
    FixedWeight,
    Repeat,
    Scale,
    ThroughAdapter,
    conv_of,
    scaling,
    spread,
    with_weights,
)
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
                ] or [(f"{name}/h0", scaling(torch.zeros_like(beta[:, index, 0]), width))]
            # (P*C, H*C, 1, 1) -> H times (P*C, C, 1, 1); one of them holds the bias.
            output = whole.cell.output
            self.sums[name] = [
                (
                    f"{name}/h{node}",
                    conv_of(weight, None if node > 1 else output.bias, output.parts),
                )
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
            identities = [i for i, (_, layer) in enumerate(terms) if isinstance(layer, Scale)]
            readers = [r for ts in self.sums.values() for source, r in ts if source == name]
            others = [layer for i, (_, layer) in enumerate(terms) if i not in identities]
            if len(identities) != 1 or name in outputs:
                continue
            if not all(map(_convs, others)) or not all(map(_reads_linearly, readers)):
                continue
            source, identity = terms[identities[0]]
            assert isinstance(identity, Scale)
            factor = identity.weight.view(identity.parts, -1)[:, 0].clone()  # (P,)
            if bool((factor < _SMALLEST_DIVISOR).any()):
                continue
            terms[identities[0]] = (source, nn.Identity())
            for layer in others:
                conv = _convs(layer)[-1]
                conv.weight /= spread(factor, conv)[:, None, None, None]
                if conv.bias is not None:
                    conv.bias /= spread(factor, conv)
            for layer in readers:
                conv = _convs(layer)[0]
                conv.weight *= spread(factor, conv)[:, None, None, None]

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
                    through = ThroughAdapter(adapter, conv)
                    terms[index] = (pyramid, nn.Sequential(through, *layers[1:]))


def _fused(operation: nn.Module, weight: Weight, channels: int) -> nn.Module:
    """For inference: a layer from x to weight * o(x), or weight * T(x)."""
    if type(operation).forward is not Weighted.forward:
        return FixedWeight(operation, weight)
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
            layers.append(scaling(torch.ones_like(weight), layer.num_features // len(weight)))
            place = len(layers) - 1
        layers[place] = _absorb(layers[place], layer, weight if layer is norms[-1] else None)
    if not norms:
        layers.append(scaling(weight, channels))
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
        factor = spread(mixing, conv)
        weight, bias = weight * factor[:, None, None, None], bias * factor
    return with_weights(conv, weight, bias)


def _adapter(adapter: nn.Module | None, part: str, parts: Sequence[str]) -> nn.Module:
    """What stands in front of all parts' fabrics, or of one part's in a derived network."""
    if adapter is None:
        return nn.Identity() if part or len(parts) == 1 else Repeat(len(parts))
    assert isinstance(adapter, PartConv2d)
    assert adapter.bias is not None
    if not part:
        return adapter
    weight, bias = (x.chunk(len(parts))[parts.index(part)] for x in (adapter.weight, adapter.bias))
    return conv_of(weight, bias, 1)


def _convs(layer: nn.Module) -> list[PartConv2d]:
    layers = layer if isinstance(layer, nn.Sequential) else [layer]
    return [inner for inner in layers if isinstance(inner, PartConv2d)]


def _reads_linearly(layer: nn.Module) -> bool:
    """Whether scaling its first convolution is scaling its input."""
    layers = list(layer) if isinstance(layer, nn.Sequential) else [layer]
    while layers and isinstance(layers[0], nn.ReLU | nn.AvgPool2d | nn.MaxPool2d | nn.Upsample):
        layers.pop(0)
    return bool(layers) and isinstance(layers[0], PartConv2d)
