"""Costs against a count by hand."""

import copy

import pytest
import torch

from pnfs.body import LSP
from pnfs.models import PAPER, POSENFS, FabricRules, PoseFabricNetwork
from pnfs.models.cost import measure_cost
from pnfs.models.operations import SUBNETWORK_OPERATIONS
from tiny import TinyBackbone, fabric_backbone, fabric_network

SIZE = (64, 96)
PARTS = {
    "upper": [j for j in LSP.joints if j not in ("left_knee", "right_knee", "left_ankle")],
    "legs": ["left_knee", "right_knee", "left_ankle"],
}


def network(**arguments) -> PoseFabricNetwork:
    arguments = {"backbone": TinyBackbone(), "channels": 2, "vector_dim": 4, **arguments}
    return fabric_network(skeleton="lsp", parts=PARTS, **arguments)


def pixels(scale: int) -> int:
    return (SIZE[0] // scale) * (SIZE[1] // scale)


def cell_macs(channels: int, nodes: int) -> int:
    """A pixel's multiplications: an edge has three pairs of 3x3 depthwise and pointwise.

    Skip and pools multiply nothing; nor do they have weights.
    """
    edges = nodes * (nodes + 1) // 2
    pair = 9 * channels + channels * channels
    return edges * 3 * pair + nodes * channels * channels


# Cells of the basic subnetwork: scale, and whether something comes from below and from above.
CELLS = [(4, 0, 1), (8, 1, 1), (16, 1, 1), (4, 0, 1), (8, 1, 1), (4, 0, 1)]


def subnetwork_macs(factor: int, nodes: int) -> int:
    total = 0
    for scale, down, up in CELLS:
        channels = factor * scale
        total += cell_macs(channels, nodes) * pixels(scale)
        total += down * 9 * (channels // 2) * channels * pixels(scale)
        # The 1x1 convolution runs before the upsampling.
        total += up * 2 * channels * channels * pixels(2 * scale)
    return total


def subnetwork_parameters(factor: int, nodes: int, bias: bool) -> int:
    total = 0
    for scale, down, up in CELLS:
        channels = factor * scale
        total += cell_macs(channels, nodes) + channels  # as many as MACs a pixel, and a bias
        norms = 2 * channels + bias * channels
        total += down * (9 * (channels // 2) * channels + norms)
        total += up * (2 * channels * channels + norms)
    edges = nodes * (nodes + 1) // 2
    return total + edges * len(SUBNETWORK_OPERATIONS) + 3 * len(CELLS)


@pytest.mark.parametrize("rules", [PAPER, POSENFS], ids=["paper", "reference"])
@pytest.mark.parametrize("nodes", [1, 2])
def test_costs_equal_a_count_by_hand(nodes: int, rules: FabricRules) -> None:
    factor, dim = 2, 4
    cost = measure_cost(network(nodes=nodes, rules=rules), SIZE)
    scales, have = (4, 8, 16, 32), TinyBackbone.channels
    joints = len(LSP)
    by_hand = {
        "backbone": (
            sum(3 * c for c in have),
            sum(3 * c * pixels(s) for c, s in zip(have, scales, strict=True)),
        ),
        "adapters": (
            2 * sum((c + 1) * factor * s for c, s in zip(have, scales, strict=True)),
            2 * sum(c * factor * s * pixels(s) for c, s in zip(have, scales, strict=True)),
        ),
        "fabrics": (
            2 * subnetwork_parameters(factor, nodes, bias=rules.connection_bias),
            2 * subnetwork_macs(factor, nodes),
        ),
        "head": ((4 * factor + 1) * joints * dim, 4 * factor * joints * dim * pixels(4)),
    }
    found = {name: (part.parameters, part.macs) for name, part in cost.parts.items()}
    assert found == by_hand
    assert cost.parameters == sum(parameters for parameters, _ in by_hand.values())
    assert cost.macs == sum(macs for _, macs in by_hand.values())
    assert cost.architecture_parameters == 2 * (4 * nodes * (nodes + 1) // 2 + 3 * 6)
    assert cost.live_parameters == cost.parameters


def test_backbone_cells_that_no_output_depends_on_are_dead() -> None:
    # One last layer reads the pyramid at 1/4 and 1/8 only, so nobody reads the coarse cells.
    backbone = fabric_backbone(first_layers=3, channels=2)
    cost = measure_cost(network(backbone=backbone, last_layers=1), SIZE)
    dead = 0
    # Layer 3: at 1/16 one way down; at 1/32, which layer 2 lacks, three.
    for channels, ways_down in ((32, 1), (64, 3)):
        dead += ways_down * (9 * (channels // 2) * channels + 2 * channels)
        dead += cell_macs(channels, 1) + channels
    part = cost.parts["backbone"]
    assert part.parameters - part.live_parameters == dead
    assert cost.parameters - cost.live_parameters == dead


def test_measuring_leaves_the_network_alone_and_frozen_parameters_are_live() -> None:
    model = network().train()
    expected = measure_cost(model, SIZE)
    before = copy.deepcopy(model.state_dict())
    for parameter in model.architecture_parameters().values():
        parameter.requires_grad_(False)
    assert measure_cost(model, SIZE) == expected
    assert model.training
    assert not any(p.requires_grad for p in model.architecture_parameters().values())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
