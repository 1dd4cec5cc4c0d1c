"""Do MPII's validation labels agree with the file that its evaluation reads?"""

from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float
from scipy.optimize import linear_sum_assignment

from pnfs.data.findings import Finding, finding_of_error, some
from pnfs.data.mpii import FILE_JOINTS
from pnfs.data.persons import UNLABELLED, DataError, Persons
from pnfs.data.readers import read_mat

_ONE_SOURCE = "Take train.json, valid.json and gt_valid.mat from one source, unchanged."
_CHECK = "annotation files"


def check_mpii_truth(persons: Persons, path: Path) -> list[Finding]:
    """Compares the labels of MPII's valid.json with those of gt_valid.mat, person by person.

    The evaluation's file is the one place that knows where the joints are in 1-based pixels and
    MPII's own order, so that a shift or another order shows without any statistics.

    Args:
        persons: As `MPII.persons("val")` reads them.
        path: gt_valid.mat.
    """
    try:
        truth = _per_person(read_mat(path, "pos_gt_src"), len(persons), (16, 2))
        missing = _per_person(read_mat(path, "jnt_missing"), len(persons), (16,)) != 0
        boxes = _per_person(read_mat(path, "headboxes_src"), len(persons), (2, 2))
    except DataError as error:
        return [finding_of_error(error, _CHECK, str(path))]
    columns = persons.skeleton.indices(list(FILE_JOINTS))
    # Back to what the file holds: 1-based pixels in the file's order.
    joints = persons.joints[:, columns].astype(np.float64) + 1
    labelled = persons.visibility[:, columns] > UNLABELLED
    findings = _compare_positions(persons, path, joints, truth, labelled & ~missing)
    if any(finding.severity == "error" for finding in findings):
        # Flags and head boxes would only repeat that the files do not belong together.
        return findings
    findings += _compare_flags(persons, path, labelled, ~missing)
    return findings + _compare_heads(persons, path, joints, labelled, boxes)


def _per_person(
    array: np.ndarray, persons: int, shape: tuple[int, ...]
) -> Float[np.ndarray, "N ..."]:
    """(*shape, N) as (N, *shape); MATLAB drops the last axis of an array that holds one person."""
    array = np.asarray(array, np.float64)
    array = array[..., None] if array.shape == shape else array
    if array.shape != (*shape, persons):
        raise DataError(
            f"gt_valid.mat holds an array of shape {array.shape} for {persons} persons in "
            f"valid.json, it must have {(*shape, persons)}\n{_ONE_SOURCE}"
        )
    return np.moveaxis(array, -1, 0)


def _compare_positions(
    persons: Persons,
    path: Path,
    joints: Float[np.ndarray, "N 16 2"],
    truth: Float[np.ndarray, "N 16 2"],
    both: Bool[np.ndarray, "N 16"],
) -> list[Finding]:
    if not both.any():
        return []
    difference = joints - truth
    shift = np.median(difference[both], axis=0)
    agree = np.abs(difference - shift).max(-1) < 1
    if agree[both].mean() < 0.9:
        return [_disagreement(persons, path, joints, truth, both)]
    if np.abs(shift).max() >= 0.5:
        zero_based = np.abs(shift + 1).max() < 0.25
        meaning = ": its pixels are 0-based, MPII's are 1-based" if zero_based else ""
        return [
            Finding(
                "error",
                "pixel base",
                "annot/valid.json",
                f"its joints lie ({shift[0]:+.1f}, {shift[1]:+.1f}) px beside those of "
                f"{path.name}{meaning}",
                "Use MPII's annotation files as they are published (add 1 to every coordinate); "
                "train.json was probably changed in the same way.",
            )
        ]
    rows, columns = np.nonzero(both & ~agree)
    if not len(rows):
        return []
    names = [f"{persons.ids[n]} {FILE_JOINTS[k]}" for n, k in zip(rows, columns, strict=True)]
    return [
        Finding(
            "warning",
            _CHECK,
            "annot/valid.json",
            f"{len(rows):,} joints lie more than a pixel from those of {path.name}: {some(names)}",
            _ONE_SOURCE,
            tuple(names),
        )
    ]


