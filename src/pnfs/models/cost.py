"""Parameters and multiply-accumulates of a network, live and total, by part of the model."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count

from pnfs.models.network import PoseNetwork


@dataclass(frozen=True)
class PartCost:
    """Cost of one part of the model.

    Live parameters are those that the output depends on.
    """

    parameters: int
    live_parameters: int
    macs: int


@dataclass(frozen=True)
class Cost:
    """Cost of one forward pass at batch 1; MACs of convolutions and matrix products only."""

    parts: Mapping[str, PartCost]
    """Backbone, adapters, fabrics, head; the children of a baseline."""
    architecture_parameters: int
    """alpha and beta, contained in the other counts."""

    @property
    def parameters(self) -> int:
        return sum(part.parameters for part in self.parts.values())

    @property
    def live_parameters(self) -> int:
        return sum(part.live_parameters for part in self.parts.values())

    @property
    def macs(self) -> int:
        return sum(part.macs for part in self.parts.values())


def measure_cost(
    network: PoseNetwork,
    input_size: tuple[int, int],
    deconvolution: Literal["input", "output"] = "input",
) -> Cost:
    """Counts on the meta device: nothing is computed.

    Args:
        network: Left as it is; may itself be on the meta device.
        input_size: (height, width) of the input.
        deconvolution: Whether each weight of a transposed convolution counts once for each pixel of its
            "input", which is what is multiplied, or of its "output", as the summary in HRNet's and
            SimpleBaseline's public code counts (stride^2 times as much).
    """
    model = _meta_copy(network)
    with _counter(deconvolution) as counter:
        output = model(torch.empty(1, 3, *input_size, device="meta"))
    counts = counter.get_flop_counts()
    live = _reached(output)
    return Cost(
        parts={
            name: PartCost(
                parameters=sum(p.numel() for p in module.parameters()),
                live_parameters=sum(p.numel() for p in module.parameters() if p in live),
                # The counter takes a multiplication and an addition for two operations.
                macs=_flops(module, f"{type(model).__name__}.{name}", counts) // 2,
            )
            for name, module in model.named_children()
        },
        architecture_parameters=sum(p.numel() for p in model.architecture_parameters().values()),
    )


def _meta_copy(network: PoseNetwork) -> PoseNetwork:
    """A copy on the meta device in evaluation mode, all of whose parameters take gradients.

    The numbers themselves are never copied.
    """
    memo: dict[int, Tensor] = {}
    for parameter in network.parameters():
        memo[id(parameter)] = nn.Parameter(torch.empty_like(parameter, device="meta"))
    for buffer in network.buffers():
        memo[id(buffer)] = torch.empty_like(buffer, device="meta")
    return copy.deepcopy(network, memo).eval()


def _flops(module: nn.Module, name: str, counts: Mapping[str, Mapping[Any, int]]) -> int:
    """Those of a module; of one that is never called itself, such as a dictionary, those of what it holds."""
    if name in counts:
        return sum(counts[name].values())
    return sum(_flops(m, f"{name}.{child}", counts) for child, m in module.named_children())


def _reached(output: Tensor) -> set[Tensor]:
    """The parameters that the output depends on: the leaves of its graph."""
    found: set[Tensor] = set()
    seen = set()
    waiting = [output.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        leaf = getattr(node, "variable", None)
        if leaf is not None:
            found.add(leaf)
        waiting += [following for following, _ in node.next_functions]
    return found


def _counter(deconvolution: Literal["input", "output"]) -> FlopCounterMode:
    if deconvolution == "input":
        return FlopCounterMode(display=False)
    return FlopCounterMode(
        display=False, custom_mapping={torch.ops.aten.convolution: _flops_by_output}
    )


def _flops_by_output(
    x_shape: Sequence[int],
    w_shape: Sequence[int],
    bias: object,
    stride: object,
    padding: object,
    dilation: object,
    transposed: bool,
    *args: object,
    out_shape: Sequence[int],
    **kwargs: object,
) -> int:
    # The library takes the input's pixels where the convolution is transposed.
    pixels = out_shape if transposed else x_shape
    return conv_flop_count(list(pixels), list(w_shape), list(out_shape), transposed=transposed)
