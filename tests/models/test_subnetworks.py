"""P fabrics in one module against P separate fabrics with the same weights."""

from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor

from pnfs.body import PartMode, Skeleton, skeleton_by_name
from pnfs.models.fabric import PAPER, REFERENCE, FabricRules
from pnfs.models.lanes import FORMS, Form
from pnfs.models.subnetworks import PartSubnetworks

PYRAMID_CHANNELS = (3, 5, 7, 4)
DIM = 2


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
        for channels, scale in zip(PYRAMID_CHANNELS, (4, 8, 16, 32), strict=True)
    ]


def subnetworks(mode: PartMode, form: Form = "loop", **arguments) -> PartSubnetworks:
    arguments = {"channels": 1, "vector_dim": DIM, **arguments}
    return PartSubnetworks(parts=mode, pyramid_channels=PYRAMID_CHANNELS, form=form, **arguments)


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


def separate(together: PartSubnetworks, mode: PartMode, **arguments) -> list[PartSubnetworks]:
    singles = []
    for part, state in zip(mode.names, shares(together.state_dict(), mode), strict=True):
        single = subnetworks(only(mode, part), **arguments).to(together.head.weight.dtype)
        single.load_state_dict({name: tensor.clone() for name, tensor in state.items()})
        singles.append(single.train(together.training))
    return singles


def step(module: PartSubnetworks, maps: list[Tensor], direction: Tensor) -> Tensor:
    """Forward and backward of a loss that tells all outputs apart."""
    module.zero_grad()
    vectors = module(maps)
    (vectors * direction).sum().backward()
    return vectors.detach()


def assert_same_step(mode: PartMode, rules: FabricRules, nodes: int) -> None:
    together = subnetworks(mode, nodes=nodes, rules=rules).double()
    randomise(together)
    singles = separate(together, mode, nodes=nodes, rules=rules)
    initial = {name: tensor.clone() for name, tensor in together.state_dict().items()}
    maps = pyramid(2)
    directions = [torch.randn(2, count, DIM, 16, 24).double() for count in mode.joint_counts]
    outputs = [step(s, maps, d) for s, d in zip(singles, directions, strict=True)]
    for form in FORMS:
        together.load_state_dict(initial)
        together.form = form
        vectors = step(together, maps, torch.cat(directions, dim=1))
        torch.testing.assert_close(vectors, torch.cat(outputs, dim=1))
        gradients = {name: p.grad for name, p in together.named_parameters()}
        assert all(gradient is not None for gradient in gradients.values())
        for single, expected in zip(singles, shares(gradients, mode), strict=True):
            for name, parameter in single.named_parameters():
                close(expected.pop(name), parameter.grad, f"{form}, gradient of {name}")
            assert not expected
        for single, expected in zip(singles, shares(together.state_dict(), mode), strict=True):
            # Statistics after the step.
            for name, tensor in single.state_dict().items():
                close(expected.pop(name), tensor, f"{form}, {name}")
            assert not expected


def close(ours: Tensor, theirs: Tensor | None, where: str) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-8, msg=lambda m: f"{where}: {m}")


@pytest.mark.parametrize("nodes", [1, 2])
@pytest.mark.parametrize("count", [1, 3, 5, 8])
@pytest.mark.parametrize("skeleton", ["mpii", "coco", "lsp"])
def test_parts_together_are_parts_apart(skeleton: str, count: int, nodes: int) -> None:
    torch.manual_seed(0)
    mode = part_mode(skeleton, count)
    assert len(mode) == count
    assert_same_step(mode, PAPER, nodes)


@pytest.mark.parametrize("count", [3, 8])
def test_parts_together_are_parts_apart_by_the_reference_rules(count: int) -> None:
    torch.manual_seed(0)
    assert_same_step(part_mode("mpii", count), REFERENCE, nodes=2)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("count", [1, 5])
