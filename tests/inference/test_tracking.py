"""Persons followed through videos: who is who, where boxes are carried to, and how joints are smoothed."""

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pnfs.body import COCO
from pnfs.inference.boxes import FrameBoxes, WholeImage
from pnfs.inference.frames import Frame, Poses
from pnfs.inference.inputs import InputFile
from pnfs.inference.poses import ImageWithBoxes, Prediction
from pnfs.inference.predictor import Predictor
from pnfs.inference.tracking import OneEuroFilter, Tracker, carried_box

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


@pytest.mark.parametrize("speed", [2.0, 7.0])
def test_crossing_persons_keep_their_ids(speed: float) -> None:
    noise, tracker = np.random.default_rng(1), Tracker(25)
    for frame in range(60):
        x = speed * (frame - 30) + 300
        places = {1: (x, 50.0), 2: (600 - x, 56.0)}
        # The source of boxes lists them in any order.
        order = noise.permutation([1, 2]).tolist() if frame else [1, 2]
        corners = [(places[n] + noise.normal(0, 1, 2)).tolist() for n in order]
        assert ids(tracker, frame, *corners) == order
    assert tracker.count == 2


def test_whoever_is_gone_for_long_comes_back_as_another() -> None:
    tracker = Tracker(25, keep=3)
    assert ids(tracker, 0, (0, 0), (200, 0)) == [1, 2]
    assert ids(tracker, 1, (200, 0)) == [2]
    assert ids(tracker, 4, (200, 0)) == [2]
    assert ids(tracker, 5, (0, 0), (200, 0)) == [3, 2]
    assert ids(Tracker(25, keep=5), 0) == []


def test_a_box_is_carried_to_where_the_joints_are_until_the_score_falls() -> None:
    tracker = Tracker(25, keep=2, score=0.3)
    found = tracker.follow(poses((10, 20), (150, 20)), 0)
    boxes, scores = tracker.carried(1, (300, 200))
    assert scores.tolist() == [1, 1]
    for box, joints in zip(boxes, found.joints, strict=True):
        low, high = joints.min(0), joints.max(0)
        np.testing.assert_allclose(box[:2] + box[2:] / 2, (low + high) / 2, rtol=1e-5)
        np.testing.assert_allclose(box[2:], 1.1 * (high - low), rtol=1e-5)
    # One has walked out of a narrower picture.
    assert len(tracker.carried(1, (300, 140))[0]) == 1
    for frame in (1, 2):
        assert tracker.carried(frame, (300, 200))[1].tolist() == pytest.approx(
            [0.9 ** (frame - 1)] * 2
        )
        assert len(tracker.follow(poses((10, 20), (150, 20), score=0.25), frame, carried=True)) == 0
    assert len(tracker.carried(3, (300, 200))[0]) == 0


def triangles(*corners: tuple[float, float], size: tuple[int, int] = (240, 320)) -> np.ndarray:
    """Persons of a red, a green and a blue dot each."""
    y, x = np.mgrid[: size[0], : size[1]]
    dots = [
        sum(
            (np.exp(-((x - cx - dx) ** 2 + (y - cy - dy) ** 2) / 32.0) for cx, cy in corners), 0 * x
        )
        for dx, dy in DOTS
    ]
    return np.rint(255 * np.clip(np.stack(dots, -1), 0, 1)).astype(np.uint8)


DOTS = ((0, 0), (30, 20), (10, 60))


class DotFinder:
    """Stands in for a network: joint k is where the crop has the colour of dot k % 3."""

    def __init__(self) -> None:
        self.batches: list[int] = []

    def __call__(self, images: np.ndarray) -> np.ndarray:
        self.batches.append(len(images))
        maps = images[:, ::4, ::4].astype(np.float32).transpose(0, 3, 1, 2) / 255
        return maps[:, np.arange(K) % 3]


