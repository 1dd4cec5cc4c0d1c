"""Predicted poses from a file, and whose they are: the dataset's persons in order, by id, or by image."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int64

from pnfs import body
from pnfs.data.coco_format import read_annotations, read_results, without_outline
from pnfs.data.datasets.base import PoseDataset
from pnfs.data.datasets.coco import COCO
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
    image_ids: Int64[np.ndarray, " N"] | None = None  # Numbers of the dataset's images.
    left_out: Mapping[str, int] = field(default_factory=dict)
    """Records that are no predicted persons, counted by reason."""

    def __post_init__(self) -> None:
        if not len(self):
            raise DataError(f"{self.path}: holds no prediction")

    def __len__(self) -> int:
        return len(self.joints)


def read_pose_file(path: Path | str, dataset: PoseDataset, split: str) -> PoseFile:
    """Reads predictions of a split, joints in any order where the file names them.

    Raises DataError, which names file, record and key, for any other file.
    """
    path = Path(path).expanduser()
    if not path.is_file() or path.stat().st_size > LARGEST_FILE:
        raise DataError(f"{path}: is no file of predictions, or has more than {LARGEST_FILE:,} bytes")
    if path.suffix == ".mat":
        return _pred_mat(path, dataset)
    match read_json(path, object_hook=without_outline):
        case list() as records if isinstance(dataset, COCO):
            return _results(path, records, dataset, split)
        case {"persons": persons, "joints": names, "columns": columns} if columns == COLUMNS:
            return _persons(path, persons, names, dataset)
        case {"annotations": _} as content:
            return _keypoints(path, content, dataset, split)
    raise DataError(
        f"{path}: holds no predictions in a known format: a file of `pnfs predict` or `pnfs evaluate`, for COCO a "
        "results file (list of image_id, category_id, keypoints, score), for MPII pred.mat"
    )


def _pred_mat(path: Path, dataset: PoseDataset) -> PoseFile:
    """`preds`, (N, 16, 2): 1-based px, joints in the order of MPII's files (HRNet, and ours)."""
    if dataset.skeleton.name != body.MPII.name:
        raise DataError(f"{path}: holds joints of MPII, not of {dataset.skeleton.name}; choose dataset=mpii")
    joints = read_mat(path, "preds", (None, len(FILE_JOINTS), 2)).astype(np.float64) - 1.0
    require_rows(path, finite_rows(joints), lambda row: f"person {row}", "preds is not a finite number")
    ones = np.ones(joints.shape[:2])
    return PoseFile(path, "MPII pred.mat", joints[:, FROM_FILE], ones, ones[:, 0])


def _persons(path: Path, records: object, names: Any, dataset: PoseDataset) -> PoseFile:
    """What `pnfs evaluate` writes: see `pnfs.data.predictions.write_json`."""
    persons, joints = Records(path, records, "persons"), dataset.skeleton.joints
    if not isinstance(names, list) or sorted(map(str, names)) != sorted(joints):
        raise DataError(f"{path}: joints are {names}, not {', '.join(joints)}")
    ids = persons.column("id", str)
    persons.require(first_of_each(ids), "its id occurs before")
    table = persons.numbers("keypoints", len(names), 3)[:, [names.index(joint) for joint in joints]]
    scores = table[..., 2]
    return PoseFile(path, "persons of pnfs evaluate", table[..., :2], scores, scores.mean(-1), ids)


def _results(path: Path, records: list[Any], dataset: COCO, split: str) -> PoseFile:
    """COCO's results: numbers of images and of the category are those of the annotation file."""
    truth, joints = dataset.annotations(split), len(dataset.skeleton)
    found, left_out = read_results(path, records, truth, {"keypoints": 3 * joints})
    # A list names no joints: they stand in the order of the annotation file.
    table = found["keypoints"].reshape(-1, joints, 3)[:, list(truth.order)]
    poses = (table[..., :2], table[..., 2], found["score"])
    return PoseFile(path, "COCO results", *poses, image_ids=found["image_id"], left_out=left_out)


