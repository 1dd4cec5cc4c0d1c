"""Baselines: published counts, shapes, public checkpoints, and that they learn."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from pnfs.models import PoseNetwork
from pnfs.models.backbones import HRNet, ResNet, TimmBackbone
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
    by_input, by_output = (
        measure_cost(network, (64, 96), deconvolution=how) for how in ("input", "output")
    )
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
    builders = {
        "simple": lambda d: simple_baseline(vector_dim=d),
        "hrnet": lambda d: hrnet(vector_dim=d),
    }
    return {(name, d): build(d) for name, build in builders.items() for d in (1, 8)}


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
    with pytest.raises(ValueError, match="must divide by 32, got 65x64"):
        network(torch.zeros(1, 3, 65, 64))


@pytest.mark.parametrize("name", ["simple", "hrnet"])
def test_scores_start_low(networks, name: str) -> None:
    images = torch.randint(0, 256, (4, 64, 64, 3), dtype=torch.uint8)
    network = networks[name, 8].train()
    network.calibrate(images)
    assert network.training
    with torch.no_grad():
        assert 0.01 < network(images).mean().item() < 0.06
        assert networks[name, 1].train()(images).abs().mean().item() < 0.05


@pytest.mark.parametrize("dim", [1, 8])
@pytest.mark.parametrize("name", ["simple", "hrnet"])
def test_steps_along_the_gradient_lower_the_loss(networks, name: str, dim: int) -> None:
    torch.manual_seed(1)
    network = networks[name, dim].train()
    images = torch.randn(2, 3, 64, 64)
    network.calibrate(images)
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


@pytest.mark.slow
def test_imagenet_weights_of_hrnet_fit_every_use(tmp_path: Path) -> None:
    import timm

    torch.manual_seed(0)
    whole = timm.create_model("hrnet_w32")
    torch.save(whole.state_dict(), tmp_path / "hrnet.pth")
    path = str(tmp_path / "hrnet.pth")
    for arguments in ({}, {"last_stage": 4}, {"last_stage": 4, "finest_only": True}):
        backbone = HRNet(32, weights=path, **arguments)
        for name, value in backbone.network.state_dict().items():
            assert torch.equal(value, whole.state_dict()[name]), name
    assert [name for name, _ in HRNet(32, weights=path).network.stage4.named_parameters()] == []


# --- backbones of timm


@pytest.mark.parametrize("name", ["resnet18", "mobilenetv3_small_100", "vgg11"])
def test_a_timm_model_is_a_pyramid(name: str) -> None:
    backbone = TimmBackbone(name, "none").eval()
    with torch.no_grad():
        maps = backbone(torch.randn(1, 3, 64, 96))
    assert [tuple(x.shape) for x in maps] == [
        (1, channels, 64 // scale, 96 // scale)
        for channels, scale in zip(backbone.channels, (4, 8, 16, 32), strict=True)
    ]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("vit_tiny_patch16_224", "has maps at 1/16"),
        ("efficientnet_bb", "timm has no such model; similar ones are efficientnet_b0"),
    ],
)
def test_a_timm_model_that_is_no_pyramid_is_refused(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TimmBackbone(name, "none")


def test_weights_of_a_timm_model_load_strictly(tmp_path: Path) -> None:
    import timm

    torch.manual_seed(0)
    state = timm.create_model("resnet18").state_dict()
    torch.save(state, tmp_path / "good.pth")
    backbone = TimmBackbone("resnet18", str(tmp_path / "good.pth"))
    for name, value in backbone.network.state_dict().items():
        assert torch.equal(value, state[name]), name
    torch.save({f"other.{k}": v for k, v in state.items()}, tmp_path / "bad.pth")
    with pytest.raises(ValueError, match=r"bad.pth do not fit resnet18.*\n?.*conv1.weight"):
        TimmBackbone("resnet18", str(tmp_path / "bad.pth"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"width": 18}, "width 32 and 48"),
        ({"last_stage": 2}, "must be 3 or 4"),
        ({"finest_only": True}, "needs backbone.last_stage=4"),
    ],
)
def test_hrnets_that_do_not_exist_are_refused(arguments, message) -> None:
    with pytest.raises(ValueError, match=message):
        HRNet(weights="none", **arguments)


def test_a_resnet_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match="depth 50, 101, 152"):
        ResNet(18, "none")  # type: ignore[arg-type]
