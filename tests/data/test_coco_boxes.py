"""COCO in detected boxes, its test set, and what goes to the benchmark's server."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from pnfs.data.datasets.coco import COCO
from pnfs.data.images import DataError
from pnfs.data.predictions import UNMATCHED, Predictions
from written_datasets import require_server_format

SIZE = 320
# Two persons in image 7, one in image 9.
CORNERS = {1: (7, 20, 30), 2: (7, 180, 60), 3: (9, 90, 90)}


def figure(x: float, y: float) -> np.ndarray:
    return np.array([[x + k % 5 * 20, y + k // 5 * 35] for k in range(17)], float)


def annotation(person: int) -> dict:
    image, x, y = CORNERS[person]
    flags = np.where(np.arange(17) < 9, 2, 1)
    return {
        "id": person, "image_id": image, "category_id": 1, "iscrowd": 0, "num_keypoints": 17,
        "bbox": [x, y, 81.0, 106.0], "area": 8000.0,
        "keypoints": np.column_stack([figure(x, y), flags]).ravel().tolist(),
    }  # fmt: skip


def detection(person: int, shift: float = 0.0, score: float = 0.9) -> dict:
    image, x, y = CORNERS[person]
    box = [x + shift, y + shift, 80.0, 105.0]
    return {"image_id": image, "category_id": 1, "bbox": box, "score": score}


DETECTIONS = [
    detection(2, 4),
    detection(1, 2),
    detection(3, 0, score=0.5),
    detection(1, 200, score=0.05),
    {"image_id": 9, "category_id": 18, "bbox": [0, 0, 50, 50], "score": 0.99},
]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "coco"
    images = [
        {"id": number, "file_name": f"{number:012d}.jpg", "width": SIZE, "height": SIZE}
        for number in (7, 9, 11)
    ]
    content = {"images": images, "categories": [{"id": 1, "name": "person"}]}
    labelled = {**content, "annotations": [annotation(person) for person in CORNERS]}
    for name, what in (
        ("annotations/person_keypoints_train2017.json", labelled),
        ("annotations/person_keypoints_val2017.json", labelled),
        ("annotations/image_info_test-dev2017.json", content),
        ("person_detection_results/COCO_val2017_detections_AP_H_56_person.json", DETECTIONS),
        ("person_detection_results/COCO_test-dev2017_detections_AP_H_609_person.json", DETECTIONS),
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(json.dumps(what))
    for split in ("train2017", "val2017", "test2017"):
        (root / "images" / split).mkdir(parents=True)
        for number in (7, 9):
            picture = np.zeros((SIZE, SIZE, 3), np.uint8)
            cv2.imwrite(str(root / f"images/{split}/{number:012d}.jpg"), picture)
    return root


def with_detections(root: Path, detections: object, **options) -> COCO:
    path = root.parent / "boxes.json"
    path.write_text(json.dumps(detections))
    return COCO(root, boxes="detected", detections=path, **options)


def right(source: COCO, split: str = "val") -> Predictions:
    """The labels as predictions, found without the source's matching; elsewhere nonsense."""
    person_of = {row: n for n, row in ((2, 0), (1, 1), (3, 2))}
    rows = len(source.persons(split))
    points = [figure(*CORNERS[person_of[row]][1:]) if row < 3 else figure(0, 210)
              for row in range(rows)]  # fmt: skip
    return Predictions(np.array(points, np.float32), np.full((rows, 17), 0.8, np.float32))


def test_persons_are_the_detectors(root: Path) -> None:
    persons = COCO(root, boxes="detected").persons("val")
    assert persons.name == "COCO val, detected boxes"
    assert persons.ids.tolist() == ["7/0", "7/1", "9/0", "7/2"]
    assert not persons.visibility.any()
    assert np.isnan(persons.reference_length).all()
    # HRNet neither clips detected boxes nor measures them from pixel to pixel.
    assert persons.center[0].tolist() == [184 + 40, 64 + 52.5]
    assert persons.box_size[0].tolist() == [100, 131.25]
    names = [persons.images.describe(index) for index in persons.image_index.tolist()]
    assert names == [f"{number:012d}.jpg" for number in (7, 7, 9, 7)]


def scores(source: COCO, split: str, predictions: Predictions) -> dict[str, torch.Tensor]:
    metric = source.metric(split)
    metric.update(
        predicted=torch.from_numpy(predictions.locations),
        scores=torch.from_numpy(predictions.scores),
        sample_index=torch.arange(len(predictions)),
    )
    return metric.compute()


