"""Percentage of correct keypoints: PCKh (MPII) and PCK (LSP); and where predictions are wrong."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int64, Integer

from pnfs.body import Skeleton
from pnfs.errors import PnfsError
from pnfs.evaluation.person_metric import Columns, Criterion, PersonMetric


def head_size(headbox: Float[np.ndarray, "*N 2 2"]) -> Float[np.ndarray, "*N"]:
    """Reference length of PCKh, in pixels: 0.6 times the diagonal of the head box (two opposite corners)."""
    return 0.6 * np.linalg.norm(headbox[..., 1, :] - headbox[..., 0, :], axis=-1)


def torso_size(
    joints: Float[np.ndarray, "*N K 2"], visibility: Integer[np.ndarray, "*N K"], skeleton: Skeleton
) -> Float[np.ndarray, "*N"]:
    """Reference length of PCK, in pixels: the longer of left shoulder – right hip and right shoulder – left hip.

    nan for persons of whom one of these joints is unlabelled, so that they are left out of the score.
    """
    ends = skeleton.indices(["left_shoulder", "right_hip", "right_shoulder", "left_hip"])
    corners = joints[..., ends, :]
    diagonals = np.linalg.norm(corners[..., ::2, :] - corners[..., 1::2, :], axis=-1)
    known = (visibility[..., ends] > 0).all(-1)
    return np.where(known, diagonals.max(-1), np.nan)


def relative_errors(
    predicted: Float[np.ndarray, "N K 2"],
    joints: Float[np.ndarray, "N K 2"],
    labelled: Bool[np.ndarray, "N K"],
    reference_length: Float[np.ndarray, " N"],
) -> Float[np.ndarray, "N K"]:
    """Distance of each joint from its label over the person's reference length, all in image pixels.

    inf where the prediction is not finite; nan where nothing is scored: joints that are not `labelled`, and
    persons whose reference length is nan or not positive.
    """
    # In double precision an error that equals the threshold stays equal to it.
    distance = np.linalg.norm(predicted.astype(np.float64) - joints, axis=-1)
    length = reference_length.astype(np.float64)[:, None]
    scored = (labelled > 0) & (length > 0)
    error = np.nan_to_num(distance, nan=np.inf, posinf=np.inf) / np.where(scored, length, 1)
    return np.where(scored, error, np.nan)


def joint_rates(
    errors: Float[np.ndarray, "N K"], thresholds: float | Float[np.ndarray, " K"]
) -> tuple[Float[np.ndarray, " K"], Int64[np.ndarray, " K"]]:
    """Percentage of each joint's errors up to a threshold (nan of none), and how many are scored."""
    counts = (~np.isnan(errors)).sum(0)
    return 100 * (errors <= thresholds).sum(0) / np.where(counts > 0, counts, np.nan), counts


class PCK(PersonMetric):
    """Share of labelled joints whose error is at most a threshold times the reference length; nan without any.

    For each threshold t the result holds, in percent, `"<name>@<t>"`, in which every labelled joint counts the
    same, and `"<name>@<t>/<group>"`, the mean of its joints' percentages (the rules of HRNet's
    `MPIIDataset.evaluate`); errors are `relative_errors`. What HRNet's code and the tables made with it call
    "Mean@0.1" is the rate at 0.11: the eleventh of its thresholds 0, 0.01, ... Ask for both 0.1 and 0.11.

    `joints` are the names of the K joints, in the order of the arrays; `groups`, label -> names, those of scores
    beside the mean over all; `thresholds` shares of the reference length, the first of which gives the score that
    decides; `name` is "PCKh" if the reference is the head size, "PCK" if it is the torso size. The mean leaves out
    `mean_excludes`: MPII's pelvis and thorax.

    Raises:
        PnfsError: A name that is not among `joints`, or a threshold that is not positive.
    """

    columns = ("predicted", "joints_image", "labelled", "reference_length")

    def __init__(
        self,
        *,
        joints: Sequence[str],
        groups: Mapping[str, Sequence[str]],
        thresholds: Sequence[float],
        name: str = "PCK",
        mean_excludes: Sequence[str] = (),
    ) -> None:
        super().__init__(len(joints))
        for label, names in {**groups, "mean_excludes": mean_excludes}.items():
            if unknown := set(names) - set(joints):
                raise PnfsError(f"{name}: {label} names {unknown}, which are not among {joints}")
        if not thresholds or min(thresholds) <= 0:
            raise PnfsError(f"{name}: thresholds must be positive, not {thresholds}")
        self.name, self.thresholds, rows = name, tuple(thresholds), [*joints]
        self.mean_rows = [k for k, joint in enumerate(joints) if joint not in mean_excludes]
        self.group_rows = {label: [*map(rows.index, names)] for label, names in groups.items()}

    def score(self, persons: Columns) -> dict[str, float]:
        errors, scores = relative_errors(*(persons[name] for name in self.columns)), {}
        for threshold in self.thresholds:
            rates, counts = joint_rates(errors, threshold)
            means = {"": (self.mean_rows, counts)}
            means |= {f"/{label}": (rows, counts > 0) for label, rows in self.group_rows.items()}
            for label, (rows, weights) in means.items():
                total = weights[rows].sum()
                mean = np.nan_to_num(rates[rows]) @ weights[rows] / (total if total else np.nan)
                scores[f"{self.name}@{threshold:g}{label}"] = mean
        return scores

    def criterion(self) -> Criterion:
        """An error of at most the first threshold."""
        first, names = self.thresholds[0], {"PCKh": "head size", "PCK": "torso size"}
        reference = names.get(self.name, "reference length")
        return Criterion(f"{self.name}@{first:g}", reference, np.full(self.joint_count, first))


@dataclass(frozen=True)
class Errors:
    """Errors of M labelled persons: see `relative_errors`; COCO's flags; and which persons have a prediction."""

    skeleton: Skeleton
    relative: Float[np.ndarray, "M K"]
    visibility: Integer[np.ndarray, "M K"]
    predicted: Bool[np.ndarray, " M"]

    @cached_property
    def scored(self) -> Bool[np.ndarray, "M K"]:
        """Joints that have an error."""
        return ~np.isnan(self.relative)

    def by_error(self) -> tuple[Int64[np.ndarray, " L"], Float[np.ndarray, " L"]]:
        """Rows of the predicted, scored persons, best first, and the mean of their joints' errors."""
        rows = np.flatnonzero(self.scored.any(-1) & self.predicted)
        errors = np.nanmean(self.relative[rows], axis=-1) if len(rows) else np.zeros(0)
        order = np.argsort(errors, kind="stable")
        return rows[order], errors[order]

    def record(self, criterion: Criterion) -> dict[str, Any]:
        """Rates of every joint, all and by visibility, for `result.json`; None where no label is."""
        limits = zip(self.skeleton.joints, criterion.thresholds.tolist(), strict=True)
        joints: dict[str, dict[str, Any]] = {joint: {"threshold": round(limit, 4)} for joint, limit in limits}
        for kind, flags in {"all": (1, 2), "visible": 2, "occluded": 1}.items():
            errors = np.where(np.isin(self.visibility, flags), self.relative, np.nan)
            columns = (column.tolist() for column in joint_rates(errors, criterion.thresholds))
            for entry, rate, count in zip(joints.values(), *columns, strict=True):
                entry[kind] = {"percent": round(rate, 4) if count else None, "labels": count}
        return {
            "criterion": criterion.label,
            "reference_length": criterion.reference,
            "missed_persons": int((self.scored.any(-1) & ~self.predicted).sum()),
            "joints": joints,
        }
