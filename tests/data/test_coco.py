"""COCO: persons and boxes as HRNet's, detected boxes, its test set, and what goes to the benchmark's server."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO as CocoIndex

from pnfs.data.datasets.coco import COCO
from pnfs.data.images import DataError
from pnfs.data.persons import UNMATCHED, Predictions
from written_datasets import require_server_format, scores, write_labels

# Two persons in image 7, one in image 9.
CORNERS = {1: (7, 20, 30), 2: (7, 180, 60), 3: (9, 90, 90)}
IMAGES = [{"id": number, "file_name": f"{number:012d}.jpg", "width": 320, "height": 320} for number in (7, 9, 11)]


def figure(x: float, y: float) -> np.ndarray:
    return np.array([[x + k % 5 * 20, y + k // 5 * 35] for k in range(17)], float)


def annotation(person: int, labelled: int = 17, **change: object) -> dict:
    """The first nine joints are visible, the rest up to `labelled` occluded."""
    image, x, y = CORNERS[person]
    joints = np.column_stack([figure(x, y), np.where(np.arange(17) < 9, 2, 1)])
    joints[labelled:] = 0
    return {
        "id": person, "image_id": image, "category_id": 1, "iscrowd": 0, "num_keypoints": labelled,
        "bbox": [x, y, 81.0, 106.0], "area": 8100.0, "keypoints": joints.ravel().tolist(), **change,
    }  # fmt: skip


def detection(person: int, shift: float = 0.0, score: float = 0.9, **change: object) -> dict:
    image, x, y = CORNERS[person]
    record = {"image_id": image, "category_id": 1, "bbox": [x + shift, y + shift, 80.0, 105.0], "score": score}
    return record | change


DETECTIONS = [
    detection(2, 4), detection(1, 2), detection(3, 0, score=0.5), detection(1, 200, score=0.05),
    {"image_id": 9, "category_id": 18, "bbox": [0, 0, 50, 50], "score": 0.99},
]  # fmt: skip


def written(root: Path, annotations: list[dict], images: list[dict] = IMAGES) -> Path:
    content = {"images": images, "categories": [{"id": 1, "name": "person"}], "annotations": annotations}
    return write_labels(root, content, DETECTIONS)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return written(tmp_path / "coco", [annotation(person) for person in CORNERS])


# --- ground-truth boxes


def test_a_person_as_annotated(tmp_path: Path) -> None:
    boxes = [[20, 30, 81.0, 106.0], [-10.0, -4.0, 31.0, 11.0], [300.0, 310.0, 200.0, 200.0]]
    people = [annotation(n + 1, labelled=16 - n, bbox=box) for n, box in enumerate(boxes)]
    source = COCO(written(tmp_path / "d", people), min_labelled=15)
    persons = source.persons("val")
    assert persons.ids.tolist() == ["1", "2", "3"]
    assert persons.joints[0].tolist() == [*figure(20, 30)[:16].tolist(), [0, 0]]
    assert persons.visibility[0].tolist() == [2] * 9 + [1] * 7 + [0]
    assert persons.reference_length[0] == 90
    # From pixel 20 to 100 and 30 to 135, times 1.25; others are clipped to the image, as HRNet's.
    assert persons.center.tolist() == [[60, 82.5], [15, 5], [309.5, 314.5]]
    assert (persons.box_size / 1.25).tolist() == [[80, 105], [30, 10], [19, 9]]
    # Few labelled joints are enough for validation.
    assert source.persons("train").ids.tolist() == ["1", "2"]


@pytest.mark.fixtures("coco_gt.json")
def test_persons_are_those_of_pycocotools(fixture_file: Path, tmp_path: Path) -> None:
    content = json.loads(fixture_file.read_text())
    source = COCO(written(tmp_path / "d", content["annotations"], content["images"]), check_images=False)
    persons, index = source.persons("val"), CocoIndex(str(fixture_file))
    records = index.loadAnns(index.getAnnIds(iscrowd=False))
    wanted = {record["id"]: record for record in records if any(record["keypoints"][2::3])}
    assert sorted(map(int, persons.ids)) == sorted(wanted)
    for row, person_id in enumerate(persons.ids):
        record = wanted[int(person_id)]
        keypoints = np.array(record["keypoints"], float).reshape(17, 3)
        labelled = keypoints[:, 2] > 0
        np.testing.assert_array_equal(persons.visibility[row], keypoints[:, 2])
        np.testing.assert_allclose(persons.joints[row][labelled], keypoints[labelled, :2])
        name = index.loadImgs(record["image_id"])[0]["file_name"]
        assert persons.images.describe(int(persons.image_index[row])) == name
    # In another order than the file's: only the right image for each row gives full marks.
    order = torch.randperm(len(persons), generator=torch.Generator().manual_seed(0))
    metric = source.metric("val")
    predicted, ones = torch.from_numpy(persons.joints)[order], torch.ones(len(persons), 17)
    metric.update(predicted=predicted, scores=ones, sample_index=order)
    assert float(metric.compute()["AP"]) == 1


# --- detected boxes


def with_detections(root: Path, detections: object, **options) -> COCO:
    path = root.parent / "boxes.json"
    path.write_text(json.dumps(detections))
    return COCO(root, boxes="detected", detections=path, **options)


def right(source: COCO, split: str = "val") -> Predictions:
    """The labels as predictions, found without the source's matching; elsewhere nonsense."""
    points = [figure(*CORNERS[person][1:]) for person in (2, 1, 3)]
    rows = len(source.persons(split))
    points += [figure(0, 210)] * (rows - 3)
    return Predictions(np.array(points[:rows], np.float32), np.full((rows, 17), 0.8, np.float32))


