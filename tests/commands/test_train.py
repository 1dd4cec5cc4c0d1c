"""Small trainings from end to end: what they leave behind, resuming, evaluating, damaged files."""

from importlib.metadata import version
from pathlib import Path
from typing import Any

import cv2
import pytest
import torch

from pnfs.training.checkpoints import CONFIG_KEY
from tiny_runs import call, only_run, record_of

pytestmark = pytest.mark.slow

EPOCHS = 3
MODEL = [
    "backbone=fabric", "backbone.fabrics.first_layers=3", "backbone.fabrics.channels=2",
    "model.fabrics.channels=2", "parts=p3", "input_size=[64,64]", "batch_size=4", "eval_batch_size=6",
    "augmentation=none", "optimizer.lr=0.01", "workers=0", "trainer=cpu", "name=tiny",
]  # fmt: skip
SYNTHETIC = ["dataset.train=32", "dataset.val=16", "dataset.image_size=[64,64]"]
RUN = [*MODEL, *SYNTHETIC, f"epochs={EPOCHS}"]


def read(path: Path) -> dict[str, Any]:
    return torch.load(path, map_location="cpu", weights_only=True)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that nothing interrupted."""
    root = tmp_path_factory.mktemp("finished")
    call("train", *RUN, f"run_root={root}")
    return only_run(root)


# --- what a run leaves behind


def test_run_leaves_its_record(finished: Path) -> None:
    record = record_of(finished)
    assert record["score"] == record["scores"]["PCKh@0.5"]
    # Some, but not all: otherwise the comparisons below would not say much.
    assert 0 < record["score"] < 100
    assert record["seed"] == 0
    assert record["config"]["model"]["fabrics"]["channels"] == 2
    assert record["cost"]["live_parameters"] > 0
    assert record["cost"]["macs"] > 0
    assert record["evaluated_with"]["flip_test"] is True
    assert record["seconds"] > 0
    assert record["versions"]["torch"] == version("torch")


def test_run_leaves_its_last_and_its_best_weights(finished: Path) -> None:
    last = read(finished / "checkpoints" / "last.ckpt")
    assert last["epoch"] == EPOCHS - 1
    assert last["global_step"] == EPOCHS * 8
    best = read(finished / "checkpoints" / "best.ckpt")
    assert best["epoch"] == record_of(finished)["evaluated_with"]["best_epoch"]
    assert best[CONFIG_KEY] == record_of(finished)["config"]


# --- started again


def test_finished_run_is_not_trained_again(
    finished: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "pnfs")
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*")}
    score = call("train", *RUN, f"run_root={finished.parents[1]}", "workers=1")
    assert score == record_of(finished)["score"]
    assert "finished before" in caplog.text
    assert {path: path.stat().st_mtime_ns for path in finished.rglob("*")} == before


# --- evaluate


def evaluated(checkpoint: Path, out: Path) -> float:
    overrides = [f"checkpoint={checkpoint}", f"out={out}", "workers=0", "trainer=cpu"]
    return call("evaluate", *overrides)


def test_evaluating_the_run_gives_the_score_on_record(finished: Path, tmp_path: Path) -> None:
    score = evaluated(finished, tmp_path / "out")
    assert score == record_of(finished)["score"]
    record = record_of(tmp_path / "out")
    assert record["scores"] == pytest.approx(record_of(finished)["scores"], abs=0, nan_ok=True)
    assert record["checkpoint"] == str(finished / "checkpoints" / "best.ckpt")
    assert cv2.imread(str(tmp_path / "out" / "predictions_val.png")) is not None
