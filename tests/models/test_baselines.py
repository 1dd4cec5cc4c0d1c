"""Baselines: published counts, shapes, public checkpoints, and that they learn."""

import pytest
import torch
import torch.nn.functional as F

from pnfs.models import PoseNetwork
from pnfs.models.backbones import HRNet, ResNet
from pnfs.models.baselines import HRNetPose, SimpleBaseline
from pnfs.models.cost import measure_cost

GIGA = 2**30


def simple_baseline(depth: int = 50, skeleton: str = "mpii", **arguments) -> SimpleBaseline:
    return SimpleBaseline(backbone=ResNet(depth, "none"), skeleton=skeleton, **arguments)


def hrnet(width: int = 32, skeleton: str = "mpii", **arguments) -> HRNetPose:
    backbone = HRNet(width, last_stage=4, finest_only=True, weights="none")
    return HRNetPose(backbone=backbone, skeleton=skeleton, **arguments)


# --- counts

# Published: parameters (millions) and "GFLOPs" (multiplications over 2^30, transposed convolutions by
# their output) at 256x192, COCO (HRNet's paper), and at 256x256, MPII (Table VI).
PUBLISHED = [
    (simple_baseline, {"depth": 152, "skeleton": "coco"}, (256, 192), 68.6, 15.7),
    (hrnet, {"width": 48, "skeleton": "coco"}, (256, 192), 63.6, 14.6),
    (simple_baseline, {"depth": 50}, (256, 256), 34.0, 12.0),
    (simple_baseline, {"depth": 50, "vector_dim": 8}, (256, 256), 34.0, 12.1),
    (hrnet, {"width": 32}, (256, 256), 28.5, 9.5),
]


@pytest.mark.parametrize(("build", "arguments", "size", "parameters", "giga"), PUBLISHED)
def test_counts_are_the_published_ones(build, arguments, size, parameters, giga) -> None:
    with torch.device("meta"):
        network = build(**arguments)
    cost = measure_cost(network, size, deconvolution="output")
    assert cost.parameters == sum(p.numel() for p in network.parameters())
    assert cost.live_parameters == cost.parameters
    assert cost.live_parameters / 1e6 == pytest.approx(parameters, abs=0.06)
    assert cost.macs / GIGA == pytest.approx(giga, abs=0.12)


def test_transposed_convolutions_are_counted_by_input_or_by_output() -> None:
    network = simple_baseline(filters=8)
    by_input, by_output = (measure_cost(network, (64, 96), deconvolution=how) for how in ("input", "output"))
    pixels = [2 * 3, 4 * 6, 8 * 12]
    weights = [16 * 2048 * 8, 16 * 8 * 8, 16 * 8 * 8]
    by_hand = sum(p * w for p, w in zip(pixels, weights, strict=True))
    assert by_input.parts["upsampling"].macs == by_hand
    assert by_output.parts["upsampling"].macs == 4 * by_hand
    for name in ("backbone", "head"):
        assert by_input.parts[name] == by_output.parts[name]


# --- the interface


@pytest.fixture(scope="module")
def networks() -> dict[tuple[str, int], PoseNetwork]:
    torch.manual_seed(0)
    builders = {"simple": simple_baseline, "hrnet": hrnet}
    return {(name, d): build(vector_dim=d) for name, build in builders.items() for d in (1, 8)}


@pytest.mark.parametrize("dim", [1, 8])
@pytest.mark.parametrize("name", ["simple", "hrnet"])
def test_a_baseline_is_a_pose_network_of_one_part(networks, name: str, dim: int) -> None:
    network = networks[name, dim].eval()
    images = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        vectors, maps = network(images, "vectors"), network(images)
    assert vectors.shape == (2, 16, dim, 16, 24)
    squared = vectors.square().sum(2)
    torch.testing.assert_close(maps, vectors[:, :, 0] if dim == 1 else squared / (1 + squared))
    assert network.merged(maps).shape == maps.shape
    assert torch.equal(network.merged(maps), maps)
    assert network.parts.names == ("whole_body",)
    assert network.architecture_parameters() == {}
    assert network.named_fabrics() == {}
    assert len(network.weight_parameters()) == len(list(network.parameters()))


@pytest.mark.parametrize("dim", [1, 8])
@pytest.mark.parametrize("name", ["simple", "hrnet"])
def test_scores_start_low_and_steps_along_the_gradient_lower_the_loss(networks, name, dim) -> None:
    torch.manual_seed(1)
    network = networks[name, dim].train()
    images = torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8)
    network.calibrate(images)
    assert network(images).abs().mean().item() < 0.06
    target = torch.rand(2, 16, 16, 16) ** 8
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)
    losses = []
    for _ in range(4):
        loss = F.mse_loss(network(images), target)
        optimizer.zero_grad()
        loss.backward()
        assert all(p.grad is not None for p in network.parameters())
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


def test_the_pose_network_reads_hrnets_finest_map_alone() -> None:
    with pytest.raises(ValueError, match="needs last_stage=4 and finest_only=true"):
        HRNetPose(backbone=HRNet(32, weights="none"), skeleton="mpii")