@pytest.mark.parametrize("nms", ["oks", "soft", "none"])
def test_right_predictions_score_one(root: Path, nms: str) -> None:
    source = COCO(root, boxes="detected", nms=nms)
    found = scores(source, "val", right(source))
    assert (float(found["AP"]), float(found["AR"])) == (pytest.approx(1), pytest.approx(1))


def test_a_persons_score_is_the_boxs_times_its_joints(root: Path, tmp_path: Path) -> None:
    source = COCO(root, boxes="detected", joint_threshold=0.3)
    predictions = right(source)
    predictions.scores[2, :10] = 0.25
    path = source.write_predictions("val", predictions, tmp_path, "mine")
    (score,) = [r["score"] for r in json.loads(path.read_text()) if r["image_id"] == 9]
    assert score == pytest.approx(0.5 * 0.8, abs=1e-6)


@pytest.mark.parametrize(("nms", "count"), [("oks", 1), ("soft", 2), ("none", 2)])
def test_duplicates_are_dropped_by_choice(root: Path, tmp_path: Path, nms: str, count: int) -> None:
    source = with_detections(root, [detection(1), detection(1, 3, score=0.8)], nms=nms)
    points = np.array([figure(*CORNERS[1][1:])] * 2, np.float32)
    predictions = Predictions(points, np.ones((2, 17), np.float32))
    path = source.write_predictions("val", predictions, tmp_path, "mine")
    assert len(json.loads(path.read_text())) == count


def test_labelled_persons_are_matched_by_overlap(root: Path) -> None:
    source = COCO(root, boxes="detected")
    matches = source.matches("val", right(source))
    assert matches.labels.ids.tolist() == ["1", "2", "3"]
    assert matches.rows.tolist() == [1, 0, 2]
    # One box for the first person only, and far from the others.
    few = with_detections(root, [detection(1), detection(1, 5), detection(3, 80)])
    assert few.matches("val", right(few)).rows.tolist() == [0, UNMATCHED, UNMATCHED]


def test_visible_and_occluded_joints_are_scored_apart(root: Path) -> None:
    source = COCO(root, boxes="detected")
    predictions = right(source)
    # Joints from the ninth on are labelled as occluded.
    predictions.locations[:, 9:] += 120
    found = source.extra_scores("val", predictions)
    assert found["AP/visible"] == pytest.approx(1)
    assert found["AP/occluded"] == pytest.approx(0)
    assert set(found) == {"AP/visible", "AP/occluded", "AR/visible", "AR/occluded"}


def test_choices_stand_beside_the_score(root: Path) -> None:
    choices = COCO(root, boxes="detected", nms="soft", box_threshold=0.1).evaluation_choices("val")
    assert choices == {
        "boxes": "detected",
        "detections": "COCO_val2017_detections_AP_H_56_person.json",
        "box_threshold": 0.1,
        "joint_threshold": 0.2,
        "nms": "soft",
        "nms_threshold": 0.9,
    }
    choices = COCO(root, nms="none").evaluation_choices("val")
    assert choices == {"boxes": "ground truth", "joint_threshold": 0.2, "nms": "none"}


# --- the test set


def test_test_dev_is_predicted_and_not_scored(root: Path, tmp_path: Path) -> None:
    source = COCO(root, boxes="detected")
    persons = source.persons("test")
    assert len(persons) == 4
    predictions = right(source, "test")
    assert all(value.isnan() for value in scores(source, "test", predictions).values())
    path = source.write_predictions("test", predictions, tmp_path, "mine_1")
    assert path.name == "person_keypoints_test-dev2017_mine_1_results.json"
    require_server_format(path, [7, 9, 11])


# --- refusals


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_id": 8}, "detection 1: image_id .*person_keypoints_val2017"),
        ({"bbox": [1, 2, 3]}, r"detection 1: bbox has shape \(3,\)"),
        ({"category_id": "person"}, "detection 1: category_id is not an array of numbers"),
    ],
)
def test_bad_detections_are_named(root: Path, change: dict, message: str) -> None:
    other = {**detection(1), "category_id": 2}
    source = with_detections(root, [other, {**detection(1), **change}])
    with pytest.raises(DataError, match=rf"boxes\.json: {message}"):
        source.persons("val")
