"""Do MPII's validation labels agree with the file that its evaluation reads?"""

from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float
from scipy.optimize import linear_sum_assignment

from pnfs.data.check.findings import (
    ADVICE,
    Finding,
    by_share,
    finding_of_error,
    found,
    found_in,
)
from pnfs.data.mpii import FILE_JOINTS
from pnfs.data.persons import UNLABELLED, DataError, Persons
from pnfs.data.readers import read_mat

_CHECK = "annotation files"
_LABELS = "annot/valid.json"
_AS_PUBLISHED = "; train.json was probably changed in the same way."


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
            f"valid.json, it must have {(*shape, persons)}\n{ADVICE[_CHECK]}"
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
        return _disagreement(persons, path, joints, truth, both)
    if np.abs(shift).max() >= 0.5:
        zero_based = np.abs(shift + 1).max() < 0.25
        meaning = ": its pixels are 0-based, MPII's are 1-based" if zero_based else ""
        problem = f"its joints lie ({shift[0]:+.1f}, {shift[1]:+.1f}) px beside those of {path.name}{meaning}"
        advice = "Use MPII's annotation files as they are published (add 1 to every coordinate)"
        return found("error", "pixel base", _LABELS, problem, advice + _AS_PUBLISHED)
    names = _joint_names(persons, both & ~agree)
    problem = f"{len(names):,} joints lie more than a pixel from those of {path.name}"
    return found_in(names, "warning", _CHECK, _LABELS, problem)


def _joint_names(persons: Persons, chosen: Bool[np.ndarray, "N 16"]) -> list[str]:
    return [f"{persons.ids[n]} {FILE_JOINTS[k]}" for n, k in np.argwhere(chosen)]


def _disagreement(
    persons: Persons,
    path: Path,
    joints: Float[np.ndarray, "N 16 2"],
    truth: Float[np.ndarray, "N 16 2"],
    both: Bool[np.ndarray, "N 16"],
) -> list[Finding]:
    """Another joint order, or other persons."""
    known = both.all(-1) if both.all(-1).any() else both.any(-1)
    between = np.linalg.norm(joints[known][:, :, None] - truth[known][:, None], axis=-1)
    cost = np.median(between, axis=0)
    order = linear_sum_assignment(cost)[1]
    moved = [
        f"{FILE_JOINTS[k]} holds {FILE_JOINTS[j]}" for k, j in enumerate(order.tolist()) if j != k
    ]
    # A pixel or two of shift do not hide another order.
    if moved and np.median(cost[np.arange(len(order)), order]) < 3:
        problem = f"its joints stand in another order than those of {path.name}"
        advice = (
            "MPII's files begin with the right ankle and end with the left wrist. Use the original "
            "annotation files"
        )
        return found_in(
            moved, "error", "joint order", _LABELS, problem, advice + _AS_PUBLISHED, shown=4
        )
    off = np.linalg.norm(joints - truth, axis=-1)
    names = persons.ids[np.where(both, off, 0).max(-1) > 5].tolist()
    problem = (
        f"the file describes other persons than {path.name}, or in another order; {len(names):,} of "
        f"{len(persons):,} persons have their joints elsewhere"
    )
    return found_in(names, "error", _CHECK, _LABELS, problem)


def _compare_flags(
    persons: Persons,
    path: Path,
    labelled: Bool[np.ndarray, "N 16"],
    known: Bool[np.ndarray, "N 16"],
) -> list[Finding]:
    names = _joint_names(persons, labelled != known)
    share = len(names) / max(labelled.size, 1)
    problem = f"{len(names):,} joints ({share:.1%}) are labelled in one of valid.json and {path.name} only"
    advice = f"{ADVICE[_CHECK]} Scores of this suite count what valid.json labels."
    return found_in(names, by_share(share, error=1), _CHECK, _LABELS, problem, advice)


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
    names = persons.ids[away].tolist()
    share = len(names) / max(len(persons), 1)
    problem = f"{len(names):,} persons ({share:.1%}) have their head box away from the head"
    return found_in(names, by_share(share, warning=0.2), "head boxes", path, problem)
