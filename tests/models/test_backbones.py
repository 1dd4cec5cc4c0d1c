"""Backbones: features of torchvision and timm, weights from files that may be anything, fabric shapes."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import timm
import torch
from torch import Tensor, nn
from torchvision.models import mobilenet_v2, resnet50

from pnfs.errors import PnfsError
from pnfs.models import POSENFS
from pnfs.models.backbones import Backbone, HRNet, MobileNetV2, ResNet, TimmBackbone, load_weights
from tiny import fabric_backbone, randomise_statistics


@pytest.fixture(scope="module")
def mobilenet() -> nn.Module:
    torch.manual_seed(0)
    model = mobilenet_v2(weights=None).eval()
    randomise_statistics(model)
    return model


BACKBONES: dict[str, Callable[[], Backbone]] = {
    "mobilenet_v2": lambda: MobileNetV2("none"),
    "resnet50": lambda: ResNet(50, "none"),
    "fabric": lambda: fabric_backbone(layers=10, first_layers=7, channels=1, rules=POSENFS),
    "timm, four of five maps": lambda: TimmBackbone("mobilenetv3_small_100", "none"),
    "timm, two maps of a scale": lambda: TimmBackbone("vgg11", "none"),
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


@pytest.mark.parametrize("kind", ["mobilenet", "resnet"])
def test_weights_from_a_file_give_torchvisions_features(kind: str, mobilenet: nn.Module, tmp_path: Path) -> None:
    seen: list[Tensor] = []
    path, images = str(tmp_path / "weights.pth"), torch.randn(2, 3, 64, 64)
    if kind == "mobilenet":
        network, stages = mobilenet, [f"features.{n}" for n in (3, 6, 13, 16)]
    else:
        network, stages = resnet50(weights=None).eval(), [f"layer{n}" for n in (1, 2, 3, 4)]
    for stage in stages:
        hook = lambda _, __, out: seen.append(out)  # noqa: E731
        network.get_submodule(stage).register_forward_hook(hook)
    torch.save(network.state_dict(), path)
    backbone = (MobileNetV2(path) if kind == "mobilenet" else ResNet(50, path)).eval()
    with torch.no_grad():
        network(images)
        for ours, theirs in zip(backbone(images), seen, strict=True):
            torch.testing.assert_close(ours, theirs)
    # Nothing is built that the pyramid never reads.
    sum(x.sum() for x in backbone.train()(images)).backward()
    assert all(parameter.grad is not None for parameter in backbone.parameters())


@pytest.mark.slow
@pytest.mark.parametrize(("width", "name"), [(16, "hrnet_w18_small"), (32, "hrnet_w32")])
def test_imagenet_weights_of_hrnet_fit_every_use(tmp_path: Path, width: Any, name: str) -> None:
    path, state = str(tmp_path / "hrnet.pth"), timm.create_model(name).state_dict()
    torch.save(state, path)
    for arguments in ({}, {"last_stage": 4}, {"last_stage": 4, "finest_only": True}):
        backbone = HRNet(width, weights=path, **arguments)
        for key, value in backbone.network.state_dict().items():
            assert torch.equal(value, state[key]), key
    assert [key for key, _ in HRNet(width, weights=path).network.stage4.named_parameters()] == []


def test_weights_of_a_timm_model_load_strictly(tmp_path: Path) -> None:
    state = timm.create_model("resnet18").state_dict()
    torch.save(state, tmp_path / "good.pth")
    backbone = TimmBackbone("resnet18", str(tmp_path / "good.pth"))
    for name, value in backbone.network.state_dict().items():
        assert torch.equal(value, state[name]), name


NO_WEIGHTS = {"list": [torch.zeros(1)], "nothing": {}, "held": {"state_dict": {"epoch": 3}}}


@pytest.mark.parametrize("name", ["absent.pth", "text", *NO_WEIGHTS])
def test_a_file_without_weights_is_named(tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    if name == "text":
        file.write_text("no checkpoint")
    elif name in NO_WEIGHTS:
        torch.save(NO_WEIGHTS[name], file)
    with pytest.raises(PnfsError, match=rf"backbone\.weights: .*{re.escape(str(file))} is (no|not a) "):
        MobileNetV2(str(file))


def test_weights_that_do_not_fit_are_named(tmp_path: Path, mobilenet: nn.Module) -> None:
    state = mobilenet.state_dict()
    for change, named in (
        ({"features.5.conv.0.0.weight": None}, "Missing.*features.5.conv.0.0.weight"),
        ({"stranger": torch.zeros(1)}, "Unexpected.*stranger"),
        ({"features.0.0.weight": torch.zeros(2)}, "mismatch for features.0.0.weight"),
    ):
        torch.save({k: v for k, v in {**state, **change}.items() if v is not None}, tmp_path / "unfit.pth")
        with pytest.raises(PnfsError, match=rf"unfit.pth of MobileNetV2 do not fit.*{named}"):
            MobileNetV2(str(tmp_path / "unfit.pth"))


def test_a_failed_download_says_what_to_do() -> None:
    def download() -> dict[str, Tensor]:
        raise URLError("no route")

    with pytest.raises(PnfsError, match=r"Net-9 could not .*no route.*backbone\.weights=none"):
        load_weights(nn.Identity(), "imagenet", download, "Net-9")


@pytest.mark.parametrize(
    ("build", "named"),
    [
        (lambda: fabric_backbone(channels=1, first_layers=1), "layer 1 of 4"),
        (lambda: fabric_backbone(channels=1, first_layers=4, layers=6), "layer 4 of 6"),
        (lambda: TimmBackbone("vit_tiny_patch16_224", "none"), "strides"),
        (lambda: TimmBackbone("efficientnet_bb", "none"), "no such model.*efficientnet_b0"),
        (lambda: HRNet(18, weights="none"), "width"),  # type: ignore[arg-type]
        (lambda: HRNet(weights="none", last_stage=2), "last_stage"),  # type: ignore[arg-type]
        (lambda: HRNet(weights="none", finest_only=True), "last_stage=4"),
        (lambda: ResNet(18, "none"), "depth"),  # type: ignore[arg-type]
    ],
)
def test_a_pyramid_that_there_is_not_is_refused(build: Callable[[], Backbone], named: str) -> None:
    with pytest.raises(PnfsError, match=named):
        build()
