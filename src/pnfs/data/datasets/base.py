"""What every dataset does: where its files are, which splits it has, how it is scored. Subclasses read labels."""

import copy
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32
from torchmetrics import Metric

from pnfs.body import Skeleton
from pnfs.data.images import DataError, ImageFiles
from pnfs.data.persons import UNMATCHED, Matches, Persons, PoseFile, Predictions, aligned, first_of_each, joined
from pnfs.data.readers import Records, located, read_json
from pnfs.evaluation import OKSAveragePrecision
from pnfs.files import write_whole

GROUND_TRUTH_BOXES = {"boxes": "ground truth"}
"""The choices of a dataset whose persons are predicted in their labelled boxes."""

ALL = "all"
"""Name of the split that holds the labelled persons of all splits."""


class PoseDataset(ABC):
    """Persons of each split, and the benchmark's own score; the group `dataset` names a subclass.

    A subclass has `name`, `skeleton`, `splits`, reads the annotations of a split in `load`, and gives a `metric`.
    The methods below `metric` fit a dataset whose persons are scored in their labelled boxes.

    `root` is its folder, None for one without files; `padding` a factor on the sides of the person box;
    `check_images` says whether `persons` checks that all image files exist. Raises DataError if one of the
    `required` files is missing.
    """

    name: str = "dataset"
    skeleton: Skeleton
    splits: tuple[str, ...] = ("train", "val")
    required: tuple[str, ...] = ()
    """Files and folders below `root` without which nothing can be read."""
    joined_splits: tuple[str, ...] = ()  # Those in split "all"; see `with_every_split`.
    guide: str = ""  # The expected layout and where the dataset is obtained, for messages.

    def __init__(self, root: Path | str | None = None, padding: float = 1.25, check_images: bool = True) -> None:
        if not (math.isfinite(padding) and padding > 0):
            raise DataError(f"padding must be a positive factor of the person box, not {padding}")
        self.root = Path() if root is None else Path(root).expanduser()
        self.padding, self.check_images = float(padding), check_images
        self._persons: dict[str, Persons] = {}
        self.require_files(self.required)

    def persons(self, split: str) -> Persons:
        """The labelled persons of a split, in the file's order; read once.

        Raises DataError if there is no such split, a file or record is damaged, or images are missing.
        """
        self.require_split(split)
        if split not in self._persons:
            self._persons[split] = self.load(split)
        return self._persons[split]

    @abstractmethod
    def load(self, split: str) -> Persons:
        """Reads the persons of one of `splits`."""

    @abstractmethod
    def metric(self, split: str) -> Metric:
        """The benchmark's own score; the first entry of its result is the one that counts."""

    def evaluation_choices(self, split: str) -> Mapping[str, Any]:
        """What the score of a split depends on besides the network: boxes, suppression, …"""
        splits = {"splits": ", ".join(self.joined_splits)} if split == ALL and self.joined_splits else {}
        return GROUND_TRUTH_BOXES | splits

    def matches(self, split: str, predictions: Predictions) -> Matches:
        """The labelled persons of a split and their predictions."""
        return Matches(self.persons(split), predictions, np.arange(len(predictions)))

    def labels_digest(self, split: str) -> str:
        """A digest of what the split's metric reads beside the persons; "" where it reads nothing else."""
        return ""

    def write_predictions(self, split: str, predictions: Predictions, folder: Path, name: str) -> Path:
        """Writes predictions of all persons of a split into `folder`, in the format of the benchmark's own tools,
        whose file names may hold the method's `name`; here JSON of ids, images, and x, y (0-based px), score of
        each joint. Returns the file."""
        persons = self.persons(split)
        rounded = np.round(np.dstack([predictions.locations, predictions.scores]).astype(float), 4).tolist()
        images = [persons.images.describe(int(index)) for index in persons.image_index]
        rows = zip(persons.ids.tolist(), images, rounded, strict=True)
        content = {
            "dataset": persons.name,
            "joints": list(persons.skeleton.joints),
            "columns": ["x", "y", "score"],
            "persons": [{"id": id_, "image": image, "keypoints": row} for id_, image, row in rows],
        }
        text = json.dumps(content, allow_nan=False) + "\n"
        return write_whole(folder / f"predictions_{split}.json", text)

    def read_predictions(self, split: str, path: Path) -> PoseFile:
        """Reads what `write_predictions` writes, joints in any order where the file names them.

        Raises DataError, which names file, record and key, for any other file.
        """
        persons, joints = self.persons(split), self.skeleton.joints
        match read_json(path):
            case {"persons": [_, *_] as records, "joints": list() as names, "columns": ["x", "y", "score"]}:
                table = Records(path, records, "persons")
            case _:
                formats = "a file of `pnfs evaluate`, for COCO its results format, for MPII pred.mat"
                raise DataError(f"{path}: holds no predictions of {self.name}: give {formats}")
        if sorted(map(str, names)) != sorted(joints):
            raise DataError(f"{path}: joints are {names}, not {', '.join(joints)}")
        ids = table.column("id", str)
        table.require(first_of_each(ids), "its id occurs before")
        table.require(np.isin(ids, persons.ids), f"is no person of {persons.name}; choose its dataset and split")
        poses = table.numbers("keypoints", len(names), 3)[:, [names.index(joint) for joint in joints]]
        row_of = {id_: row for row, id_ in enumerate(ids)}
        rows = np.array([row_of.get(id_, UNMATCHED) for id_ in persons.ids.tolist()])
        matches = aligned(persons, poses[..., :2], poses[..., 2], rows)
        return PoseFile("persons of pnfs evaluate", matches, len(ids))

    def box_scores(self, split: str) -> Float32[np.ndarray, " N"] | None:
        """A detector's score of each person's box; None for labelled boxes."""
        return None

    def in_labelled_boxes(self) -> "PoseDataset":
        """The dataset by which training is watched: a detector's boxes are for the final score."""
        return self

    def require_split(self, split: str) -> None:
        """Raises DataError if there is no such split."""
        if split not in self.splits:
            raise DataError(f"{self.name} has no split {split!r}; there are {', '.join(self.splits)}")

    def require_files(self, relative: Sequence[str]) -> None:
        """Raises DataError unless these files and folders lie below `root`."""
        missing = [str(self.root / name) for name in relative if not (self.root / name).exists()]
        if missing and not self.root.is_dir():
            missing = [f"the folder {self.root}"]
        if missing:
            raise DataError(f"{self.name}: missing: {', '.join(missing)}{located(self.root)}.\n{self.guide}")

    def image_files(self, split: str, folder: str, paths: Sequence[str]) -> ImageFiles:
        """The images of a split, in a folder below `root`; DataError if a path leaves it, or, with `check_images`,
        images are missing."""
        images = ImageFiles(self.root / folder, paths)
        if missing := images.missing() if self.check_images else []:
            raise DataError(
                f"{self.name} {split}: {len(missing)} of {len(set(paths))} images are missing from {images.root}"
                f"{located(images.root)}: {', '.join(missing[:3])}, … Complete it; check_images=False starts "
                f"anyway and stops at the first image that it cannot read.\n{self.guide}"
            )
        return images


