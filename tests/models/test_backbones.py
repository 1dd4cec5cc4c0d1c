"""Backbones: torchvision's features, weights from files that may be anything, fabric shapes."""

import pickle
from collections.abc import Callable
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import mobilenet_v2, resnet50

from pnfs.models.backbones import Backbone, MobileNetV2, ResNet
from pnfs.models.backbones.pyramid import read_weights
from pnfs.models.connect import PAPER, POSENFS, FabricRules
from pnfs.models.wiring import KeptCell
from tiny import fabric_backbone


def randomise_statistics(module: nn.Module) -> None:
    for name, buffer in module.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_(std=0.1)
        elif name.endswith("running_var"):
            buffer.uniform_(0.5, 1.5)


@pytest.fixture(scope="module")
def mobilenet() -> nn.Module:
    torch.manual_seed(0)
    model = mobilenet_v2(weights=None).eval()
    randomise_statistics(model)
    return model


@pytest.fixture(scope="module")
def mobilenet_file(mobilenet: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "mobilenet.pth"
    torch.save(mobilenet.state_dict(), path)
    return path


BACKBONES: dict[str, Callable[[], Backbone]] = {
    "mobilenet_v2": lambda: MobileNetV2("none"),
    "resnet50": lambda: ResNet(50, "none"),
    "fabric": lambda: fabric_backbone(channels=1),
    "fabric, m=3": lambda: fabric_backbone(first_layers=3, channels=1, nodes=2),
    "fabric of ten layers": lambda: fabric_backbone(layers=10, first_layers=7, channels=1),
    "fabric, reference": lambda: fabric_backbone(channels=1, rules=POSENFS),
}


@pytest.mark.parametrize("build", BACKBONES.values(), ids=BACKBONES.keys())
def test_a_pyramid_has_four_scales_of_the_stated_channels(build: Callable[[], Backbone]) -> None:
    backbone = build().eval()
    with torch.no_grad():
        pyramid = backbone(torch.randn(2, 3, 64, 96))
    assert [tuple(x.shape) for x in pyramid] == [
        (2, channels, 64 // scale, 96 // scale)
        for channels, scale in zip(backbone.channels, (4, 8, 16, 32), strict=True)
    ]


def test_weights_from_a_file_give_torchvisions_features(
    mobilenet: nn.Module, mobilenet_file: Path
) -> None:
    backbone = MobileNetV2(str(mobilenet_file)).eval()
    images = torch.randn(2, 3, 64, 64)
    expected = []
    with torch.no_grad():
        pyramid = backbone(images)
        x = images
        for index, block in enumerate(mobilenet.features[:17]):
            x = block(x)
            if index in (3, 6, 13, 16):
                expected.append(x)
    assert [x.shape[1] for x in expected] == [24, 32, 96, 160]
    for ours, theirs in zip(pyramid, expected, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_nothing_is_built_that_the_pyramid_never_reads() -> None:
    backbone = MobileNetV2("none")
    sum(x.sum() for x in backbone(torch.randn(2, 3, 64, 64))).backward()
    assert all(parameter.grad is not None for parameter in backbone.parameters())


def test_resnet_features_are_torchvisions_stages(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = resnet50(weights=None).eval()
    randomise_statistics(network)
    torch.save(network.state_dict(), tmp_path / "resnet.pth")
    backbone = ResNet(50, str(tmp_path / "resnet.pth")).eval()
    images = torch.randn(1, 3, 32, 64)
    seen: list[Tensor] = []
    for stage in (network.layer1, network.layer2, network.layer3, network.layer4):
        stage.register_forward_hook(lambda _, __, out: seen.append(out))
    with torch.no_grad():
        network(images)
        pyramid = backbone(images)
    for ours, theirs in zip(pyramid, seen, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("name", ["weights.pth", ".", "imagenet_v2"])
def test_a_file_that_is_not_there_is_named(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    with pytest.raises(ValueError, match=r"weights: .* is not a file; give imagenet") as caught:
        MobileNetV2(str(path))
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"\x80\x02garbage", b"PK\x03\x04"])
def test_garbage_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "garbage.pth"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"garbage.pth is not a readable state dict"):
        MobileNetV2(str(path))


def test_a_truncated_file_is_refused_by_name(tmp_path: Path, mobilenet_file: Path) -> None:
    path = tmp_path / "half.pth"
    content = mobilenet_file.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"half.pth is not a readable state dict"):
        MobileNetV2(str(path))


class Trap:
    """Unpickling it writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.write_text, (self.path, "executed"))


@pytest.mark.parametrize("writer", ["torch", "pickle"])
def test_a_stranger_cannot_run_code(tmp_path: Path, writer: str) -> None:
    path, trace = tmp_path / "trap.pth", tmp_path / "trace"
    content = {"features.0.0.weight": torch.zeros(1), "trap": Trap(trace)}
    if writer == "torch":
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content, protocol=2))
    with pytest.raises(ValueError, match=r"trap.pth is not a readable state dict"):
        MobileNetV2(str(path))
    assert not trace.exists()
    # The trap works where it is let out.
    torch.load(path, weights_only=False) if writer == "torch" else pickle.loads(path.read_bytes())
    assert trace.exists()


@pytest.mark.parametrize(
    "content", [[torch.zeros(1)], {}, {"state_dict": {"epoch": 3}}, {"epoch": 3}, 7]
)
def test_something_else_than_a_state_dict_is_refused(tmp_path: Path, content) -> None:
    path = tmp_path / "other.pth"
    torch.save(content, path)
    with pytest.raises(ValueError, match=r"other.pth is not a state dict of tensors"):
        MobileNetV2(str(path))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda state: state.pop("features.5.conv.0.0.weight"), "features.5.conv.0.0.weight"),
        (lambda state: state.update(stranger=torch.zeros(1)), "stranger"),
        (
            lambda state: state.update({"features.0.0.weight": torch.zeros(2, 3, 3, 3)}),
            "features.0.0.weight",
        ),
    ],
    ids=["missing", "unknown", "shape"],
)
def test_weights_that_do_not_fit_are_named(
    tmp_path: Path, mobilenet: nn.Module, change: Callable[[dict], object], named: str
) -> None:
    state = dict(mobilenet.state_dict())
    change(state)
    path = tmp_path / "unfit.pth"
    torch.save(state, path)
    with pytest.raises(ValueError, match=r"unfit.pth do not fit") as caught:
        MobileNetV2(str(path))
    assert named in str(caught.value)


def test_a_state_dict_of_another_network_is_refused(mobilenet_file: Path) -> None:
    with pytest.raises(ValueError, match=r"mobilenet.pth do not fit"):
        ResNet(50, str(mobilenet_file))


@pytest.mark.parametrize("error", [URLError("no route"), OSError("reset"), RuntimeError("hash")])
def test_a_failed_download_says_what_to_do(error: Exception) -> None:
    def download() -> dict[str, Tensor]:
        raise error

    with pytest.raises(ValueError, match="Net-9 could not be downloaded") as caught:
        read_weights("imagenet", download, "Net-9")
    assert "backbone.weights=none" in str(caught.value)
    assert str(error) in str(caught.value)


def test_imagenet_and_none_mean_the_download_and_nothing() -> None:
    state = {"a": torch.zeros(1)}
    assert read_weights("imagenet", lambda: state, "Net") is state
    assert read_weights("none", lambda: state, "Net") is None


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"first_layers": 2}, r"layer 2 of 5 has only the scales 1/4, 1/8, 1/16"),
        ({"first_layers": 1}, r"layer 1 of 4 has only the scales 1/4, 1/8;"),
        ({"first_layers": 4, "layers": 6}, r"layer 4 of 6 has only the scales 1/4, 1/8, 1/16;"),
        ({"first_layers": 6, "layers": 6}, r"layer 6 of 6 has only the scales 1/4;"),
        ({"first_layers": 7, "layers": 6}, "layers 1 to 7 are not a range within 1 to 6"),
        ({"first_layers": 0}, "layers 1 to 0 are not a range"),
    ],
)
def test_a_fabric_that_gives_no_pyramid_is_refused(arguments: dict, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        fabric_backbone(channels=1, **arguments)


@pytest.mark.parametrize("rules", [PAPER, POSENFS], ids=["paper", "reference"])
def test_the_stem_is_two_stride_two_convolutions(rules: FabricRules) -> None:
    backbone = fabric_backbone(first_layers=3, channels=2, rules=rules).eval()
    randomise_statistics(backbone)
    stem = backbone.stem
    layers = [stem.conv1, stem.norm1, stem.conv2, stem.norm2, nn.ReLU(), stem.project]
    if rules is PAPER:
        layers.insert(2, nn.ReLU())
    images = torch.randn(1, 3, 64, 32)
    out = stem(images)
    assert out.shape == (1, 8, 16, 8)
    torch.testing.assert_close(out, nn.Sequential(*layers)(images))
    # The pyramid is what the fabric makes of the stem's map alone.
    maps = backbone.fabrics({4: out})
    for ours, scale in zip(backbone(images), (4, 8, 16, 32), strict=True):
        torch.testing.assert_close(ours, maps[scale])


def test_a_derived_backbone_may_lack_scales_that_nobody_reads() -> None:
    left = KeptCell(("same",), [["skip"]])
    kept = {"backbone": {f"layer{layer}_scale4": left for layer in (1, 2, 3)}}
    backbone = fabric_backbone(first_layers=3, channels=1, kept=kept).eval()
    pyramid = backbone(torch.randn(1, 3, 64, 64))
    assert pyramid[0].shape == (1, 4, 16, 16)


def test_an_unfinished_backbone_says_so() -> None:
    class Unfinished(Backbone):
        pass

    with pytest.raises(NotImplementedError, match="Unfinished defines no forward"):
        Unfinished()(torch.zeros(1))
