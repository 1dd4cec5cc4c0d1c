"""MPII Human Pose (Andriluka et al., CVPR 2014), single persons, in the layout of HRNet's users."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import scipy.io
from jaxtyping import Float, Float32

from pnfs import body
from pnfs.data.persons import UNLABELLED, VISIBLE, DataError, ImageFiles, Persons
from pnfs.data.predictions import GROUND_TRUTH_BOXES, Matches, Predictions, one_to_one
from pnfs.data.readers import (
    RecordLabel,
    number_column,
    read_json,
    read_mat,
    require_files,
    require_images,
    require_padding,
    require_records,
    require_rows,
    require_split,
    text_column,
)
from pnfs.evaluation.pck import PCK, head_size

FILE_JOINTS = (
    "right_ankle", "right_knee", "right_hip", "left_hip", "left_knee", "left_ankle",
    "pelvis", "thorax", "upper_neck", "head_top",
    "right_wrist", "right_elbow", "right_shoulder", "left_shoulder", "left_elbow", "left_wrist",
)  # fmt: skip
"""The joint order of the dataset's files."""

PIXELS_PER_SCALE = 200.0
"""A person's `scale` is the person's height in units of 200 px."""

NO_LABEL = "without a labelled joint, which count for nothing"

TrainSplit = Literal["train", "all"]
"""What training reads: the published training persons, or these and the validation persons."""

_ANNOTATIONS = {"train": "annot/train.json", "val": "annot/valid.json", "test": "annot/test.json"}

_GUIDE = """\
Expected layout below root:
  images/            000001163.jpg, … (24,984 images)
  annot/train.json   annot/valid.json   annot/gt_valid.mat   (annot/test.json for split "test")
Images: http://human-pose.mpi-inf.mpg.de (MPII Human Pose). The annot folder in JSON form: linked
under "Data preparation" in the README of github.com/leoxiaobin/deep-high-resolution-net.pytorch.
Then set root to that folder."""


class MPII:
    """MPII Human Pose with the splits and boxes of HRNet and SimpleBaseline.

    Joints come in the order of `pnfs.body.MPII` (the paper's section IV-A) and 0-based pixels;
    the files hold another order, 1-based. The files do not tell occluded from visible joints:
    every labelled joint is VISIBLE.

    Person box (HRNet, `lib/dataset/mpii.py`): unless the centre's x is -1, its y moves down by
    15 px × scale and scale is multiplied by `padding`; the box is a square of scale × 200 px.

    `reference_length` is the head size in px, 0.6 × the diagonal of the head box; it is nan in
    splits "train" and "test", whose files hold no head boxes.

    Args:
        root: Folder with `images` and `annot`.
        padding: Factor on the side of the person box.
        check_images: Whether `persons` checks that all image files exist.
        train_split: "train", or "all": the validation persons are trained on too, as for the hidden test
            set (paper, Table IV). Validation scores then say nothing.

    Raises:
        DataError: Folders or annotation files are missing, or `padding` or `train_split` is wrong.
    """

    skeleton = body.MPII
    splits = ("train", "val", "test")

    def __init__(
        self,
        root: Path | str,
        padding: float = 1.25,
        check_images: bool = True,
        train_split: TrainSplit = "train",
    ) -> None:
        if train_split not in get_args(TrainSplit):
            raise DataError(f"MPII: train_split is train or all, not {train_split!r}")
        self.train_split: TrainSplit = train_split
        self.root = Path(root).expanduser()
        self.padding = require_padding(padding)
        self.check_images = check_images
        self._persons: dict[str, Persons] = {}
        required = ["images", "annot/train.json", "annot/valid.json", "annot/gt_valid.mat"]
        require_files("MPII", self.root, required, _GUIDE)

    def persons(self, split: str) -> Persons:
        """The persons of "train", "val" or "test" (without labels), in the file's order.

        Raises:
            DataError: No such split, a damaged annotation file or record, or missing images.
        """
        require_split("MPII", split, self.splits)
        if split not in self._persons:
            loaded = self._load(split)
            if split == "train" and self.train_split == "all":
                loaded = _together(loaded, self.persons("val"))
            self._persons[split] = loaded
        return self._persons[split]

    def metric(self, split: str) -> PCK:
        """PCKh at 0.5, 0.1 and 0.11 of the head size.

        HRNet's and SimpleBaseline's evaluation prints the value at 0.11 as "Mean@0.1"; as in
        theirs, pelvis and thorax do not count in the mean. Split "test" has no public labels, so
        that all its scores are nan.

        Raises:
            DataError: There is no such split.
        """
        require_split("MPII", split, self.splits)
        return PCK(
            joints=self.skeleton.joints,
            groups=self.skeleton.groups,
            thresholds=(0.5, 0.1, 0.11),
            name="PCKh",
            mean_excludes=("pelvis", "thorax"),
        )

    def evaluation_choices(self, split: str) -> Mapping[str, Any]:
        """Boxes come with the annotations, for split "test" too."""
        return GROUND_TRUTH_BOXES

    def matches(self, split: str, predictions: Predictions) -> Matches:
        """Each person goes with the prediction of the same row."""
        return one_to_one(self.persons(split), predictions)

    def extra_scores(self, split: str, predictions: Predictions) -> Mapping[str, float]:
        """None: the files do not tell occluded from visible joints."""
        return {}

    def write_predictions(
        self, split: str, predictions: Predictions, folder: Path, name: str
    ) -> Path:
        """Writes `pred.mat` as HRNet does; see `write_pred_mat`."""
        return write_pred_mat(folder / "pred.mat", predictions)

    def _load(self, split: str) -> Persons:
        path = self.root / _ANNOTATIONS[split]
        require_files("MPII", self.root, [_ANNOTATIONS[split]], _GUIDE)
        records = require_records(path, read_json(path), "the file")

        def label(row: int) -> str:
            return f"record {row} ({records[row].get('image')})"

        names = text_column(path, records, "image", label)
        center = number_column(path, records, "center", (2,), label)
        scale = number_column(path, records, "scale", (), label)
        usable = np.isfinite(center).all(-1) & np.isfinite(scale) & (scale > 0)
        require_rows(path, usable, label, "center must be finite and scale positive")
        center, box_size = _boxes(center, scale, self.padding)

        shape = (len(records), len(FILE_JOINTS))
        joints, labelled = np.zeros((*shape, 2)), np.zeros(shape, dtype=bool)
        if split != "test":
            joints = number_column(path, records, "joints", (len(FILE_JOINTS), 2), label)
            flags = number_column(path, records, "joints_vis", (len(FILE_JOINTS),), label)
            require_rows(
                path, np.all(np.isin(flags, (0, 1)), axis=-1), label, "joints_vis must be 0 or 1"
            )
            labelled = flags == 1
            finite = np.all(np.isfinite(joints) | ~labelled[..., None], axis=(-2, -1))
            require_rows(path, finite, label, "a labelled joint is not a finite number")
            joints = np.where(labelled[..., None], joints - 1, 0)
        order = [FILE_JOINTS.index(joint) for joint in self.skeleton.joints]

        image_names, image_index = np.unique(np.array(names), return_inverse=True)
        images = ImageFiles(self.root / "images", image_names.tolist())
        if self.check_images:
            require_images(f"MPII {split}", images, _GUIDE)
        unlabelled = 0 if split == "test" else int((~labelled.any(-1)).sum())
        head_sizes = np.full(len(records), np.nan)
        if split == "val":
            head_sizes = _head_sizes(self.root / "annot/gt_valid.mat", len(records), path, label)
        return Persons(
            name=f"MPII {split}",
            skeleton=self.skeleton,
            images=images,
            ids=np.array([f"{split}/{row:05d}" for row in range(len(records))]),
            image_index=image_index.astype(np.int64),
            joints=joints[:, order].astype(np.float32),
            visibility=np.where(labelled[:, order], VISIBLE, UNLABELLED).astype(np.int8),
            center=center,
            box_size=box_size,
            reference_length=head_sizes.astype(np.float32),
            remarks={NO_LABEL: unlabelled} if unlabelled else {},
            file=str(path),
        )


