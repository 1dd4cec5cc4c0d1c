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
C, D = 2, 4  # Channel factor, length of vectors.
PARTS = {
    "upper": [j for j in LSP.joints if j not in ("left_knee", "right_knee", "left_ankle")],
    "legs": ["left_knee", "right_knee", "left_ankle"],
}


def network(**arguments) -> PoseFabricNetwork:
    arguments = {"backbone": TinyBackbone(), "channels": C, "vector_dim": D, **arguments}
    return fabric_network(skeleton="lsp", parts=PARTS, **arguments)


def pixels(scale: int) -> int:
    return (SIZE[0] // scale) * (SIZE[1] // scale)


def cell_macs(channels: int, nodes: int) -> int:
    """A pixel's multiplications: an edge has three pairs of 3x3 depthwise and pointwise.

    Skip and pools multiply nothing; nor do they have weights.
    """
    pair = 9 * channels + channels * channels
    return nodes * (nodes + 1) // 2 * 3 * pair + nodes * channels * channels


# Cells of the basic subnetwork: scale, and whether something comes from below and from above.
CELLS = [(4, 0, 1), (8, 1, 1), (16, 1, 1), (4, 0, 1), (8, 1, 1), (4, 0, 1)]


def subnetwork(nodes: int, bias: bool) -> tuple[int, int]:
    """Its parameters and MACs."""
    edges = nodes * (nodes + 1) // 2
    parameters, macs = edges * len(SUBNETWORK_OPERATIONS) + 3 * len(CELLS), 0
    for scale, down, up in CELLS:
        channels = C * scale
        norms, halved = 2 * channels + bias * channels, 9 * (channels // 2) * channels
        # As many as MACs a pixel, and a bias.
        parameters += cell_macs(channels, nodes) + channels
        parameters += down * (halved + norms) + up * (2 * channels * channels + norms)
        macs += (cell_macs(channels, nodes) + down * halved) * pixels(scale)
        # The 1x1 convolution runs before the upsampling.
        macs += up * 2 * channels * channels * pixels(2 * scale)
    return parameters, macs


@pytest.mark.parametrize("rules", [PAPER, POSENFS], ids=["paper", "reference"])
@pytest.mark.parametrize("nodes", [1, 2])
def test_costs_equal_a_count_by_hand(nodes: int, rules: FabricRules) -> None:
    cost = measure_cost(network(nodes=nodes, rules=rules), SIZE)
    have = list(zip(TinyBackbone.channels, (4, 8, 16, 32), strict=True))
    parameters, macs = subnetwork(nodes, rules.connection_bias)
    by_hand = {
        "backbone": (sum(3 * c for c, _ in have), sum(3 * c * pixels(s) for c, s in have)),
        "adapters": (
            2 * sum((c + 1) * C * s for c, s in have),
            2 * sum(c * C * s * pixels(s) for c, s in have),
        ),
        "fabrics": (2 * parameters, 2 * macs),
        "head": ((4 * C + 1) * len(LSP) * D, 4 * C * len(LSP) * D * pixels(4)),
    }
    found = {name: (part.parameters, part.macs) for name, part in cost.parts.items()}
    assert found == by_hand
    assert (cost.parameters, cost.macs) == tuple(map(sum, zip(*by_hand.values(), strict=True)))
    assert cost.architecture_parameters == 2 * (4 * nodes * (nodes + 1) // 2 + 3 * 6)
    assert cost.live_parameters == cost.parameters


def test_backbone_cells_that_no_output_depends_on_are_dead() -> None:
    # One last layer reads the pyramid at 1/4 and 1/8 only, so nobody reads the coarse cells.
    cost = measure_cost(network(backbone=fabric_backbone(channels=2), last_layers=1), SIZE)
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