def followed(
    pictures: list[np.ndarray], boxes: Callable[[int], FrameBoxes], **tracking: Any
) -> tuple[list[tuple[Frame, Prediction]], list[int]]:
    """What is found in the frames of a video, and the sizes of the batches."""
    finder, file = DotFinder(), InputFile(Path("v.mp4"), "v.mp4")
    predictor = Predictor(finder, skeleton=COCO, input_size=(128, 128), batch_size=4)
    tracker = partial(Tracker, **tracking)
    found = Poses(predictor, nms_threshold=0.9, tracker=tracker, flip_test=False)
    frames = []
    for n, picture in enumerate(pictures):
        place = boxes(n)
        query = ImageWithBoxes(picture, place.boxes)
        frames.append(Frame(file, n, query, None, 25.0, place.carried))
    return list(found.of(iter(frames))), finder.batches


NOBODY = np.zeros((0, 4), np.float32)


def test_one_person_is_followed_from_the_whole_picture_on_and_found_again() -> None:
    file, image = InputFile(Path("v.mp4"), "v.mp4"), triangles()
    places = [(40 + 8 * n, 60 + 3 * n) for n in range(20)]
    pictures = [triangles() if 8 <= n < 12 else triangles(place) for n, place in enumerate(places)]
    found, batches = followed(pictures, lambda n: WholeImage()(image, file, n), keep=2)
    assert set(batches) == {1}
    for (frame, poses_), place, n in zip(found, places, range(20), strict=True):
        # Nobody is there for four frames: remembered for two, then looked for in the whole picture.
        assert frame.query.whole_image == (n in (0, 10, 11, 12))
        assert len(poses_) == (not 8 <= n < 12)
        if not 8 <= n < 12:
            assert poses_.track_ids.tolist() == [1 if n < 8 else 2]
            expected = np.array([place])[:, None] + np.array([DOTS[k % 3] for k in range(K)])
            # A step of the score map is 10 px in the whole picture, 2.6 px in a carried box.
            error = np.abs(poses_.joints - expected).max()
            assert error < (6 if frame.query.whole_image else 1.5)


def test_a_second_look_is_a_look_at_the_box_of_the_joints() -> None:
    places = [(50.0, 60.0), (123.0, 80.0), (200.0, 110.0)]
    finder = DotFinder()
    predictor = Predictor(finder, skeleton=COCO, input_size=(128, 128), batch_size=4)
    poses_ = Poses(
        predictor, nms_threshold=None, tracker=Tracker, second_look=True, flip_test=False
    )
    pictures = [triangles(place) for place in places] + [triangles()]
    frames = [
        Frame(InputFile(Path(str(n)), str(n)), None, ImageWithBoxes(picture), None)
        for n, picture in enumerate(pictures)
    ]
    found = list(poses_.of(iter(frames)))
    assert finder.batches == [4, 4], "pictures share batches in both looks"
    assert [frame.query.whole_image for frame, _ in found] == [False] * 3 + [True]
    for (frame, second), first_frame, place in zip(found, frames, places, strict=False):
        first = predictor.predict(first_frame.query.image, flip_test=False)
        again = predictor.predict(frame.query.image, carried_box(first, 0)[None], flip_test=False)
        np.testing.assert_array_equal(second.joints, again.joints)
        expected = np.array(place) + np.array([DOTS[k % 3] for k in range(K)])
        assert np.abs(second.joints[0] - expected).max() < 1.5
        assert second.track_ids is None


def test_boxes_of_a_first_frame_carry_two_persons_past_each_other() -> None:
    places = [[(40 + 6 * n, 30), (240 - 6 * n, 130)] for n in range(30)]
    boxes = np.array([[*corner, 30, 60] for corner in places[0]], np.float32)
    pictures = [triangles(*corners) for corners in places]
    carried = FrameBoxes(NOBODY, carried=True)
    found, batches = followed(pictures, lambda n: carried if n else FrameBoxes(boxes))
    assert batches == [2] * 30
    for (_, poses_), corners in zip(found, places, strict=True):
        assert poses_.track_ids.tolist() == [1, 2]
        np.testing.assert_allclose(poses_.joints[:, 0], corners, atol=1.5)


