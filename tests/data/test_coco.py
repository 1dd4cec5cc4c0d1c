"""COCO: choice of persons and boxes as HRNet's, alignment with the evaluation, clear refusals."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from pycocotools.coco import COCO as CocoIndex

from pnfs.data.datasets.coco import COCO

WIDTH, HEIGHT = 100, 80


def image(image_id: int = 7) -> dict:
    return {"id": image_id, "file_name": f"{image_id:012d}.jpg", "width": WIDTH, "height": HEIGHT}


def annotation(annotation_id: int = 1, labelled: int = 17, **change: object) -> dict:
    """A person whose joint k lies at (20 + k, 30 + k); the first `labelled` have a label."""
    keypoints = [[20 + k, 30 + k, 1 + k % 2] if k < labelled else [0, 0, 0] for k in range(17)]
    return {
        "id": annotation_id, "image_id": 7, "category_id": 1, "iscrowd": 0,
        "bbox": [10.0, 20.0, 41.0, 31.0], "area": 900.0, "num_keypoints": labelled,
        "keypoints": [number for joint in keypoints for number in joint],
        "segmentation": [[10.0, 20.0, 51.0, 20.0, 51.0, 51.0]],
    } | change  # fmt: skip


def write(root: Path, train: object, val: object = None, images: list | None = None) -> Path:
    """A dataset below `root` with the annotations of `train` and `val`."""
    (root / "annotations").mkdir(parents=True)
    for split, annotations in (("train", train), ("val", train if val is None else val)):
        (root / f"images/{split}2017").mkdir(parents=True)
        picture = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
        cv2.imwrite(str(root / f"images/{split}2017/000000000007.jpg"), picture)
        content = {
            "images": [image()] if images is None else images,
            "annotations": annotations,
            "categories": [{"id": 1, "name": "person"}],
        }
        path = root / f"annotations/person_keypoints_{split}2017.json"
        path.write_text(json.dumps(content))
    return root


def test_a_person_as_annotated(tmp_path: Path):
    person = COCO(write(tmp_path / "d", [annotation(3, labelled=16)])).persons("val")[0]
    assert person.id == "3"
    assert person.image.shape == (HEIGHT, WIDTH, 3)
    assert person.joints[:16].tolist() == [[20 + k, 30 + k] for k in range(16)]
    assert person.joints[16].tolist() == [0, 0]
    assert person.visibility.tolist() == [1, 2] * 8 + [0]
    # Pixels 10..50 and 20..50: centre (30, 35), size (40, 30), times 1.25.
    assert person.center.tolist() == [30, 35]
    assert person.box_size.tolist() == [50, 37.5]
    assert person.reference_length == 30


@pytest.mark.parametrize(
    ("bbox", "center", "size"),
    [
        ([-10.0, -4.0, 31.0, 11.0], [15, 5], [30, 10]),
        ([60.0, 70.0, 200.0, 200.0], [79.5, 74.5], [39, 9]),
    ],
)
def test_boxes_are_clipped_as_hrnets(bbox: list, center: list, size: list, tmp_path: Path):
    persons = COCO(write(tmp_path / "d", [annotation(bbox=bbox)]), padding=1).persons("train")
    assert persons.center[0].tolist() == center
    assert persons.box_size[0].tolist() == size


def test_min_labelled_applies_to_training_only(tmp_path: Path):
    annotations = [annotation(1, labelled=2), annotation(2, labelled=3)]
    source = COCO(write(tmp_path / "d", annotations), min_labelled=3)
    assert source.persons("train").ids.tolist() == ["2"]
    assert source.persons("val").ids.tolist() == ["1", "2"]


@pytest.mark.fixtures("coco_gt.json")
def test_persons_are_those_of_pycocotools(fixture_file: Path, tmp_path: Path):
    content = json.loads(fixture_file.read_text())
    root = write(tmp_path / "d", content["annotations"], images=content["images"])
    source = COCO(root, check_images=False)
    persons = source.persons("val")
    index = CocoIndex(str(fixture_file))
    wanted = {
        record["id"]: record
        for record in index.loadAnns(index.getAnnIds(iscrowd=False))
        if any(record["keypoints"][2::3])
    }
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
    predicted, scores = torch.from_numpy(persons.joints)[order], torch.ones(len(persons), 17)
    metric.update(predicted=predicted, scores=scores, sample_index=order)
    assert float(metric.compute()["AP"]) == 1


def test_areas_for_suppression_have_the_crops_aspect(tmp_path: Path):
    """HRNet's `_xywh2cs`: the shorter side grows to the input's width / height, then w · h."""
    root = write(tmp_path / "d", [annotation(1), annotation(2, bbox=[10.0, 10.0, 21.0, 61.0])])
    boxes = np.array([[50, 37.5], [25, 75]])
    for size, aspect in ((None, 0.75), ((256, 192), 0.75), ((256, 256), 1.0), ((128, 256), 2.0)):
        areas = COCO(root, input_size=size).metric("val").areas
        expected = []
        for width, height in boxes:
            if width > aspect * height:
                height = width / aspect
            elif width < aspect * height:
                width = height * aspect
            expected.append(width * height)
        np.testing.assert_allclose(areas, expected)
