"""P fabrics in one network against P networks of one part with the same weights."""

from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from small import randomise
from torch import Tensor

from pnfs.body import PartMode, Skeleton, skeleton_by_name
from pnfs.models import PAPER, POSENFS, FabricRules, NeuralFabrics, fabric
from pnfs.models.head import VectorHead
from pnfs.models.layers import PartConv2d

SCALES = (4, 8, 16, 32)
PYRAMID_CHANNELS = (3, 5, 7, 4)
DIM = 2


class Parts(torch.nn.Module):
    """All of a `PoseFabricNetwork` but the backbone."""

    def __init__(self, mode: PartMode, *, channels: int = 1, **arguments) -> None:
        super().__init__()
        self.fabrics = NeuralFabrics(
            part_names=mode.names, last_layers=3, channels=channels, **arguments
        )
        self.adapters = torch.nn.ModuleDict(
            {
                str(s): PartConv2d(1, have, len(mode) * channels * s, 1, bias=True)
                for s, have in zip(SCALES, PYRAMID_CHANNELS, strict=True)
            }
        )
        self.head = VectorHead(4 * channels, mode.joint_counts, DIM)

    def forward(self, pyramid: list[Tensor]) -> Tensor:
        maps = {s: self.adapters[str(s)](x) for s, x in zip(SCALES, pyramid, strict=True)}
        return self.head(self.fabrics(maps)[4], vectors=True)


@pytest.fixture(params=[False, True], ids=["together", "in turn"])
def in_turn(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """How parts run in training, whatever would be chosen."""
    monkeypatch.setattr(fabric, "FEW_PIXELS", -1)
    if not request.param:
        monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    return request.param


def part_mode(skeleton: str, count: int) -> PartMode:
    folder = Path(__file__).parents[2] / "conf" / "parts"
    parts = OmegaConf.to_container(OmegaConf.load(folder / f"p{count}.yaml"))
    return PartMode(skeleton_by_name(skeleton), parts[skeleton])


def only(mode: PartMode, part: str) -> PartMode:
    """A mode of one part on a body that has no other joints."""
    joints = tuple(mode.parts[part])
    body = Skeleton(name=part, joints=joints, flip_pairs=(), limbs=(), groups={})
    return PartMode(body, {part: joints})


def pyramid(batch: int, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    return [
        torch.randn(batch, channels, 64 // scale, 96 // scale).to(dtype)
        for channels, scale in zip(PYRAMID_CHANNELS, SCALES, strict=True)
    ]


def shares(named: dict[str, Tensor], mode: PartMode) -> list[dict[str, Tensor]]:
    """The tensors of a module of P parts as those of P modules of one part."""
    outputs = [count * DIM for count in mode.joint_counts]
    per_part: list[dict[str, Tensor]] = [{} for _ in mode.names]
    for name, tensor in named.items():
        if ".alpha." in name or ".beta." in name:
            per_part[mode.names.index(name.rsplit(".", 1)[1])][name] = tensor
            continue
        pieces = tensor.split(outputs) if name.startswith("head.") else tensor.chunk(len(mode))
        for part, piece in zip(per_part, pieces, strict=True):
            part[name] = piece
    return per_part


def separate(together: Parts, mode: PartMode, **arguments) -> list[Parts]:
    singles = []
    for part, state in zip(mode.names, shares(together.state_dict(), mode), strict=True):
        single = Parts(only(mode, part), **arguments).to(together.head.weight.dtype)
        single.load_state_dict({name: tensor.clone() for name, tensor in state.items()})
        singles.append(single.train(together.training))
    return singles


def step(module: Parts, maps: list[Tensor], direction: Tensor) -> Tensor:
    """Forward and backward of a loss that tells all outputs apart."""
    module.zero_grad()
    vectors = module(maps)
    (vectors * direction).sum().backward()
    return vectors.detach()


def close(ours: Tensor, theirs: Tensor | None, where: str) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-8, msg=lambda m: f"{where}: {m}")


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
    together = Parts(mode, nodes=nodes, rules=rules).double()
    randomise(together)
    singles = separate(together, mode, nodes=nodes, rules=rules)
    maps = pyramid(2)
    directions = [torch.randn(2, count, DIM, 16, 24).double() for count in mode.joint_counts]
    outputs = [step(s, maps, d) for s, d in zip(singles, directions, strict=True)]
    vectors = step(together, maps, torch.cat(directions, dim=1))
    torch.testing.assert_close(vectors, torch.cat(outputs, dim=1))
    gradients = {name: p.grad for name, p in together.named_parameters()}
    assert all(gradient is not None for gradient in gradients.values())
    for single, expected in zip(singles, shares(gradients, mode), strict=True):
        for name, parameter in single.named_parameters():
            close(expected.pop(name), parameter.grad, f"gradient of {name}")
        assert not expected
    for single, expected in zip(singles, shares(together.state_dict(), mode), strict=True):
        # Statistics after the step.
        for name, tensor in single.state_dict().items():
            close(expected.pop(name), tensor, name)
        assert not expected


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
