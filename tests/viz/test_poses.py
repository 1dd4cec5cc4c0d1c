"""Drawn poses: what colour which pixel gets, and where sheets put what."""

import itertools

import cv2
import numpy as np
import pytest

from pnfs.body import LSP
from pnfs.data.augmentation import Augmentation
from pnfs.data.crops import CropDataset, SampleKey
from pnfs.data.synthetic import Synthetic
from pnfs.viz import poses
from pnfs.viz.poses import LABEL_COLOUR, OUTLINE_COLOUR, contact_sheet, pose_sheet
from pnfs.viz.style import SIDE_COLOURS

GREY, GAP = 128, 4

# Facing the camera, so that no limb crosses another one; 200 × 200 px.
PLACES = {
    "head_top": (100, 15), "neck": (100, 45),
    "left_shoulder": (130, 50), "left_elbow": (155, 80), "left_wrist": (170, 110),
    "right_shoulder": (70, 50), "right_elbow": (45, 80), "right_wrist": (30, 110),
    "left_hip": (120, 105), "left_knee": (128, 145), "left_ankle": (130, 185),
    "right_hip": (80, 105), "right_knee": (72, 145), "right_ankle": (70, 185),
}  # fmt: skip
STANDING = np.array([PLACES[name] for name in LSP.joints], float)
LEFT_WRIST, RIGHT_WRIST, RIGHT_ANKLE, LEFT_KNEE = LSP.indices(
    ["left_wrist", "right_wrist", "right_ankle", "left_knee"]
)


def grey(height=200, width=200):
    return np.full((height, width, 3), GREY, np.uint8)


def draw_pose(joints=STANDING, image=None, **given):
    canvas = grey() if image is None else image
    poses.draw_pose(canvas, joints, skeleton=LSP, **given)
    return canvas


def around(image, joint, size):
    x, y = PLACES[joint]
    return image[y - size : y + size + 1, x - size : x + size + 1]


def is_colour(image, colour):
    return (image == np.array(colour)).all(-1)


def centre_of_mass(weight):
    y, x = np.mgrid[: weight.shape[0], : weight.shape[1]]
    return (weight * x).sum() / weight.sum(), (weight * y).sum() / weight.sum()


def test_limbs_have_the_side_of_their_ends():
    drawn = draw_pose()
    limbs = {
        "left": ["left_elbow left_wrist", "neck left_shoulder"],
        "right": ["right_hip right_knee"],
        "centre": ["left_hip right_hip", "head_top neck"],
    }
    for side, (a, b) in ((side, limb.split()) for side, each in limbs.items() for limb in each):
        x, y = np.rint((np.array(PLACES[a]) + PLACES[b]) / 2).astype(int)
        assert tuple(drawn[y, x]) == SIDE_COLOURS[side]


@pytest.mark.parametrize(("place", "width"), [((20.25, 19.5), 1), ((19.8, 20.1), 5)])
def test_a_dot_lies_on_its_joint_to_a_fraction_of_a_pixel(place, width):
    joints = np.full((14, 2), np.nan)
    joints[3] = place
    drawn = draw_pose(joints, np.full((41, 41, 3), 255, np.uint8), width=width)
    np.testing.assert_allclose(centre_of_mass((255.0 - drawn).sum(-1)), place, atol=0.1)


def test_low_scored_joints_are_hollow_or_left_out():
    scores = np.full(14, 0.9)
    scores[LEFT_WRIST], scores[RIGHT_WRIST] = 0.1, 0.3
    look = {"scores": scores, "threshold": 0.3, "width": 4}
    hollow = draw_pose(**look)
    assert tuple(around(hollow, "left_wrist", 0)[0, 0]) == OUTLINE_COLOUR
    assert is_colour(around(hollow, "left_wrist", 5), SIDE_COLOURS["left"]).any()
    # At the threshold it is certain.
    assert tuple(around(hollow, "right_wrist", 0)[0, 0]) == SIDE_COLOURS["right"]
    scores[LEFT_WRIST] = 0.0
    assert (around(draw_pose(**look), "left_wrist", 5) == GREY).all()