def _disagreement(
    persons: Persons,
    path: Path,
    joints: Float[np.ndarray, "N 16 2"],
    truth: Float[np.ndarray, "N 16 2"],
    both: Bool[np.ndarray, "N 16"],
) -> Finding:
    """Another joint order, or other persons."""
    known = both.all(-1) if both.all(-1).any() else both.any(-1)
    between = np.linalg.norm(joints[known][:, :, None] - truth[known][:, None], axis=-1)
    cost = np.median(between, axis=0)
    order = linear_sum_assignment(cost)[1]
    found = cost[np.arange(len(order)), order]
    moved = [
        f"{FILE_JOINTS[k]} holds {FILE_JOINTS[order[k]]}"
        for k in range(len(order))
        if order[k] != k
    ]
    # A pixel or two of shift do not hide another order.
    if moved and np.median(found) < 3:
        return Finding(
            "error",
            "joint order",
            "annot/valid.json",
            f"its joints stand in another order than those of {path.name}: {some(moved, 4)}",
            "MPII's files begin with the right ankle and end with the left wrist. Use the original "
            "annotation files; train.json was probably changed in the same way.",
            tuple(moved),
        )
    off = np.linalg.norm(joints - truth, axis=-1)
    wrong = np.flatnonzero(np.where(both, off, 0).max(-1) > 5)
    names = persons.ids[wrong].tolist()
    return Finding(
        "error",
        _CHECK,
        "annot/valid.json",
        f"{len(wrong):,} of {len(persons):,} persons have their joints elsewhere than in "
        f"{path.name}: {some(names)}; the files describe other persons, or in another order",
        _ONE_SOURCE,
        tuple(names),
    )


def _compare_flags(
    persons: Persons,
    path: Path,
    labelled: Bool[np.ndarray, "N 16"],
    known: Bool[np.ndarray, "N 16"],
) -> list[Finding]:
    rows, columns = np.nonzero(labelled != known)
    if not len(rows):
        return []
    share = len(rows) / labelled.size
    names = [f"{persons.ids[n]} {FILE_JOINTS[k]}" for n, k in zip(rows, columns, strict=True)]
    return [
        Finding(
            "warning" if share > 0.02 else "note",
            _CHECK,
            "annot/valid.json",
            f"{len(rows):,} joints ({share:.1%}) are labelled in one of valid.json and {path.name} "
            f"only: {some(names)}",
            _ONE_SOURCE + " Scores of this suite count what valid.json labels.",
            tuple(names),
        )
    ]


def _compare_heads(
    persons: Persons,
    path: Path,
    joints: Float[np.ndarray, "N 16 2"],
    labelled: Bool[np.ndarray, "N 16"],
    boxes: Float[np.ndarray, "N 2 2"],
) -> list[Finding]:
    """Head boxes that do not lie around the head."""
    ends = [FILE_JOINTS.index(name) for name in ("head_top", "upper_neck")]
    # (person, corner, x or y)
    head, center = joints[:, ends].mean(1), boxes.mean(1)
    diagonal = np.linalg.norm(boxes[:, 1] - boxes[:, 0], axis=-1)
    away = labelled[:, ends].all(-1) & (np.linalg.norm(head - center, axis=-1) > diagonal)
    rows = np.flatnonzero(away)
    if not len(rows):
        return []
    share = len(rows) / len(persons)
    names = persons.ids[rows].tolist()
    return [
        Finding(
            "error" if share > 0.2 else "note",
            "head boxes",
            str(path),
            f"{len(rows):,} persons ({share:.1%}) have their head box away from the head: "
            f"{some(names)}",
            "PCKh would divide by another person's head size. " + _ONE_SOURCE,
            tuple(names),
        )
    ]
