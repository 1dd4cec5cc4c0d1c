"""Folded networks against the networks they come from."""

import itertools
import math
from collections.abc import Mapping
from functools import partial

import pytest
import torch
from torch import nn
from torchvision.models import resnet18

from pnfs.body import MPII
from pnfs.models import PAPER, REFERENCE, FabricRules, PoseFabricNetwork
from pnfs.models.backbones import FabricBackbone, MobileNetV2
from pnfs.models.cost import measure_cost
from pnfs.models.fabric import KeptCell
from pnfs.models.folding import fold_batch_norms, fuse
from pnfs.models.lanes import Form, Lanes
from pnfs.models.operations import SUBNETWORK_OPERATIONS, Operation, SeparableConv

JOINTS = MPII.joints
# The second and the third part share a joint, so that maps have to be summed.
PARTS: Mapping[int, dict[str, tuple[str, ...]]] = {
    1: {"whole": JOINTS},
    3: {"head": JOINTS[:3], "upper": JOINTS[3:9], "lower": JOINTS[8:]},
}


def build(
    parts: int = 3,
    rules: FabricRules = PAPER,
    fabric_backbone: bool = False,
    channels: int = 2,
    **options: object,
) -> PoseFabricNetwork:
    backbone = (
        FabricBackbone(backbone_layers=3, channels=channels, rules=rules)
        if fabric_backbone
        else MobileNetV2("none")
    )
    return PoseFabricNetwork(
        backbone=backbone,
        skeleton="mpii",
        parts=PARTS[parts],
        channels=channels,
        rules=rules,
        **options,  # type: ignore[arg-type]
    )


def scramble(network: PoseFabricNetwork, seed: int) -> PoseFabricNetwork:
    """Random weights, statistics and logits, a third of the logits minus infinity."""
    torch.manual_seed(seed)
    architecture = network.architecture_parameters().values()
    for name, buffer in network.named_buffers():
        if name.endswith("running_var"):
            buffer.uniform_(0.5, 1.5)
        elif name.endswith("running_mean"):
            buffer.normal_(0, 0.3)
    for parameter in network.weight_parameters():
        if parameter.dim() == 1:
            # Negative scales of batch norms too.
            parameter.data.normal_(0.1, 0.5)
    for parameter in architecture:
        nn.init.normal_(parameter)
        drop = torch.rand_like(parameter) < 0.35
        drop[..., int(torch.randint(parameter.shape[-1], ()))] = False
        parameter.data[drop] = -math.inf
    return network.eval()


def assert_equal_outputs(network: PoseFabricNetwork, folded: nn.Module) -> None:
    images = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        expected, found = network(images), folded(images)
        assert expected.std() > 1e-3  # Maps that are flat would prove nothing.
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(
            folded.joint_maps(found),  # type: ignore[operator]
            network.joint_maps(expected),
            rtol=1e-4,
            atol=1e-4,
        )


@pytest.mark.parametrize("rules", [PAPER, REFERENCE], ids=["paper", "reference"])
@pytest.mark.parametrize("fabric_backbone", [False, True], ids=["mobilenet", "fabric"])
@pytest.mark.parametrize(("nodes", "vector_dim"), [(1, 8), (2, 1)])
def test_a_folded_network_is_equal(
    rules: FabricRules, fabric_backbone: bool, nodes: int, vector_dim: int
) -> None:
    network = build(
        rules=rules, fabric_backbone=fabric_backbone, nodes=nodes, vector_dim=vector_dim
    )
    for seed, layout in itertools.product((0, 1), ("grouped", "separate")):
        scramble(network, seed)
        assert_equal_outputs(network, fuse(network, layout))


@pytest.mark.parametrize("layout", ["grouped", "separate"])
def test_connections_read_a_narrower_backbone_directly(layout: str) -> None:
    # C=7 is wider than MobileNet-V2's maps, and an adapter's bias meets the zero padding of a stride-2
    # convolution.
    network = scramble(build(parts=1, channels=7), seed=3)
    assert_equal_outputs(network, fuse(network, layout))  # type: ignore[arg-type]


def test_options_of_the_network() -> None:
    for options in ({"alpha_per_cell": True}, {"overlap": "mean"}):
        network = scramble(build(**options), seed=1)  # type: ignore[arg-type]
        assert_equal_outputs(network, fuse(network))


def test_weights_that_are_nearly_nothing() -> None:
    network = scramble(build(), seed=0)
    for parameter in network.architecture_parameters().values():
        parameter.data = parameter.data.clamp(min=-1)
        parameter.data[..., 1] = -60.0  # Skip, and the same-scale input: e^-60 in single precision.
    assert_equal_outputs(network, fuse(network))


def test_every_candidate_is_the_zero_operation() -> None:
    network = scramble(build(), seed=0)
    for part in network.parts.names:
        alpha = network.subnetworks.fabrics.alpha[part]
        alpha.data.fill_(-math.inf)
        alpha.data[..., 0] = 0
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(fuse(network)(images), network(images), rtol=1e-4, atol=1e-4)


