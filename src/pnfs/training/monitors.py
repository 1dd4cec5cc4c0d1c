"""What a run writes down about its architecture while it trains."""

import json
from pathlib import Path

import lightning as L

from pnfs.models.architecture import mixing_statistics, snapshot
from pnfs.training.module import PoseModule
from pnfs.training.plain import json_ready

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
        if not trainer.is_global_zero:
            return
        if trainer.current_epoch == 0:
            self.path.unlink(missing_ok=True)
            self._write(pl_module, -1)
        else:
            self._forget_from(trainer.current_epoch)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, PoseModule)
        if not pl_module.network.fabrics():
            return
        statistics = mixing_statistics(pl_module.network)
        pl_module.log_dict({f"architecture/{name}": value for name, value in statistics.items()})
        # A part of an epoch is trained again when the run is resumed.
        if trainer.is_global_zero and trainer.is_last_batch:
            self._write(pl_module, trainer.current_epoch)

    def _forget_from(self, epoch: int) -> None:
        """Drops what a start that was killed before its checkpoint wrote: that epoch is trained again."""
        if not self.path.is_file():
            return
        kept = []
        for line in self.path.read_text().splitlines():
            try:
                if json.loads(line)["epoch"] < epoch:
                    kept.append(f"{line}\n")
            except json.JSONDecodeError:
                break  # The kill came while this line was written.
        temporary = self.path.with_suffix(".tmp")
        temporary.write_text("".join(kept))
        temporary.replace(self.path)

    def _write(self, module: L.LightningModule, epoch: int) -> None:
        assert isinstance(module, PoseModule)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a") as file:
            record = {"epoch": epoch, "parts": snapshot(module.network)}
            file.write(json.dumps(json_ready(record), allow_nan=False) + "\n")
