"""Predicted poses from a file: the formats that this package and the benchmarks' own tools write."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int64

from pnfs import body
from pnfs.body import Skeleton
from pnfs.data.coco_format import (
    CROWD,
    NO_JOINTS,
    OTHER_CATEGORY,
    Annotations,
    read_annotations,
    without_outline,
)
from pnfs.data.datasets.coco_boxes import read_results
from pnfs.data.datasets.mpii import FILE_JOINTS, FROM_FILE
from pnfs.data.images import DataError
from pnfs.data.persons import UNLABELLED
from pnfs.data.readers import (
    Records,
    finite_rows,
    first_of_each,
    read_json,
    read_mat,
    require_rows,
)

LARGEST_FILE = 1 << 30
"""Bytes of a file that is read; COCO's training annotations have a quarter of this."""

_ACCEPTED = (
    "a COCO results file (list of image_id, category_id, keypoints, score), a COCO annotation file, a file "
    "of `pnfs predict` or `pnfs evaluate`, or for MPII pred.mat or annot/*.json"
)


@dataclass(frozen=True)
class PoseFile:
    """N predicted persons, joints in the skeleton's order.

    Whose they are, `ids` or `image_ids` say; with neither they are the dataset's persons in order.
    """

    path: Path
    format: str  # One of the accepted formats, in words.
    joints: Float[np.ndarray, "N K 2"]  # x, y in 0-based px of the image.
    scores: Float[np.ndarray, "N K"]
    person_scores: Float[np.ndarray, " N"]
    ids: list[str] | None = None  # Ids of the dataset's persons.
    image_ids: Int64[np.ndarray, " N"] | None = None
    image_names: Mapping[int, str] = field(default_factory=dict)
    """Image id -> the image's file name, where the file tells."""
    boxes: Float[np.ndarray, "N 4"] | None = None  # x, y, width, height in px.
    left_out: Mapping[str, int] = field(default_factory=dict)
    """Records that are no predicted persons, counted by reason."""

    def __len__(self) -> int:
        return len(self.joints)


def read_pose_file(
    path: Path | str, skeleton: Skeleton, truth: Annotations | None = None
) -> PoseFile:
    """Reads predictions in whichever of the formats the file is.

    Labels are predictions too: those of a COCO annotation file or of MPII's, each with score 1.

    Args:
        path: The file.
        skeleton: The dataset's skeleton; the file's joints must be the same, in any order where it names
            them.
        truth: The dataset's annotations, which say what a results file's numbers mean; None for a
            dataset whose images have no numbers.

    Raises:
        DataError: The file cannot be read, is in none of the formats, holds other joints, or a
            record lacks something; the message names file, record and key.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise DataError(f"{path}: there is no such file of predictions")
    if path.stat().st_size > LARGEST_FILE:
        raise DataError(
            f"{path}: has {path.stat().st_size:,} bytes, more than the {LARGEST_FILE:,} of any file "
            "of predictions; split it, or name another"
        )
    if path.suffix == ".mat":
        return _pred_mat(path, skeleton)
    content = read_json(path, object_hook=without_outline)
    if isinstance(content, list):
        records = Records(path, content).all
        if not records:
            raise DataError(f"{path}: holds no prediction")
        if "joints" in records[0] and "image" in records[0]:
            return _mpii_labels(path, records, skeleton)
        return _results(path, records, truth)
    if isinstance(content, dict) and "persons" in content and "joints" in content:
        return _persons(path, content, skeleton)
    if isinstance(content, dict) and "annotations" in content:
        return _annotations(path, content, skeleton, truth)
    raise DataError(f"{path}: holds no predictions in a known format; known are {_ACCEPTED}")


def _pred_mat(path: Path, skeleton: Skeleton) -> PoseFile:
    """`preds`, (N, 16, 2): 1-based px, joints in the order of MPII's files (HRNet, and ours)."""
    _require_mpii(path, skeleton)
    joints = read_mat(path, "preds", (None, len(FILE_JOINTS), 2)).astype(np.float64) - 1.0
    if not len(joints):
        raise DataError(f"{path}: preds holds no prediction")
    wrong = "preds is not a finite number"
    require_rows(path, finite_rows(joints), lambda row: f"person {row}", wrong)
    ones = np.ones(joints.shape[:2])
    return PoseFile(path, "MPII pred.mat", joints[:, FROM_FILE], ones, ones[:, 0])


def _mpii_labels(path: Path, records: list[dict[str, Any]], skeleton: Skeleton) -> PoseFile:
    """Labelled joints in the order of the file's persons; others score 0."""
    _require_mpii(path, skeleton)

    table = Records(path, records, label=lambda row, r: f"record {row} ({r.get('image')})")
    table.texts("image")
    joints = table.numbers("joints", len(FILE_JOINTS), 2, finite=True)
    flags = table.numbers("joints_vis", len(FILE_JOINTS))
    joints, scores = joints[:, FROM_FILE] - 1, (flags[:, FROM_FILE] > 0).astype(np.float64)
    return PoseFile(path, "MPII annotations", joints, scores, np.ones(len(joints)))


