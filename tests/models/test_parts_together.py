"""P fabrics in one network against P networks of one part with the same weights."""

import pytest
import torch
from torch import Tensor

from pnfs.body import PartMode, Skeleton, skeleton_by_name
from pnfs.models import PAPER, POSENFS, FabricRules, NeuralFabrics, PoseFabricNetwork, fabric
from tiny import TinyBackbone, fabric_network, randomise, table_one

DIM = 2


@pytest.fixture(params=[False, True], ids=["together", "in turn"])
def in_turn(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """How parts run in training, whatever would be chosen."""
    monkeypatch.setattr(fabric, "FEW_PIXELS", -1)
    if not request.param:
        monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    return request.param


def part_mode(skeleton: str, count: int) -> PartMode:
    return PartMode(skeleton_by_name(skeleton), table_one(skeleton, count))


def build(mode: PartMode, nodes: int, rules: FabricRules) -> PoseFabricNetwork:
    return fabric_network(
        mode.parts, backbone=TinyBackbone(), skeleton=mode.skeleton, nodes=nodes, rules=rules,
        vector_dim=DIM,
    ).double()  # fmt: skip


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
    mode = part_mode(skeleton, count)
    together = build(mode, nodes, rules)
    randomise(together)
    singles = []
    for part, state in zip(mode.names, shares(together.state_dict(), mode), strict=True):
        joints = tuple(mode.parts[part])
        body = Skeleton(name=part, joints=joints, flip_pairs=())
        singles.append(build(PartMode(body, {part: joints}), nodes, rules))
        singles[-1].load_state_dict({name: tensor.clone() for name, tensor in state.items()})
    images = torch.randn(2, 3, 64, 96).double()
    directions = [torch.randn(2, joints, DIM, 16, 24).double() for joints in mode.joint_counts]
    outputs, networks = [], [*singles, together]
    for network, direction in zip(networks, [*directions, torch.cat(directions, 1)], strict=True):
        # A loss that sees a difference in any output.
        outputs.append(network(images, "vectors"))
        (outputs[-1] * direction).sum().backward()
    torch.testing.assert_close(outputs.pop(), torch.cat(outputs, dim=1))
    gradients = {name: p.grad for name, p in together.named_parameters()}
    assert all(gradient is not None for gradient in gradients.values())
    states = shares(together.state_dict(), mode)
    for single, grads, state in zip(singles, shares(gradients, mode), states, strict=True):
        found = {name: p.grad for name, p in single.named_parameters()}
        for name in found.keys() - {name for name in found if name.startswith("backbone.")}:
            close(grads[name], found[name], f"gradient of {name}")
        # Statistics after the step.
        for name, tensor in single.state_dict().items():
            close(state[name], tensor, name)


def close(ours: Tensor, theirs: Tensor | None, where: str) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-8, msg=lambda m: f"{where}: {m}")


@pytest.mark.parametrize(
    ("count", "batch", "training", "expected"),
    [
        (1, 32, True, False), (3, 2, True, False), (3, 64, True, True), (8, 1, True, True),
        (8, 1, False, False), (8, 4, False, True), (3, 64, False, False),
    ],
)  # fmt: skip
def test_large_batches_run_part_by_part_on_a_cpu(
    count: int, batch: int, training: bool, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    fabrics = NeuralFabrics(part_names=part_mode("mpii", count).names, last_layers=1, channels=1)
    calls = []
    monkeypatch.setattr(fabric, "functional_call", lambda *_: calls.append(1) or {})
    maps = {s: torch.zeros(batch, count * s, 128 // s, 128 // s) for s in (4, 8)}
    with torch.no_grad():
        fabrics.train(training)(maps)
    assert bool(calls) == expected
