"""A run is what it says it is: what ends it, what it is resumed with, and what its score is of."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.callbacks.timer import Timer

from pnfs.commands.configuration import UsageError
from pnfs.data.synthetic import Synthetic
from pnfs.runs.identity import OtherRunError
from pnfs.runs.state import UnfinishedError, read_run
from tiny_runs import call, only_run
from train_server import assert_same_training
from written_datasets import write_mpii

MODEL = [
    "backbone=fabric", "backbone.fabrics.first_layers=3", "backbone.fabrics.channels=2",
    "model.fabrics.channels=2", "parts=p1", "input_size=[32,32]", "batch_size=4", "eval_batch_size=4",
    "optimizer.lr=0.01", "workers=0", "trainer=cpu", "name=tiny",
]  # fmt: skip
RUN = [*MODEL, "dataset.train=16", "dataset.val=12", "dataset.image_size=[48,48]", "epochs=3"]
BATCHES = 4


def trained(root: Path, *overrides: str) -> float:
    return call("train", *overrides, f"run_root={root}")


def state_of(folder: Path) -> tuple[str, str | None]:
    run = read_run(folder)
    assert run is not None
    return run.status, run.cause


# --- stopped before the last epoch


@pytest.mark.slow
@pytest.mark.parametrize(("steps", "whole"), [(2 * BATCHES + 1, 2), (1, 0)])
def test_max_steps_does_not_finish_a_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, steps: int, whole: int
) -> None:
    caplog.set_level("INFO", "pnfs")
    for _ in range(2):
        with pytest.raises(UnfinishedError, match=f"{whole} of 3 epochs"):
            trained(tmp_path, *RUN, f"+trainer.max_steps={steps}")
    assert f"max_steps={steps}" in caplog.text
    folder = only_run(tmp_path)
    assert state_of(folder)[0] == "interrupted"
    assert not (folder / "result.json").exists()


def time_runs_out(at: int) -> Callable[[Timer, Any], None]:
    """Stops a training at the timer's n-th look, counted over all starts."""
    looks = iter(range(1, 1000))

    def check(timer: Timer, trainer: Any) -> None:
        trainer.should_stop = trainer.should_stop or next(looks) == at

    return check


@pytest.mark.slow
@pytest.mark.parametrize("moves", [False, True])
def test_paused_run_ends_like_the_uninterrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moves: bool
) -> None:
    trained(tmp_path / "whole", *RUN)
    pause = "+trainer.max_time=00:00:01:00"
    # In the middle of the second epoch.
    monkeypatch.setattr(Timer, "_check_time_remaining", time_runs_out(1 + BATCHES + 2))
    with pytest.raises(UnfinishedError, match="1 of 3 epochs"):
        trained(tmp_path / "paused", *RUN, pause)
    folder = only_run(tmp_path / "paused")
    assert state_of(folder)[0] == "interrupted"
    name = "tiny"
    if moves:
        name = "another_name"
        (tmp_path / "moved" / name).mkdir(parents=True)
        shutil.move(folder, tmp_path / "moved" / name / folder.name)
    trained(tmp_path / ("moved" if moves else "paused"), *RUN, pause, f"name={name}")
    (resumed,) = tmp_path.glob(f"[mp]*/{name}/*")
    assert state_of(resumed)[0] == "finished"
    assert_same_training(only_run(tmp_path / "whole"), resumed)


# --- keys for debugging


@pytest.mark.parametrize("key", ["limit_val_batches=1", "fast_dev_run=true", "overfit_batches=2"])
def test_evaluation_of_a_part_is_refused(key: str) -> None:
    with pytest.raises(UsageError, match=key.partition("=")[0]):
        call("evaluate", "checkpoint=anywhere", f"+trainer.{key}")


# --- data


@pytest.fixture
def mpii(tmp_path: Path) -> Callable[..., Path]:
    """Writes a small MPII; returns its root."""

    def write(name: str, seed: int = 0) -> Path:
        people = Synthetic(train=8, val=8, seed=seed, image_size=(48, 48))
        root = tmp_path / name / "people"
        write_mpii({split: people.persons(split) for split in ("train", "val")}, root)
        return root

    return write


def unlabel(path: Path) -> None:
    records = json.loads(path.read_text())
    for record in records:
        record["joints_vis"] = [0] * 16
    path.write_text(json.dumps(records))


@pytest.mark.parametrize(("file", "split"), [("valid", "val"), ("train", "train")])
def test_split_without_a_label_is_refused(
    mpii: Callable[..., Path], tmp_path: Path, file: str, split: str
) -> None:
    root = mpii("a")
    unlabel(root / "annot" / f"{file}.json")
    with pytest.raises(UsageError, match=f"MPII {split}.*{split}"):
        trained(tmp_path / "runs", *MODEL, "dataset=mpii", f"dataset.root={root}")
    assert state_of(only_run(tmp_path / "runs"))[0] == "failed"


@pytest.mark.slow
@pytest.mark.parametrize("file", ["checkpoints/last.ckpt", "result.json"])
def test_file_of_another_run_in_the_folder_is_refused(
    mpii: Callable[..., Path], tmp_path: Path, file: str
) -> None:
    runs = tmp_path / "runs"
    given = [*MODEL, "dataset=mpii", "epochs=1"]
    trained(runs, *given, f"dataset.root={mpii('a')}")
    folder = only_run(runs)
    other = mpii("b", seed=1)
    trained(tmp_path / "others", *given, f"dataset.root={other}")
    theirs = only_run(tmp_path / "others")
    # The state of one run under the name of the other.
    (runs / "tiny" / theirs.name).mkdir()
    (runs / "tiny" / theirs.name / file).parent.mkdir(exist_ok=True)
    shutil.copy(folder / file, runs / "tiny" / theirs.name / file)
    with pytest.raises(OtherRunError) as refusal:
        trained(runs, *given, f"dataset.root={other}")
    text = str(refusal.value)
    assert str(Path(theirs.name) / file) in text
    assert "persons.train" in text
    assert "persons.val" in text
