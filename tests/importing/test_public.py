"""Public checkpoints of HRNet and SimpleBaseline: what their entries say."""

import pytest
import torch
from torch import Tensor

import public_networks
from pnfs.importing.public import PublicNetwork, describe_public, load_public_state
from pnfs.models.backbones import ResNet
from pnfs.models.baselines import SimpleBaseline
from public_networks import Weights


def public_state(name: str, joints: int, *arguments) -> dict[str, Tensor]:
    """Random weights of a public network, in its own names."""
    weights = Weights()
    getattr(public_networks, name)(weights, torch.zeros(1, 3, 32, 32), joints, *arguments)
    return weights.state


def test_public_networks_are_told_by_their_entries() -> None:
    simple, large = public_state("simple_baseline", 16), public_state("hrnet", 17)
    assert describe_public(simple) == PublicNetwork("simple_baseline", 50, 256, 16)
    assert describe_public(large) == PublicNetwork("hrnet", 32, 32, 17)
    assert describe_public({"fc.weight": torch.zeros(1, 1)}) is None
    deep = public_state("simple_baseline", 16, (3, 8, 36, 3))
    assert describe_public(deep) == PublicNetwork("simple_baseline", 152, 256, 16)
    shallow = {k: v for k, v in simple.items() if "conv3" not in k}
    with pytest.raises(ValueError, match="depths 50, 101 and 152"):
        describe_public(shallow)
    narrow = large | {"transition1.0.0.weight": torch.zeros(18, 256, 3, 3)}
    with pytest.raises(ValueError, match="width 18"):
        describe_public(narrow)
    wide = simple | {"final_layer.weight": torch.zeros(16, 256, 3, 3)}
    with pytest.raises(ValueError, match=r"final_layer\.weight is a 3x3"):
        describe_public(wide)


def test_misfits_are_listed() -> None:
    network = SimpleBaseline(backbone=ResNet(50, "none"), skeleton="mpii")
    with pytest.raises(ValueError, match=r"backbone\.bn1\.weight is missing"):
        load_public_state(network, {"conv1.weight": torch.zeros(1)}, "simple_baseline")
    with pytest.raises(ValueError, match=r"head\.weight is \(17, 256, 1, 1\)"):
        load_public_state(network, public_state("simple_baseline", 17), "simple_baseline")
