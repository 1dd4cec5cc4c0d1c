"""MPII: joint order, 1-based pixels, boxes and head sizes as HRNet's; clear refusals."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import scipy.io
import torch

from pnfs.data.datasets.mpii import MPII
from pnfs.data.images import DataError
from pnfs.data.predictions import Predictions

# Where each joint stands in the dataset's files, as the dataset's description lists them.
FILE_ROW = {
    "right_ankle": 0, "right_knee": 1, "right_hip": 2, "left_hip": 3, "left_knee": 4,
    "left_ankle": 5, "pelvis": 6, "thorax": 7, "upper_neck": 8, "head_top": 9, "right_wrist": 10,
    "right_elbow": 11, "right_shoulder": 12, "left_shoulder": 13, "left_elbow": 14,
    "left_wrist": 15,
}  # fmt: skip
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
        picture = np.full((12, 20, 3), colour, np.uint8)  # BGR
        cv2.imwrite(str(root / f"images/{name}"), picture)
    (root / "annot/train.json").write_text(json.dumps(train))
    (root / "annot/valid.json").write_text(json.dumps(valid))
    if heads is None:
        corners = [[[10.0] * len(valid), [20.0] * len(valid)]] * 2
        heads = np.array(corners) + np.array([[[0], [0]], [[30], [40]]])
    scipy.io.savemat(root / "annot/gt_valid.mat", {"headboxes_src": heads})
    return root


def scores(source: MPII, split: str, predicted: np.ndarray) -> dict[str, float]:
    persons, metric = source.persons(split), source.metric(split)
    metric.update(
        predicted=torch.from_numpy(predicted),
        joints_image=torch.from_numpy(persons.joints),
        labelled=torch.from_numpy(persons.visibility > 0),
        reference_length=torch.from_numpy(persons.reference_length),
        sample_index=torch.arange(len(persons)),
    )
    return {name: float(value) for name, value in metric.compute().items()}


def test_joints_come_in_the_skeletons_order_and_zero_based(tmp_path: Path):
    hidden = record()
    hidden["joints_vis"][FILE_ROW["left_ankle"]] = 0
    hidden["joints"][FILE_ROW["left_ankle"]] = [float("nan"), -1]
    source = MPII(write(tmp_path / "d", [hidden], [record()]))
    for split, absent in (("train", ["left_ankle"]), ("val", [])):
        person = source.persons(split)[0]
        for k, joint in enumerate(source.skeleton.joints):
            xy = [0, 0] if joint in absent else [10 * FILE_ROW[joint], 100 + FILE_ROW[joint]]
            assert person.joints[k].tolist() == xy
            assert person.visibility[k] == (0 if joint in absent else 2)


def test_boxes_follow_hrnets_rules(tmp_path: Path):
    unknown = record(center=[-1.0, 30.0])
    source = MPII(write(tmp_path / "d", [record(), unknown], [record()]), padding=1.5)
    persons = source.persons("train")
    # Head sizes, 0.6 times the diagonal of 30 × 40, are known of "val" only.
    assert source.persons("val").reference_length.tolist() == [30]
    assert np.isnan(persons.reference_length).all()
    # 51 + 15 * 2 - 1 = 80; 2 * 200 * 1.5 = 600. Without a centre neither rule applies.
    assert persons.center.tolist() == [[100, 80], [-2, 29]]
    assert persons.box_size.tolist() == [[600, 600], [400, 400]]
    assert MPII(tmp_path / "d").persons("train").box_size[0].tolist() == [500, 500]


def test_all_labelled_persons_share_images_and_keep_the_files_order(tmp_path: Path):
    """HRNet's loader keeps persons without labels; they train and score nothing."""
    nobody = [0] * 16
    train = [record(SECOND), record(), record(SECOND, joints_vis=nobody)]
    root = write(tmp_path / "d", train, [record(SECOND, joints_vis=nobody), record()])
    apart, both = MPII(root), MPII(root, train_split="all").persons("train")
    persons = apart.persons("train")
    names = [persons.images.describe(int(i)) for i in persons.image_index]
    assert (names, len(persons.images.paths)) == ([SECOND, FIRST, SECOND], 2)
    red, blue = persons[1].image[6, 10], persons[0].image[6, 10]
    assert red[0] > 200 > 50 > red[2]
    assert blue[2] > 200 > 50 > blue[0]
    assert list(persons.remarks.values()) == [1]
    assert "1 without a labelled joint" in persons.described()
    assert both.ids.tolist() == [*persons.ids.tolist(), *apart.persons("val").ids.tolist()]
    assert list(both.remarks.values()) == [2]
    np.testing.assert_array_equal(both.joints[3:], apart.persons("val").joints)
    assert (both[3].image == persons[0].image).all()


