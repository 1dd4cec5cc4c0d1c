"""Leeds Sports Pose (Johnson & Everingham, BMVC 2010) and its extended training set (CVPR 2011)."""

import re
from abc import ABC, abstractmethod
from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Int8

from pnfs import body
from pnfs.data.persons import OCCLUDED, UNLABELLED, VISIBLE, DataError, ImageFiles, Persons
from pnfs.data.readers import (
    list_files,
    read_mat,
    require_files,
    require_images,
    require_padding,
    require_rows,
    require_split,
)
from pnfs.evaluation.pck import PCK, torso_size

NOT_LIMBS = ("neck", "head_top")
"""What the group "limbs" leaves out: it holds the 12 joints of arms and legs."""

_GUIDE = """\
Expected layout below root:
  images/{first}, …   joints.mat
Dataset: {url}
Then set root to that folder."""

_IMAGE_NAME = re.compile(r"im(\d+)\.(?:jpg|jpeg|png)", re.IGNORECASE)


class _LeedsSports(ABC):
    """What LSP and LSPET have in common; images are numbered from 1, one person each."""

    skeleton = body.LSP
    splits: tuple[str, ...]
    _dataset: str
    _image_format: str
    _guide: str

    def __init__(
        self, root: Path | str, held_out_from: int, padding: float, check_images: bool
    ) -> None:
        self.root = Path(root).expanduser()
        self.held_out_from = held_out_from
        self.padding = require_padding(padding)
        self.check_images = check_images
        self._persons: dict[bool, Persons] = {}
        require_files(self._dataset, self.root, ["images", "joints.mat"], self._guide)

    def persons(self, split: str) -> Persons:
        """The persons of one of `splits`, in the file's order.

        Raises:
            DataError: No such split, a damaged annotation file or record, or missing images.
        """
        require_split(self._dataset, split, self.splits)
        held_out = split != "train"
        if held_out not in self._persons:
            self._persons[held_out] = self._load(held_out)
        return self._persons[held_out]

    def metric(self, split: str) -> PCK:
        """PCK at 0.2 of the torso size, with the 12 joints of arms and legs as group "limbs".

        Raises:
            DataError: No such split.
        """
        require_split(self._dataset, split, self.splits)
        limbs = tuple(joint for joint in self.skeleton.joints if joint not in NOT_LIMBS)
        return PCK(
            joints=self.skeleton.joints,
            groups={**self.skeleton.groups, "limbs": limbs},
            thresholds=(0.2,),
            name="PCK",
        )

    @abstractmethod
    def _read(self, path: Path) -> tuple[Float[np.ndarray, "N 14 2"], Int8[np.ndarray, "N 14"]]:
        """Joints and their visibility from `joints.mat`."""

    @cached_property
    def _labels(self) -> tuple[Float[np.ndarray, "N 14 2"], Int8[np.ndarray, "N 14"]]:
        path = self.root / "joints.mat"
        joints, visibility = self._read(path)
        labelled = visibility > UNLABELLED
        finite = np.all(np.isfinite(joints) | ~labelled[..., None], axis=(-2, -1))
        require_rows(path, finite, _label, "a labelled joint is not a finite number")
        return np.where(labelled[..., None], joints, 0), visibility

    @cached_property
    def _image_names(self) -> dict[int, str]:
        """Image number -> file name; the datasets differ in the number of digits."""
        names: dict[int, str] = {}
        for name in sorted(list_files(self.root / "images")):
            if match := _IMAGE_NAME.fullmatch(name):
                number = int(match[1])
                if number in names:
                    raise DataError(
                        f"{self.root / 'images'}: {names[number]} and {name} are both image "
                        f"{number}; keep one of them"
                    )
                names[number] = name
        return names

    def _load(self, held_out: bool) -> Persons:
        name = f"{self._dataset} {self.splits[-1] if held_out else 'train'}"
        joints, visibility = self._labels
        rows = np.arange(len(joints))
        rows = rows[(rows >= self.held_out_from - 1) == held_out]
        center, side = _boxes(joints[rows], visibility[rows] > UNLABELLED)
        usable, few = side > 0, (visibility[rows] > UNLABELLED).sum(-1) < 2
        left_out = {
            "with fewer than two labelled joints": int((~usable & few).sum()),
            "with all labelled joints on one point": int((~usable & ~few).sum()),
        }
        rows, center, side = rows[usable], center[usable], side[usable] * self.padding
        torso = torso_size(joints[rows], visibility[rows], self.skeleton)
        numbers = (rows + 1).tolist()
        standard = [self._image_format.format(number) for number in numbers]
        # An image that is not there keeps its standard name, which messages then give.
        found = [self._image_names.get(*pair) for pair in zip(numbers, standard, strict=True)]
        images = ImageFiles(self.root / "images", found)
        if self.check_images:
            require_images(name, images, self._guide)
        return Persons(
            name=name,
            skeleton=self.skeleton,
            images=images,
            ids=np.array([Path(file_name).stem for file_name in standard], dtype=np.str_),
            image_index=np.arange(len(rows), dtype=np.int64),
            joints=joints[rows].astype(np.float32),
            visibility=visibility[rows],
            center=center.astype(np.float32),
            box_size=np.stack([side, side], axis=-1).astype(np.float32),
            reference_length=torso.astype(np.float32),
            left_out={reason: count for reason, count in left_out.items() if count},
            file=str(self.root / "joints.mat"),
        )


