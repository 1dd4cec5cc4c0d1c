"""Callbacks that decide which epochs' weights are kept, and when a run ends; right also over interruptions."""

from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint


class KeepBest(ModelCheckpoint):
    """Keeps `best.ckpt`: the weights with the highest validation score.

    It remembers that score when the run's folder has been moved or renamed, too: Lightning's callback forgets it
    then, and a worse epoch would take the place of the best. The weights of a part of an epoch, as `max_time`
    and `max_steps` leave them, are not kept: a resumed run trains that epoch again, from its start.

    Args:
        folder: The checkpoints' folder.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(
            dirpath=folder,
            filename="best",
            monitor="val/score",
            mode="max",
            enable_version_counter=False,
        )

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(_moved(state_dict, str(self.dirpath)))

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not stopped_within_epoch(trainer):
            super().on_train_epoch_end(trainer, pl_module)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not (trainer.should_stop and stopped_within_epoch(trainer)):
            super().on_validation_end(trainer, pl_module)


class KeepLast(ModelCheckpoint):
    """Keeps `last.ckpt`, which a run resumes from: everything after the last whole epoch.

    Lightning's `save_last` skips epochs that are no better, which a resumed run would then repeat; and with
    several validations an epoch it would keep a state that cannot be resumed exactly.

    Args:
        folder: The checkpoints' folder.

    Attributes:
        epochs: Whole epochs that the run has trained, earlier starts included.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(
            dirpath=folder,
            filename="last",
            enable_version_counter=False,
            save_on_train_epoch_end=True,
        )
        self.epochs = 0

    def on_load_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self.epochs = checkpoint["epoch"] + 1

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(_moved(state_dict, str(self.dirpath)))

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not stopped_within_epoch(trainer):
            super().on_train_epoch_end(trainer, pl_module)
            self.epochs = trainer.current_epoch + 1


class StopEarly(EarlyStopping):
    """Stops when the validation score has not risen for some epochs.

    A run that was killed between this decision and its record does not train another epoch when it is resumed.

    Args:
        patience: Number of epochs.
    """

    def __init__(self, patience: int) -> None:
        super().__init__("val/score", mode="max", patience=patience)

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.wait_count >= self.patience:
            trainer.should_stop = True


def stopped_within_epoch(trainer: L.Trainer) -> bool:
    """Whether the epoch that ends has not seen all its batches."""
    return not trainer.is_last_batch


def why_unfinished(trainer: L.Trainer, epochs: int) -> str | None:
    """Why a training that has returned did not train all its epochs; None if it did, or was stopped early.

    Args:
        trainer: After `fit`.
        epochs: To train.
    """
    stops = [c for c in trainer.early_stopping_callbacks if isinstance(c, StopEarly)]
    if any(stop.wait_count >= stop.patience for stop in stops):
        return None
    (kept,) = (c for c in trainer.checkpoint_callbacks if isinstance(c, KeepLast))
    if kept.epochs >= epochs:
        return None
    reached = trainer.max_steps != -1 and trainer.global_step >= trainer.max_steps
    cause = f"trainer.max_steps={trainer.max_steps}" if reached else "trainer.max_time"
    return f"{cause} stopped it after {kept.epochs} of {epochs} epochs"


def _moved(state: dict[str, Any], folder: str) -> dict[str, Any]:
    """The callback's state with its paths in another folder."""

    def there(path: str) -> str:
        return str(Path(folder) / Path(path).name) if path else path

    paths = {key: there(state[key]) for key in _PATHS if key in state}
    best = {there(path): score for path, score in state.get("best_k_models", {}).items()}
    return state | paths | {"best_k_models": best, "dirpath": folder}


_PATHS = ("best_model_path", "kth_best_model_path", "last_model_path")
