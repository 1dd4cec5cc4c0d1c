"""Derived networks against the networks they come from."""

import math
from dataclasses import replace

import pytest
import torch

from pnfs.body import MPII
from pnfs.models import PAPER, POSENFS, FabricRules, PoseFabricNetwork
from pnfs.models.architecture import (
    Architecture,
    describe_architecture,
    load_architecture,
)
from pnfs.models.backbones import MobileNetV2
from pnfs.models.cost import measure_cost
from pnfs.models.derive import discretise, kept_settings, prune, transfer_weights
from tiny import fabric_backbone, fabric_network

PARTS = {"head": MPII.joints[:3], "upper": MPII.joints[3:9], "lower": MPII.joints[9:]}


def build(
    rules: FabricRules = PAPER, nodes: int = 1, on_fabric: bool = False, **kept: object
) -> PoseFabricNetwork:
    subnetworks, backbone_kept = kept.get("subnetworks"), kept.get("backbone")
    backbone = (
        fabric_backbone(first_layers=3, channels=1, rules=rules, kept=backbone_kept)  # type: ignore[arg-type]
        if on_fabric
        else MobileNetV2("none")
    )
    return fabric_network(
        backbone=backbone,
        skeleton="mpii",
        parts=PARTS,
        channels=1,
        nodes=nodes,
        rules=rules,
        kept=subnetworks,  # type: ignore[arg-type]
    ).eval()


def scramble(network: PoseFabricNetwork, seed: int) -> None:
    """Random weights, statistics and logits, a third of the logits minus infinity."""
    torch.manual_seed(seed)
    for name, buffer in network.named_buffers():
        if "running" in name:
            buffer.uniform_(0.5, 1.5)
    for parameter in network.architecture_parameters().values():
        torch.nn.init.normal_(parameter)
        drop = torch.rand_like(parameter) < 0.35
        drop[..., int(torch.randint(parameter.shape[-1], ()))] = False
        parameter.data[drop] = -math.inf


def derive(
    source: PoseFabricNetwork, architecture: Architecture, **options: object
) -> PoseFabricNetwork:
    derived = build(**options, **kept_settings(architecture))  # type: ignore[arg-type]
    load_architecture(derived, architecture)
    transfer_weights(source, derived)
    return derived


@pytest.mark.parametrize("rules", [PAPER, POSENFS], ids=["paper", "reference"])
@pytest.mark.parametrize(("nodes", "on_fabric"), [(1, False), (2, False), (1, True)])
def test_the_equal_network_gives_equal_outputs(
    rules: FabricRules, nodes: int, on_fabric: bool
) -> None:
    options = {"rules": rules, "nodes": nodes, "on_fabric": on_fabric}
    source = build(**options)  # type: ignore[arg-type]
    scramble(source, 1)
    derived = derive(source, describe_architecture(source), **options)
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(derived(images), source(images), rtol=1e-5, atol=1e-5)
    before, after = measure_cost(source, (64, 64)), measure_cost(derived, (64, 64))
    assert after.parameters < before.parameters
    assert after.macs < before.macs
    # Everything that is left reaches the output: nothing dead but what alpha switches off is built.
    assert after.live_parameters == after.parameters


def test_a_network_of_one_part_has_an_equal_derived_one() -> None:
    def whole(**kept: object) -> PoseFabricNetwork:
        return fabric_network(
            backbone=fabric_backbone(first_layers=3, channels=1, kept=kept.get("backbone")),  # type: ignore[arg-type]
            skeleton="mpii",
            parts={"whole": MPII.joints},
            channels=1,
            kept=kept.get("subnetworks"),  # type: ignore[arg-type]
        ).eval()

    network = whole()
    scramble(network, 0)
    architecture = describe_architecture(network)
    derived = whole(**kept_settings(architecture))
    load_architecture(derived, architecture)
    transfer_weights(network, derived)
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(derived(images), network(images), rtol=1e-5, atol=1e-6)


def test_pruning_leaves_out_what_is_weak_and_keeps_the_strongest() -> None:
    source = build()
    found = describe_architecture(source)
    part = found.subnetworks.parts["head"]
    # softmax of log p is p.
    alpha = (((tuple(map(math.log, (0.05, 0.6, 0.3, 0.05)))),),)
    beta = tuple(tuple(map(math.log, (0.2, 0.7, 0.1))) for _ in part.beta)
    parts = found.subnetworks.parts | {"head": replace(part, alpha=alpha, beta=beta)}
    found = replace(found, subnetworks=replace(found.subnetworks, parts=parts))
    pruned = prune(found, 0.1, 0.25).subnetworks.parts["head"]
    assert [math.isinf(v) for v in pruned.alpha[0][0]] == [True, False, False, True]
    rows = dict(zip((c.name for c in found.subnetworks.cells), pruned.beta, strict=True))
    # At the top, finer copies the same input: 0.2 and 0.7 count as one input of 0.9.
    assert [math.isinf(v) for v in rows["layer5_scale4"]] == [False, False, True]
    assert [math.isinf(v) for v in rows["layer4_scale8"]] == [True, False, True]
    all_weak = prune(found, 1.0, 1.0).subnetworks.parts["head"]
    assert [math.isinf(v) for v in all_weak.alpha[0][0]] == [True, False, True, True]
    with pytest.raises(ValueError, match="alpha_threshold"):
        prune(found, 1.5, 0.0)


def test_discretising_keeps_one_operation_and_one_input() -> None:
    source = build(nodes=2)
    scramble(source, 3)
    found = discretise(describe_architecture(source))
    zero = found.subnetworks.operations.index("zero")
    for part in found.subnetworks.parts.values():
        for row in part.alpha[0]:
            kept = [i for i, value in enumerate(row) if not math.isinf(value)]
            assert len(kept) <= 1
            assert zero not in kept
    derived = derive(source, found, nodes=2)
    alpha, _ = derived.fabrics.mixing_weights()
    assert set(alpha.unique().tolist()) == {0.0, 1.0}
    with torch.no_grad():
        assert derived(torch.randn(1, 3, 64, 64)).isfinite().all()


def test_a_backbone_loses_the_scales_that_no_part_reads() -> None:
    source = build(on_fabric=True)
    scramble(source, 4)
    found = discretise(describe_architecture(source))
    load_architecture(source, found)
    derived = derive(source, found, on_fabric=True)
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(derived(images), source(images), rtol=1e-5, atol=1e-5)
        assert sum(x.numel() == 0 for x in derived.backbone(images)) >= 1
