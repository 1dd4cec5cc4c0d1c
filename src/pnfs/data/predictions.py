"""Predicted joints of a split, and what a dataset adds to its evaluation beside a metric."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32, Int64

from pnfs.data.persons import Persons

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

    def __len__(self) -> int:
        return len(self.locations)


@dataclass(frozen=True)
class Matches:
    """Which prediction is compared with which labelled person."""

    labels: Persons
    """M labelled persons."""
    rows: Int64[np.ndarray, " M"]
    """Row of the predictions for each of them, or UNMATCHED."""


@runtime_checkable
class Benchmark(Protocol):
    """A dataset with an evaluation of its own; one without it is scored in its persons' boxes."""

    def evaluation_choices(self, split: str) -> Mapping[str, Any]:
        """What the score of a split depends on besides the network: boxes, suppression, …"""
        ...

    def matches(self, split: str, predictions: Predictions) -> Matches:
        """The labelled persons of a split and their predictions."""
        ...

    def breakdown(self, split: str, predictions: Predictions) -> Mapping[str, float]:
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


def one_to_one(persons: Persons) -> Matches:
    """Each person goes with the prediction of the same row."""
    return Matches(persons, np.arange(len(persons)))


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