def test_test_split_has_no_labels(tmp_path: Path):
    source = MPII(write(tmp_path / "d", [record()], [record()]))
    with pytest.raises(DataError, match=r"test\.json"):
        source.persons("test")
    unlabelled = {key: record()[key] for key in ("image", "center", "scale")}
    (tmp_path / "d/annot/test.json").write_text(json.dumps([unlabelled]))
    persons = source.persons("test")
    assert persons.visibility.tolist() == [[0] * 16]
    assert persons.center.tolist() == [[100, 80]]
    # Not zero: nothing is known about how good a prediction is.
    assert np.isnan(list(scores(source, "test", persons.joints).values())).all()


def test_predictions_are_written_in_the_files_order_and_one_based(tmp_path: Path):
    source = MPII(write(tmp_path / "d", [record()], [record(), record(SECOND)]))
    moved = source.persons("val").joints + np.arange(2, dtype=np.float32)[:, None, None]
    predictions = Predictions(moved, np.ones((2, 16), np.float32))
    path = source.write_predictions("val", predictions, tmp_path / "out", "any")
    assert path == tmp_path / "out/pred.mat"
    # What the annotation file says, moved by the person's number.
    expected = np.array([record()["joints"]] * 2) + np.arange(2)[:, None, None]
    np.testing.assert_allclose(scipy.io.loadmat(path)["preds"], expected)


@pytest.mark.fixtures("pckh_gt_val.mat")
def test_scores_match_the_reference_evaluation(fixture_file: Path, tmp_path: Path):
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
        for group in ("Head", "Shoulder", "Elbow", "Wrist", "Hip", "Knee", "Ankle"):
            assert ours[f"PCKh@0.5/{group.lower()}"] == pytest.approx(expected[group], abs=1e-3)
        assert ours["PCKh@0.5"] == pytest.approx(expected["Mean"], abs=1e-3)
        assert ours["PCKh@0.11"] == pytest.approx(expected["Mean@0.1"], abs=1e-3)
        assert ours["PCKh@0.1"] == pytest.approx(expected["extra_mean_at_0.10_exact"], abs=1e-3)


@pytest.mark.parametrize(
    ("key", "value"),
    [("joints", record()["joints"][:15]), ("joints_vis", [2] * 16), ("joints", [[1.0, np.nan]] * 16),
     ("center", [1.0, None]), ("scale", "big"), ("scale", 0), ("image", 3)],
)  # fmt: skip
def test_bad_records_are_named(key: str, value: object, tmp_path: Path):
    source = MPII(write(tmp_path / "d", [record(), record(**{key: value})], [record()]))
    with pytest.raises(DataError, match=rf"train\.json: record 1 .*{key[:5]}"):
        source.persons("train")


@pytest.mark.parametrize(
    ("heads", "named"),
    [(np.zeros((2, 2, 5)), "headboxes_src"), (np.zeros((2, 2, 2)), r"record 0 \(000000001\.jpg\)"),
     (np.full((2, 2, 2), np.nan), "record 0")],
)  # fmt: skip
def test_head_boxes_must_fit(heads: np.ndarray, named: str, tmp_path: Path):
    source = MPII(write(tmp_path / "d", [record()], [record(), record()], heads))
    with pytest.raises(DataError, match=named) as caught:
        source.persons("val")
    assert "gt_valid.mat" in str(caught.value)
