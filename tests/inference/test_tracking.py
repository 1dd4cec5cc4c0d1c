"""Persons followed through videos: who is who, where boxes are carried to, and how joints are smoothed."""

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pnfs.body import COCO
from pnfs.inference.boxes import NOT_KNOWN, Frame, FrameBoxes, WholeImage
from pnfs.inference.inputs import InputFile
from pnfs.inference.poses import ImageWithBoxes, Prediction
from pnfs.inference.predictor import ExportedNetwork, Predictor
from pnfs.inference.tracking import OneEuroFilter, Poses, Tracker, carried_box

K = len(COCO)
STICK = np.random.default_rng(0).uniform(0, 1, (K, 2)) * (40, 100)
"""Joints of a stick figure, in px from the corner of its box of 40 x 100 px."""


def poses(*corners: tuple[float, float], score: float = 0.8) -> Prediction:
    """Stick figures whose boxes begin at these corners."""
    places = np.array(corners, np.float32).reshape(-1, 2)
    count, ones = len(places), np.ones(len(places), np.float32)
    return Prediction(
        joints=(places[:, None] + STICK).astype(np.float32),
        scores=np.full((count, K), score, np.float32),
        person_scores=score * ones,
        boxes=np.concatenate([places, np.tile([40.0, 100.0], (count, 1))], -1).astype(np.float32),
        box_scores=ones,
        skeleton=COCO,
    )


def ids(tracker: Tracker, frame: int, *corners: tuple[float, float]) -> list[int]:
    found = tracker.follow(poses(*corners), frame).track_ids
    assert found is not None
    return found.tolist()


def test_crossing_persons_keep_their_ids() -> None:
    noise, tracker, speed = np.random.default_rng(1), Tracker(25), 7.0
    for frame in range(60):
        x = speed * (frame - 30) + 300
        places = {1: (x, 50.0), 2: (600 - x, 56.0)}
        # The source of boxes lists them in any order.
        order = noise.permutation([1, 2]).tolist() if frame else [1, 2]
        corners = [(places[n] + noise.normal(0, 1, 2)).tolist() for n in order]
        assert ids(tracker, frame, *corners) == order
    assert tracker.count == 2


@pytest.mark.parametrize("steps", [[12], [0, 12], [12] * 6])
def test_a_box_that_trembles_is_not_one_that_moves(steps: list[float]) -> None:
    """Who moved in the last frame alone may stand still again; who moved in all frames goes on while unseen."""
    tracker, x = Tracker(25), np.cumsum([0, *steps]).tolist()
    for frame, place in enumerate(x):
        assert ids(tracker, frame, (place, 0)) == [1]
    back = x[-1] + 3 * 12 * (len(steps) > 2)
    assert ids(tracker, len(x) + 2, (back, 0)) == [1]


def test_whoever_is_gone_for_long_comes_back_as_another() -> None:
    tracker, one, other = Tracker(25, keep=3), (0, 0), (200, 0)
    for frame, corners, expected in (
        (0, [one, other], [1, 2]), (1, [other], [2]), (4, [other], [2]), (5, [one, other], [3, 2]),
        (6, [], []),
    ):  # fmt: skip
        assert ids(tracker, frame, *corners) == expected


def test_a_box_is_carried_to_where_the_joints_are_until_the_score_falls() -> None:
    tracker, size = Tracker(25, keep=2, score=0.3), (300, 200)
    found = tracker.follow(poses((10, 20), (150, 20)), 0)
    boxes, scores = tracker.carried(1, size)
    assert scores.tolist() == [1, 1]
    for box, joints in zip(boxes, found.joints, strict=True):
        low, high = joints.min(0), joints.max(0)
        np.testing.assert_allclose(box[:2] + box[2:] / 2, (low + high) / 2, rtol=1e-5)
        np.testing.assert_allclose(box[2:], 1.1 * (high - low), rtol=1e-5)
    # One has walked out of a narrower picture.
    assert len(tracker.carried(1, (300, 140))[0]) == 1
    for frame in (1, 2):
        assert tracker.carried(frame, size)[1] == pytest.approx([0.9 ** (frame - 1)] * 2)
        unsure = poses((10, 20), (150, 20), score=0.25)
        assert len(tracker.follow(unsure, frame, carried=True)) == 0
    assert len(tracker.carried(3, size)[0]) == 0


