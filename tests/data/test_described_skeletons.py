"""A skeleton described in YAML: animals in COCO's format are read, trained, scored and drawn without code."""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import yaml

from pnfs.commands.building import build_network, build_source
from pnfs.commands.configuration import packaged_folder, plain
from pnfs.data.datasets.coco import COCO
from pnfs.data.images import DataError
from pnfs.data.predictions import Predictions
from pnfs.evaluation.coco_eval import similarity_sigmas
from tiny_runs import call, composed
from written_datasets import scores

ANIMAL = yaml.safe_load((packaged_folder("conf") / "dataset/coco_animals.yaml").read_text())["skeleton"]
JOINTS, COUNT = ANIMAL["joints"], 6
KINDS = {3: "antelope", 8: "argali sheep"}


@pytest.fixture
def root(tmp_path: Path) -> Path:
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


def animals(root: Path, **options: Any) -> COCO:
    dataset = plain(composed("data", "dataset=coco_animals", f"dataset.root={root}"))["dataset"]
    return build_source(dataset | options)  # type: ignore[return-value]


def test_joints_and_categories_are_found_by_name(root: Path) -> None:
    persons = animals(root).persons("train")
    assert (len(persons), persons.skeleton.name) == (COUNT, "ap10k")
    images = json.loads((root / "annotations/ap10k-train-split1.json").read_text())["images"]
    np.testing.assert_allclose(persons.joints, [image["joints"] for image in images], rtol=1e-6)
    assert len(animals(root, category="antelope").persons("train")) == COUNT // 2
    both = animals(root, category=["Argali Sheep", "antelope"]).persons("train")
    assert (len(both), both.left_out) == (COUNT, {})
    for absent in ("cat", ["antelope", "cat"], "person"):
        with pytest.raises(DataError, match="ap10k-train"):
            animals(root, category=absent).persons("train")


def test_they_are_scored_by_their_own_sigmas(root: Path, tmp_path: Path) -> None:
    dataset = animals(root)
    persons = dataset.persons("val")
    sigmas = similarity_sigmas(dataset.skeleton)
    assert sigmas.tolist() == ANIMAL["oks_sigmas"]
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


def test_a_network_of_animals_takes_a_step(root: Path) -> None:
    small = ["backbone=fabric", "model.fabrics.channels=2", "backbone.fabrics.channels=2",
             "backbone.fabrics.first_layers=3", "input_size=[64,64]"]  # fmt: skip
    config = composed("train", "dataset=coco_animals", f"dataset.root={root}", "parts=p3", *small)
    network = build_network(plain(config)["model"])
    assert network.parts.skeleton.joints == tuple(JOINTS)
    maps = network(torch.zeros(2, 3, 64, 64))
    ((maps - 0.5) ** 2).mean().backward()
    assert maps.shape[1] == 17


def test_they_are_checked_and_drawn(root: Path, tmp_path: Path) -> None:
    call("data", "dataset=coco_animals", f"dataset.root={root}", "input_size=[64,64]", f"out={tmp_path}/s")
    assert (tmp_path / "s/crops.png").is_file()
