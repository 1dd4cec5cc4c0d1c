"""What makes a run the same run, and its one record."""

import contextlib
import copy
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from pnfs.training.records import (
    RESULT,
    STATE,
    RunBusyError,
    cause_of,
    defining_part,
    find_runs,
    kept_state,
    provenance,
    read_result,
    read_run,
    run_folder,
    run_hash,
    write_result,
)

CONFIG: dict[str, Any] = {
    "run_root": "runs",
    "name": "train",
    "seed": 0,
    "epochs": 200,
    "input_size": [256, 256],
    "batch_size": 24,
    "eval_batch_size": 64,
    "workers": 2,
    "evaluate_untrained": False,
    "restart": False,
    "dataset": {"_target_": "pnfs.data.mpii.MPII", "root": "data/mpii", "check_images": True},
    "parts": {"mpii": {"head": ["head_top"]}},
    "backbone": {"_target_": "pnfs.models.backbones.MobileNetV2", "weights": "/a/weights.pth"},
    "model": {
        "channels": 10,
        "backbone": {"_target_": "pnfs.models.backbones.MobileNetV2", "weights": "/a/weights.pth"},
    },
    "optimizer": {"lr": 1e-3},
    "data": {"workers": 2, "eval_batch_size": 64, "batch_size": 24, "cache": "runs/cache"},
    "trainer": {"accelerator": "auto", "devices": 1, "precision": "32-true"},
    "logger": {},
}


def changed(key: str, value: Any) -> dict[str, Any]:
    config = copy.deepcopy(CONFIG)
    *path, last = key.split(".")
    holder = config
    for step in path:
        holder = holder[step]
    holder[last] = value
    return config


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("seed", 1),
        ("epochs", 201),
        ("input_size", [256, 192]),
        ("batch_size", 32),
        ("dataset._target_", "pnfs.data.coco.COCO"),
        ("parts.mpii", {"body": ["head_top"]}),
        ("model.channels", 12),
        ("model.backbone.weights", "/a/other.pth"),
        ("backbone.weights", "imagenet"),
        ("optimizer.lr", 2e-3),
        ("trainer.precision", "bf16-mixed"),
        ("trainer.devices", 2),
        ("data.cache", None),
        ("trainer.limit_train_batches", 3),
    ],
)
def test_what_changes_the_result_makes_another_run(key: str, value: Any) -> None:
    assert run_hash(changed(key, value)) != run_hash(CONFIG)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("run_root", "/elsewhere"),
        ("name", "other"),
        ("workers", 8),
        ("eval_batch_size", 1),
        ("restart", True),
        ("evaluate_untrained", True),
        ("dataset.root", "/moved/mpii"),
        ("dataset.check_images", False),
        ("data.workers", 8),
        ("data.cache", "/elsewhere/cache"),
        ("data.resident", True),
        ("optimizer.fused", True),
        ("acceleration", {"compile": "default"}),
        ("data.eval_batch_size", 1),
        ("model.backbone.weights", "/b/weights.pth"),
        ("backbone.weights", "/b/weights.pth"),
        ("trainer.accelerator", "cpu"),
        ("trainer.log_every_n_steps", 1),
        ("logger.wandb", {"project": "pnfs"}),
    ],
)
def test_where_and_how_it_runs_does_not_make_another_run(key: str, value: Any) -> None:
    assert run_hash(changed(key, value)) == run_hash(CONFIG)


def test_hash_is_of_the_content_not_of_the_order_of_keys() -> None:
    turned = dict(reversed(CONFIG.items()))
    assert run_hash(turned) == run_hash(CONFIG)
    assert len(run_hash(CONFIG)) == 8
    assert int(run_hash(CONFIG), 16) >= 0


def test_configuration_is_left_as_it_is() -> None:
    before = copy.deepcopy(CONFIG)
    part = defining_part(CONFIG)
    part["optimizer"]["lr"] = 0.0
    assert before == CONFIG


def test_configuration_without_the_optional_keys_has_a_hash() -> None:
    assert run_hash({"seed": 0}) != run_hash({"seed": 1})


def test_run_folder_is_root_name_hash() -> None:
    assert run_folder(CONFIG) == Path("runs") / "train" / run_hash(CONFIG)
    assert run_folder(changed("run_root", "~/runs")).parts[: len(Path.home().parts)] == (
        Path.home().parts
    )


def test_record_comes_back_as_written(tmp_path: Path) -> None:
    record = {"score": 12.5, "scores": {"PCKh@0.5": 12.5, "PCKh@0.5/head": float("nan")}}
    folder = tmp_path / "not" / "there" / "yet"
    assert write_result(folder, record) == folder / RESULT
    back = read_result(folder)
    assert back is not None
    assert back["score"] == 12.5
    assert str(back["scores"]["PCKh@0.5/head"]) == "nan"
    assert [path.name for path in folder.iterdir()] == [RESULT]


def test_run_without_a_record_is_not_finished(tmp_path: Path) -> None:
    assert read_result(tmp_path) is None
    assert read_result(tmp_path / "absent") is None


def test_record_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    write_result(tmp_path, {"score": 1.0})
    with pytest.raises(TypeError):
        write_result(tmp_path, {"score": object()})
    assert read_result(tmp_path) == {"score": 1.0}


@pytest.mark.parametrize("content", ["", '{"score": 1', "[1, 2"])
def test_damaged_record_is_one_clear_error(tmp_path: Path, content: str) -> None:
    (tmp_path / RESULT).write_text(content)
    with pytest.raises(ValueError, match=r"result\.json.*delete it to run again"):
        read_result(tmp_path)


