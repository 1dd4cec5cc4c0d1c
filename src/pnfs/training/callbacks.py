"""Callbacks that show a training: how its architecture moves, how fast it is, where it stands."""

import json
import logging
import sys
import time
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import RichProgressBar, WeightAveraging
from torch import Tensor

from pnfs.files import write_whole
from pnfs.models import PoseFabricNetwork
from pnfs.models.architecture import (
    Architecture,
    architecture_from_json,
    describe_architecture,
    mixing_statistics,
    to_json,
)
from pnfs.training.checkpoints import CheckpointError

TRAJECTORY = "architecture.jsonl"
log = logging.getLogger(__name__)


class ArchitectureMonitor(L.Callback):
    """Logs the statistics of softmax(alpha) and softmax(beta) once an epoch, and keeps their trajectory.

    `architecture.jsonl` in the run's folder gets one line an epoch with alpha and beta, starting with those before
    training (epoch -1). A baseline has nothing to log.
    """

    def __init__(self, folder: Path | str) -> None:
        super().__init__()
        self.path = Path(folder) / TRAJECTORY

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        network = pl_module.network
        if not (isinstance(network, PoseFabricNetwork) and trainer.is_global_zero):
            return
        # A start that was killed before its checkpoint leaves epochs that are trained again, and half a line.
        resumed = self.path.is_file() and trainer.current_epoch > 0
        lines = self.path.read_text().splitlines(keepends=True) if resumed else []
        whole = [line for line in lines if line.endswith("\n")]
        kept = [line for line in whole if json.loads(line)["epoch"] < trainer.current_epoch]
        write_whole(self.path, "".join(kept))
        if trainer.current_epoch == 0:
            self._write(describe_architecture(network), -1)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if isinstance(network := pl_module.network, PoseFabricNetwork):
            found = describe_architecture(network)
            statistics = mixing_statistics(found).items()
            pl_module.log_dict({f"architecture/{name}": value for name, value in statistics})
            # A part of an epoch is trained again when the run is resumed.
            if trainer.is_global_zero and trainer.is_last_batch:
                self._write(found, trainer.current_epoch)

    def _write(self, found: Architecture, epoch: int) -> None:
        with self.path.open("a") as file:
            file.write(f'{{"epoch": {epoch}, "architecture": {to_json(found, lines=False)}}}\n')


def read_trajectory(path: Path) -> dict[int, Architecture]:
    """Epoch -> architecture, as `ArchitectureMonitor` wrote them; -1 is before training.

    Raises:
        CheckpointError: A line is something else; names the file and the line.
    """
    found = {}
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        try:
            record = json.loads(line)
            found[int(record["epoch"])] = architecture_from_json(json.dumps(record["architecture"]))
        except (ValueError, KeyError, TypeError) as error:
            text = f"no epoch and architecture ({error}); remove the file, or train again"
            raise CheckpointError(f"{path}, line {number}: {text}") from None
    return found


class EMA(WeightAveraging):
    """Exponential moving average of the weights and batch statistics, which is validated, kept and scored.

    The n-th update keeps min(`decay`, (1 + n) / (10 + n)) of the average, as in TensorFlow's and timm's, so that
    the initial weights, far from all others, have no part in it after the first few hundred steps.
    """

    def __init__(self, decay: float = 0.999) -> None:
        def average(averaged: Tensor, current: Tensor, updates: Tensor) -> Tensor:
            keep = ((1 + updates) / (10 + updates)).clamp(max=decay)
            return keep * averaged + (1 - keep) * current

        super().__init__(avg_fn=average)


class TrainingSpeed(L.Callback):
    """Logs "train/persons_per_second" once an epoch: everything between its first and last step.

    In Lightning's `ThroughputMonitor` the compiling of the first step counts, and a GPU waits after each step.
    """

    _started, _persons = 0.0, 0

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx == 0:
            # The first step of a run compiles and allocates, that of an epoch fills the queues.
            self._started, self._persons = self._now(pl_module), 0
        else:
            self._persons += len(batch["sample_index"]) * trainer.world_size

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._persons:
            seconds = self._now(pl_module) - self._started
            pl_module.log("train/persons_per_second", self._persons / seconds)

    def _now(self, module: L.LightningModule) -> float:
        if module.device.type == "cuda":
            torch.cuda.synchronize(module.device)
        return time.perf_counter()


class EpochLog(L.Callback):
    """One line an epoch in the log: the losses, the validation's score."""

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.sanity_checking or not trainer.is_global_zero or trainer.state.fn != "fit":
            return
        metrics = trainer.callback_metrics
        names = [n for n in ("train/loss_step", "val/loss", "val/score") if n in metrics]
        shown = ", ".join(f"{name} {float(metrics[name]):.4g}" for name in names)
        log.info("epoch %d of %s: %s", trainer.current_epoch + 1, trainer.max_epochs, shown)


class TerminalProgressBar(RichProgressBar):
    """Lightning's progress bar where there is a terminal; nothing where the output goes to a file or a pipe."""

    @property
    def is_enabled(self) -> bool:
        return super().is_enabled and sys.stdout.isatty()