def _keypoints(path: Path, content: Mapping[str, Any], dataset: PoseDataset, split: str) -> PoseFile:
    """What `pnfs predict` writes, COCO's annotations with scores; images go by the last part of their names."""
    category = dataset.category if isinstance(dataset, COCO) else "person"
    read = read_annotations(content, dataset.skeleton, category=category, where=str(path))
    rows = np.flatnonzero(read.usable)
    persons = [read.records[row] for row in rows.tolist()]
    table = Records(path, persons, label=lambda _, person: f"annotation {person['id']}")
    scores = table.numbers("keypoint_scores", len(dataset.skeleton))[:, list(read.order)]
    names = {_base(name): number for number, name in dataset.image_names(split).items()}
    several = Counter(map(_base, dataset.image_names(split).values()))
    theirs = {image["id"]: _base(str(image.get("file_name"))) for image in read.images}
    for name in {theirs[image] for image in read.image_ids[rows].tolist()}:
        if several[name] != 1:
            raise DataError(f"{path}: image {name} is {several[name]} of the images of {dataset.name} {split}")
    numbers = np.array([names[theirs[image]] for image in read.image_ids[rows].tolist()], np.int64)
    poses = (read.joints[rows], scores, table.numbers("score"))
    return PoseFile(path, "keypoints of pnfs predict", *poses, image_ids=numbers, left_out=read.left_out)


def _base(name: str) -> str:
    return name.replace("\\", "/").rsplit("/", 1)[-1]


def assign(poses: PoseFile, dataset: PoseDataset, split: str) -> Matches:
    """The labelled persons of a split with their predictions, one row each; nan where the file has none.

    By image, each labelled person gets the pose most similar to its label (OKS), each pose used once. Raises
    DataError for another number of persons, or an unknown id.
    """
    persons, advice = dataset.persons(split), "choose the dataset and the split that were predicted"
    rows = np.arange(len(persons))
    if poses.image_ids is not None:
        rows = _by_image(poses, poses.image_ids, dataset, split)
    elif isinstance(dataset, COCO):
        raise DataError(f"{poses.path}: names no image, and COCO has several persons in one; give a results file")
    elif poses.ids is not None:
        row_of = {id_: row for row, id_ in enumerate(poses.ids)}
        if unknown := row_of.keys() - set(persons.ids.tolist()):
            raise DataError(f"{poses.path}: persons: id {min(unknown)} is no person of {persons.name}; {advice}")
        rows = np.array([row_of.get(id_, UNMATCHED) for id_ in persons.ids.tolist()])
    elif len(poses) != len(persons):
        raise DataError(f"{poses.path}: holds {len(poses)} persons, {persons.name} {len(persons)}; {advice}")
    found = rows != UNMATCHED
    locations = np.where(found[:, None, None], poses.joints[rows], np.nan).astype(np.float32)
    scores = np.where(found[:, None], poses.scores[rows], 0).astype(np.float32)
    matched = np.where(found, np.arange(len(persons)), UNMATCHED)
    return Matches(persons, Predictions(locations, scores), matched)


def coco_scores(poses: PoseFile, dataset: COCO, split: str) -> dict[str, float]:
    """COCO's ten scores of the poses as they stand."""
    truth = dataset.annotations(split)
    assert poses.image_ids is not None
    found = coco_eval.DetectedPoses(poses.image_ids, poses.joints, poses.person_scores)
    return coco_eval.evaluate_detections(found, truth, dataset.sigmas)


def _by_image(poses: PoseFile, images: np.ndarray, dataset: PoseDataset, split: str) -> Int64[np.ndarray, " M"]:
    """Row of each labelled person's pose in its image, or UNMATCHED."""
    labels, threshold = dataset.persons(split), 0.0
    sigmas, labelled = similarity_sigmas(labels.skeleton), labels.visibility > UNLABELLED
    areas = labels.box_size.astype(np.float64).prod(-1)
    if isinstance(dataset, COCO):
        areas, threshold = labels.reference_length.astype(np.float64) ** 2, SIMILAR

    def similarity(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
        offset = labels.joints[ours].astype(np.float64)[:, None] - poses.joints[theirs]
        return oks((offset**2).sum(-1), areas[ours][:, None], sigmas, labelled[ours][:, None])

    return matched_by_image(dataset.image_numbers(split), images, similarity, threshold)
