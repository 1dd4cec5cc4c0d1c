"""`pnfs evaluate` of a network and of files of poses: what it scores, writes and refuses."""

import copy
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import scipy.io
from hydra.errors import InstantiationException
from pycocotools.coco import COCO as CocoIndex
from pycocotools.cocoeval import COCOeval

from pnfs import body
from pnfs.commands.configuration import UsageError
from pnfs.data.images import DataError
from pnfs.data.persons import Predictions
from pnfs.data.synthetic import Synthetic
from tiny_runs import PEOPLE, TINY, call, record_of, untrained_run
from written_datasets import require_server_format, write_coco, write_mpii

COUNT = 8
LABELS = {"mpii": "annot/valid.json", "coco": "annotations/person_keypoints_val2017.json"}
REVERSED = f"{{name: coco, joints: [{','.join(body.COCO.joints[::-1])}], flip_pairs: []}}"
SHEETS = ("predictions", "worst", "best")


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Dataset -> its folder with a few drawn people; `run` in it has an untrained network."""
    made = {}
    for skeleton, write in (("mpii", write_mpii), ("coco", write_coco)):
        made[skeleton] = tmp_path_factory.mktemp(skeleton)
        people = Synthetic(skeleton=skeleton, train=2, val=COUNT, image_size=(96, 96), truncated=0)
        write({split: people.persons(split) for split in ("train", "val")}, made[skeleton])
        untrained_run(made[skeleton] / "run", f"dataset.skeleton={skeleton}")
    return made


def scored(root: Path, out: Path, *overrides: str, file: Path | None = None) -> dict[str, Any]:
    """The record of the network in a dataset's folder, or of a file of poses."""
    dataset = "mpii" if (root / "annot").is_dir() else "coco"
    asked = f"checkpoint={root / 'run'}" if file is None else f"predictions={file}"
    given = (f"dataset={dataset}", f"dataset.root={root}", "trainer=cpu", "workers=0", f"out={out}")
    call("evaluate", asked, *given, *overrides)
    return record_of(out)


def labels_of(root: Path, dataset: str) -> Any:
    return json.loads((root / LABELS[dataset]).read_text())


