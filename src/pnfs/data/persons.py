"""Labelled persons: one record per person, whatever dataset it comes from."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
from jaxtyping import Float32, Int8, Int64, UInt8

from pnfs.body import Skeleton

UNLABELLED, OCCLUDED, VISIBLE = 0, 1, 2
"""COCO's visibility flags, used for every dataset."""


class DataError(ValueError):
    """A dataset that cannot be used; the message names the file and the record."""


@dataclass(frozen=True)
class PersonSample:
    """One person in one image; pixels are 0-based, x to the right, y down."""

    id: str
    """Unique in its dataset, the same in every run."""
    image: UInt8[np.ndarray, "H W 3"]
    """RGB."""
    joints: Float32[np.ndarray, "K 2"]
    """x, y in pixels of the image; 0 where unlabelled."""
    visibility: Int8[np.ndarray, " K"]
    """0 unlabelled, 1 labelled but occluded, 2 visible."""
    center: Float32[np.ndarray, " 2"]
    """Centre of the person box."""
    box_size: Float32[np.ndarray, " 2"]
    """Width and height of the person box, padding included, before it gets the crop's shape."""
    reference_length: float
    """What errors are divided by: head size (MPII), torso size (LSP); nan where unknown."""


class ImageSource(Protocol):
    """Where images come from; small and picklable, so that it can travel to a worker."""

    def read(self, index: int) -> UInt8[np.ndarray, "H W 3"]:
        """Image `index` in RGB. Raises DataError naming the image if it cannot be had."""
        ...

    def describe(self, index: int) -> str:
        """The image's name for messages."""
        ...


class ImageFiles:
    """Image files below a folder.

    Args:
        root: The folder that no path may leave.
        paths: Paths relative to `root`.

    Raises:
        DataError: A path leaves `root`.
    """

    def __init__(self, root: Path | str, paths: Sequence[str]) -> None:
        self.root = Path(root)
        # A numpy array: a list of str would be copied page by page into every forked worker.
        self.paths = np.array(paths, dtype=np.str_)
        resolved_root = self.root.resolve()
        for record, path in enumerate(paths):
            if not (resolved_root / path).resolve().is_relative_to(resolved_root):
                raise DataError(
                    f"{self.root}: image path {path!r} (record {record}) leaves the folder"
                )

    def read(self, index: int) -> UInt8[np.ndarray, "H W 3"]:
        path = self.root / str(self.paths[index])
        if not path.is_file():
            raise DataError(f"{path}: image is missing (record {index})")
        image = cv2.imread(str(path), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
        if image is None:
            raise DataError(f"{path}: not a readable image (record {index})")
        return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)

    def describe(self, index: int) -> str:
        return str(self.paths[index])

    def missing(self) -> list[str]:
        """Paths that are not there, each once; cheap enough to ask before training starts."""
        return [path for path in np.unique(self.paths).tolist() if not (self.root / path).is_file()]


@dataclass(frozen=True)
class Persons:
    """N labelled persons, column by column, so that 100,000 of them stay a few megabytes.

    Raises:
        DataError: No persons, columns of different lengths, or a labelled joint, centre or box
            that is not finite; the message names the first person concerned.
    """

    name: str
    """Dataset and split, for messages."""
    skeleton: Skeleton
    images: ImageSource
    ids: np.ndarray
    """(N,) str, unique."""
    image_index: Int64[np.ndarray, " N"]
    """Row of `images`; several persons may share one image."""
    joints: Float32[np.ndarray, "N K 2"]
    visibility: Int8[np.ndarray, "N K"]
    center: Float32[np.ndarray, "N 2"]
    box_size: Float32[np.ndarray, "N 2"]
    reference_length: Float32[np.ndarray, " N"]

    def __post_init__(self) -> None:
        if len(self.ids) == 0:
            raise DataError(f"{self.name}: there are no usable persons in this split")
        expected = {"joints": (len(self.skeleton), 2), "visibility": (len(self.skeleton),)}
        for field in fields(self):
            column = getattr(self, field.name)
            if not isinstance(column, np.ndarray):
                continue
            if len(column) != len(self.ids):
                raise DataError(
                    f"{self.name}: {len(column)} rows of {field.name} for {len(self.ids)} persons"
                )
            if field.name in expected and column.shape[1:] != expected[field.name]:
                raise DataError(
                    f"{self.name}: {field.name} has shape {column.shape}, skeleton "
                    f"{self.skeleton.name} needs (N, {', '.join(map(str, expected[field.name]))})"
                )
        labelled = self.visibility > UNLABELLED
        joints_ok = (np.isfinite(self.joints).all(-1) | ~labelled).all(-1)
        box_ok = np.isfinite(self.center).all(-1) & np.isfinite(self.box_size).all(-1)
        box_ok &= (self.box_size > 0).all(-1)
        for ok, what in ((joints_ok, "a joint"), (box_ok, "the person box")):
            if not ok.all():
                first = int(np.flatnonzero(~ok)[0])
                raise DataError(
                    f"{self.name}: person {self.ids[first]} "
                    f"({self.images.describe(int(self.image_index[first]))}): {what} is not a "
                    "finite number, or empty"
                )

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> PersonSample:
        return PersonSample(
            id=str(self.ids[index]),
            image=self.images.read(int(self.image_index[index])),
            joints=self.joints[index],
            visibility=self.visibility[index],
            center=self.center[index],
            box_size=self.box_size[index],
            reference_length=float(self.reference_length[index]),
        )

    def subset(self, rows: Sequence[int] | np.ndarray) -> "Persons":
        """The persons in `rows`, in that order."""
        rows = np.asarray(rows)
        columns = {
            field.name: getattr(self, field.name)[rows]
            for field in fields(self)
            if isinstance(getattr(self, field.name), np.ndarray)
        }
        return replace(self, **columns)
