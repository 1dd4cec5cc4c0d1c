"""Labelled persons: one record per person, whatever dataset it comes from."""

import os.path
from collections.abc import Mapping, Sequence, Sized
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import cv2
import numpy as np
from jaxtyping import Float32, Float64, Int8, Int64, UInt8

from pnfs.body import Skeleton
from pnfs.errors import PnfsError

UNLABELLED, OCCLUDED, VISIBLE = 0, 1, 2
"""COCO's visibility flags, used for every dataset."""


class DataError(PnfsError):
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


@runtime_checkable
class Views(Protocol):
    """Images that can also be had with fewer pixels than they have, or in part."""

    def view(
        self, index: int, zoom: float
    ) -> tuple[UInt8[np.ndarray, "h w 3"], Float64[np.ndarray, "2 3"]]:
        """What is needed of image `index`.

        Args:
            index: As for `ImageSource.read`.
            zoom: Side of the wanted crop's pixels, in pixels of the image.

        Returns:
            A picture in RGB, and the map of its pixels to those of the image.

        Raises:
            DataError: The image cannot be had; the message names it.
        """
        ...


def view_of(
    images: ImageSource, index: int, zoom: float
) -> tuple[UInt8[np.ndarray, "h w 3"], Float64[np.ndarray, "2 3"]]:
    """`Views.view` of images that have it, the whole image of others."""
    if isinstance(images, Views):
        return images.view(index, zoom)
    return images.read(index), np.eye(2, 3)


_JPEG_START = b"\xff\xd8"
_REDUCTIONS = (
    (8, cv2.IMREAD_REDUCED_GRAYSCALE_8 | cv2.IMREAD_COLOR_RGB),
    (4, cv2.IMREAD_REDUCED_GRAYSCALE_4 | cv2.IMREAD_COLOR_RGB),
    (2, cv2.IMREAD_REDUCED_GRAYSCALE_2 | cv2.IMREAD_COLOR_RGB),
    (1, cv2.IMREAD_COLOR_RGB),
)
"""(factor, how to decode): the factor's bit is that of the greyscale flag, the colour's goes beside it."""


