"""Trainings killed at random moments, or while they write, end bit for bit like uninterrupted ones."""

import signal
import tempfile
from pathlib import Path

import pytest

from conftest import RUN, Tally
from train_server import TrainServer, assert_same_training

BITWISE = "the same command resumes; weights, scores and trajectory are those of an uninterrupted run, bit for bit"

KILLS = 5
CASES = {
    "synchronous": ["strategy=synchronous"], "random": ["strategy=random"],
    "first_order": ["strategy=first_order"], "second_order": ["strategy=second_order"],
    "gumbel": ["strategy=gumbel"], "frozen": ["strategy=frozen"],
    "accumulated gradients": ["+trainer.accumulate_grad_batches=4"],
    "accumulated gradients, first order": ["strategy=first_order", "+trainer.accumulate_grad_batches=2"],
    "one-cycle schedule": ["schedule=one_cycle", "strategy.warmup_epochs=2"],
    "without loader processes": ["workers=0"],
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_killed_training_ends_like_the_uninterrupted(
    server: TrainServer, tmp_path: Path, tally: Tally, case: str
) -> None:
    overrides, log = [*RUN, f"epochs={2 * KILLS + 2}", *CASES[case]], tmp_path / "log.txt"
    server.train([*overrides, f"run_root={tmp_path / 'whole'}"], log)
    (whole,) = (tmp_path / "whole").glob("*/*")
    killed = server.train_with_kills(overrides, tmp_path / "killed", log, kills=KILLS, seed=1)
    assert_same_training(whole, killed)
    tally("SIGKILL at a random moment, all strategies, workers 0 and 2", KILLS, BITWISE)


@pytest.mark.slow
@pytest.mark.parametrize("patience", [3, 5])
def test_killed_training_stops_early_where_the_uninterrupted_does(
    server: TrainServer, tmp_path: Path, tally: Tally, patience: int
) -> None:
    # Hardly learns: the scores stop to rise soon.
    stops = ["callbacks=[default,early_stopping]", f"callbacks.early_stopping.patience={patience}"]
    stops += ["optimizer.lr=1e-9", "epochs=40"]
    overrides, log = [*RUN, *stops], tmp_path / "log.txt"
    server.train([*overrides, f"run_root={tmp_path / 'whole'}"], log)
    (whole,) = (tmp_path / "whole").glob("*/*")
    killed = server.train_with_kills(overrides, tmp_path / "killed", log, kills=patience // 2, seed=patience)
    assert_same_training(whole, killed)
    tally("SIGKILL at a random moment, all strategies, workers 0 and 2", patience // 2, BITWISE)


PLACES = {
    "before a checkpoint is flushed": ("os:fsync", 1, False),
    "before a checkpoint takes its place": ("pathlib:Path.replace", 2, False),
    "after a checkpoint has taken its place": ("pathlib:Path.replace", 2, True),
    "between last and previous checkpoint": ("pathlib:Path.hardlink_to", 1, True),
    "while a checkpoint is put together": ("torch:save", 2, False),
    "as the trajectory is written": ("pnfs.training.callbacks:ArchitectureMonitor._write", 2, True),
    "before the record": ("pnfs.runs.state:write_json", 2, False),
}
"""Kills are of a new start each; `Path.replace` is called first for the state of the run."""


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_killed_while_it_writes(tmp_path: Path, tally: Tally, workers: int) -> None:
    # Lightning's own way of writing goes through this folder, on another file system than the run's.
    elsewhere = tempfile.mkdtemp(dir="/dev/shm") if Path("/dev/shm").is_dir() else str(tmp_path)
    server = TrainServer(TMPDIR=elsewhere)
    few = ["dataset.train=8", "dataset.val=4", f"workers={workers}", f"epochs={len(PLACES) + 1}"]
    overrides, log = [*RUN, *few], tmp_path / "log.txt"
    server.train([*overrides, f"run_root={tmp_path / 'whole'}"], log)
    (whole,) = (tmp_path / "whole").glob("*/*")
    for place, kill in PLACES.items():
        server.start([*overrides, f"run_root={tmp_path / 'killed'}"], log, kill)
        assert server.wait() == -signal.SIGKILL, place
    server.train([*overrides, f"run_root={tmp_path / 'killed'}"], log)
    server.close()
    (killed,) = (tmp_path / "killed").glob("*/*")
    assert_same_training(whole, killed)
    left = sorted(path.name for path in (killed / "checkpoints").iterdir())
    assert left == ["best.ckpt", "last.ckpt", "previous.ckpt"]
    assert not [path for path in Path(elsewhere).rglob("*") if path.is_file()]
    tally("SIGKILL while a file is written, TMPDIR on another file system", len(PLACES), BITWISE)
