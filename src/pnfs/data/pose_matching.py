"""Whose the predicted poses of a file are: the dataset's persons in order, by id, or by image."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float, Float32, Int64

from pnfs.data.datasets.base import PoseDataset
from pnfs.data.datasets.coco import COCO
from pnfs.data.datasets.coco_boxes import image_table, persons_in
from pnfs.data.images import DataError
from pnfs.data.persons import UNLABELLED, Persons
from pnfs.data.pose_files import PoseFile
from pnfs.data.predictions import UNMATCHED, Matches, Predictions, matched_by_image
from pnfs.evaluation import coco_eval
from pnfs.evaluation.average_precision import OKSAveragePrecision
from pnfs.evaluation.oks import oks, similarity_sigmas

SIMILAR = 0.1
"""OKS from which a detected pose is a labelled person's where pictures and rates by joint need to know; the
scores themselves compare poses as COCO does."""


def assign(poses: PoseFile, persons: Persons) -> Matches:
    """A split's persons with their predictions, one row each; nan where the file has none.

    By image, each labelled person gets the pose most similar to its label (OKS), each pose used
    once.

    Raises:
        DataError: Another number of persons, an unknown id, or an unknown image.
    """
    advice = "choose the dataset and the split that were predicted"
    rows = np.arange(len(persons))
    if poses.image_ids is not None:
        names = {int(i): persons.images.describe(int(i)) for i in np.unique(persons.image_index)}
        images = images_of(poses, names, persons.name, numbered=False)
        areas = persons.box_size.astype(np.float64).prod(-1)
        rows = _most_similar(persons, persons.image_index, areas, poses.joints, images, 0.0)
    elif poses.ids is not None:
        row_of = {id_: row for row, id_ in enumerate(persons.ids.tolist())}
        unknown = [id_ for id_ in poses.ids if id_ not in row_of]
        if unknown:
            raise DataError(
                f"{poses.path}: persons: id {unknown[0]} (and {len(unknown) - 1} more) is not a person of "
                f"{persons.name}; {advice}"
            )
        rows = np.full(len(persons), UNMATCHED, np.int64)
        rows[[row_of[id_] for id_ in poses.ids]] = np.arange(len(poses))
    elif len(poses) != len(persons):
        raise DataError(
            f"{poses.path}: holds {len(poses)} persons in order, {persons.name} has {len(persons)}; {advice}"
        )
    found = rows != UNMATCHED
    locations = np.where(found[:, None, None], poses.joints[rows], np.nan).astype(np.float32)
    scores = np.where(found[:, None], poses.scores[rows], 0).astype(np.float32)
    matched = np.where(found, np.arange(len(persons)), UNMATCHED)
    return Matches(persons, Predictions(locations, scores), matched)


def _most_similar(
    labels: Persons,
    label_images: Int64[np.ndarray, " M"],
    areas: Float[np.ndarray, " M"],
    joints: Float[np.ndarray, "N K 2"],
    images: Int64[np.ndarray, " N"],
    threshold: float,
) -> Int64[np.ndarray, " M"]:
    """Row of each labelled person's pose in its image, or UNMATCHED."""
    sigmas, labelled = similarity_sigmas(labels.skeleton), labels.visibility > UNLABELLED

    def similarity(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
        offset = labels.joints[ours].astype(np.float64)[:, None] - joints[theirs]
        return oks((offset**2).sum(-1), areas[ours][:, None], sigmas, labelled[ours][:, None])

    return matched_by_image(label_images, images, similarity, threshold)


class PosesAsDetections(PoseDataset):
    """COCO whose persons are the poses of a file: scored as they stand, no pose ranked or dropped.

    Raises:
        DataError: The poses have no `image_ids`, or one that the split does not have.
    """

    def __init__(self, dataset: COCO, split: str, poses: PoseFile) -> None:
        if poses.image_ids is None:
            raise DataError(
                f"{poses.path}: names no image, and COCO has several persons in one; give a COCO results "
                "file, an annotation file, or keypoints of `pnfs predict`"
            )
        super().__init__()
        self.name, self.splits = dataset.name, dataset.splits
        # A detector's boxes have no part in it.
        self.dataset = dataset.in_labelled_boxes()
        self.skeleton, self.poses = dataset.skeleton, poses
        self.truth = dataset.annotations(split)
        names = {number: name for number, (name, _) in image_table(self.truth).items()}
        self.image_ids = images_of(poses, names, f"{self.name} {split}", numbered=True)
        # Boxes around the joints that score; around all where none does.
        counts = poses.scores > 0
        counts = (counts | ~counts.any(-1, keepdims=True))[..., None]
        low = np.where(counts, poses.joints, np.inf).min(1)
        high = np.where(counts, poses.joints, -np.inf).max(1)
        boxes = np.concatenate([low, np.maximum(high - low, 1)], -1)
        if poses.boxes is not None:
            given = (poses.boxes[:, 2:] > 0).all(-1, keepdims=True)
            boxes = np.where(given, poses.boxes, boxes)
        name = f"{self.name} {split}, poses of {poses.path.name}"
        self.found = persons_in(dataset, split, self.image_ids, boxes, name)
        self.predictions = Predictions(
            poses.joints.astype(np.float32), poses.scores.astype(np.float32)
        )

    def load(self, split: str) -> Persons:
        """The poses of the file, without labels."""
        return self.found

    def metric(self, split: str) -> OKSAveragePrecision:
        """Whose rule tells when a joint counts as right."""
        return self.dataset.metric(split)

    def scores(self, split: str) -> dict[str, float]:
        """COCO's ten scores, and AP and AR over visible and over occluded joints."""
        poses = coco_eval.DetectedPoses(self.image_ids, self.poses.joints, self.poses.person_scores)
        sigmas = similarity_sigmas(self.skeleton)
        found = coco_eval.evaluate_detections(poses, self.truth, sigmas)
        return found | coco_eval.evaluate_by_visibility(poses, self.truth, sigmas)

    def box_scores(self, split: str) -> Float32[np.ndarray, " N"]:
        """The file's score of each person."""
        return self.poses.person_scores.astype(np.float32)

    def in_labelled_boxes(self) -> COCO:
        """The dataset without the file."""
        return self.dataset

    def matches(self, split: str, predictions: Predictions) -> Matches:
        """Labelled persons with the pose most similar to each, at least `SIMILAR`."""
        found = self.dataset.labelled(split)
        labels, areas = found.persons, found.persons.reference_length.astype(np.float64) ** 2
        rows = _most_similar(
            labels, found.image_ids, areas, self.poses.joints, self.image_ids, SIMILAR
        )
        return Matches(labels, predictions, rows)


def images_of(
    poses: PoseFile, names: Mapping[int, str], where: str, numbered: bool
) -> Int64[np.ndarray, " N"]:
    """The dataset's image of each predicted person.

    Args:
        poses: With `image_ids`.
        names: The dataset's images: number -> file name.
        where: The dataset, for messages.
        numbered: Whether the file's numbers may be the dataset's, as in COCO. A number whose file
            name says otherwise is not taken: `pnfs predict` counts pictures where none are given.

    Raises:
        DataError: An image that the dataset does not have, or two of that name.
    """
    assert poses.image_ids is not None
    by_name: dict[str, list[int]] = {}
    for number, name in names.items():
        by_name.setdefault(_base(name), []).append(number)
    found: dict[int, int] = {}
    for image_id in np.unique(poses.image_ids).tolist():
        name = poses.image_names.get(image_id)
        if (
            numbered
            and image_id in names
            and (name is None or _base(name) == _base(names[image_id]))
        ):
            found[image_id] = image_id
            continue
        candidates = by_name.get(_base(name), []) if name is not None else []
        exact = [number for number in candidates if names[number] == name]
        candidates = exact if len(exact) == 1 else candidates
        if len(candidates) != 1:
            problem = "is not among" if not candidates else "has the name of several of"
            raise DataError(
                f"{poses.path}: image {image_id} ({name}) {problem} the images of {where}"
            )
        found[image_id] = candidates[0]
    return np.array([found[image_id] for image_id in poses.image_ids.tolist()], np.int64)


def _base(name: str) -> str:
    return name.replace("\\", "/").rsplit("/", 1)[-1]
