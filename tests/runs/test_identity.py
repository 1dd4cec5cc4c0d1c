"""What makes a run the run it is: configuration, persons that are read, weights that it starts from."""

import copy
import functools
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pnfs.commands.configuration import plain
from pnfs.data.datasets.coco import COCO
from pnfs.data.datasets.mpii import MPII
from pnfs.data.persons import Persons
from pnfs.data.synthetic import Synthetic
from pnfs.files import SHIPPED
from pnfs.runs.identity import (
    PERSONS,
    OtherRunError,
    defining_part,
    persons_digest,
    read_digests,
    require_same,
    run_hash,
    run_identity,
)
from tiny_runs import composed
from written_datasets import write_coco, write_mpii


@pytest.fixture(scope="module")
def config() -> dict[str, Any]:
    given = ("dataset=mpii", "dataset.root=data/mpii", "backbone.weights=/a/weights.pth", "data.cache=runs/cache")
    return plain(composed("train", *given, "+dataset.detections=/a/boxes.json", "trainer=cpu"))


def changed(config: dict[str, Any], key: str, value: Any) -> dict[str, Any]:
    config = copy.deepcopy(config)
    *path, last = key.split(".")
    functools.reduce(dict.__getitem__, path, config)[last] = value
    return config


DEFINING: list[tuple[str, Any]] = [
    ("seed", 1), ("dataset._target_", "pnfs.data.datasets.coco.COCO"), ("dataset.root", "data/mpii_small"),
    ("model.fabrics.channels", 12), ("model.backbone.weights", "/a/other.pth"), ("optimizer.lr", 2e-3),
    ("data.batch_size", 32), ("data.cache", None), ("data.reduced_decoding", False),
    ("callbacks.best.monitor", "val/loss"), ("callbacks.ema", {"_target_": "pnfs.training.callbacks.EMA"}),
    ("trainer.max_epochs", 201), ("trainer.callbacks", [{"_target_": "mine.Callback"}]),
    ("trainer.precision", "bf16-mixed"), ("trainer.devices", 2), ("trainer.limit_train_batches", 3),
    ("trainer.limit_train_batches", 1), ("trainer.limit_val_batches", 0.5), ("trainer.overfit_batches", 1),
    ("trainer.max_steps", 10), ("trainer.min_epochs", 5), ("trainer.fast_dev_run", True),
    ("trainer.val_check_interval", 1), ("trainer.gradient_clip_val", 1.0), ("trainer.sync_batchnorm", True),
    ("trainer.strategy", "fsdp"), ("trainer._target_", "mine.Trainer"), ("trainer.a_later_key", 1),
]  # fmt: skip
NOT_DEFINING: list[tuple[str, Any]] = [
    ("run_root", "/elsewhere"), ("name", "other"), ("run_dir", "elsewhere"), ("tags", ["mine"]),
    ("restart", True), ("evaluate_untrained", True), ("workers", 8), ("eval_batch_size", 1),
    ("callbacks.best.dirpath", "/elsewhere"), ("callbacks.progress", None), ("callbacks.pictures", {"every": 5}),
    ("dataset.root", "/moved/mpii"), ("dataset.detections", "/b/boxes.json"), ("dataset.check_images", False),
    ("data.workers", 8), ("data.cache", "/elsewhere/cache"), ("data.resident", True),
    ("data.eval_batch_size", 1), ("optimizer.fused", True), ("acceleration", {"compile": "default"}),
    ("model.backbone.weights", "/b/weights.pth"), ("backbone.weights", "/b/weights.pth"),
    ("trainer.default_root_dir", "/elsewhere"), ("trainer.accelerator", "cpu"), ("trainer.log_every_n_steps", 1),
    ("trainer.max_time", "00:01:00:00"), ("trainer.enable_progress_bar", False), ("trainer.benchmark", True),
    ("trainer.strategy", "ddp"), ("trainer.max_steps", -1), ("trainer.limit_val_batches", None),
    ("trainer.limit_train_batches", 1.0), ("trainer._target_", "lightning.Trainer"),
    ("logger.wandb", {"project": "pnfs"}), ("trainer.devices", "auto"), ("trainer.devices", -1),
]  # fmt: skip


@pytest.mark.parametrize(("key", "value"), DEFINING)
def test_what_changes_the_result_makes_another_run(config: dict[str, Any], key: str, value: Any) -> None:
    assert run_hash(changed(config, key, value)) != run_hash(config)


@pytest.mark.parametrize(("key", "value"), NOT_DEFINING)
def test_where_and_how_it_runs_does_not_make_another_run(config: dict[str, Any], key: str, value: Any) -> None:
    assert run_hash(changed(config, key, value)) == run_hash(config)


def test_hash_is_of_the_content_and_leaves_the_configuration_alone(config: dict[str, Any]) -> None:
    before = copy.deepcopy(config)
    assert run_hash(dict(reversed(config.items()))) == run_hash(config)
    assert len(run_hash(config)) == 8
    defining_part(config)["optimizer"]["lr"] = 0.0
    assert before == config


