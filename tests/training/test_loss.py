"""The loss against loops over samples and joints."""

import pytest
import torch

from pnfs.codec import Codec
from pnfs.errors import PnfsError
from pnfs.training.loss import HeatmapLoss

# Five part maps of three joints; joints 0 and 2 belong to two parts.
MAP_JOINTS = torch.tensor([2, 0, 1, 0, 2])


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("factor", [1.0, 0.5])
@pytest.mark.parametrize("maps", ["parts", "joints"])
def test_unlabelled_joints_count_in_the_denominator_alone(maps, factor: float, dtype: torch.dtype) -> None:
    """Squared errors of labelled maps over the number of all maps; with "joints" on sums of the parts' maps,
    as in the public code (HRNet's JointsMSELoss)."""
    torch.manual_seed(0)
    part_maps = torch.rand(4, 5, 6, 4).to(dtype).requires_grad_()
    precise = torch.promote_types(dtype, torch.float32)
    batch = {"joints_crop": 16 * torch.rand(4, 3, 2).to(precise), "labelled": torch.rand(4, 3) < 0.6}
    batch["labelled"][0] = False
    targets, weights = Codec().targets(*batch.values(), (6, 4))
    total, rows = torch.zeros(()).double(), MAP_JOINTS.tolist() if maps == "parts" else range(3)
    for sample in range(4):
        for row, joint in enumerate(rows):
            score = part_maps[sample, row].double()
            if maps == "joints":
                score = part_maps[sample, joint == MAP_JOINTS].double().sum(0)
            error = (score - targets[sample, joint]).square().mean()
            total = total + error * weights[sample, joint]
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        loss = HeatmapLoss(maps, factor)(part_maps, batch, Codec(), MAP_JOINTS)  # type: ignore[arg-type]
    assert loss.dtype == precise
    assert loss.item() == pytest.approx(factor * total.item() / (4 * len(rows)), rel=1e-5)
    (moved,) = torch.autograd.grad(loss, part_maps)
    assert torch.equal(moved.abs().sum((-2, -1)) > 0, weights[:, MAP_JOINTS] > 0)
    with pytest.raises(PnfsError, match=r"loss\.maps .*'pixels'"):
        HeatmapLoss("pixels")  # type: ignore[arg-type]