def _require_mpii(path: Path, skeleton: Skeleton) -> None:
    if skeleton.name != body.MPII.name:
        raise DataError(
            f"{path}: holds the joints of MPII's files, the dataset has those of skeleton "
            f"{skeleton.name}; choose dataset=mpii, or predictions of {skeleton.name}"
        )


def _persons(path: Path, content: Mapping[str, Any], skeleton: Skeleton) -> PoseFile:
    """What `pnfs evaluate` writes: see `pnfs.data.predictions.write_json`."""
    persons = Records(
        path, content["persons"], "persons", lambda n, r: f"persons: record {n} ({r.get('id')})"
    )
    if not len(persons):
        raise DataError(f"{path}: persons: holds no prediction")
    names = content["joints"]
    names = [str(name) for name in names] if isinstance(names, list) else []
    if sorted(names) != sorted(skeleton.joints):
        raise DataError(
            f"{path}: joints are {', '.join(names)}, not those of skeleton {skeleton.name}: "
            f"{', '.join(skeleton.joints)}"
        )
    if content.get("columns", ["x", "y", "score"]) != ["x", "y", "score"]:
        raise DataError(f"{path}: columns is {content['columns']}, it must be [x, y, score]")
    ids = persons.texts("id")
    persons.require(first_of_each(ids), "its id occurs before")
    table = persons.numbers("keypoints", len(names), 3, finite=True)
    table = table[:, [names.index(joint) for joint in skeleton.joints]]
    scores = table[..., 2]
    return PoseFile(
        path, "persons of pnfs evaluate", table[..., :2], scores, scores.mean(-1), ids=ids
    )


def _results(path: Path, records: list[dict[str, Any]], truth: Annotations | None) -> PoseFile:
    """COCO's results: numbers of images and of the category are those of `truth`."""
    if truth is None:
        raise DataError(
            f"{path}: a list of predictions names images by COCO's image_id, and the dataset's images "
            f"have no such numbers; predictions are {_ACCEPTED}"
        )
    fields = {"keypoints": 3 * len(truth.skeleton)}
    if all("bbox" in record for record in records if record.get("category_id") == truth.category):
        fields["bbox"] = 4
    found = read_results(path, records, truth, fields)
    # A list names no joints: they stand in the order of the annotation file.
    table = found["keypoints"].reshape(-1, len(truth.skeleton), 3)[:, list(truth.order)]
    others = len(records) - len(table)
    return PoseFile(
        path, "COCO results", table[..., :2], table[..., 2], found["score"],
        image_ids=found["image_id"],
        boxes=found.get("bbox"),
        left_out={OTHER_CATEGORY: others} if others else {},
    )  # fmt: skip


def _annotations(
    path: Path, content: Mapping[str, Any], skeleton: Skeleton, truth: Annotations | None
) -> PoseFile:
    """Labelled persons, or those that `pnfs predict` found, which have scores."""
    category = "person" if truth is None else truth.named
    read = read_annotations(content, skeleton, category=category, where=str(path))
    rows = np.flatnonzero(read.usable)
    if not len(rows):
        raise DataError(f"{path}: annotations: no person has a labelled joint")
    persons, joints = [read.records[row] for row in rows.tolist()], read.joints[rows]
    table = Records(path, persons, label=lambda _, person: f"annotation {person['id']}")
    predicted = any("keypoint_scores" in person for person in persons)
    if predicted:
        scores = table.numbers("keypoint_scores", len(skeleton), finite=True)[:, list(read.order)]
    else:
        scores = (read.visibility[rows] > UNLABELLED).astype(np.float64)
        # Joints without label, which files have at 0, 0, move to the middle of the labelled ones: COCO measures
        # all joints of a prediction against the box of a person that it ignores.
        middle = (joints * scores[..., None]).sum(1) / scores.sum(1)[:, None]
        joints = np.where(scores[..., None] > 0, joints, middle[:, None])
    scored = any("score" in person for person in persons)
    person_scores = table.numbers("score", finite=True) if scored else np.ones(len(rows))
    names = {image["id"]: image.get("file_name") for image in read.images}
    crowds, unlabelled = read.crowd.sum(), (~read.usable & ~read.crowd).sum()
    left_out = {**read.left_out, CROWD: int(crowds), NO_JOINTS: int(unlabelled)}
    form = "keypoints of pnfs predict" if predicted else "COCO annotations"
    return PoseFile(
        path, form, joints, scores, person_scores,
        image_ids=read.image_ids[rows],
        image_names={id_: name for id_, name in names.items() if isinstance(name, str)},
        boxes=read.boxes[rows],
        left_out={reason: count for reason, count in left_out.items() if count},
    )  # fmt: skip
