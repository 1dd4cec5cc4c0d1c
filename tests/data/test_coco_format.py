"""COCO's format: categories and joints by name, what is filled in, what is counted, what is refused.

The oracle for scores is that labels are perfect predictions of themselves: average precision 1.
"""

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pycocotools.coco import COCO as CocoIndex
from pycocotools.cocoeval import COCOeval

from pnfs.body import COCO as SKELETON
from pnfs.data import coco_format as f
from pnfs.data.coco_format import read_annotations
from pnfs.data.datasets.coco import COCO
from pnfs.data.images import DataError
from pnfs.data.predictions import Predictions
from pnfs.evaluation import DetectedPoses, evaluate_detections
from written_datasets import scores, write_labels

SIZE = 400
ANIMAL = ["root_of_tail", "neck", *(f"left_paw_{n}" for n in range(15))]


def annotation(number: int, **change: object) -> dict:
    """One of two persons a picture, each 120 px wide and with all joints."""
    x, y = 20 + 180 * (number % 2), 40 + 10 * number
    points = [[x + k % 5 * 24 + k, y + k // 5 * 40 + k % 3, 2] for k in range(17)]
    record = {
        "id": number + 1, "image_id": number // 2, "category_id": 1, "iscrowd": 0,
        "bbox": [x - 5.0, y - 5.0, 130.0, 150.0], "area": 10000.0, "num_keypoints": 17,
        "keypoints": [value for point in points for value in point],
    }  # fmt: skip
    return record | change


def content(**change: object) -> dict:
    """A well-formed file; image ids count from 0."""
    images = [{"id": n, "file_name": f"{n}.png", "width": SIZE, "height": SIZE} for n in range(3)]
    annotations = [annotation(number) for number in range(6)]
    categories = [{"id": 1, "name": "person", "keypoints": list(SKELETON.joints)}]
    return {"images": images, "annotations": annotations, "categories": categories, **change}


def every(change: Callable[[int, dict], object]) -> dict:
    labels = content()
    for number, record in enumerate(labels["annotations"]):
        change(number, record)
    return labels


def category_id(number: int) -> dict:
    labels = every(lambda _, record: record.update(category_id=number))
    labels["categories"][0]["id"] = number
    return labels


def with_other() -> dict:
    """A ball, and a dog whose joints are none of a person's."""
    labels = content()
    labels["categories"] += [{"id": 37, "name": "ball"}, {"id": 5, "name": "dog", "keypoints": ["a"]}]
    ball = {"id": 1, "image_id": 0, "category_id": 37, "bbox": [1, 1, 9, 9], "area": 81}
    dog = {"id": 2, "image_id": 0, "category_id": 5, "keypoints": [1, 2, 2], "num_keypoints": 1}
    labels["annotations"] = [ball, *labels["annotations"], dog]
    return labels


def without(*keys: str) -> dict:
    return every(lambda _, record: [record.pop(key) for key in keys])


def stored_as(names: list[str], order: list[int]) -> dict:
    def store(_: int, record: dict) -> None:
        record["keypoints"] = np.reshape(record["keypoints"], (17, 3))[order].ravel().tolist()

    return every(store) | {"categories": [{"id": 1, "name": "person", "keypoints": names}]}


FLIPPED = SKELETON.flip_permutation.tolist()
SHOUTED = stored_as([n.upper().replace("_", " ") for n in reversed(SKELETON.joints)], list(range(17))[::-1])

ACCEPTED: dict[str, tuple[dict, dict, dict]] = {
    "as it should be": (content(), {}, {}),
    "person is 7": (category_id(7), {}, {}),
    "other categories": (with_other(), {f.OTHER_CATEGORY: 2}, {}),
    "no area": (without("area"), {}, {f.AREA_FROM_BOX: 6}),
    "neither": (without("num_keypoints", "iscrowd", "area"), {}, {f.AREA_FROM_BOX: 6}),
    "no visible joint": (every(lambda n, r: r.update(keypoints=[0] * 51) if n in (1, 4) else None),
        {f.NO_JOINTS: 2}, {}),
    "num_keypoints 0": (
        every(lambda n, r: r.update(num_keypoints=0) if n == 2 else None), {f.STATED_ZERO: 1}, {},
    ),
    "unlabelled without keypoints": (
        every(lambda n, r: (r.pop("keypoints"), r.update(num_keypoints=0)) if n < 2 else None),
        {f.NO_JOINTS: 2}, {},
    ),
    "crowd": (every(lambda n, r: r.update(iscrowd=int(n == 0))), {f.CROWD: 1}, {}),
    "right before left": (
        stored_as([SKELETON.joints[k] for k in FLIPPED], FLIPPED), {}, {f.ORDERED_BY_NAME: 6},
    ),
    "backwards, in capitals": (SHOUTED, {}, {f.ORDERED_BY_NAME: 6}),
    "joints without names": (
        content(categories=[{"id": 1, "name": "person"}]), {}, {f.ORDER_ASSUMED: 6},
    ),
    "no categories": (
        content(categories=None), {}, {f.ORDER_ASSUMED: 6, f.PERSON_ASSUMED: 6},
    ),
}  # fmt: skip


@pytest.mark.parametrize(("labels", "left_out", "remarks"), ACCEPTED.values(), ids=list(ACCEPTED))
def test_loader_and_metric_agree(labels: dict, left_out: dict, remarks: dict, tmp_path: Path) -> None:
    before = copy.deepcopy(labels)
    read = read_annotations(labels)
    assert labels == before
    own = DetectedPoses(read.image_ids[read.usable], read.joints[read.usable], np.ones(read.usable.sum()))
    found = evaluate_detections(own, read)
    assert (found["AP"], found["AR"]) == (pytest.approx(1), pytest.approx(1))
    source = COCO(write_labels(tmp_path / "d", labels))
    persons = source.persons("val")
    assert (persons.left_out, persons.remarks) == (left_out, remarks)
    assert len(persons) + sum(left_out.values()) == len(labels["annotations"])
    assert scores(source, "val", persons.joints)["AP"] == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("labels", [category_id(0), category_id(7), SHOUTED])
def test_other_tools_score_the_results_file_alike(labels: dict, tmp_path: Path) -> None:
    source = COCO(write_labels(tmp_path / "d", labels))
    persons = source.persons("val")
    predictions = Predictions(persons.joints, np.ones((len(persons), 17), np.float32))
    path = source.write_predictions("val", predictions, tmp_path, "mine")
    truth = CocoIndex(str(tmp_path / "d/annotations/person_keypoints_val2017.json"))
    evaluation = COCOeval(truth, truth.loadRes(str(path)), "keypoints")
    for step in (evaluation.evaluate, evaluation.accumulate, evaluation.summarize):
        step()
    found = source.read_predictions("val", path).scores
    assert (evaluation.stats[0], found["AP"]) == (pytest.approx(1), pytest.approx(1, abs=1e-6))


def test_a_missing_area_is_a_share_of_the_box_and_an_empty_one_counted(tmp_path: Path) -> None:
    half = every(lambda n, record: record.update(area=0) if n % 2 else None)
    persons = COCO(write_labels(tmp_path / "d", half)).persons("val")
    expected = np.sqrt([10000, 0.53 * 130 * 150] * 3)
    np.testing.assert_allclose(persons.reference_length, expected, rtol=1e-6)
    labels = content()
    labels["annotations"][0]["bbox"] = [10, 10, 0, 30]
    labels["annotations"][3]["bbox"] = [SIZE + 5, 10, 30, 30]
    assert COCO(write_labels(tmp_path / "e", labels)).persons("val").left_out == {f.EMPTY_BOX: 2}


# --- refusals


def category(name: str, joints: list[str] = ANIMAL) -> dict:
    return content(categories=[{"id": 1, "name": name, "keypoints": joints}])


def _with(**change: object) -> dict:
    return every(lambda number, record: record.update(change) if number == 2 else None)


REFUSED: dict[str, tuple[dict, tuple[str, ...]]] = {
    "an animal": (category("antelope"), ("categor", "antelope", "root_of_tail")),
    "an animal called person": (category("person"), ("person", "neck", "left_ankle")),
    "sides by letters": (
        category("person", [n.replace("left_", "l_") for n in SKELETON.joints]), ("l_eye", "left_eye"),
    ),
    "a joint twice": (
        category("person", ["nose", "nose", *SKELETON.joints[2:]]), ("left_eye", "nose"),
    ),
    "no person": (category("people", list(SKELETON.joints)), ("people", "person")),
    "two kinds of person": (
        content(categories=[{"id": 1, "name": "person"}, {"id": 2, "name": "Person"}]),
        ("person", "2 Person"),
    ),
    "category in words": (content(categories=[{"id": "one", "name": "person"}]), ("categories", "one")),
    "categories in words": (content(categories="person"), ("categories", "list")),
    "no box": (without("bbox"), ("annotation 1", "bbox")),
    "no keypoints": (without("keypoints"), ("annotation 1", "keypoints")),
    "no category": (without("category_id"), ("annotation 1", "category_id")),
    "iscrowd in words": (_with(iscrowd="no"), ("annotation 3", "iscrowd")),
    "num_keypoints without end": (_with(num_keypoints=1e300), ("annotation 3", "num_keypoints")),
    "16 joints": (_with(keypoints=[1] * 48), ("annotation 3", "keypoints")),
    "an unknown flag": (_with(keypoints=[1, 1, 3] * 17), ("annotation 3", "flag")),
    "an id twice": (_with(id=1), ("annotation 1", "id")),
    "an unknown image": (_with(image_id=99), ("annotation 3", "image_id")),
    "an image twice": (content(images=content()["images"] * 2), ("image 3", "id")),
    "no annotations": ({"images": []}, ("'annotations'",)),
}  # fmt: skip


@pytest.mark.parametrize(("labels", "words"), REFUSED.values(), ids=list(REFUSED))
def test_what_is_wrong_is_named(labels: dict, words: tuple[str, ...], tmp_path: Path) -> None:
    root = write_labels(tmp_path / "d", labels)
    file = root / "annotations/person_keypoints_val2017.json"
    with pytest.raises(DataError) as caught:
        COCO(root).persons("val")
    message = str(caught.value)
    assert str(file) in message
    assert all(word in message for word in words), message