class LSP(_LeedsSports):
    """Leeds Sports Pose: 2,000 persons, one an image, all 14 joints labelled.

    The official split: images 1 to 1000 train, 1001 to 2000 test. There is no validation set of
    its own: "val" and "test" are both the official test persons.

    The person box is the bounding box of the joints, a square of its longer side × `padding`.
    `reference_length` is the torso size in px, see `pnfs.evaluation.torso_size`. Coordinates are
    taken as they stand in the file.

    Args:
        root: Folder with `images` and `joints.mat`, key `joints`, (3, 14, N): x, y in px of the
            image, 1 where occluded.
        test_from: Number of the first test image; images are numbered from 1.
        padding: Factor on the side of the person box.
        check_images: Whether `persons` checks that all image files exist.

    Raises:
        DataError: The folder or the annotation file is missing, or `padding` is not positive.
    """

    splits = ("train", "val", "test")
    _dataset = "LSP"
    _image_format = "im{:04d}.jpg"
    _guide = _GUIDE.format(
        first=_image_format.format(1), url="http://sam.johnson.io/research/lsp.html"
    )

    def __init__(
        self,
        root: Path | str,
        test_from: int = 1001,
        padding: float = 1.25,
        check_images: bool = True,
    ) -> None:
        super().__init__(root, test_from, padding, check_images)

    def _read(self, path: Path) -> tuple[Float[np.ndarray, "N 14 2"], Int8[np.ndarray, "N 14"]]:
        columns = _read_columns(path, (3, len(self.skeleton))).transpose(2, 1, 0)
        occluded = _flags(path, columns[..., 2], "the third row (1 = occluded)")
        return columns[..., :2], np.where(occluded, OCCLUDED, VISIBLE).astype(np.int8)


class LSPET(_LeedsSports):
    """Leeds Sports Pose Extended Training: one person an image, crowd-sourced labels.

    The dataset has no split of its own: images before `validation_from` train, the others are
    "val". Persons with fewer than two labelled joints, or with all of them on one point, have no
    person box and are left out of both.

    The person box is the bounding box of the labelled joints, a square of its longer side ×
    `padding`. `reference_length` is the torso size in px, see `pnfs.evaluation.torso_size`; it is
    nan, which leaves the person out of the score, where a torso joint is unlabelled. Labelled
    joints are VISIBLE: the file does not tell occluded ones. Coordinates are taken as they stand
    in the file.

    Args:
        root: Folder with `images` and `joints.mat`, key `joints`, (14, 3, N): x, y in px of the
            image, 1 where labelled (the coordinates of the others mean nothing).
        validation_from: Number of the first validation image; images are numbered from 1.
        padding: Factor on the side of the person box.
        check_images: Whether `persons` checks that all image files exist.

    Raises:
        DataError: The folder or the annotation file is missing, or `padding` is not positive.
    """

    splits = ("train", "val")
    _dataset = "LSPET"
    _image_format = "im{:05d}.jpg"
    _guide = _GUIDE.format(
        first=_image_format.format(1), url="http://sam.johnson.io/research/lspet.html"
    )

    def __init__(
        self,
        root: Path | str,
        validation_from: int = 4501,
        padding: float = 1.25,
        check_images: bool = True,
    ) -> None:
        super().__init__(root, validation_from, padding, check_images)

    def _read(self, path: Path) -> tuple[Float[np.ndarray, "N 14 2"], Int8[np.ndarray, "N 14"]]:
        columns = _read_columns(path, (len(self.skeleton), 3)).transpose(2, 0, 1)
        labelled = _flags(path, columns[..., 2], "the third column (1 = labelled)")
        return columns[..., :2], np.where(labelled, VISIBLE, UNLABELLED).astype(np.int8)


def _boxes(
    joints: Float[np.ndarray, "N 14 2"], labelled: Bool[np.ndarray, "N 14"]
) -> tuple[Float[np.ndarray, "N 2"], Float[np.ndarray, " N"]]:
    """Centre and longer side (px) of the labelled joints' bounding box; side 0 if there is none."""
    lowest = np.where(labelled[..., None], joints, np.inf).min(axis=1)
    highest = np.where(labelled[..., None], joints, -np.inf).max(axis=1)
    has_box = np.any(labelled, axis=-1, keepdims=True)
    lowest, highest = np.where(has_box, lowest, 0), np.where(has_box, highest, 0)
    return (lowest + highest) / 2, (highest - lowest).max(-1)


def _read_columns(path: Path, shape: tuple[int, int]) -> Float[np.ndarray, "a b N"]:
    """The variable `joints`, checked to have one `shape` per person."""
    array = read_mat(path, "joints").astype(np.float64)
    # MATLAB drops the last axis of an array that holds one person.
    array = array[..., None] if array.ndim == 2 else array
    if array.ndim != 3 or array.shape[:2] != shape:
        raise DataError(
            f"{path}: joints has shape {array.shape}, it must have "
            f"({shape[0]}, {shape[1]}, number of persons)"
        )
    return array


def _flags(path: Path, values: Float[np.ndarray, "N 14"], what: str) -> Bool[np.ndarray, "N 14"]:
    require_rows(path, np.all(np.isin(values, (0, 1)), axis=-1), _label, f"{what} must be 0 or 1")
    return values == 1


def _label(row: int) -> str:
    return f"person {row + 1}"
