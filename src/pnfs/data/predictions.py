"""Predicted joints of a split, and what a dataset adds to its evaluation beside a metric."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32, Int64
from scipy.optimize import linear_sum_assignment

from pnfs.data.persons import UNLABELLED, Persons
from pnfs.evaluation.errors import Errors
from pnfs.evaluation.pck import relative_errors

if TYPE_CHECKING:
    from pnfs.data.module import Source

UNMATCHED = -1
"""Row of a labelled person for whom nothing was predicted."""


@dataclass(frozen=True)
class Predictions:
    """The joints of N persons, row by row those of a split's `Persons`."""

    locations: Float32[np.ndarray, "N K 2"]
    """x, y in pixels of the image, 0-based."""
    scores: Float32[np.ndarray, "N K"]
    """Of the joints."""

    def __len__(self) -> int:
        return len(self.locations)


@dataclass(frozen=True)
class Matches:
    """Which prediction is compared with which labelled person."""

    labels: Persons
    """M labelled persons."""
    predictions: Predictions
    """N persons."""
    rows: Int64[np.ndarray, " M"]
    """Row of the predictions for each labelled person, or UNMATCHED."""

    @cached_property
    def errors(self) -> Errors:
        """Errors of the labelled persons; inf for those without prediction."""
        labels, found = self.labels, self.rows != UNMATCHED
        predicted = np.full(labels.joints.shape, np.nan, np.float32)
        predicted[found] = self.predictions.locations[self.rows[found]]
        labelled = labels.visibility > UNLABELLED
        relative = relative_errors(predicted, labels.joints, labelled, labels.reference_length)
        return Errors(labels.skeleton, relative, labels.visibility, found)


@runtime_checkable
class Benchmark(Protocol):
    """A dataset with an evaluation of its own; one without it is scored in its persons' boxes."""

    def evaluation_choices(self, split: str) -> Mapping[str, Any]:
        """What the score of a split depends on besides the network: boxes, suppression, …"""
        ...

    def matches(self, split: str, predictions: Predictions) -> Matches:
        """The labelled persons of a split and their predictions."""
        ...

    def extra_scores(self, split: str, predictions: Predictions) -> Mapping[str, float]:
        """Scores beside those of the metric that are too slow to compute after every epoch."""
        ...

    def write_predictions(
        self, split: str, predictions: Predictions, folder: Path, name: str
    ) -> Path:
        """Writes predictions in the format that the benchmark's own tools read; returns the file.

        Args:
            split: What was predicted.
            predictions: All persons of the split.
            folder: Where the file goes.
            name: Of the method, for benchmarks whose file names hold one.
        """
        ...


@runtime_checkable
class Detections(Protocol):
    """A dataset whose persons may be a detector's."""

    def box_scores(self, split: str) -> Float32[np.ndarray, " N"] | None:
        """The detector's score of each person's box; None for labelled boxes."""
        ...

    def in_labelled_boxes(self) -> "Source":
        """The dataset with the persons in their labelled boxes."""
        ...


def in_labelled_boxes(source: "Source") -> "Source":
    """The dataset by which training is watched: a detector's boxes are for the final score."""
    return source.in_labelled_boxes() if isinstance(source, Detections) else source


GROUND_TRUTH_BOXES: Mapping[str, Any] = {"boxes": "ground truth"}
"""The choices of a dataset whose persons are predicted in their labelled boxes."""


def one_to_one(persons: Persons, predictions: Predictions) -> Matches:
    """Each person goes with the prediction of the same row."""
    return Matches(persons, predictions, np.arange(len(persons)))


def matched_by_image(
    label_images: Int64[np.ndarray, " M"],
    images: Int64[np.ndarray, " N"],
    similarity: Callable[[np.ndarray, np.ndarray], np.ndarray],
    threshold: float,
) -> Int64[np.ndarray, " M"]:
    """Row of each labelled person's prediction in the same image, or UNMATCHED.

    Each prediction is used once, so that the similarities of an image have the largest sum.

    Args:
        label_images: Image of each labelled person.
        images: Image of each prediction.
        similarity: From rows of m labels and of n predictions to their similarities, (m, n).
        threshold: The lowest similarity of a pair.
    """
    rows = np.full(len(label_images), UNMATCHED, np.int64)
    order = np.argsort(images, kind="stable")
    for image in np.intersect1d(label_images, images):
        ours = np.flatnonzero(label_images == image)
        low, high = np.searchsorted(images[order], [image, image + 1])
        theirs = order[low:high]
        values = similarity(ours, theirs)
        for person, other in zip(*linear_sum_assignment(values, maximize=True), strict=True):
            if values[person, other] >= threshold:
                rows[ours[person]] = theirs[other]
    return rows


def no_predictions(persons: Persons) -> Predictions:
    """Where only the labels are wanted."""
    joints = len(persons.skeleton)
    return Predictions(np.zeros((0, joints, 2), np.float32), np.zeros((0, joints), np.float32))


def write_json(path: Path, persons: Persons, predictions: Predictions) -> Path:
    """Writes ids, images, and x, y (0-based px), score of every joint as JSON."""
    rounded = np.round(np.dstack([predictions.locations, predictions.scores]).astype(float), 4)
    records = [
        {
            "id": str(persons.ids[row]),
            "image": persons.images.describe(int(persons.image_index[row])),
            "keypoints": rounded[row].tolist(),
        }
        for row in range(len(persons))
    ]
    content = {
        "dataset": persons.name,
        "joints": list(persons.skeleton.joints),
        "columns": ["x", "y", "score"],
        "persons": records,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, allow_nan=False) + "\n", encoding="utf-8")
    return path
