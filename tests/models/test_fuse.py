"""Fused networks against the networks they come from."""

import math
from collections.abc import Mapping

import pytest
import torch
from torch import nn

from pnfs.body import MPII
from pnfs.models import PAPER, POSENFS, FabricRules, PoseFabricNetwork
from pnfs.models.backbones import MobileNetV2
from pnfs.models.fuse import fuse
from pnfs.models.layers import PartBatchNorm2d
from pnfs.models.network import PoseNetwork
from pnfs.models.operations import SUBNETWORK_OPERATIONS, Operation, SeparableConv
from pnfs.models.wiring import KeptCell
from tiny import fabric_backbone, fabric_network

JOINTS = MPII.joints
# The second and the third part share a joint, so that maps have to be summed.
PARTS: Mapping[int, dict[str, tuple[str, ...]]] = {
    1: {"whole": JOINTS},
    3: {"head": JOINTS[:3], "upper": JOINTS[3:9], "lower": JOINTS[8:]},
}


def build(
    parts: int = 3,
    rules: FabricRules = PAPER,
    on_fabric: bool = False,
    channels: int = 2,
    **options: object,
) -> PoseFabricNetwork:
    backbone = (
        fabric_backbone(first_layers=3, channels=channels, rules=rules)
        if on_fabric
        else MobileNetV2("none")
    )
    return fabric_network(
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


def assert_equal_outputs(network: PoseFabricNetwork, fused: PoseNetwork) -> None:
    images = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        expected, found = network(images), fused(images)
        assert expected.std() > 1e-3  # Maps that are flat would prove nothing.
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(
            fused.merged(found),
            network.merged(expected),
            rtol=1e-4,
            atol=1e-4,
        )


@pytest.mark.parametrize("rules", [PAPER, POSENFS], ids=["paper", "reference"])
@pytest.mark.parametrize("on_fabric", [False, True], ids=["mobilenet", "fabric"])
@pytest.mark.parametrize(("nodes", "vector_dim"), [(1, 8), (2, 1)])
def test_a_fused_network_is_equal(
    rules: FabricRules, on_fabric: bool, nodes: int, vector_dim: int
) -> None:
    network = build(rules=rules, on_fabric=on_fabric, nodes=nodes, vector_dim=vector_dim)
    for seed in (0, 1):
        scramble(network, seed)
        assert_equal_outputs(network, fuse(network))


def test_connections_read_a_narrower_backbone_directly() -> None:
    # C=7 is wider than MobileNet-V2's maps, and an adapter's bias meets the zero padding of a stride-2
    # convolution.
    network = scramble(build(parts=1, channels=7), seed=3)
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
        alpha = network.fabrics.alpha[part]
        alpha.data.fill_(-math.inf)
        alpha.data[..., 0] = 0
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(fuse(network)(images), network(images), rtol=1e-4, atol=1e-4)


def test_a_derived_network_is_fused_part_by_part() -> None:
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
    fused = fuse(network)
    assert network.training
    assert not fused.training
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name]), name


def macs(network: nn.Module) -> int:
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.zeros(1, 3, 64, 64))
    return counter.get_total_flops() // 2


def test_no_batch_norm_of_a_fabric_is_left() -> None:
    fused = fuse(scramble(build(on_fabric=True), seed=0))
    assert not any(isinstance(module, PartBatchNorm2d) for module in fused.modules())
    assert not any(parameter.requires_grad for parameter in fused.parameters())


def test_what_carries_no_weight_is_not_built() -> None:
    network = scramble(build(channels=10), seed=0)
    whole = macs(fuse(network))
    for part in network.parts.names:
        beta = network.fabrics.beta[part].data
        beta[:, 2] = -math.inf
        beta[:, :2] = 0
        alpha = network.fabrics.alpha[part].data
        alpha[:] = torch.tensor([0.0, 0.0, -math.inf, 0.0])
    fused = fuse(network)
    assert_equal_outputs(network, fused)
    # Only the three cells at 1/4 are left, with one depthwise convolution each.
    depthwise = [m for m in fused.fabrics.modules() if isinstance(m, nn.Conv2d) and m.groups > 3]
    assert len(depthwise) == 3
    assert macs(fused) < whole / 2


class Doubling(Operation):
    """Not linear in anything that fusing knows of."""

    def __init__(self, parts: int, channels: int) -> None:
        super().__init__()
        self.inner = SeparableConv(parts, channels, repeats=1)

    def forward(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return self.inner(x + x.square(), weight)


def test_an_operation_of_ones_own_is_kept_as_it_is() -> None:
    operations = {**SUBNETWORK_OPERATIONS, "doubling": Doubling}
    network = scramble(build(operations=operations), seed=2)
    assert_equal_outputs(network, fuse(network))


def test_an_operation_of_ones_own_leaves_the_others_fused() -> None:
    operations = {**SUBNETWORK_OPERATIONS, "doubling": Doubling}
    fused = fuse(scramble(build(operations=operations), seed=2))
    norms = [n for n, m in fused.fabrics.named_modules() if isinstance(m, PartBatchNorm2d)]
    assert norms
    assert all(".operation.inner." in name for name in norms)
