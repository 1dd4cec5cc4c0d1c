"""The whole model: maps a joint, parameters by kind, refusals."""

import copy

import pytest
import torch

from pnfs.body import MPII, skeleton_by_name
from pnfs.errors import PnfsError
from pnfs.models import POSENFS, PoseFabricNetwork
from tiny import TinyBackbone, fabric_backbone, fabric_network, table_one


def network(skeleton: str = "mpii", count: int = 3, **arguments) -> PoseFabricNetwork:
    arguments = {"backbone": TinyBackbone(), "channels": 1, "vector_dim": 2, **arguments}
    parts = arguments.pop("parts", None) or table_one(skeleton, count)
    return fabric_network(skeleton=skeleton, parts=parts, **arguments)


@pytest.mark.parametrize("overlap", ["sum", "mean"])
@pytest.mark.parametrize("skeleton", ["mpii", "coco", "lsp"])
def test_a_joint_of_several_parts_gets_the_sum_or_mean_of_its_maps(skeleton, overlap) -> None:
    model = network(skeleton, 8, overlap=overlap)
    parts, joints = table_one(skeleton, 8), skeleton_by_name(skeleton).joints
    rows = [joint for names in parts.values() for joint in names]
    part_maps = torch.randn(2, len(rows), 3, 5).double()
    expected = torch.zeros(2, len(joints), 3, 5).double()
    for row, joint in enumerate(rows):
        share = rows.count(joint) if overlap == "mean" else 1
        expected[:, joints.index(joint)] += part_maps[:, row] / share
    torch.testing.assert_close(model.merged(part_maps), expected)
    # Shoulders, elbows and knees belong to two parts.
    assert len(rows) - len(joints) == 6


@pytest.mark.parametrize("on_fabric", [False, True])
def test_every_parameter_is_either_architecture_or_weight(on_fabric: bool) -> None:
    model = network(count=8, nodes=2, backbone=fabric_backbone() if on_fabric else TinyBackbone())
    architecture = {id(p) for p in model.architecture_parameters().values()}
    weights = [id(p) for p in model.weight_parameters()]
    assert len(set(weights)) == len(weights)
    assert not architecture & set(weights)
    assert architecture | set(weights) == {id(p) for p in model.parameters()}
    by_name = {id(p) for n, p in model.named_parameters() if ".alpha." in n or ".beta." in n}
    assert architecture == by_name
    assert ("backbone/alpha" in model.architecture_parameters()) == on_fabric
    model(torch.randn(2, 3, 64, 64)).square().sum().backward()
    without = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []


@pytest.mark.parametrize("count", [3, pytest.param(8, marks=pytest.mark.slow)])
def test_a_compiled_training_step_is_one_graph_and_the_same_step(count) -> None:
    """Without the code generator, which needs a C++ compiler: what is traced is what matters here."""
    torch.manual_seed(0)
    model = network(count=count, last_layers=2).double().train()
    with torch.no_grad():
        for parameter in model.architecture_parameters().values():
            parameter.normal_()
    other = copy.deepcopy(model)
    compiled = torch.compile(other.forward, backend="aot_eager", fullgraph=True, dynamic=False)
    images = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    outputs = [model(images), compiled(images)]
    torch.testing.assert_close(outputs[1], outputs[0])
    for output in outputs:
        output.square().sum().backward()
    gradients = dict(other.named_parameters())
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(gradients[name].grad, parameter.grad)
    for name, buffer in model.named_buffers():
        torch.testing.assert_close(dict(other.named_buffers())[name], buffer)


@pytest.mark.parametrize("training", [True, False])
def test_calibration_keeps_the_mode_and_the_architecture(training: bool) -> None:
    torch.manual_seed(0)
    model = network().train(training)
    images = torch.randn(4, 3, 64, 64)
    before = {name: p.clone() for name, p in model.named_parameters()}
    model.calibrate(images)
    assert model.training is training
    assert all(module.training is training for module in model.modules())
    changed = [name for name, p in model.named_parameters() if not torch.equal(p, before[name])]
    assert changed == ["head.weight"]
    with torch.no_grad():
        assert 0.01 < model.train()(images).mean().item() < 0.06


@pytest.mark.parametrize("order", ["rgb", "bgr"])
def test_crops_are_scaled_by_imagenets_statistics(order: str) -> None:
    """Colours are exchanged before they are normalised."""
    model = network(channel_order=order).eval()
    images = torch.randint(0, 256, (2, 32, 64, 3), dtype=torch.uint8)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    ordered = images.flip(-1) if order == "bgr" else images
    expected = ((ordered / 255 - mean) / std).permute(0, 3, 1, 2)
    torch.testing.assert_close(model(images), model(expected))
    torch.testing.assert_close(model.heatmaps(images), model.merged(model(expected)))
    assert not [name for name in model.state_dict() if "pixel" in name]


def test_a_pyramid_of_the_fabrics_channels_needs_no_adapters_in_one_variant() -> None:
    assert list(network(backbone=fabric_backbone()).adapters) == ["4", "8", "16", "32"]
    assert list(network(backbone=fabric_backbone(), last_layers=1).adapters) == ["4", "8"]
    model = network(backbone=fabric_backbone(rules=POSENFS), rules=POSENFS).eval()
    assert list(model.adapters) == []
    images = torch.randn(1, 3, 64, 64)
    maps = [x.repeat(1, 3, 1, 1) for x in model.backbone(images)]
    expected = model.fabrics(dict(zip((4, 8, 16, 32), maps, strict=True)))[4]
    torch.testing.assert_close(model(images, "features"), expected)


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"overlap": "max"}, r"model\.overlap"),
        ({"channel_order": "gbr"}, r"model\.channel_order"),
        ({"skeleton": "dog", "parts": {"whole": ["nose"]}}, "dog"),
        ({"parts": {"head": ["head_top"]}}, "in no part: upper_neck"),
        ({"parts": {"backbone": MPII.joints}}, "'backbone'"),
        ({"first_layers": 5}, "model.fabrics"),
    ],
)
def test_a_wrong_choice_is_named(wrong: dict, named: str) -> None:
    with pytest.raises(PnfsError, match=named):
        network(**wrong)
    with pytest.raises(PnfsError, match="divide by 32, got 65x64"):
        network()(torch.zeros(1, 3, 65, 64))
