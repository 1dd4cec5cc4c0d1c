"""What all datasets do alike; MPII, LSP, LSPET: joints, pixels, boxes and sizes as published, clear refusals."""

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import scipy.io

from pnfs.data import readers
from pnfs.data.datasets.base import with_every_split
from pnfs.data.datasets.coco import COCO
from pnfs.data.datasets.lsp import LSP, LSPET
from pnfs.data.datasets.mpii import MPII
from pnfs.data.images import DataError
from pnfs.data.persons import Predictions
from pnfs.data.synthetic import Synthetic
from written_datasets import people, scores, write_coco, write_lsp, write_mpii

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
        return write_lsp(folder, people(6), kind)
    drawn = Synthetic(kind.__name__.lower(), train=4, val=3, image_size=(48, 48))
    write = write_mpii if kind is MPII else write_coco
    write({split: drawn.persons(split) for split in ("train", "val")}, folder)
    return folder


@kinds
@pytest.mark.parametrize("missing", ["", "images", "annotations"])
def test_the_constructor_says_what_is_missing(kind: Callable, root: Path, missing: str) -> None:
    lost = root / (ANNOTATIONS[kind] if missing == "annotations" else missing)
    lost.rename(root.parent / "elsewhere")
    with pytest.raises(DataError, match=f"(?s){lost}.*http"):
        kind(root)


@kinds
def test_splits_images_and_roots_are_checked(kind: Callable, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="'dev'"):
        kind(root).persons("dev")
    for padding in (0, float("nan"), float("inf")):
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
        [persons.image(row) for row in range(len(persons))]


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [(COCO, {"boxes": "gt"}), (COCO, {"nms": "hard"}), (COCO, {"skeleton": "cat"}),
     (COCO, {"files": {"train": {}}}), (MPII, {"train_split": "val"})],
)  # fmt: skip
def test_choices_are_checked(kind: Callable, wrong: dict, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"boxes|nms|cat|files|train_split"):
        kind(tmp_path, **wrong)


# --- MPII

# Where each joint stands in the dataset's files, as the dataset's description lists them.
FILE_ROW = {name: row for row, name in enumerate((
    "right_ankle", "right_knee", "right_hip", "left_hip", "left_knee", "left_ankle", "pelvis", "thorax",
    "upper_neck", "head_top", "right_wrist", "right_elbow", "right_shoulder", "left_shoulder", "left_elbow",
    "left_wrist",
))}  # fmt: skip
FIRST, SECOND = "000000001.jpg", "000000002.jpg"


def record(image: str = FIRST, **changed: object) -> dict:
    """A person whose joint in row i of the file lies at (10 i, 100 + i), counted from 0."""
    joints = [[10.0 * row + 1, 101.0 + row] for row in range(16)]
    own = {"center": [101.0, 51.0], "scale": 2.0, "joints": joints, "joints_vis": [1] * 16}
    return {"image": image, **own, **changed}


def write(root: Path, train: object, valid: list[dict], heads: np.ndarray | None = None) -> Path:
    """A dataset below `root`; every person's head box is 30 × 40 px unless given."""
    (root / "images").mkdir(parents=True)
    (root / "annot").mkdir()
    for name, colour in ((FIRST, (0, 0, 255)), (SECOND, (255, 0, 0))):
        cv2.imwrite(str(root / f"images/{name}"), np.full((12, 20, 3), colour, np.uint8))  # BGR
    (root / "annot/train.json").write_text(json.dumps(train))
    (root / "annot/valid.json").write_text(json.dumps(valid))
    heads = np.repeat([[[10.0], [20.0]], [[40.0], [60.0]]], len(valid), axis=2) if heads is None else heads
    scipy.io.savemat(root / "annot/gt_valid.mat", {"headboxes_src": heads})
    return root


def test_variables_together_may_not_unpack_to_more_than_a_file_may_hold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scipy.io.savemat(tmp_path / "a.mat", dict.fromkeys("ab", np.zeros((100, 100))), do_compression=True)
    assert readers.read_arrays(tmp_path / "a.mat").keys() == {"a", "b"}
    monkeypatch.setattr(readers, "LARGEST", 150_000)
    with pytest.raises(DataError, match=r"a\.mat"):
        readers.read_arrays(tmp_path / "a.mat")


def test_joints_and_boxes_follow_hrnets_rules(tmp_path: Path) -> None:
    hidden, unknown = record(), record(center=[-1.0, 30.0])
    hidden["joints_vis"][FILE_ROW["left_ankle"]] = 0
    hidden["joints"][FILE_ROW["left_ankle"]] = [float("nan"), -1]
    source = MPII(write(tmp_path / "d", [hidden, unknown], [record()]), padding=1.5)
    persons = source.persons("train")
    for k, joint in enumerate(source.skeleton.joints):
        absent, xy = joint == "left_ankle", [10 * FILE_ROW[joint], 100 + FILE_ROW[joint]]
        assert persons.joints[:, k].tolist() == [[0, 0] if absent else xy, xy]
        assert persons.visibility[:, k].tolist() == [0 if absent else 2, 2]
    # Head sizes, 0.6 times the diagonal of 30 × 40, are known of "val" only.
    assert source.persons("val").reference_length.tolist() == [30]
    assert np.isnan(persons.reference_length).all()
    # 51 + 15 * 2 - 1 = 80; 2 * 200 * 1.5 = 600. Without a centre neither rule applies.
    assert persons.center.tolist() == [[100, 80], [-2, 29]]
    assert persons.box_size.tolist() == [[600, 600], [400, 400]]


