"""P fabrics in one network against P networks of one part with the same weights."""

from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor

from pnfs.body import PartMode, Skeleton, skeleton_by_name
from pnfs.models import PAPER, POSENFS, FabricRules, NeuralFabrics
from pnfs.models.head import VectorHead
from pnfs.models.network import Adapters

SCALES = (4, 8, 16, 32)
PYRAMID_CHANNELS = (3, 5, 7, 4)
DIM = 2


class Parts(torch.nn.Module):
    """All of a `PoseFabricNetwork` but the backbone."""

    def __init__(self, mode: PartMode, *, channels: int = 1, **arguments) -> None:
        super().__init__()
        rules = arguments.get("rules", PAPER)
        self.fabrics = NeuralFabrics(
            part_names=mode.names, first_layer=4, channels=channels, **arguments
        )
        where_needed = rules.adapters == "where_needed"
        self.adapters = Adapters(PYRAMID_CHANNELS, channels, self.fabrics.readers, where_needed)
        self.head = VectorHead(4 * channels, mode.joint_counts, DIM)

    def forward(self, pyramid: list[Tensor]) -> Tensor:
        return self.head(self.fabrics(self.adapters(pyramid))[4])


@pytest.fixture(params=[False, True], ids=["together", "in turn"])
def in_turn(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """How parts run, whatever would be chosen."""

    def pays(fabrics: NeuralFabrics, inputs: object) -> bool:
        return request.param and len(fabrics.part_names) > 1

    monkeypatch.setattr(NeuralFabrics, "_in_turn_pays", pays)
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


def randomise(module: torch.nn.Module) -> None:
    for parameter in module.parameters():
        parameter.data.add_(torch.randn_like(parameter) / 2)
    for name, buffer in module.named_buffers():
        buffer.uniform_(0.5, 2) if name.endswith("var") else buffer.normal_()


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


def assert_same_step(mode: PartMode, rules: FabricRules, nodes: int) -> None:
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


def close(ours: Tensor, theirs: Tensor | None, where: str) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-8, msg=lambda m: f"{where}: {m}")


@pytest.mark.usefixtures("in_turn")
@pytest.mark.parametrize("nodes", [1, 2])
@pytest.mark.parametrize(("skeleton", "count"), [("mpii", 1), ("lsp", 3), ("coco", 5), ("mpii", 8)])
def test_parts_together_are_parts_apart(skeleton: str, count: int, nodes: int) -> None:
    torch.manual_seed(0)
    mode = part_mode(skeleton, count)
    assert len(mode) == count
    assert_same_step(mode, PAPER, nodes)


@pytest.mark.usefixtures("in_turn")
@pytest.mark.parametrize("count", [3, 8])
def test_parts_together_are_parts_apart_by_the_reference_rules(count: int) -> None:
    torch.manual_seed(0)
    assert_same_step(part_mode("mpii", count), POSENFS, nodes=2)


@pytest.mark.usefixtures("in_turn")
@pytest.mark.parametrize("count", [1, 5])
def test_single_precision_agrees_to_five_digits(count: int) -> None:
    torch.manual_seed(0)
    mode = part_mode("lsp", count)
    together = Parts(mode).eval()
    randomise(together)
    maps = pyramid(3, torch.float32)
    with torch.no_grad():
        expected = torch.cat([single(maps) for single in separate(together, mode)], dim=1)
        out = together(maps)
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5 * expected.abs().max().item())


