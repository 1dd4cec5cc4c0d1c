"""Callbacks: which epochs are kept, over interruptions and moves; speed, trajectory, averages."""

import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks.timer import Timer
from lightning.pytorch.demos.boring_classes import BoringModel
from torchmetrics import MeanMetric

from pnfs.body import LSP
from pnfs.errors import PnfsError
from pnfs.training import callbacks
from pnfs.training.callbacks import EMA, ArchitectureMonitor, TrainingSpeed, read_trajectory
from pnfs.training.checkpoints import KeepConfig
from pnfs.training.keeping import KeepBest, KeepLast, StopEarly, why_unfinished
from pnfs.training.module import PoseModule
from pnfs.training.schedules import OneCycleSchedule, Schedule, StepSchedule
from tiny import SILENT, fabric_network

BATCHES = 4


class Scored(BoringModel):
    """Has the validation scores that a test gives it, an epoch each, and the schedule."""

    def __init__(self, scores: Sequence[float], schedule: Schedule) -> None:
        super().__init__()
        self.scores, self.schedule = scores, schedule

    def configure_optimizers(self) -> Any:
        optimizer, epochs = torch.optim.SGD(self.parameters(), lr=0.1), self.trainer.max_epochs or 1
        return [optimizer], [self.schedule.build(optimizer, epochs, int(self.trainer.estimated_stepping_batches))]

    def on_validation_epoch_end(self) -> None:
        self.log("val/score", torch.tensor(self.scores[self.trainer.current_epoch]))


def fit(
    folder: Path, scores: Sequence[float], *, epochs: int, patience: int | None = None, **trainer: Any
) -> L.Trainer:
    """Trains in a folder; goes on from its last checkpoint where there is one."""
    module = Scored(scores, trainer.pop("schedule", StepSchedule()))
    stop = [] if patience is None else [StopEarly("val/score", mode="max", patience=patience)]
    limits = {"limit_train_batches": BATCHES, "limit_val_batches": 1, "num_sanity_val_steps": 0}
    fitted = L.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        callbacks=[KeepConfig({}, trainer.pop("identity", None)), KeepBest(folder), KeepLast(folder), *stop],
        default_root_dir=str(folder),
        **SILENT | {"enable_checkpointing": True} | limits | trainer,
    )
    last = folder / "last.ckpt"
    start = str(last) if last.is_file() else None
    fitted.fit(module, ckpt_path=start, weights_only=True)
    return fitted


def epoch_of(path: Path) -> int:
    return torch.load(path, weights_only=True)["epoch"]


# --- moved runs


@pytest.mark.parametrize(("identity", "best"), [(None, 0), ("of a new run", 3)])
def test_moved_or_new_run_keeps_its_best_epoch(tmp_path: Path, identity: Any, best: int) -> None:
    scores = [0.9, 0.5, 0.2, 0.3]
    fit(tmp_path / "run", scores, epochs=2)
    moved = tmp_path / "another" / "place"
    moved.parent.mkdir()
    shutil.move(tmp_path / "run", moved)
    fit(moved, scores, epochs=4, identity=identity)
    assert epoch_of(moved / "best.ckpt") == best
    assert epoch_of(moved / "last.ckpt") == 3
    assert sorted(path.name for path in moved.iterdir()) == ["best.ckpt", "last.ckpt", "previous.ckpt"]
    assert not (tmp_path / "run").exists()


def test_steps_come_after_the_first_epoch_at_the_earliest() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    StepSchedule().build(optimizer, epochs=1, steps=1)
    assert optimizer.param_groups[0]["lr"] == 1.0


@pytest.mark.parametrize("schedule", [StepSchedule(), OneCycleSchedule()])
def test_new_run_has_its_own_schedule_and_patience(tmp_path: Path, schedule: Schedule) -> None:
    fit(tmp_path, [0.9, 0.9], epochs=2, schedule=schedule, patience=1)
    # Three batches are two steps.
    new = {"patience": 1, "schedule": schedule, "limit_train_batches": 3, "identity": "of a new run"}
    new |= {"accumulate_grad_batches": 2}
    ends = [fit(folder, range(8), epochs=8, **new) for folder in (tmp_path, tmp_path / "from_the_start")]
    one, other = ([t.lr_scheduler_configs[0].scheduler.state_dict(), t.optimizers[0].state_dict()] for t in ends)
    assert one == other


# --- stopped before the end


@pytest.mark.parametrize(("steps", "whole"), [(6, 1), (3, 0)])
def test_part_of_an_epoch_is_not_kept(tmp_path: Path, steps: int, whole: int) -> None:
    # The part would be the best epoch of all.
    trainer = fit(tmp_path, [0.1, 0.5, 0.9], epochs=3, max_steps=steps)
    assert f"max_steps={steps} stopped it after {whole} of 3 epochs" in str(why_unfinished(trainer))
    kept = {path.stem: epoch_of(path) for path in tmp_path.glob("*.ckpt")}
    assert kept == ({"best": 0, "last": 0} if whole else {})