def test_single_precision_agrees_to_five_digits(count: int, form: Form) -> None:
    torch.manual_seed(0)
    mode = part_mode("lsp", count)
    together = subnetworks(mode, form).eval()
    randomise(together)
    maps = pyramid(3, torch.float32)
    with torch.no_grad():
        expected = torch.cat([single(maps) for single in separate(together, mode)], dim=1)
        out = together(maps)
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5 * expected.abs().max().item())


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("count", [1, 3])
def test_channels_last_gives_the_gradients_of_contiguous_memory(count: int, form: Form) -> None:
    torch.manual_seed(0)
    mode = part_mode("mpii", count)
    model = subnetworks(mode, form, nodes=2, channels=4)
    exact = subnetworks(mode, form, nodes=2, channels=4).double()
    exact.load_state_dict(model.state_dict())
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


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("count", [1, 3])
def test_auto_chooses_a_form_and_changes_nothing(count: int, batch: int, training: bool) -> None:
    torch.manual_seed(0)
    model = subnetworks(part_mode("mpii", count), "loop").double().train(training)
    randomise(model)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    maps = pyramid(batch)
    expected = model(maps)
    model.load_state_dict(state)
    model.form = "auto"
    torch.testing.assert_close(model(maps), expected)


@pytest.mark.parametrize("rules", [PAPER, REFERENCE], ids=["paper", "reference"])
@pytest.mark.parametrize("form", FORMS)
def test_adapters_are_a_parts_own_1x1_convolutions(form: Form, rules: FabricRules) -> None:
    model = subnetworks(part_mode("mpii", 3), form, channels=2, rules=rules).double()
    maps = pyramid(2)
    seen = model.adapt(maps, form)
    for x, scale in zip(maps, (4, 8, 16, 32), strict=True):
        adapter = model.adapters[str(scale)]
        everything = torch.einsum("bchw,oc->bohw", x, adapter.weight[:, :, 0, 0])
        everything = everything + adapter.bias.view(-1, 1, 1)
        assert len(seen[scale]) == (3 if form == "loop" else 1)
        assert everything.shape[1] == 3 * 2 * scale
        torch.testing.assert_close(torch.cat(seen[scale], dim=1), everything)


@pytest.mark.parametrize("form", FORMS)
def test_a_pyramid_of_the_fabrics_channels_needs_no_adapters_by_the_reference_rules(
    form: Form,
) -> None:
    model = PartSubnetworks(
        parts=part_mode("mpii", 3),
        pyramid_channels=(4, 8, 16, 32),
        channels=1,
        rules=REFERENCE,
        form=form,
    )
    assert len(model.adapters) == 0
    maps = [torch.randn(1, s, 64 // s, 64 // s) for s in (4, 8, 16, 32)]
    seen = model.adapt(maps, form)
    for x, scale in zip(maps, (4, 8, 16, 32), strict=True):
        assert torch.equal(torch.cat(seen[scale], dim=1), torch.cat([x] * 3, dim=1))
    assert model(maps).shape == (1, 16, 8, 16, 16)


@pytest.mark.parametrize(("kept", "scales"), [(1, "4 8"), (2, "4 8 16"), (3, "4 8 16 32")])
def test_only_the_scales_that_are_read_get_an_adapter(kept: int, scales: str) -> None:
    model = subnetworks(part_mode("mpii", 1), subnetwork_layers=kept)
    assert list(model.adapters) == scales.split()
    assert model(pyramid(1, torch.float32)).shape == (1, 16, DIM, 16, 24)


@pytest.mark.parametrize("kept", [0, 7, -1])
def test_an_impossible_number_of_layers_is_refused(kept: int) -> None:
    with pytest.raises(ValueError, match=f"subnetwork_layers={kept} is not within 1 to 6"):
        subnetworks(part_mode("mpii", 1), subnetwork_layers=kept)


def test_an_unknown_form_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown form 'parallel'; there are auto, loop, grouped"):
        subnetworks(part_mode("mpii", 1), "parallel")  # type: ignore[arg-type]
