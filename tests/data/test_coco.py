"""COCO: choice of persons and boxes as HRNet's, alignment with the evaluation, clear refusals."""

import inspect
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from pycocotools.coco import COCO as CocoIndex

from pnfs.data.datasets.coco import COCO
from pnfs.data.persons import DataError

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


@pytest.mark.parametrize(
    "change",
    [
        {"iscrowd": 1, "segmentation": {"counts": [3, 4], "size": [80, 100]}},
        {"num_keypoints": 0},
        {"keypoints": [0] * 51},
        {"category_id": 2},
        {"bbox": [10.0, 20.0, 0.0, 30.0]},
        {"bbox": [120.0, 20.0, 30.0, 30.0]},
    ],
)
def test_who_is_left_out(change: dict, tmp_path: Path):
    source = COCO(write(tmp_path / "d", [annotation(1), annotation(2, **change), annotation(3)]))
    for split in ("train", "val"):
        assert source.persons(split).ids.tolist() == ["1", "3"]


def test_min_labelled_applies_to_training_only(tmp_path: Path):
    annotations = [annotation(1, labelled=2), annotation(2, labelled=3)]
    source = COCO(write(tmp_path / "d", annotations), min_labelled=3)
    assert source.persons("train").ids.tolist() == ["2"]
    assert source.persons("val").ids.tolist() == ["1", "2"]


def recorded(fixtures_dir: Path, root: Path) -> COCO:
    content = json.loads((fixtures_dir / "coco_gt.json").read_text())
    write(root, content["annotations"], images=content["images"])
    return COCO(root, check_images=False)


@pytest.mark.fixtures("coco_gt.json")
def test_persons_are_those_of_pycocotools(fixture_file: Path, tmp_path: Path):
    persons = recorded(fixture_file.parent, tmp_path / "d").persons("val")
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


@pytest.mark.fixtures("coco_gt.json")
def test_the_metric_knows_each_rows_image(fixture_file: Path, tmp_path: Path):
    source = recorded(fixture_file.parent, tmp_path / "d")
    persons = source.persons("val")
    # In another order than the file's: only the right image for each row gives full marks.
    order = torch.randperm(len(persons), generator=torch.Generator().manual_seed(0))
    for shift, perfect in ((0.0, True), (300.0, False)):
        metric = source.metric("val")
        metric.update(
            predicted=torch.from_numpy(persons.joints)[order] + shift,
            scores=torch.ones(len(persons), 17),
            sample_index=order,
        )
        average_precision = float(metric.compute()["AP"])
        assert average_precision == 1 if perfect else average_precision < 0.1


def test_the_file_is_read_once(tmp_path: Path):
    source = COCO(write(tmp_path / "d", [annotation()]))
    persons = source.persons("train")
    (tmp_path / "d/annotations/person_keypoints_train2017.json").unlink()
    assert source.persons("train") is persons


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"keypoints": [0] * 48}, r"keypoints has shape \(48,\), it must have \(51,\)"),
        ({"keypoints": [1, 1, 3] * 17}, "visibility flag of keypoints is not 0, 1 or 2"),
        ({"keypoints": [float("nan"), 1, 2] * 17}, "a labelled joint is not a finite number"),
        ({"keypoints": None}, r"keypoints has shape \(\)"),
        ({"bbox": [1, 2, 3]}, r"bbox has shape \(3,\)"),
        ({"bbox": [1, 2, float("inf"), 4]}, "bbox or area is not a finite number"),
        ({"area": "large"}, "area is not an array of numbers"),
        ({"image_id": 99}, "its image_id is not among the annotation file's images"),
        ({"image_id": 7.5}, "must be whole numbers"),
    ],
)
def test_bad_records_are_named(change: dict, message: str, tmp_path: Path):
    source = COCO(write(tmp_path / "d", [annotation(1), annotation(2, **change)]))
    with pytest.raises(DataError, match=message) as caught:
        source.persons("train")
    assert "person_keypoints_train2017.json: annotation 2" in str(caught.value)


@pytest.mark.parametrize("field", ["id", "image_id", "category_id", "keypoints", "bbox"])
def test_missing_fields_are_named(field: str, tmp_path: Path):
    incomplete = annotation(2)
    del incomplete[field]
    source = COCO(write(tmp_path / "d", [annotation(1), incomplete]))
    with pytest.raises(DataError, match=rf"train2017\.json: annotation .*: {field} is missing"):
        source.persons("train")


