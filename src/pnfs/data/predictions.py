"""Predicted joints of a split, and which labelled person each is compared with."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float, Float32, Int64
from scipy.optimize import linear_sum_assignment

from pnfs.data.persons import UNLABELLED, Persons
from pnfs.evaluation.pck import Errors, relative_errors
from pnfs.files import write_whole

UNMATCHED = -1  # Row of a labelled person for whom nothing was predicted.


@dataclass(frozen=True)
class Predictions:
    """The joints of N persons, row by row those of a split's `Persons`."""

    locations: Float32[np.ndarray, "N K 2"]  # x, y in pixels of the image, 0-based.
    scores: Float32[np.ndarray, "N K"]  # Score of each joint.

    def __len__(self) -> int:
        return len(self.locations)


@dataclass(frozen=True)
class Matches:
    """Which prediction is compared with which labelled person."""

    labels: Persons  # M labelled persons.
    predictions: Predictions  # N persons.
    rows: Int64[np.ndarray, " M"]  # Row of the predictions for each labelled person, or UNMATCHED.

    @cached_property
    def errors(self) -> Errors:
        """Errors of the labelled persons; inf for those without prediction."""
        labels, found = self.labels, self.rows != UNMATCHED
        predicted = np.full(labels.joints.shape, np.nan, np.float32)
        predicted[found] = self.predictions.locations[self.rows[found]]
        labelled = labels.visibility > UNLABELLED
        relative = relative_errors(predicted, labels.joints, labelled, labels.reference_length)
        return Errors(labels.skeleton, relative, labels.visibility, found)


@dataclass(frozen=True)
class PoseFile:
    """Predictions of a split that a file holds."""

    format: str  # Its format, in words.
    matches: Matches  # Each labelled person with the pose of the same row, nan where there is none.
    count: int  # Predicted persons.
    left_out: Mapping[str, int] = field(default_factory=dict)
    """Records that are no predicted persons, counted by reason."""
    scores: Mapping[str, float] | None = None
    """Scores of the poses as they stand, of a benchmark that has nobody to say whose they are."""


def aligned(
    persons: Persons,
    locations: Float[np.ndarray, "N K 2"],
    scores: Float[np.ndarray, "N K"],
    rows: Int64[np.ndarray, " M"],
) -> Matches:
    """The M labelled persons with their rows of N predictions, in the labels' order; UNMATCHED: nan."""
    found = rows != UNMATCHED
    places = np.where(found[:, None, None], locations[rows], np.nan).astype(np.float32)
    sure = np.where(found[:, None], scores[rows], 0).astype(np.float32)
    return Matches(persons, Predictions(places, sure), np.where(found, np.arange(len(persons)), UNMATCHED))


def one_to_one(persons: Persons, predictions: Predictions) -> Matches:
    """Each person goes with the prediction of the same row."""
    return Matches(persons, predictions, np.arange(len(persons)))


def matched_by_image(
    label_images: Int64[np.ndarray, " M"],
    images: Int64[np.ndarray, " N"],
    similarity: Callable[[np.ndarray, np.ndarray], np.ndarray],
    threshold: float,
) -> Int64[np.ndarray, " M"]:
    """Row of each labelled person's prediction in the same image, or UNMATCHED: each is used once, so that the
    similarities of an image, (m, n) of rows of m labels and n predictions, have the largest sum; none is below
    `threshold`."""
    rows = np.full(len(label_images), UNMATCHED, np.int64)
    ours_in, theirs_in = (pd.Series(column).groupby(column).indices for column in (label_images, images))
    for image in ours_in.keys() & theirs_in.keys():
        ours, theirs = np.asarray(ours_in[image]), np.asarray(theirs_in[image])
        values = similarity(ours, theirs)
        persons, others = linear_sum_assignment(values, maximize=True)
        good = values[persons, others] >= threshold
        rows[ours[persons[good]]] = theirs[others[good]]
    return rows


def write_json(path: Path, persons: Persons, predictions: Predictions) -> Path:
    """Writes ids, images, and x, y (0-based px), score of every joint as JSON."""
    rounded = np.round(np.dstack([predictions.locations, predictions.scores]).astype(float), 4)
    images = [persons.images.describe(int(index)) for index in persons.image_index]
    rows = zip(persons.ids.tolist(), images, rounded.tolist(), strict=True)
    content = {
        "dataset": persons.name,
        "joints": list(persons.skeleton.joints),
        "columns": ["x", "y", "score"],
        "persons": [{"id": id_, "image": image, "keypoints": row} for id_, image, row in rows],
    }
    return write_whole(path, json.dumps(content, allow_nan=False) + "\n")
