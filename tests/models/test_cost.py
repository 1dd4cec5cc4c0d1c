"""Costs against a count by hand and the baselines' published ones; what baselines offer."""

import copy

import pytest
import torch

from pnfs.body import LSP
from pnfs.errors import PnfsError
from pnfs.models import PAPER, POSENFS, FabricRules, PoseFabricNetwork
from pnfs.models.backbones import HRNet, ResNet
from pnfs.models.baselines import HRNetPose, SimpleBaseline
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
    model = network(nodes=nodes, rules=rules)
    cost, before = measure_cost(model, SIZE), copy.deepcopy(model.state_dict())
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
    # Measuring leaves the network alone; frozen parameters are live.
    for parameter in model.architecture_parameters().values():
        parameter.requires_grad_(False)
    assert measure_cost(model, SIZE) == cost
    assert cost.live_parameters == cost.parameters
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


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


# --- baselines


def simple_baseline(depth: int = 50, skeleton: str = "mpii", **arguments) -> SimpleBaseline:
    return SimpleBaseline(backbone=ResNet(depth, "none"), skeleton=skeleton, **arguments)


def hrnet(width: int = 32, skeleton: str = "mpii", **arguments) -> HRNetPose:
    backbone = HRNet(width, last_stage=4, finest_only=True, weights="none")
    return HRNetPose(backbone=backbone, skeleton=skeleton, **arguments)


# Published: parameters (millions) and "GFLOPs" (multiplications over 2^30, transposed convolutions by
# their output) at 256x192, COCO (HRNet's paper), and at 256x256, MPII (Table VI).
PUBLISHED = [
    (simple_baseline, {"depth": 152, "skeleton": "coco"}, (256, 192), 68.6, 15.7),
    (hrnet, {"width": 48, "skeleton": "coco"}, (256, 192), 63.6, 14.6),
    (simple_baseline, {"depth": 50, "vector_dim": 8}, (256, 256), 34.0, 12.1),
]


@pytest.mark.parametrize(("build", "arguments", "size", "parameters", "giga"), PUBLISHED)
def test_counts_are_the_published_ones(build, arguments, size, parameters, giga) -> None:
    with torch.device("meta"):
        network = build(**arguments)
    cost = measure_cost(network, size, by_output=True)
    assert cost.live_parameters == cost.parameters == sum(p.numel() for p in network.parameters())
    assert cost.live_parameters / 1e6 == pytest.approx(parameters, abs=0.06)
    assert cost.macs / 2**30 == pytest.approx(giga, abs=0.12)


@pytest.mark.parametrize("dim", [1, 8])
@pytest.mark.parametrize("build", [simple_baseline, hrnet])
def test_a_baseline_is_a_pose_network_of_one_part(build, dim: int) -> None:
    torch.manual_seed(0)
    network, images = build(vector_dim=dim).eval(), torch.randn(2, 3, 64, 96)
    network.calibrate(images)
    with torch.no_grad():
        vectors, maps = network(images, "vectors"), network(images)
        assert network.train()(images).abs().mean().item() < 0.06
    assert vectors.shape == (2, 16, dim, 16, 24)
    squared = vectors.square().sum(2)
    torch.testing.assert_close(maps, vectors[:, :, 0] if dim == 1 else squared / (1 + squared))
    assert torch.equal(network.merged(maps), maps)
    assert (network.architecture_parameters(), network.named_fabrics()) == ({}, {})
    with pytest.raises(PnfsError, match="needs last_stage=4 and finest_only=true"):
        HRNetPose(backbone=HRNet(32, weights="none"), skeleton="mpii")
