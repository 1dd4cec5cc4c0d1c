"""Parameters and multiply-accumulates of a network, live and total, by part of the model."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from pnfs.models.fabric import SCALES
from pnfs.models.network import PoseFabricNetwork


@dataclass(frozen=True)
class PartCost:
    """Cost of one part of the model.

    Live parameters are those that get a gradient from the output.
    """

    parameters: int
    live_parameters: int
    macs: int


@dataclass(frozen=True)
class Cost:
    """Cost of one forward pass at batch 1; MACs of convolutions and matrix products only."""

    parts: Mapping[str, PartCost]
    """Backbone, adapters, fabrics, head."""
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


def measure_cost(network: PoseFabricNetwork, input_size: tuple[int, int]) -> Cost:
    """Counts on the meta device: nothing is computed.

    Args:
        network: Left as it is.
        input_size: (height, width) of the input.
    """
    model = copy.deepcopy(network).to("meta").eval()
    model.requires_grad_(True)
    images = torch.empty(1, 3, *input_size, device="meta")
    modules: dict[str, nn.Module] = {
        "backbone": model.backbone,
        "adapters": model.subnetworks.adapters,
        "fabrics": model.subnetworks.fabrics,
        "head": model.subnetworks.head,
    }
    # Stage by stage, so that every operation is counted where it belongs.
    subnetworks = model.subnetworks
    form = "grouped" if subnetworks.fabrics.kept is None else "loop"
    with _macs() as backbone:
        pyramid = model.backbone(images)
    with _macs() as adapters:
        inputs = subnetworks.adapt(pyramid, form)
    with _macs() as fabrics:
        outputs = subnetworks.fabrics(inputs, form)
    with _macs() as head:
        vectors = subnetworks.head(outputs[SCALES[0]])
    subnetworks.head.scores(vectors).sum().backward()
    stages = {"backbone": backbone, "adapters": adapters, "fabrics": fabrics, "head": head}
    return Cost(
        parts={
            name: PartCost(
                parameters=_count(module, live=False),
                live_parameters=_count(module, live=True),
                # The counter takes a multiplication and an addition for two operations.
                macs=stages[name].get_total_flops() // 2,
            )
            for name, module in modules.items()
        },
        architecture_parameters=sum(p.numel() for p in model.architecture_parameters().values()),
    )


def _macs() -> FlopCounterMode:
    return FlopCounterMode(display=False)


def _count(module: nn.Module, live: bool) -> int:
    return sum(p.numel() for p in module.parameters() if not live or p.grad is not None)
