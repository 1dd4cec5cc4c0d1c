"""PoseModule: what is trained, what is scored; schedules and the loss against the recipe and loops."""

import math
from functools import partial
from types import SimpleNamespace
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.optim import SGD, Optimizer
from torch.utils.data import DataLoader

from pnfs.body import LSP
from pnfs.codec import Codec
from pnfs.data.crops import PoseBatch
from pnfs.errors import PnfsError
from pnfs.evaluation.pck import PCK
from pnfs.training import module as training_module
from pnfs.training.loss import HeatmapLoss
from pnfs.training.module import NonFiniteLossError, PoseModule
from pnfs.training.schedules import OneCycleSchedule, Schedule, StepSchedule
from tiny import SILENT, TinyBackbone, fabric_network

PARTS = {
    "upper": [j for j in LSP.joints if j not in ("left_knee", "right_knee", "left_ankle")],
    "legs": ["left_hip", "left_knee", "right_knee", "left_ankle"],
}
K = len(LSP)
SIZE = 64


def module(**arguments) -> PoseModule:
    torch.manual_seed(0)
    network = fabric_network(PARTS, backbone=TinyBackbone(), skeleton="lsp", vector_dim=2)
    metric = PCK(joints=LSP.joints, groups=LSP.groups, thresholds=(0.2, 0.5))
    usual = {"metric": metric, "optimizer": partial(torch.optim.Adam, lr=1e-3)}
    return PoseModule(network=network, **{**usual, **arguments})


def rows(count: int) -> list[dict[str, np.ndarray]]:
    """Samples as a dataset gives them; the crop is half the image's size and moved by (10, 20)."""
    random = np.random.default_rng(0)
    return [
        {
            "image": random.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8),
            "joints_crop": (joints := random.uniform(4, SIZE - 4, (K, 2)).astype(np.float32)),
            "labelled": random.random(K) < 0.8,
            "to_image": np.array([[2, 0, 10], [0, 2, 20]], np.float32),
            "joints_image": joints * 2 + np.array([10, 20], np.float32),
            "reference_length": np.float32(100),
            "sample_index": np.int64(index),
        }
        for index in range(count)
    ]


def batch(count: int) -> PoseBatch:
    return next(iter(DataLoader(rows(count), batch_size=count)))


def trainer(**arguments) -> L.Trainer:
    return L.Trainer(accelerator="cpu", **SILENT, **arguments)


def values(pose: PoseModule) -> list[Tensor]:
    return [p.detach().clone() for p in pose.network.architecture_parameters().values()]


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("group", [None, (3.0, 0.125)])
def test_alpha_and_beta_are_trained_if_a_strategy_says_so(group: tuple[float, float] | None) -> None:
    pose = module(schedule=OneCycleSchedule(peak=0.01))
    pose.architecture_group = group
    before, weight = values(pose), pose.network.head.weight.detach().clone()
    runner = trainer(max_epochs=1, limit_val_batches=0)
    runner.fit(pose, DataLoader(rows(4), batch_size=2))
    assert not torch.equal(weight, pose.network.head.weight)
    moved = [not torch.equal(*pair) for pair in zip(before, values(pose), strict=True)]
    assert all(moved) if group else not any(moved)
    groups = pose.trainer.optimizers[0].param_groups
    expected = [pose.network.weight_parameters()]
    expected += [list(pose.network.architecture_parameters().values())] if group else []
    found = [[id(p) for p in each["params"]] for each in groups]
    assert found == [[id(p) for p in each] for each in expected]
    if group:
        assert [each["weight_decay"] for each in groups] == [0, 0.125]
        assert groups[1]["lr"] == pytest.approx(3 * groups[0]["lr"])
        assert groups[1]["max_lr"] == pytest.approx(0.03)


