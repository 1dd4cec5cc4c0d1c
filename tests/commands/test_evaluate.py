"""`pnfs evaluate` of a network: what it prints, writes and refuses; test sets, and all splits as one."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import scipy.io
from hydra.errors import InstantiationException

from pnfs.data.images import DataError
from pnfs.data.synthetic import Synthetic
from tiny_runs import TINY, call, record_of, untrained_run
from written_datasets import require_server_format, write_coco, write_mpii


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, Path]]:
    """Skeleton -> the dataset's folder and that of a run on it."""
    made: dict[str, tuple[Path, Path]] = {}

    def make(skeleton: str) -> tuple[Path, Path]:
        if skeleton not in made:
            folder = tmp_path_factory.mktemp(skeleton)
            people = Synthetic(skeleton=skeleton, train=8, val=8, image_size=(64, 64))
            write = {"mpii": write_mpii, "coco": write_coco}[skeleton]
            write({split: people.persons(split) for split in ("train", "val")}, folder / "data")
            given = ("batch_size=4", "epochs=1", "workers=0", "strategy=frozen", f"run_root={folder / 'runs'}")
            call("train", f"dataset={skeleton}", f"dataset.root={folder / 'data'}", *TINY, *given)
            (result,) = (folder / "runs").glob("*/*/result.json")
            made[skeleton] = folder / "data", result.parent
        return made[skeleton]

    return make


def evaluated(run: Path, out: Path, *overrides: str) -> dict[str, Any]:
    call("evaluate", f"checkpoint={run}", "trainer=cpu", "workers=0", f"out={out}", *overrides)
    return record_of(out)


def test_mpii_writes_all_that_a_researcher_looks_for(trained, tmp_path: Path, capsys) -> None:
    data, run = trained("mpii")
    record = evaluated(run, tmp_path, "decode_method=dark", "flip_shift=0")
    assert record["evaluated_with"] == {
        "split": "val", "flip_test": True, "flip_shift": 0, "decode_method": "dark",
        "boxes": "ground truth", "input_size": [64, 64], "runtime": "torch", "precision": "f32",
    }  # fmt: skip
    assert record["persons"] == 8
    assert record["by_joint"]["criterion"] == "PCKh@0.5"
    for name in ("predictions", "worst", "best"):
        assert cv2.imread(str(tmp_path / f"{name}_val.png")) is not None, name
    printed = capsys.readouterr().out
    assert "flip shift: 0 · decode method: dark · boxes: ground truth" in printed
    # The record's rates, from the exported predictions and the files alone.
    located = scipy.io.loadmat(tmp_path / "pred.mat")["preds"]
    annotations = json.loads((data / "annot/valid.json").read_text())
    corners = scipy.io.loadmat(data / "annot/gt_valid.mat")["headboxes_src"]
    right = total = 0
    for n, person in enumerate(annotations):
        head = 0.6 * np.linalg.norm(corners[1, :, n] - corners[0, :, n])
        for row in (10, 15):  # The wrists in the files' order.
            if person["joints_vis"][row]:
                total += 1
                right += np.linalg.norm(located[n, row] - person["joints"][row]) <= 0.5 * head
    columns = record["by_joint"]["joints"]
    wrists = [columns[f"{side}_wrist"]["all"] for side in ("left", "right")]
    assert sum(wrist["labels"] for wrist in wrists) == total
    found = sum(wrist["percent"] * wrist["labels"] / 100 for wrist in wrists)
    assert found == pytest.approx(right, abs=0.01)


def test_a_test_set_is_predicted_and_not_scored(trained, tmp_path: Path, capsys) -> None:
    data, run = trained("mpii")
    annotations = json.loads((data / "annot/valid.json").read_text())
    unlabelled = [{k: p[k] for k in ("image", "center", "scale")} for p in annotations[:3]]
    (data / "annot/test.json").write_text(json.dumps(unlabelled))
    record = evaluated(run, tmp_path, "split=test")
    assert record["score"] is None
    assert set(record["scores"].values()) == {None}
    assert "has no labels: nothing is scored" in capsys.readouterr().out
    assert scipy.io.loadmat(tmp_path / "pred.mat")["preds"].shape == (3, 16, 2)
    assert not (tmp_path / "worst_test.png").exists()
    assert evaluated(run, tmp_path / "train", "split=train")["score"] is None
    assert "no sizes to measure errors by: nothing is scored" in capsys.readouterr().out


@pytest.mark.slow
def test_coco_in_both_kinds_of_boxes(trained, tmp_path: Path) -> None:
    data, run = trained("coco")
    annotations = json.loads((data / "annotations/person_keypoints_val2017.json").read_text())
    boxes = [
        {"image_id": a["image_id"], "category_id": 1, "bbox": a["bbox"], "score": 0.5}
        for a in annotations["annotations"]
    ]
    (tmp_path / "boxes.json").write_text(json.dumps(boxes))
    images = [image["id"] for image in annotations["images"]]
    detected = [
        "+dataset.boxes=detected",
        f"+dataset.detections={tmp_path / 'boxes.json'}",
        "name=mine",
    ]
    results = {}
    for kind, options in {"ground truth": [], "detected": detected}.items():
        # So soon after its start a network's scores are low.
        record = evaluated(run, tmp_path / kind, "+dataset.joint_threshold=0", *options)
        assert record["evaluated_with"]["boxes"] == kind
        assert {"AP", "AP (M)"} <= record["scores"].keys()
        (path,) = (tmp_path / kind).glob("person_keypoints_val2017_*_results.json")
        require_server_format(path, images)
        results[kind] = json.loads(path.read_text()), path.name
    assert results["detected"][1] == "person_keypoints_val2017_mine_results.json"
    assert {r["image_id"] for r in results["detected"][0]} == set(images)
    # The same persons; a detected box's score halves a person's.
    best = {kind: max(r["score"] for r in found) for kind, (found, _) in results.items()}
    assert best["detected"] < 0.75 * best["ground truth"]
    # An average precision needs the one annotation file of all persons.
    with pytest.raises(DataError, match="train, val"):
        evaluated(run, tmp_path / "all", "split=all")


@pytest.mark.parametrize(
    ("override", "message"),
    [("+dataset.boxes=detected", "boxes"), ("split=dev", "no split 'dev'"),
     ("+trainer.limit_val_batches=1", "limit_val_batches"), ("+trainer.fast_dev_run=true", "fast_dev_run")],
)  # fmt: skip
def test_what_cannot_be_is_refused(trained, tmp_path: Path, override: str, message: str) -> None:
    with pytest.raises((ValueError, InstantiationException), match=message):
        evaluated(trained("mpii")[1], tmp_path / "out", override)
    assert not (tmp_path / "out").exists()


def test_a_score_of_all_splits_is_that_of_its_parts(tmp_path: Path) -> None:
    run, splits = untrained_run(tmp_path / "run"), ("train", "val", "all")
    records = [evaluated(run, tmp_path / split, f"split={split}") for split in splits]
    assert [record["persons"] for record in records] == [8, 6, 14]
    rates = [[joint["all"] for joint in record["by_joint"]["joints"].values()] for record in records]
    labels, percent = (np.array([[j[key] for j in rate] for rate in rates]) for key in ("labels", "percent"))
    np.testing.assert_array_equal(labels[0] + labels[1], labels[2])
    np.testing.assert_allclose((labels * percent)[:2].sum(0), labels[2] * percent[2], atol=0.1)
    assert records[2]["evaluated_with"]["splits"] == "train, val"
