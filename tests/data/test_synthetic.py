"""Drawn people: reproducible, anatomically consistent, drawn where the labels say."""

import pickle

import cv2
import numpy as np
import pytest

from pnfs.data.images import DataError
from pnfs.data.persons import UNLABELLED, VISIBLE
from pnfs.data.synthetic import Synthetic

LIMB_JOINTS = [
    f"{side}_{joint}"
    for side in ("left", "right")
    for joint in ("shoulder", "elbow", "wrist", "hip", "knee", "ankle")
]


def test_a_person_depends_on_seed_split_and_index_only() -> None:
    few, many = Synthetic(train=5).persons("train"), Synthetic(train=10_000, val=7).persons("train")
    np.testing.assert_array_equal(few.joints, many.joints[:5])
    assert not np.array_equal(few.joints, Synthetic(train=5, seed=1).persons("train").joints)
    assert not np.array_equal(few.joints, Synthetic(val=5).persons("val").joints)
    # The image source travels to workers as a few bytes.
    content = pickle.dumps(many.images)
    assert len(content) < 2000
    np.testing.assert_array_equal(pickle.loads(content).read(4), few.image(4))
    np.testing.assert_array_equal(Synthetic("coco", train=5).persons("train").image(4), few.image(4))


@pytest.mark.parametrize("skeleton", ["mpii", "coco"])
def test_labelled_joints_lie_in_the_picture_and_in_the_box(skeleton: str) -> None:
    persons = Synthetic(skeleton, train=400, image_size=(128, 160), truncated=0.5).persons("train")
    labelled = persons.visibility > UNLABELLED
    assert persons.image(0).shape == (128, 160, 3)
    assert 0.5 < labelled.mean() < 0.97
    assert ((persons.joints >= 0) & (persons.joints <= (159, 127))).all()
    assert (persons.joints[~labelled] == 0).all()
    offset = np.abs(persons.joints - persons.center[:, None])
    assert (offset <= persons.box_size[:, None] / 2.5 + 1e-3).all(-1)[labelled].all()


def test_left_and_right_agree_with_the_side_that_faces_the_camera() -> None:
    source = Synthetic("coco", train=2000, unlabelled=0.0, truncated=0.0)
    persons, skeleton = source.persons("train"), source.skeleton
    facing = persons.visibility[:, 0] > UNLABELLED  # The nose of a person seen from behind is not.
    assert 0.6 < facing.mean() < 0.8
    # Positive where the chest is towards the viewer: left shoulder to the right, hips below.
    names = ["left_shoulder", "right_shoulder", "left_hip", "right_hip"]
    left, right, left_hip, right_hip = np.moveaxis(persons.joints[:, skeleton.indices(names)], 1, 0)
    across, down = left - right, (left_hip + right_hip - left - right) / 2
    turn = (across[:, 0] * down[:, 1] - across[:, 1] * down[:, 0]) / np.linalg.norm(down, axis=1)
    clear = np.abs(turn) > 0.5 * persons.reference_length
    assert clear.mean() > 0.9
    assert ((turn > 0) == facing)[clear].mean() > 0.99


def test_limbs_are_drawn_at_their_joints() -> None:
    persons = Synthetic(train=60).persons("train")
    joints = persons.skeleton.indices(LIMB_JOINTS)
    hit, mirrored_hit = [], []
    for index in range(len(persons)):
        # Where the labelled person changes the picture.
        pictures = (persons.images.read(index, with_person) for with_person in (True, False))
        mask = cv2.absdiff(*pictures).max(axis=2) > 3
        seen = persons.visibility[index, joints] == VISIBLE
        x, y = np.rint(persons.joints[index, joints][seen]).astype(int).T
        hit += mask[y, x].tolist()
        mirrored_hit += mask[y, mask.shape[1] - 1 - x].tolist()
    assert len(hit) > 500
    assert np.mean(hit) > 0.98
    assert np.mean(mirrored_hit) < 0.5


@pytest.mark.parametrize(
    "wrong",
    [{"skeleton": "lsp"}, {"image_size": (16, 192)}, {"truncated": 1.5}, {"clutter": -1},
     {"seed": -1}, {"train": 0}],
)  # fmt: skip
def test_bad_arguments_are_named(wrong: dict) -> None:
    with pytest.raises(DataError, match=next(iter(wrong))):
        Synthetic(**wrong)
    with pytest.raises(DataError, match="there are only 3"):
        Synthetic(val=3).persons("val").images.read(3)