def test_two_annotations_with_one_id(tmp_path: Path):
    source = COCO(write(tmp_path / "d", [annotation(5), annotation(6), annotation(5)]))
    with pytest.raises(DataError, match="annotation 5: its id occurs before"):
        source.persons("train")


@pytest.mark.parametrize(
    ("annotations", "images", "message"),
    [
        ([], [image()], "no usable persons"),
        ([annotation(iscrowd=1)], [image()], "no usable persons"),
        ({}, [image()], "annotations must be a list"),
        ([annotation()], [5], "images: record 0 is not an object"),
        ([annotation()], [image() | {"width": None}], "image 7: needs id, width"),
        ([annotation()], [image() | {"file_name": "../../a.jpg"}], "leaves the folder"),
        ([annotation()], [image() | {"file_name": "b.jpg"}], r"1 of 1 images are missing.*b\.jpg"),
    ],
)
def test_unusable_annotations(annotations: object, images: list, message: str, tmp_path: Path):
    source = COCO(write(tmp_path / "d", annotations, images=images))
    with pytest.raises(DataError, match=message):
        source.persons("train")


def test_images_without_persons_may_be_missing(tmp_path: Path):
    source = COCO(write(tmp_path / "d", [annotation()], images=[image(), image(8)]))
    assert len(source.persons("train")) == 1


def test_a_split_without_its_image_folder(tmp_path: Path):
    root = write(tmp_path / "d", [annotation()])
    (root / "images/train2017").rename(tmp_path / "elsewhere")
    source = COCO(root)
    assert len(source.persons("val")) == 1
    with pytest.raises(DataError, match=r"1 of 1 images are missing from .*train2017"):
        source.persons("train")
    assert len(COCO(root, check_images=False).persons("train")) == 1


@pytest.mark.parametrize("content", ['{"images": [', '{"info": {}}', "[]", "[" * 100_000])
def test_a_damaged_file_is_named(content: str, tmp_path: Path):
    path = write(tmp_path / "d", [annotation()]) / "annotations/person_keypoints_train2017.json"
    path.write_text(content)
    with pytest.raises(DataError, match=r"train2017\.json: is (truncated|not a COCO)"):
        COCO(tmp_path / "d").persons("train")


@pytest.mark.parametrize("name", ["images", "annotations/person_keypoints_val2017.json"])
def test_constructor_says_what_is_missing(name: str, tmp_path: Path):
    root = write(tmp_path / "d", [annotation()])
    (root / name).rename(tmp_path / "elsewhere")
    with pytest.raises(DataError, match=f"{name} is missing") as caught:
        COCO(root)
    assert "Expected layout" in str(caught.value)
    assert "https://cocodataset.org" in str(caught.value)


def test_wrong_arguments(tmp_path: Path):
    with pytest.raises(DataError, match="there is no folder"):
        COCO(tmp_path / "nowhere")
    root = write(tmp_path / "d", [annotation()])
    with pytest.raises(DataError, match="padding must be"):
        COCO(root, padding=0)
    for method in (COCO(root).persons, COCO(root).metric):
        with pytest.raises(DataError, match="no split 'dev'; there are train, val, test"):
            method("dev")


def test_shipped_configuration_states_the_defaults(tmp_path: Path):
    config = OmegaConf.load(Path(__file__).parents[2] / "conf/dataset/coco.yaml")
    source = instantiate(config, root=str(write(tmp_path / "d", [annotation()])))
    assert len(source.persons("train")) == 1
    for name, parameter in inspect.signature(COCO).parameters.items():
        assert name == "root" or config[name] == parameter.default


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


@pytest.mark.parametrize("relative", ["data/coco", "coco"])
def test_a_relative_root_is_located(relative: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    root = write(tmp_path / "here" / relative, [annotation(1)])
    monkeypatch.chdir(tmp_path / "here")
    assert len(COCO(relative).persons("val")) == 1
    (root / "images/val2017/000000000007.jpg").unlink()
    with pytest.raises(DataError) as caught:
        COCO(relative).persons("val")
    assert str(root / "images/val2017") in str(caught.value)
    (tmp_path / "there").mkdir()
    monkeypatch.chdir(tmp_path / "there")
    with pytest.raises(DataError) as caught:
        COCO(relative)
    assert str(tmp_path / "there" / relative) in str(caught.value)
    assert f"working directory {tmp_path / 'there'}" in str(caught.value)
    with pytest.raises(DataError) as caught:
        COCO(tmp_path / "nowhere")
    assert "working directory" not in str(caught.value)
