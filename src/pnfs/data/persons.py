"""Labelled persons, column by column, whatever dataset they come from, and predictions of them."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence, Sized
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Float32, Int8, Int64, UInt8
from scipy.optimize import linear_sum_assignment

from pnfs.body import Skeleton
from pnfs.data.images import DataError, ImageSource, View, view_of
from pnfs.evaluation.pck import Errors, relative_errors

UNLABELLED, OCCLUDED, VISIBLE = 0, 1, 2  # COCO's visibility flags, used for every dataset.


@dataclass(frozen=True)
class Persons:
    """N labelled persons as arrays, so that 100,000 of them stay a few megabytes.

    Raises:
        DataError: No persons, columns of different lengths, an id that occurs twice, an image that `images` does
            not have, or a labelled joint, centre or box that is not finite; names the first person concerned.
    """

    name: str  # Dataset and split, for messages.
    skeleton: Skeleton
    images: ImageSource
    ids: np.ndarray  # (N,) str, unique, the same in every run.
    image_index: Int64[np.ndarray, " N"]  # Row of `images`; several persons may share one image.
    joints: Float32[np.ndarray, "N K 2"]
    """x to the right, y down, in 0-based pixels of the image; 0 where unlabelled."""
    visibility: Int8[np.ndarray, "N K"]  # 0 unlabelled, 1 labelled but occluded, 2 visible.
    center: Float32[np.ndarray, "N 2"]  # Centre of the person box.
    box_size: Float32[np.ndarray, "N 2"]
    """Width and height of the person box, padding included, before it gets the crop's shape."""
    reference_length: Float32[np.ndarray, " N"]
    """What errors are divided by: head size (MPII), torso size (LSP); nan where unknown."""
    left_out: Mapping[str, int] = field(default_factory=dict)
    """Annotations of the file that are not among the persons, counted by reason."""
    remarks: Mapping[str, int] = field(default_factory=dict)
    """What the loader filled in or assumed, with the number of persons concerned."""
    file: str = ""  # Annotation file that these counts are of.

    def __post_init__(self) -> None:
        count, joints = len(self.ids), len(self.skeleton)
        if not count:
            raise DataError(f"{self.name}: no usable persons in this split (left out: {listed(self.left_out)})")
        for name, column in self.columns().items():
            of_joints = {"joints": (joints, 2), "visibility": (joints,)}
            shape = (count, *of_joints.get(name, column.shape[1:]))
            if column.shape != shape:
                raise DataError(f"{self.name}: {name} has shape {column.shape}; the persons need {shape}")
        images = len(self.images) if isinstance(self.images, Sized) else np.inf
        in_images = (self.image_index >= 0) & (self.image_index < images)
        finite = np.isfinite(self.joints).all(-1) | (self.visibility == UNLABELLED)
        box = np.isfinite(self.center) & np.isfinite(self.box_size) & (self.box_size > 0)
        for ok, wrong in (
            (first_of_each(self.ids), "this id occurs twice"),
            (in_images, "is in an image that is none of the images (numbered from 0)"),
            (finite.all(-1), "a joint is not a finite number"),
            (box.all(-1), "the person box is not a finite number, or empty"),
        ):
            if not ok.all():
                row = int(np.argmin(ok))
                image = int(self.image_index[row])
                where = self.images.describe(image) if in_images[row] else f"image {image}"
                raise DataError(f"{self.name}: person {self.ids[row]} ({where}): {wrong}")

    def columns(self) -> dict[str, np.ndarray]:
        """The fields that have a row for each person."""
        found = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        return {name: value for name, value in found.items() if isinstance(value, np.ndarray)}

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, row: int) -> SimpleNamespace:
        """One person: the whole `image`, and a row of each column."""
        columns = {name: column[row] for name, column in self.columns().items()}
        return SimpleNamespace(image=self.image(row), **columns)

    def image(self, row: int) -> UInt8[np.ndarray, "H W 3"]:
        """The whole image that a person is in, in RGB."""
        return self.images.read(int(self.image_index[row]))

    def described(self) -> str:
        """One line for the screen: name, number of persons, what was left out and assumed."""
        counts = {"": self.remarks, "left out: ": self.left_out}
        said = "; ".join(f"{what}{listed(count)}" for what, count in counts.items() if count)
        where = f"{Path(self.file).name}: " if self.file else ""
        return f"{self.name}: {len(self):,} persons" + (f" ({where}{said})" if said else "")

    def account(self) -> dict[str, Any]:
        """The same for a record: numbers under "persons", "left_out" and "remarks"."""
        return {"persons": len(self), "left_out": dict(self.left_out), "remarks": dict(self.remarks)}


def first_of_each(values: np.ndarray | Sequence[str | int]) -> np.ndarray:
    """False where a value has occurred before."""
    return np.isin(np.arange(len(values)), np.unique(np.asarray(values), return_index=True)[1])


def counted(rows: Mapping[str, np.ndarray | np.bool_]) -> dict[str, int]:
    """How many rows there are of each reason, where there are any."""
    return {reason: int(which.sum()) for reason, which in rows.items() if which.any()}


def listed(counts: Mapping[str, int]) -> str:
    """Counts with their reasons, for messages."""
    return ", ".join(f"{count:,} {reason}" for reason, count in counts.items()) or "none"


def joined(name: str, parts: Sequence[Persons]) -> Persons:
    """The persons of all parts, one after the other."""
    tables = [part.columns() for part in parts]
    columns: dict[str, Any] = {key: np.concatenate([table[key] for table in tables]) for key in tables[0]}
    columns["image_index"] = np.arange(len(columns["ids"]))
    for key in ("left_out", "remarks"):
        columns[key] = dict(sum((Counter(getattr(part, key)) for part in parts), Counter()))
    places = [(part.images, int(index)) for part in parts for index in part.image_index]
    return replace(parts[0], name=name, images=_JoinedImages(places), file="", **columns)


@dataclass(frozen=True)
class _JoinedImages:
    """The image of each person, of several sources."""

    places: list[tuple[ImageSource, int]]

    def read(self, index: int) -> UInt8[np.ndarray, "H W 3"]:
        return self.view(index, 1.0)[0]

    def view(self, index: int, zoom: float) -> View:
        return view_of(*self.places[index], zoom)

    def describe(self, index: int) -> str:
        source, there = self.places[index]
        return source.describe(there)


# --- predicted joints, and which labelled person each is compared with

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
    """Records that were not read, counted by reason."""
    scores: Mapping[str, float] | None = None
    """Scores of all poses in the file, where the benchmark itself matches them to persons (COCO)."""


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
