"""Parameters and multiply-accumulates of a network, live and total, by part of the model."""

import copy
from collections.abc import Mapping
from dataclasses import astuple, dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count

from pnfs.models.network import PoseNetwork


@dataclass(frozen=True)
class PartCost:
    """Cost of one forward pass at batch 1 through one part of the model, or through all.

    Live parameters are those that the output depends on; MACs are those of convolutions and matrix products.
    """

    parameters: int
    live_parameters: int
    macs: int


@dataclass(frozen=True)
class Cost(PartCost):
    """Cost of the whole, and of its parts: backbone, adapters, fabrics, head; the children of a baseline.

    `architecture_parameters`, alpha and beta, are contained in the other counts.
    """

    parts: Mapping[str, PartCost]
    architecture_parameters: int


def measure_cost(network: PoseNetwork, input_size: tuple[int, int], *, by_output: bool = False) -> Cost:
    """Counts for input of (height, width) on the meta device: nothing is computed, the network is left as it is.

    Each weight of a transposed convolution counts once for each pixel of its input, which is what is multiplied;
    `by_output` of its output, as in the summary of HRNet's and SimpleBaseline's public code.
    """
    model = copy.deepcopy(network).to("meta").eval().requires_grad_()
    mapping = {torch.ops.aten.convolution: _flops_by_output} if by_output else {}
    with FlopCounterMode(display=False, custom_mapping=mapping) as counter:
        output = model(torch.empty(1, 3, *input_size, device="meta"))
    counts, parameters = counter.get_flop_counts(), list(model.parameters())
    gradients = torch.autograd.grad(output.sum(), parameters, allow_unused=True)
    live = {p for p, gradient in zip(parameters, gradients, strict=True) if gradient is not None}
    parts = {
        name: PartCost(
            parameters=sum(p.numel() for p in module.parameters()),
            live_parameters=sum(p.numel() for p in module.parameters() if p in live),
            # The counter takes a multiplication and an addition for two operations.
            macs=_flops(module, f"{type(model).__name__}.{name}", counts) // 2,
        )
        for name, module in model.named_children()
    }
    totals = map(sum, zip(*map(astuple, parts.values()), strict=True))
    architecture = sum(p.numel() for p in model.architecture_parameters().values())
    return Cost(*totals, parts=parts, architecture_parameters=architecture)


def _flops(module: nn.Module, name: str, counts: Mapping[str, Mapping[Any, int]]) -> int:
    """Those of a module; of one that is never called itself, such as a dictionary, those of what it holds."""
    if name in counts:
        return sum(counts[name].values())
    return sum(_flops(m, f"{name}.{child}", counts) for child, m in module.named_children())


def _flops_by_output(x_shape: Any, w_shape: Any, *args: Any, out_shape: Any, **_: Any) -> int:
    # The library takes the input's pixels where the convolution is transposed.
    return conv_flop_count(out_shape if args[4] else x_shape, w_shape, out_shape, transposed=args[4])
