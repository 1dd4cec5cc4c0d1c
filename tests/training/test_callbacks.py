"""What is measured while a run trains: its speed, and how its architecture moves."""

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torchmetrics import MeanMetric

from pnfs.body import LSP
from pnfs.errors import PnfsError
from pnfs.training import callbacks
from pnfs.training.callbacks import EMA, ArchitectureMonitor, TrainingSpeed, read_trajectory
from pnfs.training.module import PoseModule
from tiny import fabric_network


@pytest.mark.parametrize("world_size", [1, 2])
def test_speed_leaves_the_first_step_of_an_epoch_out(monkeypatch: pytest.MonkeyPatch, world_size: int) -> None:
    clock, logged = iter([100.0, 104.0, 200.0, 204.0]), []
    monkeypatch.setattr(callbacks.time, "perf_counter", lambda: next(clock))
    log = lambda name, value: logged.append((name, value))  # noqa: E731
    module: Any = SimpleNamespace(device=torch.device("cpu"), log=log)
    trainer: Any = SimpleNamespace(world_size=world_size)
    speed = TrainingSpeed()
    for _ in range(2):
        for step, persons in enumerate((7, 5, 3)):
            batch = {"sample_index": torch.zeros(persons)}
            speed.on_train_batch_end(trainer, module, None, batch, step)
        speed.on_train_epoch_end(trainer, module)
    assert logged == [("train/persons_per_second", world_size * (5 + 3) / 4.0)] * 2


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


@pytest.mark.parametrize("value", [0.5, -math.inf])
def test_trajectory_begins_before_training_and_forgets_what_was_not_kept(tmp_path: Path, value: float) -> None:
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
