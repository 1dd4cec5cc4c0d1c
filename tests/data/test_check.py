"""Checks of a dataset: each fault is found, by its own check, and nothing is found in good data."""

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import scipy.io
from PIL import Image

from pnfs.data.check import Finding, Seen, faults, inspect_dataset
from pnfs.data.datasets.coco import COCO
from pnfs.data.datasets.mpii import MPII
from pnfs.data.images import DataError, ImageFiles, inspect_file
from pnfs.data.persons import Persons
from pnfs.data.synthetic import Synthetic
from written_datasets import write_coco, write_mpii

SPLITS = ("train", "val")
JSON = {"train": "annot/train.json", "val": "annot/valid.json"}


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


@pytest.fixture
def coco(exported: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported / "coco", tmp_path / "coco"))


def inspected(folder: Path, kind: type = MPII, **options) -> dict[str, Finding]:
    return {f.check: f for f in inspect_dataset(kind(folder, check_images=False), **options)}


def change_json(path: Path, change: Callable[[list], object]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def change_truth(mpii: Path, **changed: Callable[[np.ndarray], np.ndarray]) -> None:
    path = mpii / "annot/gt_valid.mat"
    content = {k: v for k, v in scipy.io.loadmat(path).items() if not k.startswith("__")}
    scipy.io.savemat(path, content | {name: f(content[name]) for name, f in changed.items()})


def test_nothing_is_found_in_good_data(exported: Path) -> None:
    for name, kind in (("mpii", MPII), ("coco", COCO)):
        assert inspected(exported / name, kind) == {}
    for name in ("mpii", "coco"):
        drawn = Synthetic(name, train=150, val=40, image_size=(64, 64), truncated=0.3)
        assert inspect_dataset(drawn) == []


# --- images


def test_truncated_and_missing_images_are_both_found(mpii: Path) -> None:
    paths = sorted((mpii / "images").glob("train_*"))
    paths[2].write_bytes(paths[2].read_bytes()[:-300])
    paths[5].unlink()
    found = inspected(mpii)
    assert {name: f.severity for name, f in found.items()} == {
        "missing images": "error", "damaged images": "error"
    }  # fmt: skip
    assert found["missing images"].records == (paths[5].name,)
    (record,) = found["damaged images"].records
    assert str(paths[2]) in record
    assert "damaged images" not in inspected(mpii, images="none")
    # First and last image are in every sample.
    assert "damaged images" not in inspected(mpii, images="sample", sample=2)


def test_turned_images_are_reported(mpii: Path) -> None:
    path, exif = min((mpii / "images").iterdir()), Image.Exif()
    exif[0x0112] = 6
    pixels = np.asarray(Image.open(path))
    Image.fromarray(pixels).save(path, quality=95, exif=exif)
    # Training reads pixels as they are stored, so that labels of the upright picture do not fit.
    difference = ImageFiles(path.parent, [path.name]).read(0).astype(int) - pixels
    assert np.abs(difference).mean() < 8
    turned = inspected(mpii)["image orientation"]
    assert (turned.severity, turned.records) == ("warning", (f"{path} (90°)",))


def test_numbers_that_training_cannot_read_are_reported(tmp_path: Path) -> None:
    ramp = np.linspace(0, 1, 48).reshape(6, 8)
    for name, values, readable in (
        ("float.tif", ramp.astype(np.float32), False),
        ("wide.tif", (65535 * ramp).astype(np.int32), False),
        ("black.png", (200 * ramp).astype(np.uint16), False),
        ("good.tif", (65535 * ramp).astype(np.uint16), True),
        ("good.png", (65535 * ramp).astype(np.uint16), True),
    ):
        Image.fromarray(values).save(tmp_path / name)
        assert (inspect_file(tmp_path / name).problem is None) == readable, name
        images = ImageFiles(tmp_path, [name])
        if readable:
            np.testing.assert_allclose(images.read(0)[..., 0], 255 * ramp, atol=1.01)
        elif name != "black.png":
            with pytest.raises(DataError, match=name):
                images.read(0)


def test_resized_images_are_found(coco: Path) -> None:
    for path in (coco / "images/val2017").iterdir():
        cv2.imwrite(str(path), cv2.resize(cv2.imread(str(path)), (32, 32)))
    found = inspected(coco, COCO)
    assert len(found["image sizes"].records) == 12
    assert "32×32, not 64×64" in found["image sizes"].problem
    assert found["joints outside images"].severity == "warning"


# --- annotations


def test_damaged_annotations_do_not_hide_the_rest(mpii: Path) -> None:
    path = mpii / JSON["train"]
    path.write_text(path.read_text()[:500])
    image = min((mpii / "images").glob("val_*"))
    image.unlink()
    found = inspected(mpii)
    assert "train.json" in found["annotation files"].problem
    assert found["missing images"].records == (image.name,)


def test_duplicates_and_overlap(mpii: Path) -> None:
    shared = json.loads((mpii / JSON["val"]).read_text())[7]
    change_json(mpii / JSON["train"], lambda records: records.extend([records[4], shared]))
    found = inspected(mpii)
    assert found["duplicate records"].records == ("train/00016 = train/00004",)
    assert found["persons in two splits"].records == ("val/00007",)


@pytest.mark.parametrize(
    ("change", "check"),
    [
        ({"pos_gt_src": lambda a: np.roll(a, 1, axis=2)}, "pixel base"),
        ({"pos_gt_src": lambda a: a[np.roll(np.arange(16), 3)]}, "pixel base"),
        ({"pos_gt_src": lambda a: a + 1}, "pixel base"),
        ({"headboxes_src": lambda a: a + 40}, "head boxes"),
        ({"pos_gt_src": lambda a: a[:8]}, "annotation files"),
    ],
)
def test_mpiis_two_files_are_compared(mpii: Path, change: dict, check: str) -> None:
    change_truth(mpii, **change)
    assert inspected(mpii, images="none")[check].severity == "error"


# --- persons


def people(count: int = 200, **options) -> Persons:
    options = {"unlabelled": 0.0, "truncated": 0.0, "train": count} | options
    return Synthetic(**options).persons("train")


def found_in(persons: Persons) -> dict[str, Sequence[str]]:
    seen = Seen(Synthetic(), "train", persons, {})
    return {f.check: f.records for f in faults(seen)}


def with_columns(persons: Persons, order: np.ndarray) -> Persons:
    joints, visibility = persons.joints[:, order], persons.visibility[:, order]
    return replace(persons, joints=joints, visibility=visibility)


@pytest.mark.parametrize("skeleton", ["mpii", "coco"])
def test_exchanged_columns_are_found(skeleton: str) -> None:
    persons = people(skeleton=skeleton, turned_away=0.1)
    assert found_in(persons) == {}
    flip = persons.skeleton.flip_permutation
    assert found_in(with_columns(persons, flip)) == {"left and right": ()}
    for seed in range(4):
        order = np.random.default_rng(seed).permutation(len(flip))
        assert "joint order" in found_in(with_columns(persons, order))


def test_a_box_elsewhere_is_named() -> None:
    persons = people()
    center = persons.center.copy()
    center[3] += 400
    assert found_in(replace(persons, center=center))["person boxes"] == (persons.ids[3],)
