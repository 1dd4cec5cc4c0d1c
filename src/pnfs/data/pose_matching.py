"""Whose the predicted poses of a file are: the dataset's persons in order, by id, or by image."""

from collections import defaultdict
from collections.abc import Mapping

import numpy as np
from jaxtyping import Int64

from pnfs.data.datasets.base import PoseDataset
from pnfs.data.datasets.coco import COCO
from pnfs.data.datasets.coco_boxes import image_table
from pnfs.data.images import DataError
from pnfs.data.persons import UNLABELLED
from pnfs.data.pose_files import PoseFile
from pnfs.data.predictions import UNMATCHED, Matches, Predictions, matched_by_image
from pnfs.evaluation import coco_eval
from pnfs.evaluation.coco_eval import oks, similarity_sigmas

SIMILAR = 0.1
"""OKS from which a pose is a labelled person's of COCO where pictures and rates by joint need to know; the
scores themselves compare poses as COCO does."""


def assign(poses: PoseFile, dataset: PoseDataset, split: str) -> Matches:
    """The labelled persons of a split with their predictions, one row each; nan where the file has none.

    By image, each labelled person gets the pose most similar to its label (OKS), each pose used
    once.

    Raises:
        DataError: Another number of persons, an unknown id, or an unknown image.
    """
    persons, advice = dataset.persons(split), "choose the dataset and the split that were predicted"
    rows = np.arange(len(persons))
    if poses.image_ids is not None:
        rows = _by_image(poses, dataset, split)
    elif isinstance(dataset, COCO):
        raise DataError(
            f"{poses.path}: names no image, and COCO has several persons in one; give a COCO results "
            "file, an annotation file, or keypoints of `pnfs predict`"
        )
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


def coco_scores(poses: PoseFile, dataset: COCO, split: str) -> dict[str, float]:
    """COCO's ten scores of the poses as they stand, and AP and AR over visible and over occluded joints."""
    images = _images_of(
        poses, _coco_names(dataset, split), f"{dataset.name} {split}", numbered=True
    )
    found = coco_eval.DetectedPoses(images, poses.joints, poses.person_scores)
    truth, sigmas = dataset.annotations(split), similarity_sigmas(dataset.skeleton)
    scores = coco_eval.evaluate_detections(found, truth, sigmas)
    return scores | coco_eval.evaluate_by_visibility(found, truth, sigmas)


def _coco_names(dataset: COCO, split: str) -> dict[int, str]:
    return {number: name for number, (name, _) in image_table(dataset.annotations(split)).items()}


def _by_image(poses: PoseFile, dataset: PoseDataset, split: str) -> Int64[np.ndarray, " M"]:
    """Row of each labelled person's pose in its image, or UNMATCHED."""
    labels = dataset.persons(split)
    sigmas, labelled = similarity_sigmas(labels.skeleton), labels.visibility > UNLABELLED
    if numbered := isinstance(dataset, COCO):
        names, label_images = _coco_names(dataset, split), dataset.labelled(split).image_ids
        areas, threshold = labels.reference_length.astype(np.float64) ** 2, SIMILAR
    else:
        label_images, threshold = labels.image_index, 0.0
        names = {int(i): labels.images.describe(int(i)) for i in np.unique(label_images)}
        areas = labels.box_size.astype(np.float64).prod(-1)

    def similarity(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
        offset = labels.joints[ours].astype(np.float64)[:, None] - poses.joints[theirs]
        return oks((offset**2).sum(-1), areas[ours][:, None], sigmas, labelled[ours][:, None])

    images = _images_of(poses, names, labels.name, numbered)
    return matched_by_image(label_images, images, similarity, threshold)


def _images_of(
    poses: PoseFile, names: Mapping[int, str], where: str, numbered: bool
) -> Int64[np.ndarray, " N"]:
    """The dataset's image, of number -> file name, of each predicted person.

    `numbered` says that the file's numbers may be the dataset's, as in COCO. A number whose file name says
    otherwise is not taken: `pnfs predict` counts pictures where no numbers are given.
    """
    assert poses.image_ids is not None
    by_name: dict[str, list[int]] = defaultdict(list)
    for number, name in names.items():
        by_name[_base(name)].append(number)
    found: dict[int, int] = {}
    for image_id in np.unique(poses.image_ids).tolist():
        name = poses.image_names.get(image_id)
        candidates = by_name[_base(name)] if name is not None else []
        exact = [number for number in candidates if names[number] == name]
        candidates = exact if len(exact) == 1 else candidates
        if numbered and image_id in names and (name is None or image_id in by_name[_base(name)]):
            candidates = [image_id]
        if len(candidates) != 1:
            problem = "is not among" if not candidates else "has the name of several of"
            raise DataError(
                f"{poses.path}: image {image_id} ({name}) {problem} the images of {where}"
            )
        found[image_id] = candidates[0]
    return np.array([found[image_id] for image_id in poses.image_ids.tolist()], np.int64)


def _base(name: str) -> str:
    return name.replace("\\", "/").rsplit("/", 1)[-1]
