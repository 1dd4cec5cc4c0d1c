"""COCO's format: categories and joints by name, what is filled in, what is counted, what is refused.

The oracle for scores is that labels are perfect predictions of themselves: average precision 1.
"""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import yaml
from pycocotools.coco import COCO as CocoIndex
from pycocotools.cocoeval import COCOeval

from pnfs.body import COCO as SKELETON
from pnfs.commands.building import build_dataset, build_network
from pnfs.commands.configuration import packaged_folder, plain
from pnfs.data import coco_format as f
from pnfs.data.coco_format import read_annotations
from pnfs.data.datasets.coco import COCO
from pnfs.data.images import DataError
from pnfs.data.persons import Predictions
from pnfs.evaluation import DetectedPoses, evaluate_detections
from pnfs.evaluation.coco_eval import similarity_sigmas
from tiny_runs import call, composed
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


# --- skeletons described in YAML: animals are read, trained, scored and drawn without code

AP10K = yaml.safe_load((packaged_folder("conf") / "dataset/coco_animals.yaml").read_text())["skeleton"]
JOINTS, COUNT = AP10K["joints"], 6
KINDS = {3: "antelope", 8: "argali sheep"}


@pytest.fixture
def animal_root(tmp_path: Path) -> Path:
    """Two kinds of animals, three of each; the file has the joints in reverse order."""
    folder = tmp_path / "ap10k"
    (folder / "annotations").mkdir(parents=True)
    (folder / "data").mkdir()
    random, images, annotations = np.random.default_rng(0), [], []
    for number in range(COUNT):
        cv2.imwrite(str(folder / f"data/{number}.jpg"), random.integers(0, 255, (120, 160, 3), np.uint8))
        joints = np.column_stack([random.uniform(20, 100, (17, 2)), np.full(17, 2)])
        images.append({"id": number, "file_name": f"{number}.jpg", "width": 160, "height": 120,
                       "joints": joints[:, :2].tolist()})  # fmt: skip
        annotations.append({
            "id": number, "image_id": number, "category_id": sorted(KINDS)[number % 2],
            "bbox": [15, 15, 100, 100], "area": 10000.0, "iscrowd": 0, "num_keypoints": 17,
            "keypoints": joints[::-1].ravel().tolist(),
        })  # fmt: skip
    categories = [{"id": i, "name": n, "keypoints": JOINTS[::-1]} for i, n in KINDS.items()]
    categories.append({"id": 1, "name": "person", "keypoints": ["nose", "left_eye"]})
    content = {"images": images, "annotations": annotations, "categories": categories}
    for split in ("train", "val", "test"):
        (folder / f"annotations/ap10k-{split}-split1.json").write_text(json.dumps(content))
    return folder


def animals(animal_root: Path, **options: Any) -> COCO:
    dataset = plain(composed("data", "dataset=coco_animals", f"dataset.root={animal_root}"))["dataset"]
    return build_dataset(dataset | options)  # type: ignore[return-value]


def test_joints_and_categories_are_found_by_name(animal_root: Path) -> None:
    persons = animals(animal_root).persons("train")
    assert (len(persons), persons.skeleton.name) == (COUNT, "ap10k")
    images = json.loads((animal_root / "annotations/ap10k-train-split1.json").read_text())["images"]
    np.testing.assert_allclose(persons.joints, [image["joints"] for image in images], rtol=1e-6)
    assert len(animals(animal_root, category="antelope").persons("train")) == COUNT // 2
    both = animals(animal_root, category=["Argali Sheep", "antelope"]).persons("train")
    assert (len(both), both.left_out) == (COUNT, {})
    for absent in ("cat", ["antelope", "cat"], "person"):
        with pytest.raises(DataError, match="ap10k-train"):
            animals(animal_root, category=absent).persons("train")


def test_they_are_scored_by_their_own_sigmas(animal_root: Path, tmp_path: Path) -> None:
    dataset = animals(animal_root)
    persons = dataset.persons("val")
    sigmas = similarity_sigmas(dataset.skeleton)
    assert sigmas.tolist() == AP10K["oks_sigmas"]
    # Each joint is as far off as makes its similarity, by COCO's formula, just 0.72.
    distance = np.sqrt(-2 * 10000 * np.log(0.72)) * 2 * sigmas
    predicted = persons.joints + np.stack([distance, 0 * distance], -1).astype(np.float32)
    # Of the thresholds .5, .55, …, .95 it passes five.
    assert scores(dataset, "val", predicted)["AP"] == pytest.approx(0.5)
    # What is written is read again, in the file's order and under the file's category.
    path = dataset.write_predictions(
        "val", Predictions(persons.joints, np.ones((COUNT, 17), np.float32)), tmp_path, "mine"
    )
    assert {record["category_id"] for record in json.loads(path.read_text())} == {3}
    read = dataset.read_predictions("val", path).matches.predictions
    np.testing.assert_allclose(read.locations, persons.joints, atol=0.01)


def test_a_network_of_animals_takes_a_step(animal_root: Path) -> None:
    small = ["backbone=fabric", "model.fabrics.channels=2", "backbone.fabrics.channels=2",
             "backbone.fabrics.first_layers=3", "input_size=[64,64]"]  # fmt: skip
    config = composed("train", "dataset=coco_animals", f"dataset.root={animal_root}", "parts=p3", *small)
    network = build_network(plain(config)["model"])
    assert network.parts.skeleton.joints == tuple(JOINTS)
    maps = network(torch.zeros(2, 3, 64, 64))
    ((maps - 0.5) ** 2).mean().backward()
    assert maps.shape[1] == 17


def test_they_are_checked_and_drawn(animal_root: Path, tmp_path: Path) -> None:
    asked = ["dataset=coco_animals", f"dataset.root={animal_root}", "input_size=[64,64]"]
    call("data", *asked, f"out={tmp_path}/s")
    assert (tmp_path / "s/crops.png").is_file()
