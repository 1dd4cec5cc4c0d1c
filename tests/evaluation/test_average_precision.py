"""COCO's average precision against pycocotools; similarity and suppression of poses against HRNet's code."""

import contextlib
import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO as CocoIndex
from pycocotools.cocoeval import COCOeval

from pnfs.body import COCO
from pnfs.data.coco_format import read_annotations
from pnfs.errors import PnfsError
from pnfs.evaluation import DetectedPoses, OKSAveragePrecision, evaluate_detections, oks_nms
from pnfs.evaluation.coco_eval import STATISTICS


def poses_of(detections: list[dict[str, Any]]) -> DetectedPoses:
    """Of COCO's result format."""
    table = np.array([d["keypoints"] for d in detections], np.float64).reshape(-1, 17, 3)
    return DetectedPoses(
        np.array([d["image_id"] for d in detections], np.int64),
        table[..., :2],
        np.array([d["score"] for d in detections], np.float64),
    )


def pycocotools_scores(detections: list[dict[str, Any]], content: dict) -> dict[str, float]:
    index = CocoIndex()
    # It writes into what it is given, and takes the id 0 for "no match".
    index.dataset = json.loads(json.dumps(content))
    with contextlib.redirect_stdout(io.StringIO()):
        index.createIndex()
        found: Any = json.loads(json.dumps(detections))
        evaluation = COCOeval(index, index.loadRes(found), "keypoints")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    values = [float(value) if value > -1 else math.nan for value in evaluation.stats]
    return dict(zip(STATISTICS, values, strict=True))


@pytest.mark.fixtures("coco_dt_*.json")
def test_scores_match_the_reference(fixture_file: Path) -> None:
    case = fixture_file.stem.removeprefix("coco_dt_")
    expected = json.loads(fixture_file.with_name("coco_expected.json").read_text())[case]
    expected = {name: math.nan if value == -1 else value for name, value in expected.items()}
    truth = read_annotations(fixture_file.with_name("coco_gt.json"))
    detections = [d for d in json.loads(fixture_file.read_text()) if d["category_id"] == truth.category]
    scores = evaluate_detections(poses_of(detections), truth)
    assert scores == pytest.approx(expected, abs=1e-6, nan_ok=True)


