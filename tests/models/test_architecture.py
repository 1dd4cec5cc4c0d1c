"""Architectures as plain data: exact round trips, errors that name what does not fit, statistics."""

import json
import math
import re

import pytest
import torch

from pnfs.errors import PnfsError
from pnfs.models import PoseFabricNetwork
from pnfs.models.architecture import (
    architecture_from_json,
    describe_architecture,
    load_architecture,
    mixing_statistics,
    to_json,
)
from pnfs.models.operations import BACKBONE_OPERATIONS, SUBNETWORK_OPERATIONS
from tiny import TinyBackbone, fabric_backbone, fabric_network, table_one

PARTS = table_one("lsp", 3)


def build(backbone=None, **options) -> PoseFabricNetwork:
    usual = {"backbone": backbone or TinyBackbone(), "parts": PARTS, "channels": 2}
    return fabric_network(skeleton="lsp", **usual | options)


def randomise(network: PoseFabricNetwork, seed: int = 0) -> PoseFabricNetwork:
    generator = torch.Generator().manual_seed(seed)
    for parameter in network.architecture_parameters().values():
        # Any finite bit pattern, subnormal numbers and -0.0 among them.
        bits = torch.randint(-(2**31), 2**31, parameter.shape, generator=generator)
        value = bits.to(torch.int32).view(torch.float32)
        parameter.data.copy_(torch.where(value.isfinite(), value, torch.tensor(-0.0)))
    return network


def bits(network: PoseFabricNetwork) -> dict[str, list]:
    return {
        name: parameter.detach().view(torch.int32).tolist()
        for name, parameter in network.architecture_parameters().items()
    }


def test_description_holds_theta_wiring_and_logits():
    network = build(nodes=2, layers=7, last_layers=2)
    network.architecture_parameters()["upper_limb/beta"].data[1, 2] = 0.1
    found = describe_architecture(network)
    text = to_json(found)
    assert "[0.0, 0.0, 0.1]" in text
    assert max(map(len, text.splitlines())) <= 120
    fabric = found.subnetworks
    assert (found.skeleton, found.backbone) == ("lsp", None)
    assert (fabric.layers, fabric.first_layer, fabric.last_layer) == (7, 6, 7)
    assert (fabric.channels, fabric.nodes, fabric.scales) == (2, 2, (4, 8, 16))
    assert [cell.name for cell in fabric.cells] == ["layer6_scale4", "layer6_scale8", "layer7_scale4"]
    upper = fabric.parts["upper_limb"]
    assert (upper.joints, upper.alpha) == (tuple(PARTS["upper_limb"]), (((0.0,) * 4,) * 3,))
    network.architecture_parameters()["lower_limb/beta"].data[2, 1] = math.nan
    with pytest.raises(PnfsError, match="lower_limb/beta"):
        describe_architecture(network)


@pytest.mark.parametrize("alpha_per_cell", [False, True])
def test_round_trip_is_bitwise(alpha_per_cell):
    backbone = fabric_backbone(channels=2, alpha_per_cell=alpha_per_cell)
    network = randomise(build(backbone, nodes=2, alpha_per_cell=alpha_per_cell))
    parameters = network.architecture_parameters()
    parameters["head/alpha"].data[..., 0] = -math.inf
    parameters["backbone/beta"].data[2, 1] = math.inf
    expected = bits(network)
    text = to_json(describe_architecture(network))
    assert '"-Infinity"' in text
    json.loads(text, parse_constant=pytest.fail)
    architecture = architecture_from_json(text)
    assert architecture == describe_architecture(network)
    for parameter in parameters.values():
        parameter.data.fill_(7)
    load_architecture(network, architecture)
    assert bits(network) == expected


def edited(path: str, value) -> str:
    """JSON of a small network with the entry at `path` replaced, or removed where value is ..."""
    document = place = json.loads(to_json(describe_architecture(build())))
    *folders, last = [int(key) if key.isdigit() else key for key in path.split("/")]
    for key in folders:
        place = place[key]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return json.dumps(document)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("version", 1, "version"),
        ("subnetworks/colour", "red", "subnetworks.colour"),
        ("subnetworks/nodes", 0, "H=0"),
        ("subnetworks/layers", 10**9, "head/beta"),
        ("subnetworks/last_layer", 7, "4 to 7 is no range"),
        ("subnetworks/parts", {}, "at least one part"),
        ("subnetworks/parts/head/joints", ..., "subnetworks.parts.head.joints"),
        ("subnetworks/parts/head/alpha/0/0/3", "nan", "head/alpha must have"),
        ("subnetworks/parts/head/alpha/0/0/3", "high", "subnetworks.parts.head.alpha.0.0.3"),
        ("subnetworks/parts/head/alpha/0/0/3", 1e39, "head/alpha must have"),
        ("subnetworks/parts/head/beta/5", [0.0], "head/beta must have shape (6, 3)"),
    ],
)
def test_json_errors_name_the_key(path, value, message):
    with pytest.raises(PnfsError, match=re.escape(message)):
        architecture_from_json(edited(path, value))
    for text in ("", "[" * 100_000, "[1]", "null"):
        with pytest.raises(PnfsError, match="architecture"):
            architecture_from_json(text)


def test_load_matches_parts_and_operations_by_name():
    found = randomise(build(nodes=2))
    names = list(SUBNETWORK_OPERATIONS)[::-1]
    other = build(
        parts=dict(reversed(PARTS.items())),
        operations={name: SUBNETWORK_OPERATIONS[name] for name in names},
        nodes=2,
        layers=7,
    )
    load_architecture(other, describe_architecture(found))
    for part in PARTS:
        mine, theirs = (n.fabrics for n in (other, found))
        assert torch.equal(mine.beta[part], theirs.beta[part])
        assert torch.equal(mine.alpha[part], theirs.alpha[part].flip(-1))


@pytest.mark.parametrize(
    ("here", "there", "named"),
    [
        ({"parts": {**PARTS, "face": ["neck"]}}, {}, "parts of subnetworks"),
        ({}, {"nodes": 2}, r"shape of alpha of subnetworks: \(1, 4\) .* \(3, 4\)"),
        ({"last_layers": 2}, {}, "cells of subnetworks"),
        ({"operations": BACKBONE_OPERATIONS}, {}, "operations of subnetworks"),
        ({"backbone": fabric_backbone()}, {}, "fabrics"),
    ],
)
def test_what_does_not_fit_is_named_and_nothing_is_loaded(here, there, named) -> None:
    network, found = build(**here), describe_architecture(randomise(build(**there)))
    before = bits(network)
    with pytest.raises(PnfsError, match=named):
        load_architecture(network, found)
    assert bits(network) == before


def test_statistics_by_hand():
    network = build(nodes=2)
    alpha = network.architecture_parameters()["upper_limb/alpha"].data
    # Rows (1, 0, 0, 0), (1/2, 0, 0, 1/2) and uniform.
    alpha[0, 1:] = -math.inf
    alpha[1, 1:3] = -math.inf
    found = mixing_statistics(describe_architecture(network))
    assert found["upper_limb/alpha_entropy"] == pytest.approx((0 + math.log(2) + math.log(4)) / 3)
    assert found["upper_limb/alpha_travel"] == pytest.approx(0.75)
    assert found["upper_limb/alpha/zero"] == pytest.approx((1 + 0.5 + 0.25) / 3)
    beta = network.architecture_parameters()["head/beta"].data
    beta[:, 0] = math.log(2)
    found = mixing_statistics(describe_architecture(network))
    assert found["head/beta/finer"] == pytest.approx(0.5)
    assert found["head/beta_travel"] == pytest.approx(1 / 6)
