"""What all datasets do alike: missing files, splits, images, relative roots, arguments."""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import scipy.io

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
kinds = pytest.mark.parametrize("kind", ANNOTATIONS)


@pytest.fixture
def root(kind: type, tmp_path: Path) -> Path:
    folder = tmp_path / "data" / kind.__name__
    if issubclass(kind, LSP):
        (folder / "images").mkdir(parents=True)
        joints = np.random.default_rng(0).uniform(2, 30, (6, 14, 3))
        joints[..., 2] = 1
        for number in range(1, 7):
            path = folder / "images" / kind.image_format.format(number)
            cv2.imwrite(str(path), np.full((32, 32, 3), 40 * number, np.uint8))
        axes = (2, 1, 0) if kind is LSP else (1, 2, 0)
        scipy.io.savemat(folder / "joints.mat", {"joints": joints.transpose(axes)})
    else:
        drawn = Synthetic(kind.__name__.lower(), train=4, val=3, image_size=(48, 48))
        write = write_mpii if kind is MPII else write_coco
        write({split: drawn.persons(split) for split in ("train", "val")}, folder)
    return folder


@kinds
@pytest.mark.parametrize("missing", ["", "images", "annotations"])
def test_the_constructor_says_what_is_missing(kind: Callable, root: Path, missing: str) -> None:
    lost = root / (ANNOTATIONS[kind] if missing == "annotations" else missing)
    lost.rename(root.parent / "elsewhere")
    with pytest.raises(DataError) as caught:
        kind(root)
    assert str(lost) in str(caught.value)
    assert "http" in str(caught.value)


@kinds
def test_splits_images_and_roots_are_checked(kind: Callable, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for method in (kind(root).persons, kind(root).metric):
        with pytest.raises(DataError, match="'dev'"):
            method("dev")
    for padding in (0, -1, float("nan"), float("inf")):
        with pytest.raises(DataError, match="padding"):
            kind(root, padding=padding)
    # A relative root is located.
    monkeypatch.chdir(root.parents[1])
    relative = root.relative_to(root.parents[1])
    images = kind(relative).persons("train").images
    monkeypatch.chdir(root.parent)
    with pytest.raises(DataError, match=f"working directory {root.parent}"):
        kind(relative)
    # Missing images are counted, or found later.
    (root.parents[1] / images.root / images.describe(0)).unlink()
    with pytest.raises(DataError, match=rf"1 of \d+ images are missing.*{images.describe(0)}"):
        kind(root).persons("train")
    dataset = kind(root, check_images=False)
    persons = dataset.persons("train")
    (root / ANNOTATIONS[kind]).unlink()
    assert dataset.persons("train") is persons  # Read once.
    with pytest.raises(DataError, match=images.describe(0)):
        [persons[row] for row in range(len(persons))]


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [(COCO, {"boxes": "gt"}), (COCO, {"nms": "hard"}), (COCO, {"skeleton": "cat"}),
     (COCO, {"files": {"train": {}}}), (MPII, {"train_split": "val"})],
)  # fmt: skip
def test_choices_are_checked(kind: Callable, wrong: dict, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"boxes|nms|cat|files|train_split"):
        kind(tmp_path, **wrong)
