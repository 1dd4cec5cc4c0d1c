"""Checks of a dataset: each fault is found, by its own check, and nothing is found in good data."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import scipy.io
from PIL import Image

from pnfs.data.check import Finding, faults, inspect_dataset
from pnfs.data.datasets.coco import COCO
from pnfs.data.datasets.mpii import MPII
from pnfs.data.images import ImageFiles
from pnfs.data.persons import Persons
from pnfs.data.synthetic import Synthetic
from written_datasets import write_coco, write_mpii

SPLITS = ("train", "val")


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("exported")
    for name, write in (("mpii", write_mpii), ("coco", write_coco)):
        drawn = Synthetic(name, train=16, val=12, image_size=(64, 64), seed=3, truncated=0.0)
        write({split: drawn.persons(split) for split in SPLITS}, root / name, image_format="jpg")
    return root


@pytest.fixture
def mpii(exported: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported / "mpii", tmp_path / "mpii"))


def inspected(folder: Path, kind: type = MPII, **options) -> dict[str, Finding]:
    return {f.check: f for f in inspect_dataset(kind(folder, check_images=False), **options)}


def test_nothing_is_found_in_good_data(exported: Path) -> None:
    for name, kind in (("mpii", MPII), ("coco", COCO)):
        assert inspected(exported / name, kind) == {}
        drawn = Synthetic(name, train=150, val=40, image_size=(64, 64), truncated=0.3)
        assert inspect_dataset(drawn) == []


@pytest.mark.parametrize(
    ("name", "change", "check"),
    [("pos_gt_src", lambda joints: joints + 1, "pixel base"),
     ("headboxes_src", lambda boxes: boxes + 1000, "head boxes")],
)  # fmt: skip
def test_labels_are_compared_with_the_evaluation_file(name, change, check, mpii: Path) -> None:
    path = mpii / "annot/gt_valid.mat"
    content = {k: v for k, v in scipy.io.loadmat(path).items() if not k.startswith("__")}
    scipy.io.savemat(path, content | {name: change(content[name])})
    found = inspected(mpii)
    assert {name: f.severity for name, f in found.items()} == {check: "error"}


def test_truncated_missing_and_turned_images_are_found(mpii: Path) -> None:
    paths, exif = sorted((mpii / "images").glob("train_*")), Image.Exif()
    exif[0x0112] = 6
    pixels = np.asarray(Image.open(paths[0]))
    Image.fromarray(pixels).save(paths[0], quality=95, exif=exif)
    # Training reads pixels as they are stored, so that labels of the upright picture do not fit.
    difference = ImageFiles(mpii, [f"images/{paths[0].name}"]).read(0).astype(int) - pixels
    assert np.abs(difference).mean() < 8
    paths[2].write_bytes(paths[2].read_bytes()[:-300])
    paths[5].unlink()
    found = inspected(mpii)
    assert {name: f.severity for name, f in found.items()} == {
        "missing images": "error", "damaged images": "error", "image orientation": "warning"
    }  # fmt: skip
    assert found["missing images"].records == (paths[5].name,)
    assert found["image orientation"].records == (f"{paths[0]} (90°)",)
    (record,) = found["damaged images"].records
    assert str(paths[2]) in record
    assert "damaged images" not in inspected(mpii, images="none")
    # First and last image are in every sample.
    assert "damaged images" not in inspected(mpii, images="sample", sample=2)


def test_resized_images_are_found(exported: Path, tmp_path: Path) -> None:
    coco = Path(shutil.copytree(exported / "coco", tmp_path / "coco"))
    for path in (coco / "images/val2017").iterdir():
        cv2.imwrite(str(path), cv2.resize(cv2.imread(str(path)), (32, 32)))
    found = inspected(coco, COCO)
    assert len(found["image sizes"].records) == 12
    assert "32×32, not 64×64" in found["image sizes"].problem
    assert found["joints outside images"].severity == "warning"


def test_damaged_annotations_do_not_hide_the_rest(mpii: Path) -> None:
    path = mpii / "annot/train.json"
    path.write_text(path.read_text()[:500])
    image = min((mpii / "images").glob("val_*"))
    image.unlink()
    found = inspected(mpii)
    assert "train.json" in found["annotation files"].problem
    assert found["missing images"].records == (image.name,)


def test_duplicates_and_overlap(mpii: Path) -> None:
    path = mpii / "annot/train.json"
    shared = json.loads((mpii / "annot/valid.json").read_text())[7]
    records = json.loads(path.read_text())
    path.write_text(json.dumps([*records, records[4], shared]))
    found = inspected(mpii)
    assert found["duplicate records"].records == ("train/00016 = train/00004",)
    assert found["persons in two splits"].records == ("val/00007",)


def found_in(persons: Persons) -> set[str]:
    return {f.check for f in faults(persons, {}, {})}


@pytest.mark.parametrize("skeleton", ["mpii", "coco"])
def test_exchanged_columns_and_boxes_elsewhere_are_found(skeleton: str) -> None:
    options = {"unlabelled": 0.0, "truncated": 0.0, "turned_away": 0.1}
    persons = Synthetic(skeleton, train=200, **options).persons("train")
    assert found_in(persons) == set()

    def reordered(order: np.ndarray) -> Persons:
        joints, visibility = persons.joints[:, order], persons.visibility[:, order]
        return replace(persons, joints=joints, visibility=visibility)

    flip = persons.skeleton.flip_permutation
    assert found_in(reordered(np.array(flip))) == {"left and right"}
    for seed in range(4):
        order = np.random.default_rng(seed).permutation(len(flip))
        assert "joint order" in found_in(reordered(order))
    center = persons.center.copy()
    center[3] += 400
    assert found_in(replace(persons, center=center)) == {"person boxes"}