def counted_looks(timer: Timer, stage: Any = None) -> float:
    """Time that passes by one second whenever a timer is asked for it."""
    looks: list[int] = timer.__dict__.setdefault("looks", [])
    looks.append(1)
    return len(looks) + timer._offset


def test_max_time_pauses_and_the_same_command_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Timer, "time_elapsed", counted_looks)
    reasons: list[str | None] = []
    while len(reasons) < 9 and None not in reasons:
        trainer = fit(tmp_path, [0.1, 0.2, 0.9], epochs=3, max_time={"seconds": 7})
        reasons.append(why_unfinished(trainer))
    assert len(reasons) > 2
    assert "max_time stopped it after 1 of 3 epochs" in str(reasons[0])
    assert reasons[-1] is None
    assert epoch_of(tmp_path / "last.ckpt") == epoch_of(tmp_path / "best.ckpt") == 2
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 3 * BATCHES


# --- early stopping


def test_run_that_had_stopped_early_trains_no_further_epoch(tmp_path: Path) -> None:
    scores, patience, end = [0.5, 0.4, 0.3, 0.9, 0.9], 2, 2
    # Patience goes on where it was.
    fit(tmp_path, scores, epochs=2, patience=patience)
    assert why_unfinished(fit(tmp_path, scores, epochs=5, patience=patience)) is None
    before = (tmp_path / "last.ckpt").read_bytes()
    assert why_unfinished(fit(tmp_path, scores, epochs=5, patience=patience)) is None
    assert (tmp_path / "last.ckpt").read_bytes() == before
    assert (epoch_of(tmp_path / "last.ckpt"), epoch_of(tmp_path / "best.ckpt")) == (end, 0)


def test_why_a_run_with_early_stopping_is_not_finished(tmp_path: Path) -> None:
    few = {"epochs": 5, "patience": 1, "min_epochs": 5, "max_steps": 3 * BATCHES}
    assert "max_steps" in str(why_unfinished(fit(tmp_path / "few", [0.5, 0.4, 0.3, 0.2, 0.1], **few)))
    undefined = fit(tmp_path / "undefined", [math.nan, 0.4], epochs=2, patience=1)
    assert "not finite" in str(why_unfinished(undefined))


def test_speed_leaves_the_first_step_of_an_epoch_out(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, logged = iter([100.0, 104.0, 200.0, 204.0]), []
    monkeypatch.setattr(callbacks.time, "perf_counter", lambda: next(clock))
    log = lambda name, value: logged.append((name, value))  # noqa: E731
    module: Any = SimpleNamespace(device=torch.device("cpu"), log=log)
    trainer: Any = SimpleNamespace(world_size=2)
    speed = TrainingSpeed()
    for _ in range(2):
        for step, persons in enumerate((7, 5, 3)):
            batch = {"sample_index": torch.zeros(persons)}
            speed.on_train_batch_end(trainer, module, None, batch, step)
        speed.on_train_epoch_end(trainer, module)
    assert logged == [("train/persons_per_second", 2 * (5 + 3) / 4.0)] * 2


def started(folder: Path, value: float, epoch: int = 0) -> ArchitectureMonitor:
    """A monitor at the start of a training, at an epoch, whose architecture parameters all have this value."""
    network = fabric_network({"upper": LSP.joints[:7], "lower": LSP.joints[7:]}, skeleton="lsp")
    with torch.no_grad():
        for parameter in network.architecture_parameters().values():
            parameter.fill_(value)
    module = PoseModule(network=network, metric=MeanMetric(), optimizer=torch.optim.Adam)
    monitor = ArchitectureMonitor(folder)
    trainer: Any = SimpleNamespace(is_global_zero=True, current_epoch=epoch)
    monitor.on_train_start(trainer, module)
    return monitor


def test_trajectory_begins_before_training_and_forgets_what_was_not_kept(tmp_path: Path) -> None:
    value = -math.inf
    monitor = started(tmp_path, value)
    assert list(read_trajectory(monitor.path)) == [-1]
    line = monitor.path.read_text()
    later = [line.replace("-1", str(epoch), 1) for epoch in range(3)]
    # A kill cut the last line off.
    monitor.path.write_text(line + "".join(later) + line[:40])
    started(tmp_path, value, epoch=1)
    assert list(read_trajectory(monitor.path)) == [-1, 0]
    with pytest.raises(PnfsError, match="upper/alpha"):
        started(tmp_path, math.nan)


def test_average_of_weights_forgets_the_initial_ones() -> None:
    layer = torch.nn.Linear(1, 1, bias=False)
    averaged = torch.optim.swa_utils.AveragedModel(layer, **EMA(decay=0.9)._kwargs)
    expected = 0.0
    for update in range(200):
        value = 100.0 if update == 0 else float(update % 7)
        layer.weight.data.fill_(value)
        averaged.update_parameters(layer)
        keep = 0.0 if update == 0 else min(0.9, (1 + update) / (10 + update))
        expected = keep * expected + (1 - keep) * value
        assert averaged.module.weight.item() == pytest.approx(expected, rel=1e-4)
    assert expected < 6