def _together(train: Persons, val: Persons) -> Persons:
    """The persons of both splits, those of `train` first."""
    assert isinstance(train.images, ImageFiles)
    assert isinstance(val.images, ImageFiles)
    columns = {
        field.name: np.concatenate([getattr(train, field.name), getattr(val, field.name)])
        for field in fields(train)
        if isinstance(getattr(train, field.name), np.ndarray)
    }
    paths = [*train.images.paths.tolist(), *val.images.paths.tolist()]
    columns["image_index"][len(train) :] += len(train.images)
    images = ImageFiles(train.images.root, paths)
    remarks = Counter(train.remarks) + Counter(val.remarks)
    name = "MPII train and val"
    return replace(train, name=name, images=images, remarks=dict(remarks), **columns)


def write_pred_mat(path: Path, predictions: Predictions) -> Path:
    """Writes predictions as HRNet's `MPIIDataset.evaluate` does, for the benchmark's own evaluation.

    The file holds `preds`, (N, 16, 2): x, y in 1-based pixels, joints in the order of
    `FILE_JOINTS`, persons in the order of the annotation file.

    Args:
        path: The file to write.
        predictions: In the order of `pnfs.body.MPII` and 0-based pixels.
    """
    order = body.MPII.indices(FILE_JOINTS)
    path.parent.mkdir(parents=True, exist_ok=True)
    scipy.io.savemat(path, {"preds": predictions.locations[:, order] + 1.0})
    return path


def _boxes(
    center: Float[np.ndarray, "N 2"], scale: Float[np.ndarray, " N"], padding: float
) -> tuple[Float32[np.ndarray, "N 2"], Float32[np.ndarray, "N 2"]]:
    """Centres (0-based px) and sizes (w, h in px) of the person boxes, by HRNet's rules."""
    known = center[:, 0] != -1
    down = np.stack([np.zeros_like(scale), np.where(known, 15 * scale, 0)], axis=-1)
    side = np.where(known, padding, 1) * scale * PIXELS_PER_SCALE
    size = np.stack([side, side], axis=-1)
    return (center + down - 1).astype(np.float32), size.astype(np.float32)


def _head_sizes(
    path: Path, persons: int, annotations: Path, label: RecordLabel
) -> Float[np.ndarray, " N"]:
    """Head sizes in px, row by row those of `annotations`."""
    boxes = read_mat(path, "headboxes_src").astype(np.float64)  # (corner, x or y, person)
    # MATLAB drops the last axis of an array that holds one person.
    boxes = boxes[..., None] if boxes.shape == (2, 2) else boxes
    if boxes.shape != (2, 2, persons):
        raise DataError(
            f"{path}: headboxes_src has shape {boxes.shape} for the {persons} persons of "
            f"{annotations}, it must have (2, 2, {persons}); take both files from one source"
        )
    sizes = head_size(boxes.transpose(2, 0, 1))
    require_rows(path, sizes > 0, label, "the head box is empty or not a finite number")
    return sizes