# --- from pictures to poses

DOTS = np.array([(0, 0), (30, 20), (10, 60)])
PLACES = DOTS[np.arange(K) % 3]
"""Joints of a person of three dots, in px from the first."""
FILE = InputFile(Path("v.mp4"), "v.mp4")


def triangles(*corners: tuple[float, float], size: tuple[int, int] = (240, 320)) -> np.ndarray:
    """Persons of a red, a green and a blue dot each."""
    y, x = np.mgrid[: size[0], : size[1]]
    picture = np.zeros((*size, 3))
    for colour, (dx, dy) in enumerate(DOTS):
        for cx, cy in corners:
            picture[..., colour] += np.exp(-((x - cx - dx) ** 2 + (y - cy - dy) ** 2) / 32.0)
    return np.rint(255 * np.clip(picture, 0, 1)).astype(np.uint8)


class DotFinder:
    """Stands in for a network: joint k is where the crop has the colour of dot k % 3."""

    def __init__(self) -> None:
        self.batches: list[int] = []

    def __call__(self, images: np.ndarray) -> np.ndarray:
        self.batches.append(len(images))
        maps = images[:, ::4, ::4].astype(np.float32).transpose(0, 3, 1, 2) / 255
        return maps[:, np.arange(K) % 3]


def predictor() -> Predictor:
    return Predictor(ExportedNetwork(DotFinder(), COCO), input_size=(128, 128), batch_size=4)


def followed(
    pictures: list[np.ndarray], boxes: Callable[[int], FrameBoxes], **tracking: Any
) -> tuple[list[tuple[Frame, Prediction]], list[int]]:
    """What is found in the frames of a video, and the sizes of the batches."""
    by, tracker = predictor(), partial(Tracker, **tracking)
    places = [boxes(n) for n in range(len(pictures))]
    frames = [
        Frame(FILE, n, ImageWithBoxes(picture, place.boxes), None, 25.0, place.carried)
        for n, (picture, place) in enumerate(zip(pictures, places, strict=True))
    ]
    found = Poses(by, nms_threshold=0.9, tracker=tracker, flip_test=False)
    return list(found.of(iter(frames))), by.network.runtime.batches


def test_one_person_is_followed_from_the_whole_picture_on_and_found_again() -> None:
    places = [(40 + 8 * n, 60 + 3 * n) for n in range(20)]
    pictures = [triangles() if 8 <= n < 12 else triangles(place) for n, place in enumerate(places)]
    found, batches = followed(pictures, lambda n: WholeImage()(pictures[n], FILE, n), keep=2)
    assert set(batches) == {1}
    for n, ((frame, found_here), place) in enumerate(zip(found, places, strict=True)):
        # Nobody is there for four frames: remembered for two, then looked for in the whole picture.
        whole = frame.query.whole_image
        assert whole == (n in (0, 10, 11, 12))
        assert found_here.track_ids.tolist() == ([] if 8 <= n < 12 else [1 if n < 8 else 2])
        # A step of the heatmap is 10 px in the whole picture, 2.6 px in a carried box.
        error = np.abs(found_here.joints - (place + PLACES)).max(initial=0)
        assert error < (6 if whole else 1.5)


