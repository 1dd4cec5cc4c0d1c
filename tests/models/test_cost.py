"""Costs by part, and the baselines' published ones (a fabric's: the recorded counts); what baselines offer."""

import copy

import pytest
import torch

from pnfs.body import LSP
from pnfs.errors import PnfsError
from pnfs.models.backbones import HRNet, ResNet
from pnfs.models.baselines import HRNetPose, SimpleBaseline
from pnfs.models.cost import measure_cost
from tiny import TinyBackbone, fabric_backbone, fabric_network

SIZE = (64, 96)
PARTS = {"upper": LSP.joints[6:], "legs": LSP.joints[:6]}


def test_costs_of_the_parts_add_up_and_measuring_leaves_the_network_alone() -> None:
    model = fabric_network(PARTS, backbone=TinyBackbone(), skeleton="lsp", channels=2, vector_dim=4)
    cost, before = measure_cost(model, SIZE), copy.deepcopy(model.state_dict())
    pixels = [SIZE[0] // scale * SIZE[1] // scale for scale in (4, 8, 16, 32)]
    sizes = [sum(p.numel() for p in module.parameters()) for module in model.children()]
    assert [part.parameters for part in cost.parts.values()] == sizes
    assert cost.parts["backbone"].macs == sum(
        3 * c * n for c, n in zip(TinyBackbone.channels, pixels, strict=True)
    )
    assert cost.parts["head"].macs == 4 * 2 * len(LSP) * 4 * pixels[0]
    assert (cost.parameters, cost.macs) == (sum(sizes), sum(part.macs for part in cost.parts.values()))
    assert cost.architecture_parameters == 2 * (4 + 3 * 6)
    # Frozen parameters are live.
    for parameter in model.architecture_parameters().values():
        parameter.requires_grad_(False)
    assert measure_cost(model, SIZE) == cost
    assert cost.live_parameters == cost.parameters
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_backbone_cells_that_no_output_depends_on_are_dead() -> None:
    # One last layer reads the pyramid at 1/4 and 1/8 only, so nobody reads the coarse cells of layer 3.
    backbone = fabric_backbone(channels=2)
    cost = measure_cost(fabric_network(PARTS, backbone=backbone, skeleton="lsp", channels=2, last_layers=1), SIZE)
    cells = [cell for name, cell in backbone.fabrics.cells.items() if name in ("layer3_scale16", "layer3_scale32")]
    dead = sum(p.numel() for cell in cells for p in cell.parameters())
    part = cost.parts["backbone"]
    assert part.parameters - part.live_parameters == dead == cost.parameters - cost.live_parameters > 0


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