def test_provenance_says_what_ran_where() -> None:
    record = json.loads(json.dumps(provenance()))
    assert {"pnfs", "torch", "lightning", "python"} <= set(record["versions"])
    assert all(record["versions"].values())
    assert record["device"]
    assert record["finished"].endswith("+00:00")
    revision = record["git_revision"]
    assert revision is None or (len(revision) == 40 and int(revision, 16) >= 0)


def test_another_dataset_of_the_same_class_makes_another_run() -> None:
    assert run_hash(changed("dataset.root", "data/mpii_small")) != run_hash(CONFIG)


# --- what a path stands for


@pytest.mark.parametrize("key", ["architecture", "initial"])
def test_given_architecture_counts_by_its_content(tmp_path: Path, key: str) -> None:
    for name, content in (("a", "x"), ("b", "x"), ("c", "y")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "found.json").write_text(content)
    hashes = [
        run_hash(CONFIG | {key: str(tmp_path / name / "found.json")}) for name in ("a", "b", "c")
    ]
    assert hashes[0] == hashes[1] != hashes[2]
    assert hashes[0] != run_hash(CONFIG | {key: None})


def test_run_given_by_its_folder_counts_by_its_name(tmp_path: Path) -> None:
    for root in ("here", "there"):
        (tmp_path / root / "1a2b").mkdir(parents=True)
    here, there = (
        {"strategy": {"architecture": str(tmp_path / root / "1a2b")}} for root in ("here", "there")
    )
    assert run_hash(here) == run_hash(there)
    assert run_hash(here) != run_hash({"strategy": {"architecture": "runs/3c4d"}})


def test_moved_files_of_a_dataset_are_the_same(tmp_path: Path) -> None:
    assert run_hash({"dataset": {"detections": "/a/boxes.json"}}) == run_hash(
        {"dataset": {"detections": "/b/boxes.json"}}
    )


# --- states


def test_state_follows_a_run(tmp_path: Path) -> None:
    assert read_run(tmp_path) is None
    with kept_state(tmp_path, CONFIG) as earlier:
        assert earlier == 0
        run = read_run(tmp_path)
        assert run is not None
        assert (run.status, run.config) == ("running", CONFIG)
        write_result(tmp_path, {"config": CONFIG, "score": 1.0})
    run = read_run(tmp_path)
    assert run is not None
    assert run.status == "finished"
    assert run.record is not None
    assert run.record["score"] == 1.0


@pytest.mark.parametrize(
    ("error", "status", "cause"),
    [
        (ValueError("bad\nimage"), "failed", "ValueError: bad image"),
        (KeyboardInterrupt(), "interrupted", "KeyboardInterrupt"),
        (SystemExit(1), "interrupted", "SystemExit: 1"),
    ],
)
def test_state_tells_how_a_run_ended(
    tmp_path: Path, error: BaseException, status: str, cause: str
) -> None:
    with pytest.raises(type(error)), kept_state(tmp_path, CONFIG):
        raise error
    run = read_run(tmp_path)
    assert run is not None
    assert (run.status, run.cause) == (status, cause)
    # It can be started again.
    with kept_state(tmp_path, CONFIG):
        pass


def test_two_processes_cannot_train_one_run(tmp_path: Path) -> None:
    with (
        kept_state(tmp_path, CONFIG),
        pytest.raises(RunBusyError, match="another process"),
        kept_state(tmp_path, CONFIG),
    ):
        pass


def test_killed_run_is_seen_as_interrupted(tmp_path: Path) -> None:
    child = os.fork()
    if not child:
        with kept_state(tmp_path, CONFIG):
            os._exit(0)  # Without a chance to write anything, as SIGKILL.
    os.waitpid(child, 0)
    assert json.loads((tmp_path / STATE).read_text())["state"] == "running"
    run = read_run(tmp_path)
    assert run is not None
    assert run.status == "interrupted"


def interrupted_start(folder: Path, checkpoint_after: float | None = None) -> float:
    """A start that is interrupted; returns the seconds that it took over from earlier ones."""
    with contextlib.suppress(KeyboardInterrupt), kept_state(folder, CONFIG) as earlier:
        if checkpoint_after is not None:
            checkpoint = folder / "checkpoints" / "last.ckpt"
            checkpoint.parent.mkdir(exist_ok=True)
            checkpoint.touch()
            os.utime(checkpoint, (0, time.time() + checkpoint_after))
        raise KeyboardInterrupt
    return earlier


def test_time_of_earlier_starts_counts_up_to_their_checkpoint(tmp_path: Path) -> None:
    assert interrupted_start(tmp_path) == 0
    # Without a checkpoint the run begins anew.
    assert interrupted_start(tmp_path, checkpoint_after=100) == 0
    assert interrupted_start(tmp_path, checkpoint_after=50) == pytest.approx(100, abs=5)
    # This start comes to no further checkpoint, and adds nothing.
    assert interrupted_start(tmp_path, checkpoint_after=-1000) == pytest.approx(150, abs=5)
    assert interrupted_start(tmp_path) == pytest.approx(150, abs=5)


def test_runs_are_found_whatever_their_state(tmp_path: Path) -> None:
    write_result(tmp_path / "a" / "1", {"config": CONFIG})
    with kept_state(tmp_path / "a" / "2", CONFIG):
        pass
    # A record of an evaluation is no run.
    write_result(tmp_path / "a" / "1" / "val", {"score": 1.0})
    found = find_runs(tmp_path)
    assert [(run.folder.name, run.status) for run in found] == [
        ("1", "finished"),
        ("2", "interrupted"),
    ]


def test_cause_is_the_innermost_error_in_a_line() -> None:
    outer = RuntimeError("hydra")
    outer.__cause__ = OSError("disk\n full")
    assert cause_of(outer) == "OSError: disk full"
    assert cause_of(RunBusyError("wait")) == "wait"