@pytest.mark.parametrize("file", ["weights.pth", None])
@pytest.mark.parametrize("key", ["model.backbone.weights", "strategy.architecture", "initial", "ckpt_path"])
def test_files_and_runs_count_by_content(config: dict[str, Any], tmp_path: Path, key: str, file: Any) -> None:
    hashes, (read, other) = [], ("last", "best") if key == "ckpt_path" else ("best", "last")
    for name, content in (("a", "x"), ("b", "x"), ("b", "longer")):
        path = tmp_path / name / (file or f"checkpoints/{read}.ckpt")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
        path.with_name(f"{other}.ckpt").write_text(str(len(hashes)))
        given = path if file else tmp_path / name
        hashes.append(run_hash(changed(config, key, str(given))))
    assert hashes[0] == hashes[1] != hashes[2]
    shipped = [run_hash(changed(config, key, name)) for name in ("shipped", str(SHIPPED))]
    assert (shipped[0] == shipped[1]) is (key != "model.backbone.weights")


def test_all_gpus_count_by_their_number(config: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    every = changed(changed(config, "trainer.accelerator", "gpu"), "trainer.devices", -1)
    assert run_hash(every) == run_hash(changed(config, "trainer.devices", 2))


def people(skeleton: str = "mpii", seed: int = 0) -> dict[str, Persons]:
    drawn = Synthetic(skeleton=skeleton, train=4, val=3, seed=seed, image_size=(48, 48))
    return {split: drawn.persons(split) for split in ("train", "val")}


def test_dataset_counts_by_its_content_wherever_it_lies(config: dict[str, Any], tmp_path: Path) -> None:
    first, moved, other = (tmp_path / name / "people" for name in ("a", "b", "c"))
    write_mpii(people(), first)
    shutil.copytree(first, moved)
    write_mpii(people(seed=1), other)

    def hash_at(root: Path) -> str:
        return run_hash(changed(config, "dataset.root", str(root)), read_digests(MPII(root)))

    assert hash_at(first) == hash_at(moved) != hash_at(other)
    # Pixels do not count, the order of the persons does.
    persons = MPII(first).persons("train")
    for path in (first / "images").iterdir():
        path.write_bytes(b"")
    assert persons_digest(MPII(first).persons("train")) == persons_digest(persons)
    turned = {name: column[[1, 0, 2, 3]] for name, column in persons.columns().items()}
    assert persons_digest(replace(persons, **turned)) != persons_digest(persons)


@pytest.mark.parametrize(
    "column", ["ids", "image_index", "joints", "visibility", "center", "box_size", "reference_length"]
)
def test_one_changed_person_is_another_run(column: str) -> None:
    persons = people()["train"]
    rows = getattr(persons, column).copy()
    if column == "visibility":
        rows[1] = 2 - rows[1]
    else:
        rows[1] = "another" if column == "ids" else rows[0]
    assert persons_digest(replace(persons, **{column: rows})) != persons_digest(persons)


def test_labels_that_only_the_metric_reads_count_too(tmp_path: Path) -> None:
    write_coco(people("coco"), tmp_path)
    path, detections = (tmp_path / name for name in ("annotations/person_keypoints_val2017.json", "boxes.json"))
    content = json.loads(path.read_text())
    columns = {"category_id": 1, "score": 0.9}
    boxes = [columns | {k: a[k] for k in ("image_id", "bbox")} for a in content["annotations"]]
    detections.write_text(json.dumps(boxes))
    detected = {"boxes": "detected", "detections": detections}

    def digests() -> list[dict[str, str]]:
        return [read_digests(COCO(tmp_path, **more)) for more in ({}, detected)]

    before = digests()
    # The same persons, in the same boxes; what the score leaves out is another.
    content["annotations"].append(dict(content["annotations"][0], id=999, iscrowd=1))
    path.write_text(json.dumps(content))
    after = digests()
    for one, other in zip(before, after, strict=True):
        assert one["train"] == other["train"]
        assert one["val"] != other["val"]
    # The scores of detected boxes count too.
    detections.write_text(json.dumps([boxes[0] | {"score": 0.8}, *boxes[1:]]))
    assert digests()[1]["val"] != after[1]["val"]


def test_what_is_under_an_unlabelled_joint_does_not_count() -> None:
    persons = people()["train"]
    hidden = replace(persons, visibility=np.where([[True] + [False] * 15], 0, persons.visibility))
    elsewhere = hidden.joints.copy()
    elsewhere[:, 0] += 5
    assert persons_digest(hidden) == persons_digest(replace(hidden, joints=elsewhere))
    assert persons_digest(hidden) != persons_digest(persons)


def test_identity_comes_back_from_json_and_differs_by_dotted_keys(config: dict[str, Any]) -> None:
    identity = run_identity(config | {"pair": (1, 2)}, {"train": "a", "val": "b"})
    assert json.loads(json.dumps(identity)) == identity
    assert identity[PERSONS] == {"train": "a", "val": "b"}
    one = {"a": 1, "b": {"c": 2, "d": [1]}, "e": 0}
    require_same(Path("a"), copy.deepcopy(one), one)
    with pytest.raises(OtherRunError, match=r"differs: e, b\.c, f \("):
        require_same(Path("a"), one, {"a": 1, "b": {"c": 3, "d": [1]}, "f": 0})
