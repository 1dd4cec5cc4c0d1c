"""What all datasets do alike: missing files, splits, images, relative roots, shipped configurations."""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import scipy.io

from pnfs.data.datasets.base import PoseDataset
from pnfs.data.datasets.coco import COCO
from pnfs.data.datasets.lsp import LSP, LSPET
from pnfs.data.datasets.mpii import MPII
from pnfs.data.images import DataError
from pnfs.data.synthetic import Synthetic
from written_datasets import write_coco, write_mpii

ANNOTATIONS = {
    MPII: "annot/train.json",
    COCO: "annotations/person_keypoints_train2017.json",
    LSP: "joints.mat",
    LSPET: "joints.mat",
}
KINDS = list(ANNOTATIONS)


def write_leeds(folder: Path, kind: type[LSP]) -> None:
    (folder / "images").mkdir(parents=True)
    joints = np.random.default_rng(0).uniform(2, 30, (6, 14, 3))
    joints[..., 2] = 1
    for number in range(1, 7):
        path = folder / "images" / kind.image_format.format(number)
        cv2.imwrite(str(path), np.full((32, 32, 3), 40 * number, np.uint8))
    axes = (2, 1, 0) if kind is LSP else (1, 2, 0)
    scipy.io.savemat(folder / "joints.mat", {"joints": joints.transpose(axes)})


@pytest.fixture
def root(kind: type, tmp_path: Path) -> Path:
    folder = tmp_path / "data" / kind.__name__
    if kind in (LSP, LSPET):
        write_leeds(folder, kind)
    else:
        drawn = Synthetic(kind.__name__.lower(), train=4, val=3, image_size=(48, 48))
        write = write_mpii if kind is MPII else write_coco
        write({split: drawn.persons(split) for split in ("train", "val")}, folder)
    return folder


def image_of(dataset: PoseDataset) -> Path:
    """A file of the training persons."""
    images = dataset.persons("train").images
    return images.root / images.describe(0)  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("missing", ["", "images", "annotations"])
def test_the_constructor_says_what_is_missing(kind: Callable, root: Path, missing: str) -> None:
    lost = root / (ANNOTATIONS[kind] if missing == "annotations" else missing)
    lost.rename(root.parent / "elsewhere")
    with pytest.raises(DataError) as caught:
        kind(root)
    assert str(lost) in str(caught.value)
    assert "http" in str(caught.value)


@pytest.mark.parametrize("kind", KINDS)
def test_splits_and_padding_are_checked(kind: Callable, root: Path) -> None:
    for method in (kind(root).persons, kind(root).metric):
        with pytest.raises(DataError, match="'dev'"):
            method("dev")
    for padding in (0, -1, float("nan"), float("inf")):
        with pytest.raises(DataError, match="padding"):
            kind(root, padding=padding)


@pytest.mark.parametrize("kind", KINDS)
def test_missing_images_are_counted_or_found_later(kind: Callable, root: Path) -> None:
    lost = image_of(kind(root))
    lost.unlink()
    with pytest.raises(DataError, match=rf"1 of \d+ images are missing.*{lost.name}"):
        kind(root).persons("train")
    dataset = kind(root, check_images=False)
    persons = dataset.persons("train")
    (root / ANNOTATIONS[kind]).unlink()
    assert dataset.persons("train") is persons  # Read once.
    with pytest.raises(DataError, match=lost.name):
        [persons[row] for row in range(len(persons))]


@pytest.mark.parametrize("kind", KINDS)
def test_a_relative_root_is_located(
    kind: Callable, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(root.parents[1])
    relative = root.relative_to(root.parents[1])
    assert len(kind(relative).persons("train"))
    monkeypatch.chdir(root.parent)
    with pytest.raises(DataError) as caught:
        kind(relative)
    assert f"working directory {root.parent}" in str(caught.value)


@pytest.mark.parametrize(
    ("wrong", "named"),
    [({"boxes": "gt"}, "boxes"), ({"nms": "hard"}, "nms"), ({"skeleton": "cat"}, "cat"),
     ({"files": {"train": {}}}, "files")],
)  # fmt: skip
def test_choices_of_coco_are_checked(wrong: dict, named: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=named):
        COCO(tmp_path, **wrong)