def test_persons_are_the_detectors(root: Path) -> None:
    persons = COCO(root, boxes="detected").persons("val")
    assert persons.ids.tolist() == ["7/0", "7/1", "9/0", "7/2"]
    assert persons.left_out == {"of another category": 1}
    assert not persons.visibility.any()
    assert np.isnan(persons.reference_length).all()
    # HRNet neither clips detected boxes nor measures them from pixel to pixel.
    assert (persons.center[0].tolist(), persons.box_size[0].tolist()) == ([184 + 40, 64 + 52.5], [100, 131.25])
    names = [persons.images.describe(index) for index in persons.image_index.tolist()]
    assert names == [f"{number:012d}.jpg" for number in (7, 7, 9, 7)]
    # HRNet's `_xywh2cs`: for suppression the shorter side grows to the input's width / height.
    for size, area in ((None, 100**2 / 0.75), ((256, 192), 100**2 / 0.75), ((128, 256), 131.25**2 * 2)):
        np.testing.assert_allclose(COCO(root, input_size=size).metric("val").areas, area, rtol=1e-6)
    few = with_detections(
        root, [detection(1), detection(2, bbox=[1, 1, 0, 9]), detection(3, score=0.1)], box_threshold=0.5
    )
    assert (len(few.persons("val")), list(few.persons("val").left_out.values())) == (1, [1, 1])


@pytest.mark.parametrize(("nms", "count"), [("oks", 1), ("soft", 2), ("none", 2)])
def test_duplicates_are_dropped_by_choice_and_scores_are_the_boxs_times_the_joints(
    root: Path, tmp_path: Path, nms: str, count: int
) -> None:
    source = COCO(root, boxes="detected", nms=nms, joint_threshold=0.3)
    found = scores(source, "val", right(source).locations, right(source).scores)
    assert (found["AP"], found["AR"]) == (pytest.approx(1), pytest.approx(1))
    assert source.evaluation_choices("val")["nms"] == nms
    predictions = right(source)
    predictions.scores[2, :10] = 0.25
    path = source.write_predictions("val", predictions, tmp_path, "mine")
    (score,) = [r["score"] for r in json.loads(path.read_text()) if r["image_id"] == 9]
    assert score == pytest.approx(0.5 * 0.8, abs=1e-6)
    source = with_detections(root, [detection(1), detection(1, 3, score=0.8)], nms=nms)
    twice = Predictions(np.array([figure(*CORNERS[1][1:])] * 2, np.float32), np.ones((2, 17), np.float32))
    assert len(json.loads(source.write_predictions("val", twice, tmp_path, "mine").read_text())) == count


def test_labelled_persons_are_matched_by_overlap(root: Path) -> None:
    source = COCO(root, boxes="detected", box_threshold=0.01)
    matches = source.matches("val", right(source))
    assert matches.labels.ids.tolist() == ["1", "2", "3"]
    assert matches.rows.tolist() == [1, 0, 2]
    assert source.evaluation_choices("val") == {
        "boxes": "detected", "detections": "COCO_val2017_detections_AP_H_56_person.json",
        "box_threshold": 0.01, "joint_threshold": 0.2, "nms": "oks", "nms_threshold": 0.9,
    }  # fmt: skip
    # One box for the first person only, and far from the others.
    few = with_detections(root, [detection(1), detection(1, 5), detection(3, 80)])
    assert few.matches("val", right(few)).rows.tolist() == [0, UNMATCHED, UNMATCHED]


def test_test_dev_is_predicted_and_not_scored(root: Path, tmp_path: Path) -> None:
    source = COCO(root, boxes="detected")
    assert len(source.persons("test")) == 4
    predictions = right(source, "test")
    assert np.isnan(list(scores(source, "test", predictions.locations).values())).all()
    path = source.write_predictions("test", predictions, tmp_path, "mine/1")
    assert path.name == "person_keypoints_test-dev2017_mine-1_results.json"
    require_server_format(path, [7, 9, 11])


@pytest.mark.parametrize(
    "change", [{"image_id": 8}, {"bbox": [1, 2, 3]}, {"score": None}, {"category_id": "person"}]
)
def test_bad_detections_are_named(root: Path, change: dict) -> None:
    source = with_detections(root, [detection(1, category_id=2), detection(1, **change)])
    with pytest.raises(DataError, match=rf"boxes\.json: detection 1: {next(iter(change))}"):
        source.persons("val")