class ImageFiles:
    """Image files below a folder, which no path leaves, nor any symbolic link on its way.

    Folders on the way are followed here, each once; a file that is itself a link is followed when
    it is read, because to ask for every file's links takes seconds on a large dataset.

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
        self._resolved_root = self.root.resolve()
        inside: dict[str, bool] = {}
        for record, path in enumerate(paths):
            folder, name = os.path.split(path)
            if name in ("", ".", ".."):
                folder = path
            if folder not in inside:
                inside[folder] = self._holds(self.root / folder)
            if not inside[folder]:
                raise self._leaves(path, record)

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, index: int) -> UInt8[np.ndarray, "H W 3"]:
        return self.view(index, 1.0)[0]

    def view(
        self, index: int, zoom: float
    ) -> tuple[UInt8[np.ndarray, "h w 3"], Float64[np.ndarray, "2 3"]]:
        """Image `index` at an eighth, a quarter, half or all of its resolution: see `Views`.

        A JPEG decoder averages blocks of pixels on the way, three times as fast as it decodes all
        of them, and a crop taken from the result has no aliasing.
        """
        path = self.root / str(self.paths[index])
        if not path.is_file():
            raise DataError(f"{path}: image is missing (record {index})")
        if not self._holds(path):
            raise self._leaves(str(self.paths[index]), index)
        content = np.fromfile(path, np.uint8)
        factor, flag = 1, cv2.IMREAD_COLOR_RGB
        # Of other formats OpenCV resizes the decoded image, to a size rounded the other way.
        if bytes(content[:2]) == _JPEG_START:
            factor, flag = next((f, flag) for f, flag in _REDUCTIONS if f <= max(zoom, 1))
        image = None
        if len(content):
            image = cv2.imdecode(content, flag | cv2.IMREAD_IGNORE_ORIENTATION)
        if image is None:
            raise DataError(f"{path}: not a readable image (record {index})")
        # Pixel u of the reduced image lies in the middle of pixels f u to f u + f - 1.
        shift = (factor - 1) / 2
        return image, np.array([[factor, 0, shift], [0, factor, shift]], np.float64)

    def _holds(self, path: Path) -> bool:
        return path.resolve().is_relative_to(self._resolved_root)

    def _leaves(self, path: str, record: int) -> DataError:
        return DataError(
            f"{self.root}: image path {path!r} (record {record}) leaves the folder; put the images "
            "themselves there, or set root to the folder that holds them"
        )

    def describe(self, index: int) -> str:
        return str(self.paths[index])

    def missing(self) -> list[str]:
        """Paths that are not there, each once; cheap enough to ask before training starts."""
        return [path for path in np.unique(self.paths).tolist() if not (self.root / path).is_file()]


@dataclass(frozen=True)
class Persons:
    """N labelled persons, column by column, so that 100,000 of them stay a few megabytes.

    Raises:
        DataError: No persons, columns of different lengths, an id that occurs twice, an image
            that `images` does not have, or a labelled joint, centre or box that is not finite; the
            message names the first person concerned.
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
    left_out: Mapping[str, int] = field(default_factory=dict)
    """Annotations of the file that are not among the persons, counted by reason."""
    remarks: Mapping[str, int] = field(default_factory=dict)
    """What the loader filled in or assumed, with the number of persons concerned."""
    file: str = ""
    """Annotation file that these counts are of."""

    def __post_init__(self) -> None:
        if len(self.ids) == 0:
            counted = f" (left out: {listed(self.left_out)})" if self.left_out else ""
            raise DataError(f"{self.name}: there are no usable persons in this split{counted}")
        expected = {"joints": (len(self.skeleton), 2), "visibility": (len(self.skeleton),)}
        for name in (entry.name for entry in fields(self)):
            column = getattr(self, name)
            if not isinstance(column, np.ndarray):
                continue
            if len(column) != len(self.ids):
                raise DataError(
                    f"{self.name}: {len(column)} rows of {name} for {len(self.ids)} persons"
                )
            if name in expected and column.shape[1:] != expected[name]:
                raise DataError(
                    f"{self.name}: {name} has shape {column.shape}, skeleton "
                    f"{self.skeleton.name} needs (N, {', '.join(map(str, expected[name]))})"
                )
        self._require_own_ids()
        self._require_images()
        self._require_finite()

    def _require_own_ids(self) -> None:
        known, first = np.unique(self.ids, return_index=True)
        if len(known) < len(self.ids):
            repeated = np.setdiff1d(np.arange(len(self.ids)), first)[0]
            raise DataError(f"{self.name}: the id {self.ids[repeated]!s} occurs twice")

    def _require_images(self) -> None:
        count = len(self.images) if isinstance(self.images, Sized) else np.inf
        wrong = np.flatnonzero((self.image_index < 0) | (self.image_index >= count))
        if len(wrong):
            raise DataError(
                f"{self.name}: person {self.ids[wrong[0]]} is in image "
                f"{self.image_index[wrong[0]]}, which is none of the images (numbered from 0)"
            )

    def _require_finite(self) -> None:
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
            entry.name: getattr(self, entry.name)[rows]
            for entry in fields(self)
            if isinstance(getattr(self, entry.name), np.ndarray)
        }
        return replace(self, **columns)

    def described(self) -> str:
        """One line for the screen: name, number of persons, what was left out and assumed."""
        counts = [listed(self.remarks)] if self.remarks else []
        if self.left_out:
            counts.append(f"left out: {listed(self.left_out)}")
        where = f"{Path(self.file).name}: " if self.file else ""
        tail = f" ({where}{'; '.join(counts)})" if counts else ""
        return f"{self.name}: {len(self):,} persons{tail}"

    def account(self) -> dict[str, Any]:
        """The same for a record: numbers under "persons", "left_out" and "remarks"."""
        return {
            "persons": len(self),
            "left_out": dict(self.left_out),
            "remarks": dict(self.remarks),
        }


def listed(counts: Mapping[str, int]) -> str:
    """Counts with their reasons, for messages."""
    return ", ".join(f"{count:,} {reason}" for reason, count in counts.items())
