"""Predicted poses from a file, and whose they are: the dataset's persons in order, by id, or by image."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int64

from pnfs import body
from pnfs.body import Skeleton
from pnfs.data.coco_format import OTHER_CATEGORY, Annotations, read_annotations, without_outline
from pnfs.data.datasets.base import PoseDataset
from pnfs.data.datasets.coco import COCO
from pnfs.data.datasets.coco_boxes import image_table, read_results
from pnfs.data.datasets.mpii import FILE_JOINTS, FROM_FILE
from pnfs.data.images import DataError
from pnfs.data.persons import UNLABELLED, first_of_each
from pnfs.data.predictions import COLUMNS, UNMATCHED, Matches, Predictions, matched_by_image
from pnfs.data.readers import Records, finite_rows, read_json, read_mat, require_rows
from pnfs.evaluation import coco_eval
from pnfs.evaluation.coco_eval import oks, similarity_sigmas

LARGEST_FILE = 1 << 30
"""Bytes of a file that is read; COCO's training annotations have a quarter of this."""

SIMILAR = 0.1
"""OKS from which a pose is a labelled person's of COCO where pictures and rates by joint need to know; the
scores themselves compare poses as COCO does."""

_ACCEPTED = (
    "a COCO results file (list of image_id, category_id, keypoints, score), a file of `pnfs predict` or "
    "`pnfs evaluate`, or for MPII pred.mat"
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
    image_names: Mapping[int, str] | None = None
    """Image id -> the image's file name; None where the ids are the dataset's own."""
    left_out: Mapping[str, int] = field(default_factory=dict)
    """Records that are no predicted persons, counted by reason."""

    def __post_init__(self) -> None:
        if not len(self):
            raise DataError(f"{self.path}: holds no prediction")

    def __len__(self) -> int:
        return len(self.joints)


def read_pose_file(path: Path | str, skeleton: Skeleton, truth: Annotations | None = None) -> PoseFile:
    """Reads predictions of a skeleton's joints, in any order where the file names them.

    `truth` are the dataset's annotations, which say what a results file's numbers mean; None for a dataset whose
    images have no numbers. Raises DataError, which names file, record and key, for any other file.
    """
    path = Path(path).expanduser()
    if not path.is_file() or path.stat().st_size > LARGEST_FILE:
        raise DataError(f"{path}: is no file of predictions, or has more than {LARGEST_FILE:,} bytes")
    if path.suffix == ".mat":
        return _pred_mat(path, skeleton)
    match read_json(path, object_hook=without_outline):
        case list() as records:
            return _results(path, records, truth)
        case {"persons": persons, "joints": names, **rest}:
            return _persons(path, persons, names, rest.get("columns", COLUMNS), skeleton)
        case {"annotations": _} as content:
            return _keypoints(path, content, skeleton, truth)
    raise DataError(f"{path}: holds no predictions in a known format; known are {_ACCEPTED}")


def _pred_mat(path: Path, skeleton: Skeleton) -> PoseFile:
    """`preds`, (N, 16, 2): 1-based px, joints in the order of MPII's files (HRNet, and ours)."""
    if skeleton.name != body.MPII.name:
        raise DataError(f"{path}: holds joints of MPII, not of {skeleton.name}; choose dataset=mpii")
    joints = read_mat(path, "preds", (None, len(FILE_JOINTS), 2)).astype(np.float64) - 1.0
    wrong = "preds is not a finite number"
    require_rows(path, finite_rows(joints), lambda row: f"person {row}", wrong)
    ones = np.ones(joints.shape[:2])
    return PoseFile(path, "MPII pred.mat", joints[:, FROM_FILE], ones, ones[:, 0])


def _persons(path: Path, records: object, names: Any, columns: object, skeleton: Skeleton) -> PoseFile:
    """What `pnfs evaluate` writes: see `pnfs.data.predictions.write_json`."""
    persons = Records(path, records, "persons")
    if not isinstance(names, list) or sorted(map(str, names)) != sorted(skeleton.joints):
        raise DataError(
            f"{path}: joints are {names}, not those of skeleton {skeleton.name}: {', '.join(skeleton.joints)}"
        )
    if columns != COLUMNS:
        raise DataError(f"{path}: columns is {columns}, it must be [x, y, score]")
    ids = persons.column("id", str)
    persons.require(first_of_each(ids), "its id occurs before")
    table = persons.numbers("keypoints", len(names), 3)
    table = table[:, [names.index(joint) for joint in skeleton.joints]]
    scores = table[..., 2]
    about = "persons of pnfs evaluate"
    return PoseFile(path, about, table[..., :2], scores, scores.mean(-1), ids=ids)


def _results(path: Path, records: list[Any], truth: Annotations | None) -> PoseFile:
    """COCO's results: numbers of images and of the category are those of `truth`."""
    if truth is None:
        raise DataError(
            f"{path}: a list of predictions names images by COCO's image_id, and the dataset's images "
            f"have no such numbers; predictions are {_ACCEPTED}"
        )
    joints = len(truth.skeleton)
    found, others = read_results(path, records, truth, {"keypoints": 3 * joints})
    # A list names no joints: they stand in the order of the annotation file.
    table = found["keypoints"].reshape(-1, joints, 3)[:, list(truth.order)]
    left_out = {OTHER_CATEGORY: others} if others else {}
    poses = ("COCO results", table[..., :2], table[..., 2], found["score"])
    return PoseFile(path, *poses, image_ids=found["image_id"], left_out=left_out)


def _keypoints(path: Path, content: Mapping[str, Any], skeleton: Skeleton, truth: Annotations | None) -> PoseFile:
    """Persons that `pnfs predict` found: COCO's annotations with scores. Images go by their names."""
    category = "person" if truth is None else truth.named
    read = read_annotations(content, skeleton, category=category, where=str(path))
    rows = np.flatnonzero(read.usable)
    persons = [read.records[row] for row in rows.tolist()]
    table = Records(path, persons, label=lambda _, person: f"annotation {person['id']}")
    scores = table.numbers("keypoint_scores", len(skeleton))[:, list(read.order)]
    poses = ("keypoints of pnfs predict", read.joints[rows], scores, table.numbers("score"))
    names = {image["id"]: str(image.get("file_name")) for image in read.images}
    image_ids = read.image_ids[rows]
    return PoseFile(path, *poses, image_ids=image_ids, image_names=names, left_out=read.left_out)


# --- whose they are


def assign(poses: PoseFile, dataset: PoseDataset, split: str) -> Matches:
    """The labelled persons of a split with their predictions, one row each; nan where the file has none.

    By image, each labelled person gets the pose most similar to its label (OKS), each pose used once. Raises
    DataError for another number of persons, an unknown id, or an unknown image.
    """
    persons, advice = dataset.persons(split), "choose the dataset and the split that were predicted"
    rows = np.arange(len(persons))
    if poses.image_ids is not None:
        rows = _by_image(poses, dataset, split)
    elif isinstance(dataset, COCO):
        raise DataError(
            f"{poses.path}: names no image, and COCO has several persons in one; give a COCO results "
            "file, or keypoints of `pnfs predict`"
        )
    elif poses.ids is not None:
        row_of = {id_: row for row, id_ in enumerate(poses.ids)}
        if unknown := row_of.keys() - set(persons.ids.tolist()):
            raise DataError(
                f"{poses.path}: persons: id {min(unknown)} (and {len(unknown) - 1} more) is not a person of "
                f"{persons.name}; {advice}"
            )
        rows = np.array([row_of.get(id_, UNMATCHED) for id_ in persons.ids.tolist()])
    elif len(poses) != len(persons):
        raise DataError(
            f"{poses.path}: holds {len(poses)} persons in order, {persons.name} has {len(persons)}; {advice}"
        )
    found = rows != UNMATCHED
    locations = np.where(found[:, None, None], poses.joints[rows], np.nan).astype(np.float32)
    scores = np.where(found[:, None], poses.scores[rows], 0).astype(np.float32)
    matched = np.where(found, np.arange(len(persons)), UNMATCHED)
    return Matches(persons, Predictions(locations, scores), matched)


def coco_scores(poses: PoseFile, dataset: COCO, split: str) -> dict[str, float]:
    """COCO's ten scores of the poses as they stand, and AP and AR over visible and over occluded joints."""
    truth = dataset.annotations(split)
    images = _images_of(poses, _coco_names(dataset, split), f"{dataset.name} {split}")
    found = coco_eval.DetectedPoses(images, poses.joints, poses.person_scores)
    scores = coco_eval.evaluate_detections(found, truth, dataset.sigmas)
    return scores | coco_eval.evaluate_by_visibility(found, truth, dataset.sigmas)


def _coco_names(dataset: COCO, split: str) -> dict[int, str]:
    return {number: name for number, (name, _) in image_table(dataset.annotations(split)).items()}


def _by_image(poses: PoseFile, dataset: PoseDataset, split: str) -> Int64[np.ndarray, " M"]:
    """Row of each labelled person's pose in its image, or UNMATCHED."""
    labels = dataset.persons(split)
    sigmas, labelled = similarity_sigmas(labels.skeleton), labels.visibility > UNLABELLED
    if isinstance(dataset, COCO):
        names, label_images = _coco_names(dataset, split), dataset.labelled(split).image_ids
        areas, threshold = labels.reference_length.astype(np.float64) ** 2, SIMILAR
    else:
        label_images, threshold = labels.image_index, 0.0
        names = {int(i): labels.images.describe(int(i)) for i in np.unique(label_images)}
        areas = labels.box_size.astype(np.float64).prod(-1)

    def similarity(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
        offset = labels.joints[ours].astype(np.float64)[:, None] - poses.joints[theirs]
        return oks((offset**2).sum(-1), areas[ours][:, None], sigmas, labelled[ours][:, None])

    images = _images_of(poses, names, labels.name)
    return matched_by_image(label_images, images, similarity, threshold)


def _images_of(poses: PoseFile, names: Mapping[int, str], where: str) -> Int64[np.ndarray, " N"]:
    """The dataset's image, of number -> file name, of each predicted person, by the last part of the names."""
    assert poses.image_ids is not None
    if poses.image_names is None:
        return poses.image_ids
    by_name: dict[str, list[int]] = defaultdict(list)
    for number, name in names.items():
        by_name[_base(name)].append(number)
    found: dict[int, int] = {}
    for image_id in np.unique(poses.image_ids).tolist():
        name = poses.image_names[image_id]
        same = by_name[_base(name)]
        if len(same) != 1:
            problem = "has the name of several of" if same else "is not among"
            raise DataError(f"{poses.path}: image {name} {problem} the images of {where}")
        (found[image_id],) = same
    return np.array([found[image_id] for image_id in poses.image_ids.tolist()], np.int64)


def _base(name: str) -> str:
    return name.replace("\\", "/").rsplit("/", 1)[-1]