def with_every_split(dataset: PoseDataset, split: str) -> PoseDataset:
    """The dataset; where `split` is "all", with its splits joined to that one; ids then begin with their split.

    "test" is left out if it has no labels. Raises DataError if the dataset is scored split by split, as COCO is.
    """
    if split != ALL or ALL in dataset.splits:
        return dataset
    if isinstance(dataset.metric(dataset.splits[0]), OKSAveragePrecision):
        choices = ", ".join(dataset.splits)
        raise DataError(f"split=all: {dataset.name} is scored split by split; choose one of {choices}")
    found: dict[str, Persons] = {}
    seen: set[tuple[str, bytes, bytes]] = set()
    for name in dataset.splits:
        try:
            persons = dataset.persons(name)
        except DataError:
            if name != "test":
                raise
            continue
        # LSP's "val" is its "test", and MPII's "train" may hold "val".
        images = map(persons.images.describe, persons.image_index.tolist())
        people = set(zip(images, map(bytes, persons.joints), map(bytes, persons.reference_length), strict=True))
        if persons.visibility.any() and not people <= seen:
            seen |= people
            found[name] = replace(persons, ids=np.char.add(f"{name}/", persons.ids))
    whole = copy.copy(dataset)
    whole.splits, whole.joined_splits = (*dataset.splits, ALL), tuple(found)
    whole._persons = {ALL: joined(f"{dataset.name}, {' and '.join(found)}", list(found.values()))}
    return whole
