"""Derived and fused networks against the networks they come from."""

import math
from typing import Any

import pytest
import torch
from torch import nn

from pnfs.body import MPII
from pnfs.errors import PnfsError
from pnfs.models import PAPER, POSENFS, FabricRules, PoseFabricNetwork
from pnfs.models.architecture import Architecture, describe_architecture, load_architecture
from pnfs.models.backbones import MobileNetV2
from pnfs.models.cost import measure_cost
from pnfs.models.derive import discretise, kept_settings, prune, transfer_weights
from pnfs.models.fuse import fuse
from pnfs.models.layers import PartBatchNorm2d
from pnfs.models.operations import SUBNETWORK_OPERATIONS, Operation, SeparableConv
from tiny import fabric_backbone, fabric_network, scramble

JOINTS = MPII.joints
# The second and the third part share a joint, so that maps have to be summed.
PARTS = {"head": JOINTS[:3], "upper": JOINTS[3:9], "lower": JOINTS[8:]}
RULES = pytest.mark.parametrize("rules", [PAPER, POSENFS], ids=["paper", "reference"])


def build(
    rules: FabricRules = PAPER, on_fabric: bool = False, channels: int = 1, **options: Any
) -> PoseFabricNetwork:
    kept, backbone = options.pop("kept", {}), MobileNetV2("none")
    if on_fabric:
        backbone = fabric_backbone(channels=channels, rules=rules, kept=kept.get("backbone"))
    arguments = {"parts": PARTS, "channels": channels, "kept": kept.get("subnetworks"), **options}
    return fabric_network(backbone=backbone, rules=rules, **arguments).eval()


def assert_equal_outputs(network: PoseFabricNetwork, other: nn.Module) -> None:
    images = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        expected, found = network(images), other(images)
    assert expected.std() > 1e-3  # Maps that are flat would prove nothing.
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def derive(source: PoseFabricNetwork, architecture: Architecture, **options: Any) -> PoseFabricNetwork:
    derived = build(**options, kept=kept_settings(architecture))
    load_architecture(derived, architecture)
    transfer_weights(source, derived)
    return derived


@RULES
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"nodes": 2, "alpha_per_cell": True},
        {"on_fabric": True},
        {"on_fabric": True, "parts": {"whole": JOINTS}},
    ],
)
def test_a_derived_network_is_equal_and_can_be_fused(rules: FabricRules, options: dict) -> None:
    source = scramble(build(rules, **options), 1)
    derived = derive(source, describe_architecture(source), rules=rules, **options)
    assert_equal_outputs(source, derived)
    before, after = measure_cost(source, (64, 64)), measure_cost(derived, (64, 64))
    assert after.parameters < before.parameters
    assert after.macs < before.macs
    # Everything that is left of the fabrics reaches the output.
    for name, part in after.parts.items():
        if name != "backbone" or "on_fabric" in options:
            assert part.live_parameters == part.parameters, name
    assert_equal_outputs(source, fuse(derived))


def test_pruning_leaves_out_what_is_weak_and_keeps_the_strongest() -> None:
    network = build()
    # softmax of log p is p.
    network.fabrics.alpha["head"].data[:] = torch.tensor([0.05, 0.6, 0.3, 0.05]).log()
    network.fabrics.beta["head"].data[:] = torch.tensor([0.2, 0.7, 0.1]).log()
    found = describe_architecture(network)
    pruned = prune(found, 0.1, 0.25).subnetworks.parts["head"]
    assert [math.isinf(v) for v in pruned.alpha[0][0]] == [True, False, False, True]
    rows = dict(zip((c.name for c in found.subnetworks.cells), pruned.beta, strict=True))
    # At the top, finer copies the same input: 0.2 and 0.7 count as one input of 0.9.
    assert [math.isinf(v) for v in rows["layer5_scale4"]] == [False, False, True]
    assert [math.isinf(v) for v in rows["layer4_scale8"]] == [True, False, True]
    all_weak = prune(found, 1.0, 1.0).subnetworks.parts["head"]
    assert [math.isinf(v) for v in all_weak.alpha[0][0]] == [True, False, True, True]
    with pytest.raises(PnfsError, match="alpha_threshold"):
        prune(found, 1.5, 0.0)


def test_discretising_keeps_one_operation_and_one_input() -> None:
    source = scramble(build(nodes=2, on_fabric=True), 4)
    found = discretise(describe_architecture(source))
    zero = found.subnetworks.operations.index("zero")
    for row in (row for part in found.subnetworks.parts.values() for row in part.alpha[0]):
        kept = [i for i, value in enumerate(row) if not math.isinf(value)]
        assert len(kept) <= 1
        assert zero not in kept
    derived = derive(source, found, nodes=2, on_fabric=True)
    whole, images = describe_architecture(source), torch.randn(2, 3, 64, 64)
    load_architecture(source, found)
    with torch.no_grad():
        torch.testing.assert_close(derived(images), source(images), rtol=1e-5, atol=1e-5)
        # A backbone loses the scales that no part reads.
        assert sum(x.numel() == 0 for x in derived.backbone(images)) >= 1
    # The search's own alpha and beta give it nothing back that it lacks, and a whole network everything.
    before = {name: p.isneginf().clone() for name, p in derived.architecture_parameters().items()}
    for network in (derived, source):
        load_architecture(network, whole)
    assert all(torch.equal(p.isneginf(), before[name]) for name, p in derived.architecture_parameters().items())
    assert describe_architecture(source) == whole


# --- fusing


@RULES
@pytest.mark.parametrize("on_fabric", [False, True], ids=["mobilenet", "fabric"])
@pytest.mark.parametrize(("nodes", "vector_dim"), [(1, 8), (2, 1)])
def test_a_fused_network_is_equal(rules: FabricRules, on_fabric: bool, nodes: int, vector_dim: int) -> None:
    network = build(rules, on_fabric, channels=2, nodes=nodes, vector_dim=vector_dim)
    before = {name: value.clone() for name, value in scramble(network, 0).state_dict().items()}
    fused = fuse(network.train())
    assert network.training
    assert all(torch.equal(value, before[n]) for n, value in network.state_dict().items())
    assert_equal_outputs(network.eval(), fused)
    assert not any(isinstance(module, PartBatchNorm2d) for module in fused.modules())
    assert not any(parameter.requires_grad for parameter in fused.parameters())


class Doubling(Operation):
    """Not linear in anything that fusing knows of."""

    def __init__(self, parts: int, channels: int) -> None:
        super().__init__()
        self.inner = SeparableConv(parts, channels, repeats=1)

    def forward(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return self.inner(x + x.square(), weight)


def test_an_operation_of_ones_own_is_kept_and_leaves_the_others_fused() -> None:
    operations = {**SUBNETWORK_OPERATIONS, "doubling": Doubling}
    network = scramble(build(operations=operations, channels=2), seed=2)
    fused = fuse(network)
    assert_equal_outputs(network, fused)
    norms = [n for n, m in fused.fabrics.named_modules() if isinstance(m, PartBatchNorm2d)]
    assert norms
    assert all(".layers.inner." in name for name in norms)
