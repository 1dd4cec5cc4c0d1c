"""`pnfs evaluate predictions=…`: files of poses scored without a network, and what is refused."""

import copy
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import scipy.io
from pycocotools.coco import COCO as CocoIndex
from pycocotools.cocoeval import COCOeval

from pnfs import body
from pnfs.commands.configuration import UsageError
from pnfs.data.images import DataError
from pnfs.data.persons import Predictions
from pnfs.data.synthetic import Synthetic
from tiny_runs import call
from written_datasets import write_coco, write_mpii

COUNT = 4


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Dataset -> its folder with a few drawn people."""
    made = {}
    for skeleton, write in (("mpii", write_mpii), ("coco", write_coco)):
        made[skeleton] = tmp_path_factory.mktemp(skeleton)
        people = Synthetic(skeleton=skeleton, train=1, val=COUNT, image_size=(96, 96), truncated=0)
        write({split: people.persons(split) for split in ("train", "val")}, made[skeleton])
    return made


def scored(dataset: str, root: Path, file: Path, out: Path, *more: str) -> dict[str, Any]:
    call("evaluate", f"predictions={file}", f"dataset={dataset}", f"dataset.root={root}",
         "workers=0", f"out={out}", *more)  # fmt: skip
    return json.loads((out / "result.json").read_text())


def coco_labels(root: Path) -> dict[str, Any]:
    return json.loads((root / "annotations/person_keypoints_val2017.json").read_text())


def written(path: Path, content: object) -> Path:
    path.write_text(json.dumps(content))
    return path


def as_results(labels: dict[str, Any], shift: float = 0.0) -> list[dict[str, Any]]:
    """The labels, moved to the right, in COCO's result format, surer persons first."""
    results = []
    for n, label in enumerate(a for a in labels["annotations"] if a["num_keypoints"]):
        keypoints = np.array(label["keypoints"], float).reshape(-1, 3)
        keypoints[:, 0] += shift * (n + 1)
        results.append({
            "image_id": label["image_id"], "category_id": label["category_id"],
            "keypoints": keypoints.ravel().tolist(), "score": 1 / (n + 1),
        })  # fmt: skip
    return results


# --- COCO


@pytest.mark.parametrize("shift", [0.0, 2.0])
def test_coco_results_score_as_pycocotools_says(roots, tmp_path: Path, shift: float) -> None:
    root = roots["coco"]
    results = as_results(coco_labels(root), shift)
    record = scored("coco", root, written(tmp_path / "r.json", results), tmp_path / "out")
    assert record["predictions"]["format"] == "COCO results"
    for name in ("predictions", "worst", "best"):
        assert cv2.imread(str(tmp_path / f"out/{name}_val.png")) is not None, name
    truth = CocoIndex(str(root / "annotations/person_keypoints_val2017.json"))
    oracle = COCOeval(truth, truth.loadRes(copy.deepcopy(results)), "keypoints")
    for step in (oracle.evaluate, oracle.accumulate, oracle.summarize):
        step()
    names = ("AP", "AP .5", "AP .75", "AP (M)", "AP (L)", "AR", "AR .5", "AR .75")
    found = [-1 if record["scores"][name] is None else record["scores"][name] for name in names]
    np.testing.assert_allclose(found, oracle.stats[:8], atol=1e-12)
    assert (record["score"] == 1) == (shift == 0)


def test_results_are_read_in_the_annotation_files_own_terms(roots, tmp_path: Path) -> None:
    # Person 0 in place of 1, joints in another order: what a list's numbers mean, the file says.
    labels = coco_labels(roots["coco"])
    order = list(reversed(range(17)))
    category = labels["categories"][0]
    category |= {"id": 0, "keypoints": [body.COCO.joints[k] for k in order]}
    for label in labels["annotations"]:
        table = np.array(label["keypoints"]).reshape(-1, 3)[order]
        label |= {"category_id": 0, "keypoints": table.ravel().tolist()}
    root = tmp_path / "root"
    (root / "annotations").mkdir(parents=True)
    (root / "images").symlink_to(roots["coco"] / "images")
    for split in ("train", "val"):
        written(root / f"annotations/person_keypoints_{split}2017.json", labels)
    other = {**as_results(labels)[0], "category_id": 7}
    file = written(tmp_path / "r.json", [*as_results(labels), other])
    record = scored("coco", root, file, tmp_path / "results")
    assert record["score"] == 1
    assert sum(record["predictions"]["left_out"].values()) == 1