def written(path: Path, content: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def test_mpii_writes_all_that_a_researcher_looks_for(roots, tmp_path: Path, capsys) -> None:
    root = roots["mpii"]
    record = scored(root, tmp_path, "decode_method=dark", "flip_shift=0")
    assert record["evaluated_with"] == {
        "split": "val", "flip_test": True, "flip_shift": 0, "decode_method": "dark",
        "boxes": "ground truth", "padding": 1.25, "input_size": [64, 64], "precision": "32-true",
    }  # fmt: skip
    assert (record["persons"], record["by_joint"]["criterion"]) == (COUNT, "PCKh@0.5")
    for name in SHEETS:
        assert cv2.imread(str(tmp_path / f"{name}_val.png")) is not None, name
    assert "flip shift: 0 · decode method: dark · boxes: ground truth" in capsys.readouterr().out
    # The record's rates, from the exported predictions and the files alone.
    located = scipy.io.loadmat(tmp_path / "pred.mat")["preds"]
    corners = scipy.io.loadmat(root / "annot/gt_valid.mat")["headboxes_src"]
    right = total = 0
    for n, person in enumerate(labels_of(root, "mpii")):
        head = 0.6 * np.linalg.norm(corners[1, :, n] - corners[0, :, n])
        for row in (10, 15):  # The wrists in the files' order.
            if person["joints_vis"][row]:
                total += 1
                right += np.linalg.norm(located[n, row] - person["joints"][row]) <= 0.5 * head
    wrists = [record["by_joint"]["joints"][f"{side}_wrist"]["all"] for side in ("left", "right")]
    assert sum(wrist["labels"] for wrist in wrists) == total
    found = sum(wrist["percent"] * wrist["labels"] / 100 for wrist in wrists)
    assert found == pytest.approx(right, abs=0.01)


def test_a_test_set_is_predicted_and_not_scored(roots, tmp_path: Path, capsys) -> None:
    root = roots["mpii"]
    unlabelled = [{k: p[k] for k in ("image", "center", "scale")} for p in labels_of(root, "mpii")[:3]]
    written(root / "annot/test.json", unlabelled)
    record = scored(root, tmp_path, "split=test")
    assert {record["score"], *record["scores"].values()} == {None}
    assert "has no labels: nothing is scored" in capsys.readouterr().out
    assert scipy.io.loadmat(tmp_path / "pred.mat")["preds"].shape == (3, 16, 2)
    assert not (tmp_path / "worst_test.png").exists()
    assert scored(root, tmp_path / "train", "split=train")["score"] is None
    assert "no sizes to measure errors by: nothing is scored" in capsys.readouterr().out


@pytest.mark.slow
def test_coco_in_both_kinds_of_boxes(roots, tmp_path: Path) -> None:
    root, results, labels = roots["coco"], {}, labels_of(roots["coco"], "coco")
    sure = {"category_id": 1, "score": 0.5}
    boxes = [sure | {k: a[k] for k in ("image_id", "bbox")} for a in labels["annotations"]]
    detections = written(tmp_path / "boxes.json", boxes)
    detected = ["dataset.boxes=detected", f"dataset.detections={detections}", "name=mine"]
    for kind, options in {"ground truth": [], "detected": detected}.items():
        record = scored(root, tmp_path / kind, "dataset.joint_threshold=0", *options)
        assert record["evaluated_with"]["boxes"] == kind
        assert {"AP", "AP (M)"} <= record["scores"].keys()
        (path,) = (tmp_path / kind).glob("person_keypoints_val2017_*_results.json")
        require_server_format(path, [image["id"] for image in labels["images"]])
        results[kind] = json.loads(path.read_text())
    assert path.name == "person_keypoints_val2017_mine_results.json"
    # The same persons; a detected box's score halves a person's.
    best = {kind: max(r["score"] for r in found) for kind, found in results.items()}
    assert best["detected"] < 0.75 * best["ground truth"]
    # An average precision needs the one annotation file of all persons.
    with pytest.raises(DataError, match="train, val"):
        scored(root, tmp_path / "all", "split=all")


def test_a_score_of_all_splits_is_that_of_its_parts(tmp_path: Path) -> None:
    run, records = untrained_run(tmp_path / "run"), []
    for split in ("train", "val", "all"):
        options = ("trainer=cpu", "workers=0", f"out={tmp_path / split}", f"split={split}")
        call("evaluate", f"checkpoint={run}", *options)
        records.append(record_of(tmp_path / split))
    assert [record["persons"] for record in records] == [8, 6, 14]
    rates = [[joint["all"] for joint in record["by_joint"]["joints"].values()] for record in records]
    labels, percent = (np.array([[j[key] for j in rate] for rate in rates]) for key in ("labels", "percent"))
    np.testing.assert_array_equal(labels[0] + labels[1], labels[2])
    np.testing.assert_allclose((labels * percent)[:2].sum(0), labels[2] * percent[2], atol=0.1)
    assert records[2]["evaluated_with"]["splits"] == "train, val"


def test_records_of_other_commands_are_not_overwritten(tmp_path: Path, monkeypatch) -> None:
    run = untrained_run(tmp_path / "run")
    for command, kind in (("derive", "train"), ("derive", "evaluate"), ("evaluate", "derive")):
        record = written(tmp_path / kind / "result.json", {"kind": kind, "config": {}})
        with pytest.raises(UsageError, match=rf"out: {record.parent} is .*; name another folder"):
            call(command, f"checkpoint={run}", f"out={record.parent}")
        assert json.loads(record.read_text())["kind"] == kind
    with pytest.raises(UsageError, match=r"result\.json: `pnfs derive` wrote it; .*run_dir"):
        call("train", *PEOPLE, *TINY, f"run_dir={record.parent}")
    with pytest.raises(UsageError, match="holds the checkpoint"):
        call("derive", f"checkpoint={run}", f"out={run}")
    monkeypatch.setenv("HOME", str(tmp_path))
    for _ in range(2):  # Its own are.
        call("derive", f"checkpoint={run}", 'out="~/less"')
    for more in ([], ["beta_threshold=0.34"]):
        call("derive", f"checkpoint={run}", "method=prune", *more)
    assert sorted(path.name for path in run.glob("prune*")) == ["prune", "prune_0.1_0.34"]
    call("show", f"checkpoint={tmp_path / 'less'}", 'out="~/shown"', "format=svg")
    assert (tmp_path / "shown" / "architecture.svg").exists()


def as_results(labels: dict[str, Any], shift: float = 0.0) -> list[dict[str, Any]]:
    """The labels, moved to the right, in COCO's result format, surer persons first."""
    results = []
    for n, label in enumerate(a for a in labels["annotations"] if a["num_keypoints"]):
        keypoints = np.array(label["keypoints"], float).reshape(-1, 3)
        keypoints[:, 0] += shift * (n + 1)
        about = {k: label[k] for k in ("image_id", "category_id")}
        results.append({**about, "keypoints": keypoints.ravel().tolist(), "score": 1 / (n + 1)})
    return results


def test_coco_results_score_as_pycocotools_says(roots, tmp_path: Path) -> None:
    root = roots["coco"]
    results = as_results(labels_of(root, "coco"), shift=2.0)
    record = scored(root, tmp_path / "out", file=written(tmp_path / "r.json", results))
    assert record["predictions"]["format"] == "COCO results"
    for name in SHEETS:
        assert cv2.imread(str(tmp_path / f"out/{name}_val.png")) is not None, name
    truth = CocoIndex(str(root / LABELS["coco"]))
    oracle = COCOeval(truth, truth.loadRes(copy.deepcopy(results)), "keypoints")
    for step in (oracle.evaluate, oracle.accumulate, oracle.summarize):
        step()
    names = ("AP", "AP .5", "AP .75", "AP (M)", "AP (L)", "AR", "AR .5", "AR .75")
    found = [-1 if record["scores"][name] is None else record["scores"][name] for name in names]
    np.testing.assert_allclose(found, oracle.stats[:8], atol=1e-12)
    assert record["score"] < 1


def test_poses_that_match_no_label_are_scored_and_not_drawn(roots, tmp_path: Path, capsys) -> None:
    results = as_results(labels_of(roots["coco"], "coco"))
    file = written(tmp_path / "r.json", [r | {"keypoints": [v / 96 for v in r["keypoints"]]} for r in results])
    assert scored(roots["coco"], tmp_path / "out", file=file)["score"] == 0
    assert "pictures are left out" in capsys.readouterr().out


def test_results_are_read_in_the_annotation_files_own_terms(roots, tmp_path: Path) -> None:
    # Person 0 in place of 1, joints in another order: what a list's numbers mean, the file says.
    labels, order = labels_of(roots["coco"], "coco"), list(reversed(range(17)))
    labels["categories"][0] |= {"id": 0, "keypoints": [body.COCO.joints[k] for k in order]}
    for label in labels["annotations"]:
        table = np.array(label["keypoints"]).reshape(-1, 3)[order]
        label |= {"category_id": 0, "keypoints": table.ravel().tolist()}
    root = tmp_path / "root"
    for split in ("train", "val"):
        written(root / f"annotations/person_keypoints_{split}2017.json", labels)
    (root / "images").symlink_to(roots["coco"] / "images")
    other = {**as_results(labels)[0], "category_id": 7}
    record = scored(root, tmp_path / "out", file=written(tmp_path / "r.json", [*as_results(labels), other]))
    assert record["score"] == 1
    assert sum(record["predictions"]["left_out"].values()) == 1


def test_hrnets_file_of_mpiis_labels_scores_a_hundred(roots, tmp_path: Path) -> None:
    # 1-based pixels, the files' order.
    preds = np.array([person["joints"] for person in labels_of(roots["mpii"], "mpii")], np.float64)
    scipy.io.savemat(tmp_path / "pred.mat", {"preds": preds})
    record = scored(roots["mpii"], tmp_path / "out", file=tmp_path / "pred.mat")
    assert {v for v in record["scores"].values() if v is not None} == {100}
    assert (record["predictions"]["format"], record["persons"]) == ("MPII pred.mat", COUNT)


def test_persons_by_id_in_any_order_and_not_all(roots, tmp_path: Path) -> None:
    source = Synthetic(skeleton="mpii", train=2, val=COUNT, image_size=(96, 96), truncated=0)
    persons = source.persons("val")
    poses = Predictions(persons.joints, np.ones(persons.joints.shape[:2], np.float32))
    content = json.loads(source.write_predictions("val", poses, tmp_path, "any").read_text())
    for person in content["persons"]:
        person["keypoints"].reverse()
    for name in ("joints", "persons"):
        content[name].reverse()
    options = ("dataset.train=2", f"dataset.val={COUNT}", "dataset.image_size=[96,96]", "dataset.truncated=0")

    def record_with(name: str) -> dict[str, Any]:
        file, out = written(tmp_path / "p.json", content), tmp_path / name
        call("evaluate", f"predictions={file}", "dataset=synthetic", *options, "workers=0", f"out={out}")
        return record_of(out)

    assert record_with("all")["score"] == 100
    lost = content["persons"].pop(1)
    found = record_with("fewer")
    assert found["persons_without_prediction"] == found["by_joint"]["missed_persons"] == 1
    labelled = persons.visibility > 0
    labelled[:, list(body.MPII.indices(["pelvis", "thorax"]))] = False
    share = labelled[persons.ids.tolist().index(lost["id"])].sum() / labelled.sum()
    assert found["score"] == pytest.approx(100 * (1 - share), abs=1e-3)


@pytest.mark.parametrize(
    ("override", "message"),
    [("+dataset.boxes=detected", "boxes"), ("split=dev", "no split 'dev'"),
     ("+trainer.limit_val_batches=1", "limit_val_batches"), ("+trainer.fast_dev_run=true", "fast_dev_run"),
     (f"dataset.skeleton={REVERSED}", r"skeleton coco, .* in another order")],
)  # fmt: skip
def test_what_cannot_be_is_refused(roots, tmp_path: Path, override: str, message: str) -> None:
    with pytest.raises((ValueError, InstantiationException), match=message):
        scored(roots["coco" if REVERSED in override else "mpii"], tmp_path / "out", override)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "override", "named"),
    [
        (list, "decode_method=dark", "decode_method"), (list, "name=mine", "name"),
        (list, "checkpoint=a.ckpt", "checkpoint="), (list, "dataset=of_checkpoint", "dataset="),
        (lambda results: [{**results[0], "image_id": 999999}], "", r"damaged\.json.*detection 0: image_id"),
        (lambda results: [{**r, "category_id": 0} for r in results], "", r"damaged\.json.*category_id 1"),
        (lambda results: {"poses": results}, "", r"damaged\.json.*list"),
    ],
)  # fmt: skip
def test_keys_of_a_network_and_damaged_files_are_named(roots, tmp_path: Path, change, override, named) -> None:
    file = written(tmp_path / "damaged.json", change(as_results(labels_of(roots["coco"], "coco"))))
    more = [override] if override else []
    with pytest.raises((UsageError, DataError), match=named):
        scored(roots["coco"], tmp_path / "out", *more, file=file)
    # Nor is it of another dataset.
    with pytest.raises(DataError, match=r"damaged\.json"):
        scored(roots["mpii"], tmp_path / "out", file=file)
    assert not (tmp_path / "out").exists()
