"""The loss against loops over samples and joints."""

import pytest
import torch
from torch import Tensor

from pnfs.codec import Codec
from pnfs.errors import PnfsError
from pnfs.training.loss import HeatmapLoss

# Five part maps of three joints; joints 0 and 2 belong to two parts.
MAP_JOINTS = torch.tensor([2, 0, 1, 0, 2])


def batch(samples: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    weights = (torch.rand(samples, 3) < 0.6).double()
    return torch.rand(samples, 5, 6, 4).double(), torch.rand(samples, 3, 6, 4).double(), weights


class Given(Codec):
    """Makes these targets, whatever the joints are."""

    def __init__(self, *given: Tensor) -> None:
        object.__setattr__(self, "given", given)

    def targets(self, *_: object) -> tuple[Tensor, ...]:  # type: ignore[override]
        return self.given  # type: ignore[attr-defined]


def loss_of(part_maps: Tensor, targets: Tensor, weights: Tensor, maps: str, factor: float = 1.0) -> Tensor:
    joints = {"joints_crop": None, "labelled": None}
    loss = HeatmapLoss(maps, factor)  # type: ignore[arg-type]
    return loss(part_maps, joints, Given(targets, weights), MAP_JOINTS)


def by_loops(part_maps: Tensor, targets: Tensor, weights: Tensor, maps: str) -> float:
    """Squared errors of labelled maps over the number of all maps; with "joints" on sums of the parts' maps,
    as in the public code (HRNet's JointsMSELoss)."""
    total, rows = 0.0, MAP_JOINTS.tolist() if maps == "parts" else range(3)
    for sample in range(len(part_maps)):
        for row, joint in enumerate(rows):
            score = part_maps[sample, row]
            if maps == "joints":
                score = part_maps[sample, joint == MAP_JOINTS].sum(0)
            error = (score - targets[sample, joint]).square().mean().item()
            total += error if weights[sample, joint] else 0
    return total / (len(part_maps) * len(rows))


@pytest.mark.parametrize("factor", [1.0, 0.5])
@pytest.mark.parametrize("maps", ["parts", "joints"])
def test_unlabelled_joints_count_in_the_denominator_alone(maps, factor: float) -> None:
    part_maps, targets, weights = batch()
    assert 0 < weights.sum() < weights.numel()
    loss = loss_of(part_maps, targets, weights, maps, factor)
    assert loss.item() == pytest.approx(factor * by_loops(part_maps, targets, weights, maps))


@pytest.mark.parametrize("maps", ["parts", "joints"])
def test_unlabelled_joints_get_no_gradient_and_others_do(maps) -> None:
    part_maps, targets, weights = batch()
    weights[0] = 0
    part_maps.requires_grad_()
    loss_of(part_maps, targets, weights, maps).backward()
    assert part_maps.grad is not None
    moved = part_maps.grad.abs().sum((-2, -1)) > 0
    assert torch.equal(moved, weights[:, MAP_JOINTS] > 0)


@pytest.mark.parametrize("maps", ["parts", "joints"])
@pytest.mark.parametrize("autocast", [False, True])
def test_the_loss_of_half_precision_maps_is_single_precision(maps, autocast: bool) -> None:
    part_maps, targets, weights = batch()
    halves = part_maps.bfloat16()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        loss = loss_of(halves, targets.float(), weights.float(), maps)
    assert loss.dtype == torch.float32
    expected = by_loops(halves.double(), targets, weights, maps)
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_an_unknown_kind_of_map_is_refused() -> None:
    with pytest.raises(PnfsError, match=r"loss\.maps .*'pixels'"):
        HeatmapLoss("pixels")  # type: ignore[arg-type]
