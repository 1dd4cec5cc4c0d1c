"""Poses in frames: persons followed through videos, boxes carried from frame to frame, joints smoothed."""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import chain, groupby, starmap, tee
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32
from scipy.optimize import linear_sum_assignment
from torchvision.ops import box_convert, box_iou

from pnfs.inference.boxes import Frame
from pnfs.inference.inputs import InputFile
from pnfs.inference.poses import ImageWithBoxes, Prediction
from pnfs.inference.predictor import JOINT_THRESHOLD, Predictor

Box = Float32[np.ndarray, " 4"]  # x, y, width, height in px.

DERIVATIVE_CUTOFF = 1.0
"""Cutoff in Hz of the low-pass filter of the speed; the paper's constant."""
MISSING = 0.9
"""Factor on a person's box score for each frame without the person: of two similar poses the more recent one is
kept."""
CARRIED_MARGIN = 1.1
"""Factor on the sides of a carried box beside the usual padding: the person moves on, and joints that are
found lie closer together than labelled ones."""


class Poses:
    """Finds the poses in frames, and follows the persons of videos.

    `nms_threshold` is that of `Prediction.without_duplicates` (None: all poses are kept), `tracker` makes the
    tracker of a video with so many frames a second, `second_look` looks again at whole pictures, where the joints
    of the first look were; `options` are those of `Predictor.predict_each`.
    """

    def __init__(
        self,
        predictor: Predictor,
        *,
        nms_threshold: float | None,
        tracker: Callable[[float], "Tracker"],
        second_look: bool = False,
        **options: Any,
    ) -> None:
        self.predictor, self.options = predictor, options
        self.nms_threshold, self.second_look = nms_threshold, second_look
        self._new_tracker = tracker
        self.duplicates = self.followed = 0
        """Poses left out as too similar to better ones; persons with an id."""
        self.unusable = Counter[str]()
        """Name of a picture or video -> poses left out, whose joints or scores are not numbers."""
        self._file: InputFile | None = None

    def of(self, frames: Iterator[Frame]) -> Iterator[tuple[Frame, Prediction]]:
        """The frames, with the boxes they were searched in, and their poses.

        Batches are filled across frames, but where boxes are carried, which takes the poses of the frame before.
        """
        kinds = groupby(frames, key=lambda frame: (frame.carried, frame.query.whole_image))
        for (carried, whole), group in kinds:
            if carried:
                alone = map(self._with_boxes, group)
                looked = chain.from_iterable(self._look([f], f.query.whole_image) for f in alone)
            else:
                looked = self._look(group, whole)
            for frame, found in looked:
                yield frame, self._followed(frame, found)

    def _look(self, frames: Iterable[Frame], whole: bool) -> Iterator[tuple[Frame, Prediction]]:
        shown, ahead = tee(frames)
        queries = (frame.query for frame in ahead)
        looked = zip(shown, self.predictor.predict_each(queries, **self.options), strict=True)
        if whole and self.second_look:
            return self._look(starmap(_around_joints, looked), False)
        return looked

    def _with_boxes(self, frame: Frame) -> Frame:
        """With carried boxes if somebody is followed."""
        if frame.index is None or frame.file != self._file:
            return frame
        image = frame.query.image
        boxes, scores = self._tracker.carried(frame.index, image.shape[:2])
        return frame._replace(query=ImageWithBoxes(image, boxes, scores)) if len(boxes) else frame

    def _followed(self, frame: Frame, found: Prediction) -> Prediction:
        # A score that is no number would be the best of all where poses are compared.
        usable = np.isfinite(found.joints).all((1, 2)) & np.isfinite(found.scores).all(1)
        if not usable.all():
            self.unusable[frame.file.name] += int(np.sum(~usable))
            found = found.of_persons(np.flatnonzero(usable))
        kept = found if self.nms_threshold is None else found.without_duplicates(self.nms_threshold)
        self.duplicates += len(found) - len(kept)
        if frame.index is None:
            return kept
        if frame.file != self._file:
            self._file, self._tracker = frame.file, self._new_tracker(frame.fps)
        before = self._tracker.count
        kept = self._tracker.follow(kept, frame.index, carried=frame.carried)
        self.followed += self._tracker.count - before
        return kept


def _around_joints(frame: Frame, found: Prediction) -> Frame:
    """The frame with a box around the pose that was found in the whole picture."""
    image, box = frame.query.image, carried_box(found, 0)
    if (box == found.boxes[0]).all() or not _is_inside(box, image.shape[:2]):
        return frame
    return frame._replace(query=ImageWithBoxes(image, box[None]))


class OneEuroFilter:
    """The 1€ filter: a low-pass filter whose cutoff rises with speed (Casiez, Roussel and Vogel, CHI 2012).

    Every number of an array has its own cutoff `min_cutoff + beta * |speed|`, in Hz: a lower `min_cutoff` is
    calmer at rest, a higher `beta` lags less behind fast motion.
    """

    def __init__(self, *, min_cutoff: float = 1.0, beta: float = 0.0) -> None:
        self.min_cutoff, self.beta = min_cutoff, beta
        self._time: float | None = None

    def __call__(self, values: Float[np.ndarray, "*n"], time: float, size: float = 1.0) -> Float[np.ndarray, "*n"]:
        """The filtered values at `time` in seconds, later than the last; speed is in `size` per second."""
        if self._time is None:
            self._values, self._speed = np.array(values, np.float64), np.zeros(np.shape(values))
        else:
            elapsed = time - self._time
            # Weight of the newest value in exponential smoothing with a cutoff.
            weight = lambda cutoff: 1 / (1 + 1 / (2 * math.pi * cutoff * elapsed))  # noqa: E731
            speed = (values - self._values) / elapsed
            self._speed += weight(DERIVATIVE_CUTOFF) * (speed - self._speed)
            cutoff = self.min_cutoff + self.beta * np.abs(self._speed) / size
            self._values += weight(cutoff) * (values - self._values)
        self._time = time
        return self._values.copy()


