"""How fast a run trains."""

import time
from typing import Any

import lightning as L
import torch


class ThroughputMonitor(L.Callback):
    """Logs "train/persons_per_second" once an epoch: everything between its first and last step."""

    def __init__(self) -> None:
        super().__init__()
        self._started = 0.0
        self._persons = 0

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._persons = 0

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        if batch_idx == 0:
            # The first step of a run compiles and allocates, that of an epoch fills the queues.
            self._wait(pl_module)
            self._started = time.perf_counter()
        else:
            self._persons += len(batch["sample_index"]) * trainer.world_size

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._persons:
            self._wait(pl_module)
            seconds = time.perf_counter() - self._started
            pl_module.log("train/persons_per_second", self._persons / seconds)

    def _wait(self, module: L.LightningModule) -> None:
        if module.device.type == "cuda":
            torch.cuda.synchronize(module.device)