def test_a_derived_network_is_folded_part_by_part() -> None:
    skip_only = KeptCell(inputs=("same",), edges=(("skip",),))
    both = KeptCell(inputs=("finer", "same", "coarser"), edges=(("skip", "sep_conv_3x3"),))
    kept = {
        "head": {"layer4_scale4": skip_only, "layer5_scale4": skip_only, "layer6_scale4": both},
        "upper": {"layer4_scale4": both, "layer5_scale4": both, "layer6_scale4": skip_only},
        "lower": {"layer4_scale4": both, "layer5_scale4": skip_only, "layer6_scale4": skip_only},
    }
    # Only inputs that exist: a cell whose coarser neighbour is gone must not read it.
    for cells, names in ((kept["head"], ["layer6_scale4"]), (kept["upper"], ["layer5_scale4"])):
        for name in names:
            cells[name] = KeptCell(inputs=("finer", "same"), edges=(("skip", "sep_conv_3x3"),))
    network = build(kept=kept)
    torch.manual_seed(0)
    for name, buffer in network.named_buffers():
        if name.endswith("running_var"):
            buffer.uniform_(0.5, 1.5)
    assert_equal_outputs(network.eval(), fuse(network))


def test_the_source_is_left_as_it_is() -> None:
    network = scramble(build(), seed=0).train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    folded = fuse(network)
    assert network.training
    assert not folded.training
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name]), name


def macs(network: nn.Module) -> int:
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.zeros(1, 3, 64, 64))
    return counter.get_total_flops() // 2


def test_folding_saves_operations() -> None:
    network = build(channels=10).eval()
    # The sums of squares of vectors, which the network does not compute by convolutions, are included.
    assert macs(fuse(network)) < 0.92 * measure_cost(network, (64, 64)).macs


def test_what_carries_no_weight_is_not_built() -> None:
    network = scramble(build(channels=10), seed=0)
    whole = macs(fuse(network))
    for part in network.parts.names:
        beta = network.subnetworks.fabrics.beta[part].data
        beta[:, 2] = -math.inf
        beta[:, :2] = 0
        alpha = network.subnetworks.fabrics.alpha[part].data
        alpha[:] = torch.tensor([0.0, 0.0, -math.inf, 0.0])
    folded = fuse(network)
    assert_equal_outputs(network, folded)
    # Only the three cells at 1/4 are left, with one depthwise convolution each.
    depthwise = [
        m
        for m in folded.graph.children()
        if isinstance(m, nn.Conv2d) and m.groups > 3  # type: ignore
    ]
    assert len(depthwise) == 3
    assert macs(folded) < whole / 2


class Doubling(Operation):
    """Not linear in anything that folding knows of."""

    def __init__(self, parts: int, channels: int) -> None:
        super().__init__()
        self.inner = SeparableConv(parts, channels, repeats=1)

    def forward(self, lanes: Lanes, mixing: list[torch.Tensor], form: Form) -> Lanes:
        return self.inner([x + x.square() for x in lanes], mixing, form)


def test_an_operation_of_ones_own_is_kept_as_it_is() -> None:
    operations = {**SUBNETWORK_OPERATIONS, "doubling": Doubling}
    network = scramble(build(operations=operations), seed=2)
    for layout in ("auto", "separate"):
        assert_equal_outputs(network, fuse(network, layout))


def test_a_kernel_of_five() -> None:
    operations = {**SUBNETWORK_OPERATIONS, "sep_conv_5x5": partial(SeparableConv, kernel_size=5)}
    network = scramble(build(operations=operations), seed=2)
    assert_equal_outputs(network, fuse(network))


def test_batch_norms_of_any_network() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(resnet18(), nn.Unflatten(1, (10, 10, 10)), nn.ConvTranspose2d(10, 4, 4))
    network.append(nn.BatchNorm2d(4)).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_var, 0.5, 1.5)  # type: ignore[arg-type]
            nn.init.normal_(module.running_mean)  # type: ignore[arg-type]
    folded = fold_batch_norms(network)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in folded.modules())
    images = torch.randn(1, 3, 96, 96)
    with torch.no_grad():
        torch.testing.assert_close(folded(images), network(images), rtol=1e-3, atol=1e-3)


class ReadTwice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(x)
        return self.norm(y) + y


def test_a_convolution_that_is_read_twice_is_refused() -> None:
    network = ReadTwice()
    nn.init.constant_(network.norm.running_mean, 3.0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"ReadTwice.*read elsewhere"):
        fold_batch_norms(network)


def test_an_unknown_layout() -> None:
    with pytest.raises(ValueError, match="unknown layout 'diagonal'"):
        fuse(build(), "diagonal")  # type: ignore[arg-type]
