"""The whole model: maps a joint, parameters by kind, refusals; P fabrics in one against P networks of one part."""

import copy
from functools import partial

import pytest
import torch
from torch import Tensor

from pnfs.body import MPII, PartMode, Skeleton, skeleton_by_name
from pnfs.errors import PnfsError
from pnfs.models import PAPER, POSENFS, FabricRules, PoseFabricNetwork, fabric
from tiny import TinyBackbone, fabric_backbone, fabric_network, randomise, table_one


def network(skeleton: str = "mpii", count: int = 3, **arguments) -> PoseFabricNetwork:
    arguments = {"backbone": TinyBackbone(), "channels": 1, "vector_dim": 2, **arguments}
    parts = arguments.pop("parts", None) or table_one(skeleton, count)
    return fabric_network(skeleton=skeleton, parts=parts, **arguments)


@pytest.mark.parametrize(("skeleton", "overlap"), [("mpii", "sum"), ("coco", "mean")])
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
    assert sorted([*architecture, *weights]) == sorted(id(p) for p in model.parameters())
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


# --- parts together, or one after the other

DIM = 2


@pytest.fixture(params=[False, True], ids=["together", "in turn"])
def in_turn(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """How parts run in training, whatever would be chosen."""
    monkeypatch.setattr(fabric, "FEW_PIXELS", -1)
    if not request.param:
        monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    return request.param


def shares(named: dict[str, Tensor], mode: PartMode) -> list[dict[str, Tensor]]:
    """The tensors of a network of P parts as those of P networks of one part."""
    outputs = [count * DIM for count in mode.joint_counts]
    per_part: list[dict[str, Tensor]] = [{} for _ in mode.names]
    for name, tensor in named.items():
        if ".alpha." in name or ".beta." in name:
            per_part[mode.names.index(name.rsplit(".", 1)[1])][name] = tensor
            continue
        pieces = tensor.split(outputs) if name.startswith("head.") else tensor.chunk(len(mode))
        if name.startswith("backbone."):
            pieces = [tensor] * len(mode)
        for part, piece in zip(per_part, pieces, strict=True):
            part[name] = piece
    return per_part


@pytest.mark.usefixtures("in_turn")
@pytest.mark.parametrize(
    ("skeleton", "count", "nodes", "rules"),
    [
        ("mpii", 1, 2, PAPER), ("lsp", 3, 1, PAPER), ("coco", 5, 2, PAPER), ("mpii", 8, 1, PAPER),
        ("mpii", 3, 2, POSENFS),
    ],
)  # fmt: skip
def test_parts_together_are_parts_apart(skeleton, count, nodes, rules: FabricRules) -> None:
    torch.manual_seed(0)
    mode = PartMode(skeleton_by_name(skeleton), table_one(skeleton, count))
    build = partial(network, nodes=nodes, rules=rules, vector_dim=DIM)
    together = build(mode.skeleton, parts=mode.parts).double()
    randomise(together)
    singles = []
    for part, state in zip(mode.names, shares(together.state_dict(), mode), strict=True):
        joints = tuple(mode.parts[part])
        body = Skeleton(name=part, joints=joints, flip_pairs=())
        singles.append(build(body, parts={part: joints}).double())
        singles[-1].load_state_dict({name: tensor.clone() for name, tensor in state.items()})
    images = torch.randn(2, 3, 64, 96).double()
    directions = [torch.randn(2, joints, DIM, 16, 24).double() for joints in mode.joint_counts]
    outputs, models = [], [*singles, together]
    for model, direction in zip(models, [*directions, torch.cat(directions, 1)], strict=True):
        # A loss that sees a difference in any output.
        outputs.append(model(images, "vectors"))
        (outputs[-1] * direction).sum().backward()
    torch.testing.assert_close(outputs.pop(), torch.cat(outputs, dim=1))
    gradients = {name: p.grad for name, p in together.named_parameters()}
    assert all(gradient is not None for gradient in gradients.values())
    states = shares(together.state_dict(), mode)
    for single, grads, state in zip(singles, shares(gradients, mode), states, strict=True):
        own = {n: p.grad for n, p in single.named_parameters() if not n.startswith("backbone.")}
        # Gradients, and statistics after the step.
        close = {"rtol": 1e-5, "atol": 1e-8}
        torch.testing.assert_close({n: grads[n] for n in own}, own, **close)
        torch.testing.assert_close(state, dict(single.state_dict()), **close)