def test_a_second_look_is_a_look_at_the_box_of_the_joints() -> None:
    places, by = [(50.0, 60.0), (123.0, 80.0), (200.0, 110.0)], predictor()
    looking = Poses(by, nms_threshold=None, tracker=Tracker, second_look=True, flip_test=False)
    pictures = [triangles(place) for place in places] + [triangles()]
    frames = [Frame(FILE, None, ImageWithBoxes(picture), None) for picture in pictures]
    found = list(looking.of(iter(frames)))
    assert by.network.runtime.batches == [4, 4], "pictures share batches in both looks"
    assert [frame.query.whole_image for frame, _ in found] == [False] * 3 + [True]
    for (_, second), picture, place in zip(found, pictures, places, strict=False):
        first = by.predict(picture, flip_test=False)
        again = by.predict(picture, carried_box(first, 0)[None], flip_test=False)
        np.testing.assert_array_equal(second.joints, again.joints)
        assert np.abs(second.joints[0] - (place + PLACES)).max() < 1.5
        assert second.track_ids is None


def test_boxes_of_a_first_frame_carry_two_persons_past_each_other() -> None:
    places = [[(40 + 6 * n, 30), (240 - 6 * n, 130)] for n in range(30)]
    boxes = np.array([[*corner, 30, 60] for corner in places[0]], np.float32)
    pictures = [triangles(*corners) for corners in places]
    found, batches = followed(pictures, lambda n: NOT_KNOWN if n else FrameBoxes(boxes))
    assert batches == [2] * 30
    for (_, found_here), corners in zip(found, places, strict=True):
        assert found_here.track_ids.tolist() == [1, 2]
        np.testing.assert_allclose(found_here.joints[:, 0], corners, atol=1.5)


# --- smoothing


def one_euro_by_hand(xs: list[float], fps: float, min_cutoff: float, beta: float) -> list[float]:
    """Algorithm 1 of Casiez, Roussel and Vogel (2012), one number after another."""

    def alpha(cutoff: float) -> float:
        tau = 1 / (2 * math.pi * cutoff)
        return 1 / (1 + tau * fps)

    hat, dhat, out = xs[0], 0.0, [xs[0]]
    for x in xs[1:]:
        dx = (x - hat) * fps
        dhat = alpha(1.0) * dx + (1 - alpha(1.0)) * dhat
        a = alpha(min_cutoff + beta * abs(dhat))
        hat = a * x + (1 - a) * hat
        out.append(hat)
    return out


def test_joints_are_smoothed_by_the_published_filter_and_only_if_wanted() -> None:
    xs = np.random.default_rng(0).normal(0, 5, (50, 3, 2)).cumsum(0)
    smooth = OneEuroFilter(min_cutoff=1.7, beta=0.3)
    found = np.stack([smooth(x, n / 30.0) for n, x in enumerate(xs)])
    for place in np.ndindex(3, 2):
        expected = one_euro_by_hand(xs[(slice(None), *place)].tolist(), 30.0, 1.7, 0.3)
        np.testing.assert_allclose(found[(slice(None), *place)], expected, rtol=1e-9)
    # Each person by itself; speed is in heights of the person, that of the carried box.
    noise, fps = np.random.default_rng(2), 20
    tracker, raw = Tracker(fps, smoothing={"min_cutoff": 1.5, "beta": 4.0}), Tracker(fps)
    drawn = [poses(*(noise.normal(0, 3, (2, 2)) + np.array([(0, 0), (300, 0)])).tolist()) for _ in range(12)]
    after = np.stack([tracker.follow(found, n).joints for n, found in enumerate(drawn)])
    before = np.stack([found.joints for found in drawn])
    np.testing.assert_array_equal([raw.follow(found, n).joints for n, found in enumerate(drawn)], before)
    height = 1.1 * np.ptp(STICK, axis=0).max()
    for place in [(0, 0, 0), (1, 5, 1)]:
        ys = before[(slice(None), *place)].astype(float).tolist()
        expected = one_euro_by_hand(ys, fps, 1.5, 4.0 / height)
        np.testing.assert_allclose(after[(slice(None), *place)], expected, rtol=1e-4)
