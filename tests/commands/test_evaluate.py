"""`pnfs evaluate`: what it prints, writes and refuses; baselines and test sets included."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import scipy.io
from hydra.errors import InstantiationException

from pnfs.data.synthetic import Synthetic
from tiny_runs import call
from written_datasets import require_server_format, write_coco, write_mpii

MODEL = (
    "backbone=fabric", "model.fabrics.channels=4", "model.fabrics.layers=3", "model.fabrics.last_layers=2",
    "parts=p1", "input_size=[64,64]", "batch_size=4", "epochs=1", "trainer=cpu",
    "workers=0", "strategy=frozen",
)  # fmt: skip


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
            call("train", f"dataset={skeleton}", f"dataset.root={folder / 'data'}", *MODEL,
                 f"run_root={folder / 'runs'}")  # fmt: skip
            (result,) = (folder / "runs").glob("*/*/result.json")
            made[skeleton] = folder / "data", result.parent
        return made[skeleton]

    return make


def evaluated(run: Path, out: Path, *overrides: str) -> dict[str, Any]:
    call("evaluate", f"checkpoint={run}", "trainer=cpu", "workers=0", f"out={out}",
         *overrides)  # fmt: skip
    return json.loads((out / "result.json").read_text())


def test_mpii_writes_all_that_a_researcher_looks_for(trained, tmp_path: Path, capsys) -> None:
    data, run = trained("mpii")
    record = evaluated(run, tmp_path, "decode_method=dark", "flip_shift=0")
    assert record["evaluated_with"] == {
        "split": "val", "flip_test": True, "flip_shift": 0, "decode_method": "dark",
        "boxes": "ground truth", "input_size": [64, 64], "runtime": "torch", "precision": "f32",
    }  # fmt: skip
    assert record["persons"] == 8
    assert record["by_joint"]["criterion"] == "PCKh@0.5"
    for name in ("predictions", "worst", "best", "joints"):
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
    results = {}
    for kind, options in {
        "ground truth": [],
        "detected": [
            "+dataset.boxes=detected", f"+dataset.detections={tmp_path / 'boxes.json'}", "name=mine",
        ],
    }.items():  # fmt: skip
        # So soon after its start a network's scores are low.
        record = evaluated(run, tmp_path / kind, "+dataset.joint_threshold=0", *options)
        assert record["evaluated_with"]["boxes"] == kind
        assert {"AP", "AP (M)", "AP/visible", "AR/occluded"} <= record["scores"].keys()
        (path,) = (tmp_path / kind).glob("person_keypoints_val2017_*_results.json")
        require_server_format(path, images)
        results[kind] = json.loads(path.read_text()), path.name
    assert results["detected"][1] == "person_keypoints_val2017_mine_results.json"
    assert {r["image_id"] for r in results["detected"][0]} == set(images)
    # The same persons; a detected box's score halves a person's.
    best = {kind: max(r["score"] for r in found) for kind, (found, _) in results.items()}
    assert best["detected"] < 0.75 * best["ground truth"]


# --- refusals


@pytest.mark.parametrize(
    ("override", "message"), [("+dataset.boxes=detected", "boxes"), ("split=dev", "no split 'dev'")]
)
def test_what_cannot_be_is_refused(trained, tmp_path: Path, override: str, message: str) -> None:
    _, run = trained("mpii")
    with pytest.raises((ValueError, InstantiationException), match=message):
        evaluated(run, tmp_path / "out", override)
    assert not (tmp_path / "out").exists()