@pytest.mark.parametrize(("every", "last"), [(1, 5), (100, 8)])
def test_first_loss_that_is_not_finite_is_named(monkeypatch: pytest.MonkeyPatch, every: int, last: int) -> None:
    """On the CPU at once, elsewhere at the next look, at the latest when the epoch ends."""
    monkeypatch.setitem(training_module.LOOK_AFTER, "cpu", every)
    pose, optimizer = module(), SimpleNamespace(param_groups=[{"lr": 0.01}])
    fake = SimpleNamespace(
        current_epoch=1, global_step=0, datamodule=None, is_last_batch=True, optimizers=[optimizer]
    )
    pose._trainer = fake  # type: ignore[assignment]
    losses = [0.3, 0.2, 0.1, 0.1, 0.4, math.inf, 0.2, math.nan]

    def epoch() -> None:
        for step, value in enumerate(losses):
            fake.global_step = step
            samples: Any = {"sample_index": torch.tensor([step, step + 40])}
            pose.watch_loss("training", torch.tensor(value), samples, step % 4)
        fake.global_step = len(losses)
        pose.on_train_batch_end(None, samples, 3)

    with pytest.raises(NonFiniteLossError) as stopped:
        epoch()
    assert fake.global_step == last
    assert "training loss is inf in epoch 1, step 5 (batch 1" in str(stopped.value)
    assert "persons of the batch: row 5, row 45." in str(stopped.value)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_validation_logs_the_benchmarks_score() -> None:
    pose, samples, everything = module(), rows(5), batch(5)
    pose.eval()
    with torch.no_grad():
        locations, _ = pose.locate(pose.network(everything["image"]), everything)
    off = torch.randn(locations.shape) * 15
    for sample, joints in zip(samples, locations + off, strict=True):
        sample["joints_image"] = joints.numpy()
    (logged,) = trainer().validate(pose, DataLoader(samples, batch_size=2), verbose=False)
    error = torch.linalg.vector_norm(off, dim=-1)[everything["labelled"]]
    right = (error <= 0.2 * 100).float().mean().item()
    assert 0 < right < 1
    assert logged["val/PCK@0.2"] == pytest.approx(100 * right, rel=1e-5)
    assert logged["val/score"] == logged["val/PCK@0.2"]
    assert logged["val/PCK@0.5"] > logged["val/PCK@0.2"]
    assert logged["val/loss"] > 0
    assert len(pose.metric["PCK"].sample_index) == 0


def optimizer(*rates: float) -> Optimizer:
    groups = [{"params": [torch.zeros(1, requires_grad=True)], "lr": rate} for rate in rates]
    return SGD(groups, lr=1.0)


def rates_of(schedule: Schedule, optimizer: Optimizer, epochs: int, steps: int) -> list[list[float]]:
    """The learning rates of each group, before each step of the scheduler."""
    built = schedule.build(optimizer, epochs, steps)
    length = epochs if built["interval"] == "epoch" else steps
    rates = []
    for _ in range(length):
        rates.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        if len(rates) < length:
            built["scheduler"].step()
    return rates


def test_the_papers_steps_fall_on_epochs_90_120_and_150() -> None:
    rates = rates_of(StepSchedule(), optimizer(1e-3, 5e-4), epochs=200, steps=10_000)
    for epoch, (weights, architecture) in enumerate(rates):
        passed = sum(epoch >= milestone for milestone in (90, 120, 150))
        assert weights == pytest.approx(1e-3 * 0.25**passed, rel=1e-9)
        assert architecture == pytest.approx(weights / 2, rel=1e-9)


def test_one_cycle_goes_up_to_the_peak_and_down_to_nothing_in_all_groups() -> None:
    schedule = OneCycleSchedule(peak=2e-3, warmup=0.3)
    table = rates_of(schedule, optimizer(1e-3, 3e-3, 1e-4), epochs=5, steps=100)
    rates = [weights for weights, _, _ in table]
    top = rates.index(max(rates))
    assert max(rates) == pytest.approx(2e-3)
    assert top == pytest.approx(0.3 * 100, abs=1)
    assert rates == sorted(rates[: top + 1]) + sorted(rates[top + 1 :], reverse=True)
    assert rates[-1] < rates[0] / 100 < 2e-3 / 1000
    for weights, triple, tenth in table:
        assert (triple, tenth) == pytest.approx((3 * weights, weights / 10), rel=1e-6)


# Five part maps of three joints; joints 0 and 2 belong to two parts.
MAP_JOINTS = torch.tensor([2, 0, 1, 0, 2])


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize(("maps", "factor"), [("parts", 1.0), ("joints", 0.5)])
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