def scene(seed: int, images: int) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Labels and detections with all that the rules treat apart: crowds, persons without labels, three sizes,
    equal scores, equal persons, more than 20 detections an image, images without either."""
    random = np.random.default_rng(seed)
    annotations, detections = [], []
    for image in range(1, images + 1):
        centres = random.uniform(0, 600, (random.integers(0, 7), 2))
        persons = []
        for centre in centres:
            size = random.choice([15.0, 60.0, 150.0])
            points = np.round(centre + random.uniform(-size, size, (17, 2)), 1)
            flags = random.choice([0, 1, 2], 17, p=[0.3, 0.2, 0.5])
            crowd, bare = random.random() < 0.15, random.random() < 0.1
            flags = np.zeros(17, int) if bare else flags
            box = [*(centre - size), 2 * size, 2 * size]
            for _ in range(1 + (random.random() < 0.1)):
                annotations.append({
                    "id": len(annotations) + 1, "image_id": image, "category_id": 1,
                    "iscrowd": int(crowd), "area": float(2 * size**2), "bbox": [float(b) for b in box],
                    "num_keypoints": int((flags > 0).sum()),
                    "keypoints": np.column_stack([points * (flags > 0)[:, None], flags]).ravel().tolist(),
                })  # fmt: skip
            persons.append((points, size))
        for _ in range(random.choice([0, 1, 4, 27])):
            if persons and random.random() < 0.8:
                points, size = persons[random.integers(len(persons))]
                away = random.choice([0, 0.02, 0.1, 0.3]) * size
                points = points + away * random.normal(size=(17, 2))
            else:
                points = random.uniform(0, 600, (17, 2))
            detections.append({
                "image_id": image, "category_id": 1, "score": float(random.integers(0, 8)) / 8,
                "keypoints": np.column_stack([points, np.ones(17)]).ravel().tolist(),
            })  # fmt: skip
    random.shuffle(detections)
    content = {
        "images": [{"id": image, "width": 640, "height": 480} for image in range(1, images + 1)],
        "annotations": annotations,
        "categories": [{"id": 1, "name": "person", "keypoints": list(COCO.joints)}],
    }
    return detections, content


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10_000), st.sampled_from([1, 3, 12]), st.booleans())
def test_scores_match_pycocotools(seed: int, images: int, small_groups: bool) -> None:
    detections, content = scene(seed, images)
    if not detections:
        return
    with pytest.MonkeyPatch.context() as patch:
        if small_groups:
            patch.setattr("pnfs.evaluation.coco_eval._PAIRS", 4)
        scores = evaluate_detections(poses_of(detections), read_annotations(content))
    # A joint that is no number matches nobody.
    poses = poses_of(detections)
    poses.joints[:, 3] = np.nan
    assert not evaluate_detections(poses, read_annotations(content))["AP"] > 0
    if content["annotations"]:
        expected = pycocotools_scores(detections, content)
        assert scores == pytest.approx(expected, abs=1e-9, nan_ok=True)
    else:
        assert all(map(math.isnan, scores.values()))


# --- the metric


# Three persons, each about 80 pixels wide.
IMAGES, LEFT = (7, 7, 9), (0, 200, 100)
FIGURES = np.array([[[x + k % 5 * 20, 50.0 + k // 5 * 30] for k in range(17)] for x in LEFT])
PERSONS = torch.from_numpy(FIGURES).float()
LABEL = {"category_id": 1, "iscrowd": 0, "area": 6000.0, "num_keypoints": 17}
TRUTH = {
    "images": [{"id": image, "width": 640, "height": 480} for image in (7, 9)],
    "annotations": [
        LABEL | {"id": n + 1, "image_id": image, "bbox": [LEFT[n], 50.0, 80.0, 90.0]}
        | {"keypoints": np.column_stack([FIGURES[n], np.full(17, 2)]).ravel().tolist()}
        for n, image in enumerate(IMAGES)
    ],
    "categories": [{"id": 1, "name": "person", "keypoints": list(COCO.joints)}],
}  # fmt: skip


def scored(predicted: torch.Tensor, scores: torch.Tensor, **options) -> dict[str, float]:
    """The metric's scores; a fourth sample is another box on the first person's image."""
    ids, samples = np.array([*IMAGES, 7]), len(predicted)
    columns = {"image_ids": ids[:samples], "areas": np.full(samples, 7200.0), "box_scores": np.ones(samples)}
    average = OKSAveragePrecision(truth=read_annotations(TRUTH), **{**columns, **options})
    average.update(predicted=predicted, scores=scores, sample_index=torch.arange(samples))
    return {name: value.item() for name, value in average.compute().items()}


def test_the_metric_agrees_with_detections_written_by_hand() -> None:
    generator = torch.Generator().manual_seed(0)
    predicted = PERSONS + 2 * torch.randn(3, 17, 2, generator=generator)
    joint_scores = torch.rand(3, 17, generator=generator)
    joint_scores[2] = 0.1
    box_scores, detections = np.array([0.5, 0.9, 0.8]), []
    for row, image in enumerate(IMAGES):
        high = [s for s in joint_scores[row].tolist() if s > 0.2]
        points = torch.cat([predicted[row], joint_scores[row][:, None]], -1).ravel().tolist()
        score = box_scores[row] * (sum(high) / len(high) if high else 0.0)
        detections.append({"image_id": image, "category_id": 1, "keypoints": points, "score": score})
    expected = pycocotools_scores(detections, TRUTH)
    assert 0 < expected["AP"] < 1
    found = scored(predicted, joint_scores, box_scores=box_scores, nms_threshold=None)
    assert found == pytest.approx(expected, abs=1e-6, nan_ok=True)


@pytest.mark.parametrize(
    ("options", "precision"), [({}, 1), ({"nms_threshold": None}, 0.83), ({"soft_nms": True}, 0.83)]
)
def test_duplicates_of_a_person_are_suppressed(options: dict, precision: float) -> None:
    # Sample 3 is a second, better scored box on sample 0's person: a false alarm unless dropped.
    predicted, box_scores = torch.cat([PERSONS, PERSONS[:1] + 1]), np.array([0.8, 0.7, 0.6, 1.0])
    scores = scored(predicted, torch.ones(4, 17), box_scores=box_scores, **options)
    assert scores["AP"] == pytest.approx(precision, abs=0.01)
    assert scores["AR"] == pytest.approx(1)


def test_what_does_not_fit_is_refused() -> None:
    for wrong in ({"areas": np.ones(2)}, {"image_ids": np.array([7, 8, 9])}):
        with pytest.raises(PnfsError):
            scored(PERSONS, torch.ones(3, 17), **wrong)


# --- similarity and suppression


@pytest.mark.fixtures("oks_nms_inputs*.npz")
def test_suppression_matches_the_reference(fixture_file: Path) -> None:
    inputs = np.load(fixture_file)
    name = fixture_file.name.replace("inputs", "expected").replace(".npz", ".json")
    expected = json.loads(fixture_file.with_name(name).read_text())
    offsets = inputs["set_offsets"]
    assert len(expected) == len(offsets) - 1 > 0
    for number, recorded in enumerate(expected):
        rows = slice(offsets[number], offsets[number + 1])
        poses = inputs["keypoints"][rows, :, :2], inputs["scores"][rows], inputs["areas"][rows]
        for key, indices in recorded.items():
            function, _, threshold = key.rpartition("_")
            kept = oks_nms(*poses, float(threshold), soft=function == "soft_oks_nms")
            assert kept.tolist() == indices, (number, key)
