"""What a run writes down about its architecture while it trains."""

import json
from pathlib import Path

import lightning as L

from pnfs.models.architecture import mixing_statistics, snapshot
from pnfs.training.module import PoseModule

TRAJECTORY = "architecture.jsonl"


class ArchitectureMonitor(L.Callback):
    """Logs the statistics of softmax(alpha) and softmax(beta), and keeps their trajectory.

    Every logger gets the statistics once an epoch; `architecture.jsonl` in the run's folder gets one line an
    epoch with all mixing weights, starting with those before training (epoch -1). A baseline has nothing to
    log.

    Args:
        folder: The run's folder.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.path = folder / TRAJECTORY

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, PoseModule)
        if not pl_module.network.fabrics():
            return
        if trainer.is_global_zero and trainer.current_epoch == 0:
            self.path.unlink(missing_ok=True)
            self._write(pl_module, -1)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, PoseModule)
        if not pl_module.network.fabrics():
            return
        statistics = mixing_statistics(pl_module.network)
        pl_module.log_dict({f"architecture/{name}": value for name, value in statistics.items()})
        if trainer.is_global_zero:
            self._write(pl_module, trainer.current_epoch)

    def _write(self, module: L.LightningModule, epoch: int) -> None:
        assert isinstance(module, PoseModule)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a") as file:
            record = {"epoch": epoch, "parts": snapshot(module.network)}
            file.write(json.dumps(record) + "\n")
