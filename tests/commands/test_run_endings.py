"""Small trainings from end to end: what they leave behind, what ends and resumes them, what their score is of."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks.timer import Timer

from pnfs.commands.configuration import UsageError
from pnfs.data.synthetic import Synthetic
from pnfs.runs.identity import OtherRunError
from pnfs.runs.state import UnfinishedError, read_run
from tiny_runs import call, only_run, record_of
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


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that nothing interrupted."""
    root = tmp_path_factory.mktemp("finished")
    trained(root, *RUN)
    return only_run(root)


@pytest.mark.slow
def test_run_leaves_its_record_and_weights(finished: Path, tmp_path: Path) -> None:
    record = record_of(finished)
    # Some, but not all: otherwise the comparisons below would not say much.
    assert 0 < record["score"] == record["scores"]["PCKh@0.5"] < 100
    assert min(record["cost"]["live_parameters"], record["cost"]["macs"], record["seconds"]) > 0
    best, last = (
        torch.load(finished / f"checkpoints/{name}.ckpt", weights_only=True) for name in ("best", "last")
    )
    assert (last["epoch"], last["global_step"]) == (2, 3 * BATCHES)
    assert best["epoch"] == record["evaluated_with"]["best_epoch"]
    # Started again, it is not trained again.
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*")}
    assert trained(finished.parents[1], *RUN, "workers=1") == record["score"]
    assert {path: path.stat().st_mtime_ns for path in finished.rglob("*")} == before
    # Evaluated, it has the scores on record.
    call("evaluate", f"checkpoint={finished}", f"out={tmp_path}", "workers=0", "trainer=cpu")
    assert record_of(tmp_path)["scores"] == pytest.approx(record["scores"], abs=0, nan_ok=True)


@pytest.mark.slow
def test_max_steps_does_not_finish_a_run(tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(UnfinishedError, match="2 of 3 epochs"):
            trained(tmp_path, *RUN, f"+trainer.max_steps={2 * BATCHES + 1}")
    folder = only_run(tmp_path)
    assert state_of(folder)[0] == "interrupted"
    assert not (folder / "result.json").exists()


@pytest.mark.slow
def test_paused_run_ends_like_the_uninterrupted(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pause = "+trainer.max_time=00:00:01:00"
    looks = iter(range(1, 1000))

    def check(timer: Timer, trainer: Any) -> None:
        # In the middle of the second epoch.
        trainer.should_stop = trainer.should_stop or next(looks) == 1 + BATCHES + 2

    monkeypatch.setattr(Timer, "_check_time_remaining", check)
    with pytest.raises(UnfinishedError, match="1 of 3 epochs"):
        trained(tmp_path / "paused", *RUN, pause)
    folder = only_run(tmp_path / "paused")
    assert state_of(folder)[0] == "interrupted"
    # Also in another place, under another name.
    moved = tmp_path / "moved" / "another_name" / folder.name
    moved.parent.mkdir(parents=True)
    shutil.move(folder, moved)
    trained(tmp_path / "moved", *RUN, pause, "name=another_name")
    assert state_of(moved)[0] == "finished"
    assert_same_training(finished, moved)


def mpii(root: Path, seed: int = 0) -> str:
    """Writes a small MPII; the override that names it."""
    people = Synthetic(train=8, val=8, seed=seed, image_size=(48, 48))
    write_mpii({split: people.persons(split) for split in ("train", "val")}, root / "people")
    return f"dataset.root={root / 'people'}"


@pytest.mark.parametrize(("file", "split"), [("valid", "val"), ("train", "train")])
def test_split_without_a_label_is_refused(tmp_path: Path, file: str, split: str) -> None:
    # Another folder for each case: a process keeps what it has read, and pytest may give the same one again.
    root, path = mpii(tmp_path / file), tmp_path / f"{file}/people/annot/{file}.json"
    records = [record | {"joints_vis": [0] * 16} for record in json.loads(path.read_text())]
    path.write_text(json.dumps(records))
    with pytest.raises(UsageError, match=f"MPII {split}.*{split}"):
        trained(tmp_path / "runs", *MODEL, "dataset=mpii", root)
    assert state_of(only_run(tmp_path / "runs"))[0] == "failed"


@pytest.mark.slow
def test_file_of_another_run_in_the_folder_is_refused(tmp_path: Path) -> None:
    runs, given = tmp_path / "runs", [*MODEL, "dataset=mpii", "epochs=1"]
    trained(runs, *given, mpii(tmp_path / "a"))
    folder, other = only_run(runs), mpii(tmp_path / "b", seed=1)
    trained(tmp_path / "others", *given, other)
    # The state of one run under the name of the other.
    theirs = runs / "tiny" / only_run(tmp_path / "others").name
    for file in ("checkpoints/last.ckpt", "result.json"):
        (theirs / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(folder / file, theirs / file)
        with pytest.raises(OtherRunError) as refusal:
            trained(runs, *given, other)
        text = str(refusal.value)
        assert all(word in text for word in (f"{theirs.name}/{file}", "persons.train", "persons.val"))
