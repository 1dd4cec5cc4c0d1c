"""Callbacks that keep the best and the last epochs' weights and end a run; resumed runs are the same as others."""

import io
from contextlib import suppress
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins.io import TorchCheckpointIO
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint, Timer

from pnfs.files import write_whole


class WholeCheckpointIO(TorchCheckpointIO):
    """Writes whole files or none.

    Lightning's own goes through the folder of temporary files: where that lies on another file system, the
    target is copied into place, and a kill or a full disk leaves half of it.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        content = io.BytesIO()
        torch.save(checkpoint, content)
        write_whole(Path(path), content.getbuffer())


class _Kept(ModelCheckpoint):
    """Keeps one checkpoint, of whole epochs, under a fixed name; its folder may be moved or renamed.

    An epoch cut short by `max_time` or `max_steps` is not saved: a resumed run trains it again.
    """

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        trainer.strategy.checkpoint_io = WholeCheckpointIO()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        # Lightning's callback forgets the best score where the folder's name has changed.
        def there(path: str) -> str:
            return str(Path(self.dirpath or "") / Path(path).name) if path else path

        moved = {k: there(v) if k.endswith("_path") else v for k, v in state_dict.items()}
        best = {there(path): score for path, score in state_dict.get("best_k_models", {}).items()}
        super().load_state_dict(moved | {"best_k_models": best, "dirpath": str(self.dirpath)})

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.is_last_batch:
            super().on_train_epoch_end(trainer, pl_module)


class KeepBest(_Kept):
    """Keeps `best.ckpt` in `dirpath`: the weights with the best (mode: max or min) validation score."""

    def __init__(self, dirpath: Path | str, monitor: str = "val/score", mode: str = "max") -> None:
        arguments: dict[str, Any] = {"monitor": monitor, "mode": mode}
        super().__init__(dirpath, "best", enable_version_counter=False, **arguments)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.is_last_batch or not trainer.should_stop:
            super().on_validation_end(trainer, pl_module)


class KeepLast(_Kept):
    """Keeps `last.ckpt` in `dirpath`, which a run resumes from, and of the epoch before `previous.ckpt`.

    Lightning's `save_last` skips epochs that are no better, which a resumed run would then repeat; and with
    several validations an epoch it would keep a state that cannot be resumed exactly. `epochs` are the whole
    epochs that the run has trained, earlier starts included.
    """

    def __init__(self, dirpath: Path | str) -> None:
        super().__init__(dirpath, "last", enable_version_counter=False, save_on_train_epoch_end=True)
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
    decided = any(stop.wait_count >= stop.patience or stop.stopped_epoch for stop in stops)
    if decided and trainer.current_epoch >= (trainer.min_epochs or 0):
        return None
    counts = [c.epochs for c in trainer.checkpoint_callbacks if isinstance(c, KeepLast)]
    kept, epochs = max(counts, default=trainer.current_epoch), trainer.max_epochs or 0
    if kept >= epochs:
        return None
    reached = trainer.max_steps != -1 and trainer.global_step >= trainer.max_steps
    timed = any(isinstance(callback, Timer) for callback in getattr(trainer, "callbacks", ()))
    cause = "trainer.max_time" if timed else "a callback (early_stopping: a score that is not finite)"
    cause = f"trainer.max_steps={trainer.max_steps}" if reached else cause
    return f"{cause} stopped it after {kept} of {epochs} epochs"
