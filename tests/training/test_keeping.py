"""Which epochs' weights are kept, over interruptions, moves and stops in the middle of an epoch."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks.timer import Timer
from lightning.pytorch.demos.boring_classes import BoringModel

from pnfs.training.checkpoints import KeepConfig
from pnfs.training.keeping import KeepBest, KeepLast, StopEarly, why_unfinished
from tiny import SILENT

BATCHES = 4


class Scored(BoringModel):
    """Has the validation scores that a test gives it, an epoch each."""

    def __init__(self, scores: Sequence[float]) -> None:
        super().__init__()
        self.scores = scores

    def on_validation_epoch_end(self) -> None:
        self.log("val/score", torch.tensor(self.scores[self.trainer.current_epoch]))


def fit(
    folder: Path,
    scores: Sequence[float],
    *,
    epochs: int,
    patience: int | None = None,
    **trainer: Any,
) -> L.Trainer:
    """Trains in a folder; goes on from its last checkpoint where there is one."""
    stop = [] if patience is None else [StopEarly("val/score", mode="max", patience=patience)]
    limits = {"limit_train_batches": BATCHES, "limit_val_batches": 1, "num_sanity_val_steps": 0}
    fitted = L.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        callbacks=[KeepConfig({}), KeepBest(folder), KeepLast(folder), *stop],
        default_root_dir=str(folder),
        **SILENT | {"enable_checkpointing": True} | limits | trainer,
    )
    last = folder / "last.ckpt"
    start = str(last) if last.is_file() else None
    fitted.fit(Scored(scores), ckpt_path=start, weights_only=True)
    return fitted


def epoch_of(path: Path) -> int:
    return torch.load(path, weights_only=True)["epoch"]


# --- moved runs


@pytest.mark.parametrize(("scores", "best"), [([0.9, 0.5, 0.2, 0.3], 0), ([0.5, 0.9, 0.2, 0.95], 3)])
def test_moved_run_keeps_its_best_epoch(tmp_path: Path, scores: list[float], best: int) -> None:
    fit(tmp_path / "run", scores, epochs=2)
    moved = tmp_path / "another" / "place"
    moved.parent.mkdir()
    shutil.move(tmp_path / "run", moved)
    fit(moved, scores, epochs=4)
    assert epoch_of(moved / "best.ckpt") == best
    assert epoch_of(moved / "last.ckpt") == 3
    names = ["best.ckpt", "last.ckpt", "previous.ckpt"]
    assert sorted(path.name for path in moved.iterdir()) == names
    assert not (tmp_path / "run").exists()


# --- stopped before the end


@pytest.mark.parametrize(("steps", "whole"), [(6, 1), (8, 2), (3, 0)])
def test_part_of_an_epoch_is_not_kept(tmp_path: Path, steps: int, whole: int) -> None:
    # The part would be the best epoch of all.
    trainer = fit(tmp_path, [0.1, 0.5, 0.9], epochs=3, max_steps=steps)
    assert f"max_steps={steps} stopped it after {whole} of 3 epochs" in str(why_unfinished(trainer))
    if steps == 6:
        assert epoch_of(tmp_path / "best.ckpt") == epoch_of(tmp_path / "last.ckpt") == 0
    if not whole:
        assert not list(tmp_path.glob("*.ckpt"))
    # All steps of all epochs are no part.
    whole_run = fit(tmp_path / "whole", [0.1, 0.2], epochs=2, max_steps=2 * BATCHES)
    assert why_unfinished(whole_run) is None


def counted_looks(timer: Timer, stage: Any = None) -> float:
    """Time that passes by one second whenever a timer is asked for it."""
    looks: list[int] = timer.__dict__.setdefault("looks", [])
    looks.append(1)
    return len(looks) + timer._offset


def test_max_time_pauses_and_the_same_command_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Timer, "time_elapsed", counted_looks)
    limit = {"seconds": 7}
    scores = [0.1, 0.2, 0.9]
    reasons = []
    for _ in range(9):
        trainer = fit(tmp_path, scores, epochs=3, max_time=limit)
        assert any(isinstance(callback, Timer) for callback in trainer.callbacks)  # type: ignore[attr-defined]
        reasons.append(why_unfinished(trainer))
        if reasons[-1] is None:
            break
    assert len(reasons) > 2
    assert "max_time stopped it after 1 of 3 epochs" in str(reasons[0])
    assert reasons[-1] is None
    assert epoch_of(tmp_path / "last.ckpt") == epoch_of(tmp_path / "best.ckpt") == 2
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 3 * BATCHES


# --- early stopping


@pytest.mark.parametrize(("patience", "end"), [(1, 1), (2, 2)])
def test_run_that_had_stopped_early_trains_no_further_epoch(tmp_path: Path, patience: int, end: int) -> None:
    scores = [0.5, 0.4, 0.3, 0.9, 0.9]
    # Patience goes on where it was.
    fit(tmp_path, scores, epochs=2, patience=patience)
    assert why_unfinished(fit(tmp_path, scores, epochs=5, patience=patience)) is None
    before = (tmp_path / "last.ckpt").read_bytes()
    assert why_unfinished(fit(tmp_path, scores, epochs=5, patience=patience)) is None
    assert (tmp_path / "last.ckpt").read_bytes() == before
    assert (epoch_of(tmp_path / "last.ckpt"), epoch_of(tmp_path / "best.ckpt")) == (end, 0)