def test_all_labelled_persons_share_images_and_keep_the_files_order(tmp_path: Path) -> None:
    """HRNet's loader keeps persons without labels; they train and score nothing."""
    nobody = [0] * 16
    train = [record(SECOND), record(), record(SECOND, joints_vis=nobody)]
    root = write(tmp_path / "d", train, [record(SECOND, joints_vis=nobody), record()])
    apart, both = MPII(root), MPII(root, train_split="all").persons("train")
    persons = apart.persons("train")
    names = [persons.images.describe(int(i)) for i in persons.image_index]
    assert (names, len(persons.images.paths)) == ([SECOND, FIRST, SECOND], 2)
    red, blue = persons.image(1)[6, 10], persons.image(0)[6, 10]
    assert (red > 200).tolist() == [True, False, False]
    assert (blue > 200).tolist() == [False, False, True]
    assert "1 without a labelled joint" in persons.described()
    assert both.ids.tolist() == [*persons.ids.tolist(), *apart.persons("val").ids.tolist()]
    assert list(both.remarks.values()) == [2]
    np.testing.assert_array_equal(both.joints[3:], apart.persons("val").joints)
    assert (both.image(3) == persons.image(0)).all()
    # Each person once, with val's where train's has no head size to be scored by.
    splits = [with_every_split(MPII(root, train_split=kind), "all") for kind in ("train", "all")]
    assert [d.joined_splits for d in splits] == [("train", "val"), ("train",)]
    assert [np.isfinite(d.persons("all").reference_length).sum() for d in splits] == [2, 2]


def test_the_test_split_has_no_labels_and_predictions_are_in_the_files_terms(tmp_path: Path) -> None:
    source = MPII(write(tmp_path / "d", [record()], [record(), record(SECOND)]))
    with pytest.raises(DataError, match=r"test\.json"):
        source.persons("test")
    unlabelled = {key: record()[key] for key in ("image", "center", "scale")}
    (tmp_path / "d/annot/test.json").write_text(json.dumps([unlabelled]))
    persons = source.persons("test")
    assert persons.visibility.tolist() == [[0] * 16]
    moved = source.persons("val").joints + np.arange(2, dtype=np.float32)[:, None, None]
    path = source.write_predictions(
        "val", Predictions(moved, np.ones((2, 16), np.float32)), tmp_path / "out", "any"
    )
    # What the annotation file says, moved by the person's number.
    expected = np.array([record()["joints"]] * 2) + np.arange(2)[:, None, None]
    np.testing.assert_allclose(scipy.io.loadmat(path)["preds"], expected)


@pytest.mark.fixtures("pckh_gt_val.mat")
def test_scores_match_the_reference_evaluation(fixture_file: Path, tmp_path: Path) -> None:
    truth = scipy.io.loadmat(fixture_file)
    joints, visible = truth["pos_gt_src"], 1 - truth["jnt_missing"]
    valid = [
        record(joints=joints[:, :, n].tolist(), joints_vis=visible[:, n].tolist()) for n in range(joints.shape[2])
    ]
    source = MPII(write(tmp_path / "d", [record()], valid, truth["headboxes_src"]))
    predictions = np.load(fixture_file.parent / "pckh_preds.npz")
    recorded = json.loads((fixture_file.parent / "pckh_expected.json").read_text())
    to_skeleton = [FILE_ROW[joint] for joint in source.skeleton.joints]
    for case, expected in recorded.items():
        ours = scores(source, "val", predictions[f"{case}_preds"][:, to_skeleton, :2])
        names = {f"/{g.lower()}": g for g in ("Head", "Shoulder", "Elbow", "Wrist", "Hip", "Knee", "Ankle")}
        names = {f"PCKh@0.5{group}": name for group, name in ({"": "Mean"} | names).items()}
        for ours_name, name in (names | {"PCKh@0.11": "Mean@0.1", "PCKh@0.1": "extra_mean_at_0.10_exact"}).items():
            assert ours[ours_name] == pytest.approx(expected[name], abs=1e-3)


HEADS = np.repeat([[[10.0], [20.0]], [[40.0], [60.0]]], 2, axis=2)


@pytest.mark.parametrize(
    ("key", "value", "heads"),
    [("joints", record()["joints"][:15], HEADS), ("joints_vis", [2] * 16, HEADS), ("scale", 0, HEADS),
     ("joints", [[1.0, np.nan]] * 16, HEADS), ("center", [1.0, None], HEADS), ("scale", "big", HEADS),
     ("image", 3, HEADS), ("headboxes_src", 0, HEADS[..., :1]), ("gt_valid", 0, 0 * HEADS),
     ("gt_valid", 0, np.nan * HEADS)],
)  # fmt: skip
def test_bad_records_are_named(key: str, value: object, heads: np.ndarray, tmp_path: Path) -> None:
    wrong = {key: value} if key in record() else {}
    source = MPII(write(tmp_path / "d", [record()], [record(), record(**wrong)], heads))
    with pytest.raises(DataError, match=rf"valid\.json: record [01] .*{key[:5]}|gt_valid\.mat: {key}"):
        source.persons("val")


# --- LSP and LSPET

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
        assert [int(persons.image(row)[0, 0, 0]) for row in range(len(persons))] == [
            10 * number for number in numbers
        ]
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


@pytest.mark.parametrize(("column", "value"), [(0, np.nan), (1, np.inf), (2, 2), (2, np.nan)])
def test_bad_joints_are_named(column: int, value: float, tmp_path: Path) -> None:
    joints = people(4)
    joints[2, NECK, column] = value
    with pytest.raises(DataError, match=r"joints\.mat: person 3"):
        LSPET(write_lsp(tmp_path / "d", joints)).persons("train")
    # LSP's axes, or a joint less.
    for wrong, kind in ((joints, LSP), (joints[:, :13], LSPET)):
        with pytest.raises(DataError, match=r"joints\.mat: joints .*14"):
            kind(write_lsp(tmp_path / kind.__name__, wrong)).persons("train")