def test_frames_with_boxes_of_their_own_fill_batches() -> None:
    pictures = [triangles((40 + n, 30)) for n in range(10)]
    boxes = [np.array([[40 + n, 30, 30, 60]], np.float32) for n in range(10)]
    found, batches = followed(pictures, lambda n: FrameBoxes(boxes[n]))
    assert batches == [4, 4, 2]
    assert [poses_.track_ids.tolist() for _, poses_ in found] == [[1]] * 10
    none = FrameBoxes(NOBODY, carried=True)
    carried, batches = followed(pictures, lambda n: none if n % 2 else FrameBoxes(boxes[n]))
    assert batches == [1] * 10
    for (_, one), (_, other) in zip(found, carried, strict=True):
        np.testing.assert_allclose(one.joints, other.joints, atol=1.5)


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


def filtered(xs: np.ndarray, fps: float, **arguments: float) -> np.ndarray:
    smooth = OneEuroFilter(**arguments)
    return np.stack([smooth(x, n / fps) for n, x in enumerate(xs)])


def test_one_euro_filter_is_the_published_one() -> None:
    xs = np.random.default_rng(0).normal(0, 5, (50, 3, 2)).cumsum(0)
    found = filtered(xs, 30.0, min_cutoff=1.7, beta=0.3)
    for place in np.ndindex(3, 2):
        expected = one_euro_by_hand(xs[(slice(None), *place)].tolist(), 30.0, 1.7, 0.3)
        np.testing.assert_allclose(found[(slice(None), *place)], expected, rtol=1e-9)


def test_limits_of_the_filter() -> None:
    still = np.full((20, 2), 7.5)
    np.testing.assert_array_equal(filtered(still, 25, min_cutoff=1, beta=5), still)
    # With beta 0 it is a low-pass: at its cutoff the amplitude is 1/sqrt(2), a decade above about 1/10.
    time = np.arange(20000) / 2000
    for frequency, gain in ((0.2, 0.995), (2.0, math.sqrt(0.5)), (20.0, 0.0995)):
        wave = np.sin(2 * math.pi * frequency * time)[:, None]
        found = filtered(wave, 2000, min_cutoff=2.0, beta=0)[10000:]
        assert np.abs(found).max() == pytest.approx(gain, abs=0.01)
    # A large beta lets fast motion through.
    ramp = np.arange(100.0)[:, None]
    lag = [np.abs(filtered(ramp, 25, min_cutoff=1, beta=b) - ramp)[-1, 0] for b in (0, 0.1, 10)]
    assert lag[0] > 3 > 2 > lag[1] > 0.2 > lag[2]


def test_joints_are_smoothed_each_person_by_itself_and_only_if_wanted() -> None:
    noise, fps, seen = np.random.default_rng(2), 20, []
    tracker, raw = Tracker(fps, smoothing={"min_cutoff": 1.5, "beta": 4.0}), Tracker(fps)
    for frame in range(12):
        found = poses(*(noise.normal(0, 3, (2, 2)) + np.array([(0, 0), (300, 0)])).tolist())
        smoothed = tracker.follow(found, frame)
        np.testing.assert_array_equal(raw.follow(found, frame).joints, found.joints)
        seen.append((found.joints, smoothed.joints))
    before, after = (np.stack(x) for x in zip(*seen, strict=True))
    # Speed is in heights of the person, that of the carried box.
    height = 1.1 * np.ptp(STICK, axis=0).max()
    for place in [(0, 0, 0), (1, 5, 1)]:
        xs = before[(slice(None), *place)].astype(float).tolist()
        expected = one_euro_by_hand(xs, fps, 1.5, 4.0 / height)
        np.testing.assert_allclose(after[(slice(None), *place)], expected, rtol=1e-4)