@pytest.mark.usefixtures("in_turn")
@pytest.mark.parametrize("count", [1, 3])
def test_channels_last_gives_the_gradients_of_contiguous_memory(count: int) -> None:
    torch.manual_seed(0)
    mode = part_mode("mpii", count)
    model, exact = (Parts(mode, nodes=2, channels=4) for _ in range(2))
    exact.load_state_dict(model.state_dict())
    exact = exact.double()
    model = model.to(memory_format=torch.channels_last)
    maps = pyramid(2, torch.float32)
    direction = torch.randn(2, sum(mode.joint_counts), DIM, 16, 24)
    step(model, [x.contiguous(memory_format=torch.channels_last) for x in maps], direction)
    step(exact, [x.double() for x in maps], direction.double())
    for (name, ours), theirs in zip(model.named_parameters(), exact.parameters(), strict=True):
        assert ours.grad is not None
        assert theirs.grad is not None
        assert ours.grad.isfinite().all(), name
        size = theirs.grad.abs().max().item()
        torch.testing.assert_close(ours.grad.double(), theirs.grad, rtol=0, atol=0.01 * size + 1e-5)


@pytest.mark.parametrize(
    ("count", "batch", "training", "expected"),
    [
        (1, 32, True, False),
        (3, 2, True, False),
        (3, 64, True, True),
        (8, 1, True, True),
        (8, 1, False, False),
        (8, 4, False, True),
        (3, 64, False, False),
    ],
)
def test_large_batches_run_part_by_part_on_a_cpu(
    count: int, batch: int, training: bool, expected: bool
) -> None:
    fabrics = Parts(part_mode("mpii", count)).fabrics.train(training)
    inputs = {4: torch.empty(batch, 4 * count, 32, 32)}
    assert fabrics._in_turn_pays(inputs) is expected
    assert not fabrics._in_turn_pays({4: inputs[4].to("meta")})


def test_parts_may_change_how_they_run_between_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = Parts(part_mode("mpii", 3)).double()
    maps = pyramid(2)
    for training in (True, False):
        outputs = []
        state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        for pays in (True, False):
            model.load_state_dict(state)
            monkeypatch.setattr(NeuralFabrics, "_in_turn_pays", lambda *_, pays=pays: pays)
            outputs.append(model.train(training)(maps))
        torch.testing.assert_close(*outputs)


@pytest.mark.parametrize("rules", [PAPER, POSENFS], ids=["paper", "reference"])
def test_adapters_are_a_parts_own_1x1_convolutions(rules: FabricRules) -> None:
    model = Parts(part_mode("mpii", 3), channels=2, rules=rules).double()
    maps = pyramid(2)
    seen = model.adapters(maps)
    for x, scale in zip(maps, SCALES, strict=True):
        adapter = model.adapters[str(scale)]
        everything = torch.einsum("bchw,oc->bohw", x, adapter.weight[:, :, 0, 0])
        everything = everything + adapter.bias.view(-1, 1, 1)
        assert everything.shape[1] == 3 * 2 * scale
        torch.testing.assert_close(seen[scale], everything)


def test_a_pyramid_of_the_fabrics_channels_needs_no_adapters_by_the_reference_rules() -> None:
    readers = {scale: ["a", "b", "c"] for scale in SCALES}
    adapters = Adapters(SCALES, 1, readers, where_needed=True)
    assert len(adapters) == 0
    maps = [torch.randn(1, s, 64 // s, 64 // s) for s in SCALES]
    seen = adapters(maps)
    for x, scale in zip(maps, SCALES, strict=True):
        assert torch.equal(seen[scale], torch.cat([x] * 3, dim=1))
    assert list(Adapters(SCALES, 1, readers, where_needed=False)) == ["4", "8", "16", "32"]


@pytest.mark.parametrize(("kept", "scales"), [(1, [4, 8]), (2, [4, 8, 16]), (3, [4, 8, 16, 32])])
def test_only_the_scales_that_are_read_get_an_adapter(kept: int, scales: list[int]) -> None:
    fabrics = NeuralFabrics(part_names=("a",), first_layer=7 - kept, channels=1)
    assert fabrics.readers == {scale: ["a"] for scale in scales}
    adapters = Adapters(PYRAMID_CHANNELS, 1, fabrics.readers, where_needed=False)
    assert list(adapters(pyramid(1, torch.float32))) == scales