# --- MPII, and datasets in person boxes


def mpii_labels(root: Path) -> list[dict[str, Any]]:
    return json.loads((root / "annot/valid.json").read_text())


def test_hrnets_file_of_mpiis_labels_scores_a_hundred(roots, tmp_path: Path) -> None:
    root = roots["mpii"]
    # 1-based pixels, the files' order.
    preds = np.array([person["joints"] for person in mpii_labels(root)], np.float64)
    scipy.io.savemat(tmp_path / "pred.mat", {"preds": preds})
    record = scored("mpii", root, tmp_path / "pred.mat", tmp_path / "mat")
    assert {v for v in record["scores"].values() if v is not None} == {100}
    assert record["predictions"]["format"] == "MPII pred.mat"
    assert record["persons"] == COUNT


def test_persons_by_id_in_any_order_and_not_all(tmp_path: Path) -> None:
    source = Synthetic(skeleton="mpii", train=1, val=COUNT, image_size=(96, 96))
    persons = source.persons("val")
    scores = np.ones(persons.joints.shape[:2], np.float32)
    file = source.write_predictions("val", Predictions(persons.joints, scores), tmp_path, "any")
    content = json.loads(file.read_text())
    content["joints"].reverse()
    for person in content["persons"]:
        person["keypoints"].reverse()
    content["persons"].reverse()
    options = [f"dataset.{key}" for key in ("train=1", f"val={COUNT}", "image_size=[96,96]")]

    def record_of(name: str) -> dict[str, Any]:
        given = ("dataset=synthetic", "workers=0", f"out={tmp_path / name}", *options)
        call("evaluate", f"predictions={written(file, content)}", *given)
        return json.loads((tmp_path / name / "result.json").read_text())

    assert record_of("all")["score"] == 100
    lost = content["persons"].pop(1)
    found = record_of("three")
    assert found["persons_without_prediction"] == found["by_joint"]["missed_persons"] == 1
    labelled = persons.visibility > 0
    labelled[:, list(body.MPII.indices(["pelvis", "thorax"]))] = False
    share = labelled[persons.ids.tolist().index(lost["id"])].sum() / labelled.sum()
    assert found["score"] == pytest.approx(100 * (1 - share), abs=1e-3)


# --- refusals


@pytest.mark.parametrize(
    ("key", "override"),
    [("decode_method", "decode_method=dark"), ("name", "name=mine"), ("checkpoint=", "checkpoint=a.ckpt"),
     ("dataset=", "dataset=of_checkpoint")],
)  # fmt: skip
def test_keys_of_a_network_are_not_swallowed(roots, tmp_path: Path, key, override: str) -> None:
    root = roots["coco"]
    file = written(tmp_path / "r.json", as_results(coco_labels(root)))
    with pytest.raises(UsageError, match=key):
        scored("coco", root, file, tmp_path / "out", override)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda first, *more: [{**first, "image_id": 999999}, *more], r"detection 0: image_id"),
        (lambda *results: [{**r, "category_id": 0} for r in results], r"category_id 1"),
        (lambda *results: {"poses": results}, "list"),
    ],
)
def test_damaged_results_name_file_record_and_key(roots, tmp_path: Path, change, named) -> None:
    root = roots["coco"]
    file = written(tmp_path / "damaged.json", change(*as_results(coco_labels(root))))
    with pytest.raises(DataError, match=rf"damaged\.json.*{named}"):
        scored("coco", root, file, tmp_path / "out")
    # Nor is it of another dataset.
    with pytest.raises(DataError, match=r"damaged\.json"):
        scored("mpii", roots["mpii"], file, tmp_path / "out")
    assert not (tmp_path / "out").exists()
