"""Callbacks that decide which epochs' weights are kept, and when a run ends; right also over interruptions."""

from contextlib import suppress
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

from pnfs.training.checkpoint_io import WholeCheckpointIO


class _Kept(ModelCheckpoint):
    """Keeps one checkpoint, of whole epochs, under a fixed name; its folder may be moved or renamed.

    The weights of a part of an epoch, as `max_time` and `max_steps` leave them, are not kept: a resumed run trains
    that epoch again, from its start.
    """

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        trainer.strategy.checkpoint_io = WholeCheckpointIO()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        # Lightning's callback forgets the best score where the folder's name has changed.
        def there(path: str) -> str:
            return str(Path(self.dirpath or "") / Path(path).name) if path else path

        names = ("best_model_path", "kth_best_model_path", "last_model_path")
        paths = {name: there(state_dict[name]) for name in names if name in state_dict}
        best = {there(path): score for path, score in state_dict.get("best_k_models", {}).items()}
        moved = state_dict | paths | {"best_k_models": best, "dirpath": str(self.dirpath)}
        super().load_state_dict(moved)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.is_last_batch:
            super().on_train_epoch_end(trainer, pl_module)


class KeepBest(_Kept):
    """Keeps `best.ckpt` in `dirpath`: the weights with the best (mode: max or min) validation score."""

    def __init__(self, dirpath: Path | str, monitor: str = "val/score", mode: str = "max") -> None:
        super().__init__(
            dirpath=dirpath,
            filename="best",
            monitor=monitor,
            mode=mode,
            enable_version_counter=False,
        )

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.is_last_batch or not trainer.should_stop:
            super().on_validation_end(trainer, pl_module)


class KeepLast(_Kept):
    """Keeps `last.ckpt` in `dirpath`, which a run resumes from: everything after the last whole epoch.

    `previous.ckpt` is the epoch before, for the day that `last.ckpt` cannot be read.

    Lightning's `save_last` skips epochs that are no better, which a resumed run would then repeat; and with
    several validations an epoch it would keep a state that cannot be resumed exactly.

    Attributes:
        epochs: Whole epochs that the run has trained, earlier starts included.
    """

    def __init__(self, dirpath: Path | str) -> None:
        super().__init__(
            dirpath=dirpath,
            filename="last",
            enable_version_counter=False,
            save_on_train_epoch_end=True,
        )
        self.epochs = 0

    def on_load_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self.epochs = checkpoint["epoch"] + 1

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        last = Path(str(self.dirpath)) / "last.ckpt"
        if trainer.is_global_zero and last.is_file() and trainer.is_last_batch:
            # A second name for the file, which the new one replaces.
            before = last.with_name("previous.ckpt")
            before.unlink(missing_ok=True)
            with suppress(OSError):  # A file system without hard links.
                before.hardlink_to(last)
        super().on_train_epoch_end(trainer, pl_module)
        if trainer.is_last_batch:
            self.epochs = trainer.current_epoch + 1


class StopEarly(EarlyStopping):
    """Lightning's early stopping; a run that was killed between this decision and its record does not train on."""

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.wait_count >= self.patience:
            trainer.should_stop = True


def why_unfinished(trainer: L.Trainer) -> str | None:
    """Why a training that has returned did not train all its epochs; None if it did, or was stopped early."""
    stops = [c for c in trainer.early_stopping_callbacks if isinstance(c, EarlyStopping)]
    if any(stop.wait_count >= stop.patience or stop.stopped_epoch for stop in stops):
        return None
    counts = [c.epochs for c in trainer.checkpoint_callbacks if isinstance(c, KeepLast)]
    kept, epochs = max(counts, default=trainer.current_epoch), trainer.max_epochs or 0
    if kept >= epochs:
        return None
    reached = trainer.max_steps != -1 and trainer.global_step >= trainer.max_steps
    cause = f"trainer.max_steps={trainer.max_steps}" if reached else "trainer.max_time"
    return f"{cause} stopped it after {kept} of {epochs} epochs"