def test_joints_without_a_place_and_their_limbs_are_not_drawn():
    joints = STANDING.copy()
    joints[LEFT_KNEE] = np.nan
    joints[LEFT_WRIST] = 1e9, 80
    drawn = draw_pose(joints)
    assert (drawn[120:175, 110:150] == GREY).all()
    assert tuple(drawn[185, 130]) == SIDE_COLOURS["left"], "the ankle stands alone"
    assert is_colour(drawn[:, 195], SIDE_COLOURS["left"]).any(), "the forearm runs to the border"


# Machado, Oliveira and Fernandes 2009, severity 1, on linear RGB.
COLOUR_BLINDNESS = {
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216],
                   [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413],
                     [-0.011820, 0.042940, 0.968881]],
}  # fmt: skip


@pytest.mark.parametrize("kind", COLOUR_BLINDNESS)
def test_colours_stay_apart_for_the_colour_blind(kind):
    colours = np.array([*SIDE_COLOURS.values(), LABEL_COLOUR, OUTLINE_COLOUR]) / 255
    linear = np.where(colours <= 0.04045, colours / 12.92, ((colours + 0.055) / 1.055) ** 2.4)
    seen = np.clip(linear @ np.array(COLOUR_BLINDNESS[kind]).T, 0, 1)
    seen = np.where(seen <= 0.0031308, 12.92 * seen, 1.055 * seen ** (1 / 2.4) - 0.055)
    lab = cv2.cvtColor(seen[None].astype(np.float32), cv2.COLOR_RGB2LAB)[0]
    assert min(np.linalg.norm(a - b) for a, b in itertools.combinations(lab, 2)) > 20


def test_pose_sheet_enlarges_crop_and_joints_alike():
    crop = np.zeros((50, 100, 3), np.uint8)
    crop[20, 30] = 255
    bare = contact_sheet([crop], cell=(400, 400))[GAP:-GAP, GAP:-GAP]
    assert len(np.unique(bare[:100])) == 1, "filler above the crop"
    spot = centre_of_mass(bare[100:300].sum(-1).astype(float))
    joints = np.tile(np.array([30.0, 20.0]), (1, 14, 1))
    sheet = pose_sheet([grey(50, 100)], joints, skeleton=LSP, cell=(400, 400))
    drawn = sheet[GAP + 100 : GAP + 300, GAP : GAP + 400].astype(float)
    np.testing.assert_allclose(spot, (30.5 * 4 - 0.5, 20.5 * 4 - 0.5), atol=0.1)
    np.testing.assert_allclose(centre_of_mass(np.abs(drawn - GREY).sum(-1)), spot, atol=0.1)


def test_pose_sheet_shows_errors_of_labelled_joints_only():
    target = STANDING[None].copy()
    target[0, LEFT_WRIST] += (20, -60)
    target[0, RIGHT_ANKLE] = np.nan
    sheet, without = (
        pose_sheet([grey()], STANDING[None], labels, skeleton=LSP, cell=(200, 200))[
            GAP : GAP + 200, GAP : GAP + 200
        ]
        for labels in (target, None)
    )
    x, y = PLACES["left_wrist"]
    for share in (0.5, 1.0):
        assert sheet[round(y - 60 * share), round(x + 20 * share)].min() > 225, "not white"
    assert (around(sheet, "right_ankle", 8).min(-1) < 150).all(), "an error line without a label"
    assert not is_colour(without, LABEL_COLOUR).any()


def test_drawn_crops_are_those_of_training():
    """Far from the drawn joints, the sheet's pixels are the loader's, for the same seed and epoch."""
    persons = Synthetic("mpii", train=12, image_size=(64, 64)).persons("train")
    crops = CropDataset(persons, input_size=(64, 48), augmentation=Augmentation(), seed=4)
    keys = [SampleKey(3, 2), SampleKey(3, 7)]
    sheet = poses.crop_sheet(crops, keys, height=64)
    for column, key in enumerate(keys):
        drawn = sheet[GAP : GAP + 64, GAP + column * (48 + GAP) :][:, :48]
        assert 0.5 < (drawn == crops[key]["image"]).all(-1).mean() < 1
