"""MPII Human Pose (Andriluka et al., CVPR 2014), single persons, in the layout of HRNet's users."""

from pathlib import Path
from typing import Literal, get_args

import numpy as np
import scipy.io

from pnfs import body
from pnfs.data.datasets.base import PoseDataset
from pnfs.data.images import DataError
from pnfs.data.persons import UNLABELLED, VISIBLE, Persons, PoseFile, Predictions, aligned, counted, joined
from pnfs.data.readers import Records, finite_rows, read_json, read_mat, require_rows
from pnfs.evaluation.pck import PCK, head_size

FROM_FILE = tuple(body.MPII_FILE_JOINTS.index(joint) for joint in body.MPII.joints)
"""For every joint of `pnfs.body.MPII` its place in the files."""

PIXELS_PER_SCALE = 200.0  # A person's `scale` is the person's height in units of 200 px.

NO_LABEL = "without a labelled joint, which count for nothing"

TrainSplit = Literal["train", "all"]

_ANNOTATIONS = {"train": "annot/train.json", "val": "annot/valid.json", "test": "annot/test.json"}
TRUTH = "annot/gt_valid.mat"


class MPII(PoseDataset):
    """MPII Human Pose with the splits and boxes of HRNet; a folder with `images` and `annot`.

    Joints come in the order of `pnfs.body.MPII` (the paper's section IV-A) and 0-based pixels; the files hold
    another order, 1-based. The files do not tell occluded from visible joints: every labelled joint is VISIBLE.
    Split "test" has no labels: its scores are nan.

    Person box (HRNet, `lib/dataset/mpii.py`): unless the centre's x is -1, its y moves down by 15 px × scale and
    scale is multiplied by `padding`; the box is a square of scale × 200 px. `reference_length` is the head size in
    px, 0.6 × the diagonal of the head box; nan but in "val". With `train_split="all"` the validation persons are
    trained on too (paper, Table IV); validation scores then say nothing.
    """

    name = "MPII"
    skeleton = body.MPII
    splits = ("train", "val", "test")
    required = ("images", _ANNOTATIONS["train"], _ANNOTATIONS["val"], TRUTH)
    guide = """\
Expected below root: images/000001163.jpg, … and annot/train.json, valid.json, gt_valid.mat (and test.json).
Images: http://human-pose.mpi-inf.mpg.de. The annot folder in JSON form: linked in the README of
github.com/leoxiaobin/deep-high-resolution-net.pytorch."""

    def __init__(
        self, root: Path | str, padding: float = 1.25, check_images: bool = True, train_split: TrainSplit = "train"
    ) -> None:
        if train_split not in get_args(TrainSplit):
            raise DataError(f"MPII: train_split is train or all, not {train_split!r}")
        super().__init__(root, padding, check_images)
        self.train_split: TrainSplit = train_split

    def metric(self, split: str) -> PCK:
        """See `pckh`."""
        return pckh(self.skeleton)

    def write_predictions(self, split: str, predictions: Predictions, folder: Path, name: str) -> Path:
        """Writes `pred.mat` as HRNet's `MPIIDataset.evaluate` does, for the benchmark's evaluation.

        `preds` is (N, 16, 2): x, y in 1-based pixels, joints as in `MPII_FILE_JOINTS`, persons in the file's.
        """
        folder.mkdir(parents=True, exist_ok=True)
        order = self.skeleton.indices(body.MPII_FILE_JOINTS)
        scipy.io.savemat(folder / "pred.mat", {"preds": predictions.locations[:, order] + 1.0})
        return folder / "pred.mat"

    def read_predictions(self, split: str, path: Path) -> PoseFile:
        """Also reads `pred.mat` (HRNet's, and ours), its persons in the file's order."""
        if path.suffix != ".mat":
            return super().read_predictions(split, path)
        persons = self.persons(split)
        table = read_mat(path, "preds", (len(persons), len(body.MPII_FILE_JOINTS), 2))
        joints = table.astype(np.float64)[:, FROM_FILE] - 1.0
        require_rows(path, finite_rows(joints), lambda row: f"person {row}", "preds is not a finite number")
        matches = aligned(persons, joints, np.ones(joints.shape[:2]), np.arange(len(persons)))
        return PoseFile("MPII pred.mat", matches, len(persons))

    def load(self, split: str) -> Persons:
        path = self.root / _ANNOTATIONS[split]
        self.require_files([_ANNOTATIONS[split]])
        table = Records(path, read_json(path), label=lambda n, r: f"record {n} ({r.get('image')})")
        count, joint_count = len(table), len(body.MPII_FILE_JOINTS)
        center, scale = table.numbers("center", 2), table.numbers("scale")
        table.require(scale > 0, "scale must be positive")
        # HRNet's rules; a centre of -1 stands for none.
        known = center[:, 0] != -1
        center[:, 1] += np.where(known, 15 * scale, 0)
        side = np.where(known, self.padding, 1) * scale * PIXELS_PER_SCALE

        joints, labelled = np.zeros((count, joint_count, 2)), np.zeros((count, joint_count), bool)
        if split != "test":
            flags = table.numbers("joints_vis", joint_count)
            table.require(np.isin(flags, (0, 1)).all(-1), "joints_vis is not 0 or 1")
            labelled = flags == 1
            joints = table.numbers("joints", joint_count, 2, finite=False)
            joints = np.where(labelled[..., None], joints - 1, 0)
            table.require(finite_rows(joints), "a labelled joint is not a finite number")
        head_sizes = np.full(count, np.nan)
        if split == "val":
            # (corner, x or y, person) -> (person, corner, x or y)
            boxes = read_mat(self.root / TRUTH, "headboxes_src", (2, 2, count))
            head_sizes = head_size(boxes.astype(np.float64).transpose(2, 0, 1))
            table.require(head_sizes > 0, f"the head box in {self.root / TRUTH} is empty or not a finite number")
        names = np.array(table.column("image", str), np.str_)
        image_names, image_index = np.unique(names, return_inverse=True)
        persons = Persons(
            name=f"MPII {split}",
            skeleton=self.skeleton,
            images=self.image_files(split, "images", image_names.tolist()),
            ids=np.array([f"{split}/{row:05d}" for row in range(count)]),
            image_index=image_index.astype(np.int64),
            joints=joints[:, FROM_FILE].astype(np.float32),
            visibility=np.where(labelled[:, FROM_FILE], VISIBLE, UNLABELLED).astype(np.int8),
            center=(center - 1).astype(np.float32),
            box_size=np.stack([side, side], axis=-1).astype(np.float32),
            reference_length=head_sizes.astype(np.float32),
            remarks={} if split == "test" else counted({NO_LABEL: ~labelled.any(-1)}),
            file=str(path),
        )
        both = split == "train" and self.train_split == "all"
        return joined("MPII train and val", [persons, self.persons("val")]) if both else persons


def pckh(skeleton: body.Skeleton) -> PCK:
    """PCKh at 0.5, 0.1 and 0.11 of the head size.

    HRNet's and SimpleBaseline's evaluation prints the value at 0.11 as "Mean@0.1"; as in theirs, pelvis and thorax
    do not count in the mean.
    """
    excluded = [joint for joint in ("pelvis", "thorax") if joint in skeleton.joints]
    thresholds = (0.5, 0.1, 0.11)
    joints, groups = skeleton.joints, skeleton.groups
    return PCK(joints=joints, groups=groups, thresholds=thresholds, name="PCKh", mean_excludes=excluded)
