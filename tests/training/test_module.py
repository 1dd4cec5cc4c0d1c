"""PoseModule: what is trained, what the loss and the score are made of."""

import math
from functools import partial
from types import SimpleNamespace
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from pnfs.body import LSP
from pnfs.codec import Codec
from pnfs.data.crops import PoseBatch
from pnfs.evaluation.pck import PCK
from pnfs.training import module as training_module
from pnfs.training.module import ArchitectureGroup, NonFiniteLossError, PoseModule
from pnfs.training.schedules import OneCycleSchedule
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
@pytest.mark.parametrize("group", [None, ArchitectureGroup(lr_factor=3.0, weight_decay=0.125)])
def test_alpha_and_beta_are_trained_if_a_strategy_says_so(group: ArchitectureGroup | None) -> None:
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


@pytest.mark.parametrize(("every", "last"), [(1, 5), (4, 7), (100, 8)])
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
    for part in ("training", "inf", "epoch 1", "step 5", "batch 1", "0.01", "row 5", "row 45"):
        assert part in str(stopped.value)


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


@pytest.mark.parametrize("flip_test", [False, True])
def test_joints_are_read_off_the_maps_and_those_of_the_mirrored_image(flip_test: bool) -> None:
    """A network whose maps have a peak at each joint, in mirrored images at the mirrored one."""
    pose = module(flip_test=flip_test, codec=Codec(decode_method="argmax", flip_shift=0))
    samples = batch(2)
    places = torch.randint(0, 16, (2, K, 2))
    swapped = torch.from_numpy(LSP.flip_permutation)

    def perfect(images: Tensor) -> Tensor:
        mirrored = not torch.equal(images, samples["image"])
        maps = torch.zeros(len(images), len(pose.network.map_joints), 16, 16)
        for row, k in enumerate(pose.network.map_joints.tolist()):
            for sample in range(len(images)):
                x, y = places[sample, swapped[k] if mirrored else k].tolist()
                maps[sample, row, y, 15 - x if mirrored else x] = 0.25 + min(k, swapped[k]) / 100
        return maps

    pose.network.forward = perfect  # type: ignore[method-assign]
    joints, scores = pose.locate(perfect(samples["image"]), samples)
    torch.testing.assert_close(joints, (places * 4 * 2 + torch.tensor([10, 20])).float())
    once = torch.bincount(pose.network.map_joints) == 1
    once &= once[swapped]  # Maps of a joint in two parts are summed.
    expected = 0.25 + torch.minimum(torch.arange(K), swapped) / 100
    torch.testing.assert_close(scores[:, once], expected.expand(2, K)[:, once])
