"""What makes a run the same run, and its one record."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from pnfs.training.records import (
    RESULT,
    defining_part,
    provenance,
    read_result,
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
        "form": "auto",
        "backbone": {"_target_": "pnfs.models.backbones.MobileNetV2", "weights": "/a/weights.pth"},
    },
    "optimizer": {"lr": 1e-3},
    "data": {"workers": 2, "eval_batch_size": 64, "batch_size": 24},
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
        ("data.eval_batch_size", 1),
        ("model.form", "loop"),
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
