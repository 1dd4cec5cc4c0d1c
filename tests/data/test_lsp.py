"""LSP and LSPET: two layouts of one idea, boxes from joints, torso sizes, clear refusals."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import scipy.io
import torch

from pnfs.data.datasets.lsp import LSP, LSPET
from pnfs.data.images import DataError

# The order of both files, as the datasets' descriptions list it.
RIGHT_ANKLE, RIGHT_HIP, LEFT_HIP, RIGHT_SHOULDER, LEFT_SHOULDER = 0, 2, 3, 8, 9
NECK, HEAD_TOP = 12, 13


def people(count: int) -> np.ndarray:
    """(count, 14, 3): joint k of person n lies at (10 n + 4 k, 20 + k), third number 1."""
    joints = np.ones((count, 14, 3))
    joints[..., 0] = 10 * np.arange(count)[:, None] + 4 * np.arange(14)
    joints[..., 1] = 20 + np.arange(14)
    return joints


def write(root: Path, joints: np.ndarray, kind: type = LSPET, suffix: str = "jpg") -> Path:
    """A dataset below `root`; image n (from 1) is of grey level 10 n."""
    (root / "images").mkdir(parents=True)
    for number in range(1, len(joints) + 1):
        name = f"im{number:0{4 if kind is LSP else 5}d}.{suffix}"
        cv2.imwrite(str(root / "images" / name), np.full((8, 8, 3), 10 * number, np.uint8))
    table = joints.transpose((2, 1, 0) if kind is LSP else (1, 2, 0))
    scipy.io.savemat(root / "joints.mat", {"joints": table})
    return root


@pytest.mark.parametrize("kind", [LSP, LSPET])
def test_the_third_number_says_occluded_or_labelled(tmp_path: Path, kind: type):
    joints = people(4)
    joints[..., 2] = kind is LSPET
    joints[0, NECK] = [-500, np.nan, 0] if kind is LSPET else [1, 2, 1]
    persons = kind(write(tmp_path / "d", joints, kind), 3).persons("train")
    expected = 1 if kind is LSP else 0
    assert persons.visibility[0].tolist() == [expected if k == NECK else 2 for k in range(14)]
    assert persons.joints[0, NECK].tolist() == ([1, 2] if kind is LSP else [0, 0])
    assert persons.joints[1].tolist() == [[10 + 4 * k, 20 + k] for k in range(14)]


def test_splits_count_images_from_one(tmp_path: Path):
    root = write(tmp_path / "lspet", people(5), suffix="png")
    lspet = LSPET(root, validation_from=4)
    for split, numbers in (("train", (1, 2, 3)), ("val", (4, 5))):
        persons = lspet.persons(split)
        assert persons.ids.tolist() == [f"im{number:05d}" for number in numbers]
        # Each person is in the image of its number.
        assert [int(p.image[0, 0, 0]) for p in persons] == [10 * number for number in numbers]
    lsp = LSP(write(tmp_path / "lsp", people(5), LSP), test_from=3)
    assert lsp.persons("train").ids.tolist() == ["im0001", "im0002"]
    assert lsp.persons("test").ids.tolist() == ["im0003", "im0004", "im0005"]
    assert lsp.persons("val") is lsp.persons("test")
    assert len(LSPET(write(tmp_path / "one", people(1))).persons("train")) == 1
    (root / "images/im0002.jpg").write_bytes(b"")
    with pytest.raises(DataError, match=r"im00002\.png and im0002\.jpg are both image 2"):
        LSPET(root).persons("train")


def test_the_box_is_a_padded_square_around_labelled_joints(tmp_path: Path):
    joints = people(5)
    joints[0, :, 2] = joints[1, :, 2] = 0
    joints[0, RIGHT_ANKLE] = [10, 20, 1]
    joints[0, HEAD_TOP] = [30, 100, 1]
    # Persons without a box are left out.
    joints[2, 1:, 2] = 0
    joints[3, :, :2] = 7
    root = write(tmp_path / "d", joints)
    persons = LSPET(root, validation_from=5).persons("train")
    assert (persons.ids.tolist(), persons.center.tolist()) == (["im00001"], [[20, 60]])
    assert persons.box_size.tolist() == [[100, 100]]
    assert LSPET(root, 5, padding=2).persons("train").box_size[0, 0] == 160
    assert list(persons.left_out.values()) == [2, 1]
    assert "joints.mat: left out: 2 with fewer than two" in persons.described()


def test_the_score_is_pck_of_the_torso(tmp_path: Path):
    joints = people(3)
    joints[:, LEFT_SHOULDER, :2], joints[:, RIGHT_HIP, :2] = (40, 10), (10, 50)
    joints[:, RIGHT_SHOULDER, :2], joints[:, LEFT_HIP, :2] = (10, 10), (34, 42)
    joints[1, LEFT_HIP, 2] = 0
    source = LSPET(write(tmp_path / "d", joints), validation_from=1)
    persons = source.persons("val")
    predicted = persons.joints.copy()
    predicted[1] += 1000  # Without torso size: not scored.
    predicted[0, [NECK, HEAD_TOP], 0] += 10.5  # 0.2 × 50 = 10
    predicted[2, [RIGHT_ANKLE, 5], 0] += 10.5
    predicted[2, LEFT_SHOULDER, 0] += 9.5
    metric = source.metric("val")
    metric.update(
        predicted=torch.from_numpy(predicted),
        joints_image=torch.from_numpy(persons.joints),
        labelled=torch.from_numpy(persons.visibility > 0),
        reference_length=torch.from_numpy(persons.reference_length),
        sample_index=torch.arange(3),
    )
    scores = {name: float(value) for name, value in metric.compute().items()}
    assert scores["PCK@0.2"] == pytest.approx(100 * 24 / 28)
    assert scores["PCK@0.2/limbs"] == pytest.approx(100 * 22 / 24)
    assert scores["PCK@0.2/head"] == scores["PCK@0.2/ankle"] == pytest.approx(50)
    assert scores["PCK@0.2/shoulder"] == pytest.approx(100)


@pytest.mark.parametrize(("kind", "joints"), [(LSP, 14), (LSPET, 13)])
def test_a_wrong_shape_is_named(kind: type, joints: int, tmp_path: Path):
    with pytest.raises(DataError, match=r"joints\.mat: joints has shape .* it must have .*14"):
        kind(write(tmp_path / "d", people(3)[:, :joints])).persons("train")


@pytest.mark.parametrize(("column", "value"), [(0, np.nan), (1, np.inf), (2, 2), (2, np.nan)])
def test_bad_records_are_named(column: int, value: float, tmp_path: Path):
    joints = people(4)
    joints[2, NECK, column] = value
    with pytest.raises(DataError, match=r"joints\.mat: person 3"):
        LSPET(write(tmp_path / "d", joints)).persons("train")
