"""LSP and LSPET: two layouts of one idea, boxes from joints, torso sizes, clear refusals."""

from pathlib import Path

import numpy as np
import pytest

from pnfs.data.datasets.lsp import LSP, LSPET
from pnfs.data.images import DataError
from written_datasets import people, scores, write_lsp

# The order of both files, as the datasets' descriptions list it.
RIGHT_ANKLE, RIGHT_HIP, LEFT_HIP, RIGHT_SHOULDER, LEFT_SHOULDER, NECK, HEAD_TOP = 0, 2, 3, 8, 9, 12, 13


@pytest.mark.parametrize("kind", [LSP, LSPET])
def test_the_third_number_says_occluded_or_labelled(tmp_path: Path, kind: type) -> None:
    joints = people(4)
    joints[..., 2] = kind is LSPET
    joints[0, NECK] = [-500, np.nan, 0] if kind is LSPET else [1, 2, 1]
    persons = kind(write_lsp(tmp_path / "d", joints, kind), 3).persons("train")
    expected = 1 if kind is LSP else 0
    assert persons.visibility[0].tolist() == [expected if k == NECK else 2 for k in range(14)]
    assert persons.joints[0, NECK].tolist() == ([1, 2] if kind is LSP else [0, 0])
    assert persons.joints[1].tolist() == [[10 + 4 * k, 20 + k] for k in range(14)]


def test_splits_count_images_from_one(tmp_path: Path) -> None:
    root = write_lsp(tmp_path / "lspet", people(5), suffix="png")
    lspet = LSPET(root, validation_from=4)
    for split, numbers in (("train", (1, 2, 3)), ("val", (4, 5))):
        persons = lspet.persons(split)
        assert persons.ids.tolist() == [f"im{number:05d}" for number in numbers]
        # Each person is in the image of its number.
        assert [int(p.image[0, 0, 0]) for p in persons] == [10 * number for number in numbers]
    lsp = LSP(write_lsp(tmp_path / "lsp", people(5), LSP), test_from=3)
    assert lsp.persons("train").ids.tolist() == ["im0001", "im0002"]
    assert lsp.persons("test").ids.tolist() == ["im0003", "im0004", "im0005"]
    assert lsp.persons("val") is lsp.persons("test")
    assert len(LSPET(write_lsp(tmp_path / "one", people(1))).persons("train")) == 1
    (root / "images/im0002.jpg").write_bytes(b"")
    with pytest.raises(DataError, match=r"im00002\.png and im0002\.jpg are both image 2"):
        LSPET(root, validation_from=4).persons("train")


def test_the_box_is_a_padded_square_around_labelled_joints(tmp_path: Path) -> None:
    joints = people(5)
    joints[0, :, 2] = joints[1, :, 2] = 0
    joints[0, [RIGHT_ANKLE, HEAD_TOP]] = [[10, 20, 1], [30, 100, 1]]
    # Persons without a box are left out.
    joints[2, 1:, 2] = 0
    joints[3, :, :2] = 7
    root = write_lsp(tmp_path / "d", joints)
    persons = LSPET(root, validation_from=5).persons("train")
    assert (persons.ids.tolist(), persons.center.tolist()) == (["im00001"], [[20, 60]])
    assert persons.box_size.tolist() == [[100, 100]]
    assert LSPET(root, 5, padding=2).persons("train").box_size[0, 0] == 160
    assert list(persons.left_out.values()) == [2, 1]
    assert "joints.mat: left out: 2 with fewer than two" in persons.described()


def test_the_score_is_pck_of_the_torso(tmp_path: Path) -> None:
    joints = people(3)
    joints[:, LEFT_SHOULDER, :2], joints[:, RIGHT_HIP, :2] = (40, 10), (10, 50)
    joints[:, RIGHT_SHOULDER, :2], joints[:, LEFT_HIP, :2] = (10, 10), (34, 42)
    joints[1, LEFT_HIP, 2] = 0
    source = LSPET(write_lsp(tmp_path / "d", joints), validation_from=1)
    predicted = source.persons("val").joints.copy()
    predicted[1] += 1000  # Without torso size: not scored.
    predicted[0, [NECK, HEAD_TOP], 0] += 10.5  # 0.2 × 50 = 10
    predicted[2, [RIGHT_ANKLE, 5], 0] += 10.5
    predicted[2, LEFT_SHOULDER, 0] += 9.5
    found = scores(source, "val", predicted)
    expected = {"": 100 * 24 / 28, "/limbs": 100 * 22 / 24, "/head": 50, "/ankle": 50, "/shoulder": 100}
    assert {group: found[f"PCK@0.2{group}"] for group in expected} == pytest.approx(expected)


@pytest.mark.parametrize(("kind", "joints"), [(LSP, 14), (LSPET, 13)])
def test_a_wrong_shape_is_named(kind: type, joints: int, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"joints\.mat: joints .*14"):
        kind(write_lsp(tmp_path / "d", people(3)[:, :joints])).persons("train")


@pytest.mark.parametrize(("column", "value"), [(0, np.nan), (1, np.inf), (2, 2), (2, np.nan)])
def test_bad_joints_are_named(column: int, value: float, tmp_path: Path) -> None:
    joints = people(4)
    joints[2, NECK, column] = value
    with pytest.raises(DataError, match=r"joints\.mat: person 3"):
        LSPET(write_lsp(tmp_path / "d", joints)).persons("train")