@dataclass
class _Track:
    id: int
    frame: int  # Where the person was found last.
    box: Box  # Where the pose was looked for.
    smoother: OneEuroFilter
    box_score: float = 1.0  # Score of the last box that was given.
    velocity: np.ndarray | float = 0.0  # How the box's centre moves, in px per frame.

    def __post_init__(self) -> None:
        self.carried = self.box  # Where the next one will be, if no box is given.

    def at(self, frame: int) -> Box:
        """The box, moved on to the frame."""
        return self.box + np.append(np.zeros(2) + self.velocity * (frame - self.frame), [0, 0])


class Tracker:
    """Follows the persons of one video; its frames come one after another.

    A person keeps the id of the track whose box, moved on with its velocity, overlaps most with the person's box;
    the overlaps of a frame have the largest sum (SORT, Bewley et al. 2016, without the Kalman filter). A box is
    carried as top-down trackers do: it is the bounding box of the joints that were found last.

    `fps` are frames a second, `iou` the lowest overlap (intersection over union) of one person's boxes; a person
    who is not found is remembered for `keep` frames; poses in carried boxes that score less than `score` are no
    persons; `smoothing` are arguments of `OneEuroFilter`, speed in heights of the person per second (None: joints
    stay as they are found).
    """

    def __init__(
        self,
        fps: float,
        *,
        iou: float = 0.3,
        keep: int = 10,
        score: float = 0.3,
        smoothing: Mapping[str, float] | None = None,
    ) -> None:
        self.fps, self.iou, self.keep, self.score = fps, iou, keep, score
        self.smoothing = smoothing
        self.count = 0
        """Persons so far; their ids are 1, 2, …"""
        self._tracks: list[_Track] = []

    def carried(
        self, frame: int, size: tuple[int, int]
    ) -> tuple[Float32[np.ndarray, "N 4"], Float32[np.ndarray, " N"]]:
        """Boxes of the persons remembered, as far as they lie in a frame of (height, width), and their scores."""
        tracks = [track for track in self._remembered(frame) if _is_inside(track.carried, size)]
        boxes = np.array([track.carried for track in tracks], np.float32).reshape(-1, 4)
        scores = [track.box_score * MISSING ** (frame - track.frame - 1) for track in tracks]
        return boxes, np.array(scores, np.float32)

    def follow(self, found: Prediction, frame: int, *, carried: bool = False) -> Prediction:
        """The poses of the next frame with ids, smoothed; those in `carried` boxes that score too little go."""
        if carried:
            found = found.of_persons(np.flatnonzero(found.person_scores >= self.score))
        self._tracks = self._remembered(frame)
        expected = np.array([track.carried if carried else track.at(frame) for track in self._tracks], np.float32)
        tables = (torch.from_numpy(boxes) for boxes in (expected.reshape(-1, 4), found.boxes))
        ours, theirs = (box_convert(boxes, "xywh", "xyxy") for boxes in tables)
        overlaps = box_iou(ours, theirs).numpy()
        pairs = zip(*linear_sum_assignment(overlaps, maximize=True), strict=True)
        track_of = {n: self._tracks[row] for row, n in pairs if overlaps[row, n] >= self.iou}
        ids, joints = np.zeros(len(found), np.int64), found.joints.copy()
        for n, box in enumerate(found.boxes):
            if n not in track_of:
                self.count += 1
                track_of[n] = _Track(self.count, frame, box, OneEuroFilter(**self.smoothing or {}))
                self._tracks.append(track_of[n])
            track = track_of[n]
            if frame > track.frame:
                way = (box[:2] + box[2:] / 2) - (track.box[:2] + track.box[2:] / 2)
                # Boxes tremble: half of the velocity is what it was.
                track.velocity = (track.velocity + way / (frame - track.frame)) / 2
            track.frame, track.box, track.carried = frame, box, carried_box(found, n)
            track.box_score = track.box_score if carried else float(found.box_scores[n])
            ids[n] = track.id
            if self.smoothing is not None:
                height = max(1.0, float(track.carried[2:].max()))
                joints[n] = track.smoother(found.joints[n], frame / self.fps, height)
        return replace(found, joints=joints, track_ids=ids)

    def _remembered(self, frame: int) -> list[_Track]:
        return [track for track in self._tracks if frame - track.frame <= self.keep]


def carried_box(found: Prediction, n: int) -> Box:
    """Where to look next for person n: around the joints, or where it was looked for if few joints are sure."""
    sure = found.scores[n] > JOINT_THRESHOLD
    # A few joints do not say how large the person is.
    if 2 * sure.sum() < len(sure):
        return found.boxes[n]
    low, high = found.joints[n, sure].min(0), found.joints[n, sure].max(0)
    size = np.maximum(high - low, 1) * CARRIED_MARGIN
    return np.concatenate([(low + high - size) / 2, size]).astype(np.float32)


def _is_inside(box: Box, size: tuple[int, int]) -> bool:
    """Whether a part of the box is in a picture of (height, width)."""
    return bool((box[:2] < size[::-1]).all() and (box[:2] + box[2:] > 0).all())
