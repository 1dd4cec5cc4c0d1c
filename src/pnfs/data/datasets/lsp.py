"""Leeds Sports Pose (Johnson & Everingham, BMVC 2010) and its extended training set (CVPR 2011)."""

import re
from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int8

from pnfs import body
from pnfs.data.datasets.base import PoseDataset
from pnfs.data.images import DataError, list_files
from pnfs.data.persons import OCCLUDED, UNLABELLED, VISIBLE, Persons, counted
from pnfs.data.readers import finite_rows, read_mat, require_rows
from pnfs.evaluation.pck import PCK, torso_size


class LSP(PoseDataset):
    """Leeds Sports Pose: 2,000 persons, one an image, all 14 joints labelled.

    The official split: images 1 to 1000 train, those from `test_from` on test; "val" and "test" are both these.
    The folder `root` holds `images` and `joints.mat`, key `joints`, (3, 14, N): x, y in px, 1 where occluded.

    The person box is the bounding box of the labelled joints, a square of its longer side × `padding`; persons
    without one are left out. `reference_length` is the torso size in px (`pnfs.evaluation.torso_size`), or nan.
    """

    name = "LSP"
    skeleton = body.LSP
    splits = ("train", "val", "test")
    required = ("images", "joints.mat")
    guide = "Expected below root: images/im0001.jpg, … and joints.mat of http://sam.johnson.io/research/lsp.html"
    image_format = "im{:04d}.jpg"
    axes = (2, 1, 0)  # Transposes `joints` to (N, 14, 3).
    meaning = (VISIBLE, OCCLUDED)  # What 0 and 1 in a joint's third number mean.
    held_out = "test"  # Split of those that are not trained on.

    def __init__(
        self, root: Path | str, test_from: int = 1001, padding: float = 1.25, check_images: bool = True
    ) -> None:
        super().__init__(root, padding, check_images)
        self.held_out_from = test_from

    def metric(self, split: str) -> PCK:
        """PCK at 0.2 of the torso size, with the 12 joints of arms and legs as group "limbs"."""
        limbs = tuple(j for j in self.skeleton.joints if j not in ("neck", "head_top"))
        groups = {**self.skeleton.groups, "limbs": limbs}
        return PCK(joints=self.skeleton.joints, groups=groups, thresholds=(0.2,))

    def persons(self, split: str) -> Persons:
        """As `PoseDataset.persons`; "val" and "test" are the same persons."""
        self.require_split(split)
        return super().persons(self.held_out if split == "val" else split)

    def load(self, split: str) -> Persons:
        joints, visibility = self._labels
        held_out = np.arange(len(joints)) >= self.held_out_from - 1
        labelled = visibility > UNLABELLED
        low = np.where(labelled[..., None], joints, np.inf).min(axis=1)
        high = np.where(labelled[..., None], joints, -np.inf).max(axis=1)
        side, few = (high - low).max(-1), labelled.sum(-1) < 2
        ours, on_one_point = held_out == (split != "train"), (side == 0) & ~few
        rows = np.flatnonzero(ours & ~few & ~on_one_point)
        joints, visibility, side = joints[rows], visibility[rows], side[rows]
        standard = [self.image_format.format(row + 1) for row in rows.tolist()]
        # An image that is not there keeps its standard name, which messages then give.
        names = [self._image_names.get(row + 1, name) for row, name in zip(rows.tolist(), standard, strict=True)]
        return Persons(
            name=f"{self.name} {split}",
            skeleton=self.skeleton,
            images=self.image_files(split, "images", names),
            ids=np.array([Path(name).stem for name in standard], dtype=np.str_),
            image_index=np.arange(len(rows), dtype=np.int64),
            joints=joints.astype(np.float32),
            visibility=visibility,
            center=((low[rows] + high[rows]) / 2).astype(np.float32),
            box_size=(self.padding * np.stack([side, side], axis=-1)).astype(np.float32),
            reference_length=torso_size(joints, visibility, self.skeleton).astype(np.float32),
            left_out=counted({
                "with fewer than two labelled joints": ours & few,
                "with all labelled joints on one point": ours & on_one_point,
            }),
            file=str(self.root / "joints.mat"),
        )  # fmt: skip

    @cached_property
    def _labels(self) -> tuple[Float[np.ndarray, "N 14 2"], Int8[np.ndarray, "N 14"]]:
        """Joints, 0 where unlabelled, and their visibility, of all persons."""
        path, sizes = self.root / "joints.mat", (None, len(self.skeleton), 3)
        shape = tuple(sizes[self.axes.index(axis)] for axis in range(3))
        columns = read_mat(path, "joints", shape).transpose(self.axes).astype(np.float64)
        known = np.isin(columns[..., 2], (0, 1))
        visibility = np.where(columns[..., 2] == 1, *self.meaning[::-1]).astype(np.int8)
        joints = np.where(visibility[..., None] > UNLABELLED, columns[..., :2], 0)
        wrong = "a labelled joint must be finite, its third number 0 or 1"
        require_rows(path, known.all(-1) & finite_rows(joints), lambda row: f"person {row + 1}", wrong)
        return joints, visibility

    @cached_property
    def _image_names(self) -> dict[int, str]:
        """Image number -> file name; copies of the datasets differ in digits and format."""
        named = re.compile(r"im(\d+)\.(?:jpg|jpeg|png)", re.IGNORECASE)
        names: dict[int, str] = {}
        for match in filter(None, map(named.fullmatch, sorted(list_files(self.root / "images")))):
            if (other := names.setdefault(int(match[1]), match[0])) != match[0]:
                raise DataError(f"{self.root / 'images'}: {other} and {match[0]} are both image {int(match[1])}")
        return names


class LSPET(LSP):
    """Leeds Sports Pose Extended Training: one person an image, crowd-sourced labels.

    It has no split of its own: images before `validation_from` train, the others are "val". `joints` is (14, 3,
    N): x, y in px, 1 where labelled; the file does not tell occluded joints. All else as in `LSP`.
    """

    name = "LSPET"
    splits = ("train", "val")
    guide = LSP.guide.replace("im0001", "im00001").replace("lsp.html", "lspet.html")
    image_format = "im{:05d}.jpg"
    axes = (2, 0, 1)
    meaning = (UNLABELLED, VISIBLE)
    held_out = "val"

    def __init__(
        self, root: Path | str, validation_from: int = 4501, padding: float = 1.25, check_images: bool = True
    ) -> None:
        super().__init__(root, validation_from, padding, check_images)
