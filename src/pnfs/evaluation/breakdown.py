"""Where a prediction is wrong: errors by joint, by visibility and by person."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torchmetrics import Metric

from pnfs.data.persons import OCCLUDED, UNLABELLED, VISIBLE
from pnfs.data.predictions import UNMATCHED, Matches, Predictions
from pnfs.evaluation.oks import OKSAveragePrecision
from pnfs.evaluation.pck import PCK, PCKCurve

VISIBILITIES: Mapping[str, int] = {"visible": VISIBLE, "occluded": OCCLUDED}
REFERENCE_LENGTHS: Mapping[str, str] = {"PCKh": "head size", "PCK": "torso size"}
"""Score -> what its errors are divided by."""
CURVE_POINTS = 101
"""Of a curve of scores over thresholds."""


@dataclass(frozen=True)
class Criterion:
    """When a joint counts as right, by the rule of a metric."""

    label: str
    """"PCKh@0.5", …"""
    reference: str
    """What errors are divided by."""
    thresholds: Float[np.ndarray, " K"]
    """The largest error, as a share of the reference length, at which each joint is right."""
    mean_rows: tuple[int, ...]
    """Joints that count in the mean over all."""


def criterion_of(metric: Metric) -> Criterion | None:
    """The rule of a metric; None for one that this package does not know.

    PCK: its first threshold. OKS: the error at which a joint's similarity, exp(-e²/(8σ²)) with e
    the distance over the square root of the person's area, falls to 1/2: the limit that AP .5 sets
    for joints on average.
    """
    if isinstance(metric, PCK):
        first = metric.thresholds[0]
        return Criterion(
            label=f"{metric.name}@{first:g}",
            reference=REFERENCE_LENGTHS.get(metric.name, "reference length"),
            thresholds=np.full(metric.joint_count, first),
            mean_rows=tuple(metric.mean_rows),
        )
    if isinstance(metric, OKSAveragePrecision):
        return Criterion(
            label="similarity at least 0.5",
            reference="√area",
            thresholds=metric.sigmas * np.sqrt(8 * np.log(2)),
            mean_rows=tuple(range(len(metric.sigmas))),
        )
    return None


@dataclass(frozen=True)
class Breakdown:
    """Errors of M labelled persons.

    Args:
        matches: The labelled persons, and which prediction belongs to each.
        predictions: N persons.
    """

    matches: Matches
    predictions: Predictions

    @cached_property
    def error(self) -> Float[np.ndarray, "M K"]:
        """Distance over reference length; inf for a person without prediction, nan if not scored.

        A joint is not scored if it has no label, or its person no reference length.
        """
        labels, rows = self.matches.labels, self.matches.rows
        found = rows != UNMATCHED
        distance = np.full(labels.visibility.shape, np.inf)
        predicted = self.predictions.locations[rows[found]].astype(np.float64)
        distance[found] = np.linalg.norm(predicted - labels.joints[found], axis=-1)
        # A prediction that is no number is wrong, as in the metrics.
        distance = np.nan_to_num(distance, nan=np.inf, posinf=np.inf)
        length = labels.reference_length.astype(np.float64)[:, None]
        scored = (labels.visibility > UNLABELLED) & (length > 0)
        return np.where(scored, distance / np.where(length > 0, length, 1), np.nan)

    @cached_property
    def scored(self) -> Bool[np.ndarray, "M K"]:
        """Joints that have an error."""
        return ~np.isnan(self.error)

    @property
    def has_labels(self) -> bool:
        """Whether any joint is labelled, scored or not."""
        return bool((self.matches.labels.visibility > UNLABELLED).any())

    def rates(
        self, thresholds: float | Float[np.ndarray, " K"], visibility: int | None = None
    ) -> tuple[Float[np.ndarray, " K"], Int64[np.ndarray, " K"]]:
        """Percentage of each joint's errors up to a threshold (nan of none), and their number.

        Args:
            thresholds: Shares of the reference length, one for all joints or one each.
            visibility: Only joints labelled so; None takes all labelled joints.
        """
        counted = self.scored
        if visibility is not None:
            counted = counted & (self.matches.labels.visibility == visibility)
        counts = counted.sum(0)
        right = (counted & (self.error <= thresholds)).sum(0)
        return 100 * right / np.where(counts > 0, counts, np.nan), counts

    def curve(self, criterion: Criterion) -> PCKCurve:
        """Scores over thresholds up to the criterion's highest; see `PCK.curve`."""
        labels, rows = self.matches.labels, self.matches.rows
        predicted = np.full((*labels.visibility.shape, 2), np.nan, np.float32)
        predicted[rows != UNMATCHED] = self.predictions.locations[rows[rows != UNMATCHED]]
        limit = float(criterion.thresholds.max())
        names = labels.skeleton.joints
        excluded = [name for k, name in enumerate(names) if k not in criterion.mean_rows]
        metric = PCK(
            joints=names,
            groups=labels.skeleton.groups,
            thresholds=(limit,),
            mean_excludes=excluded,
        )
        metric.update(
            predicted=torch.from_numpy(predicted),
            joints_image=torch.from_numpy(labels.joints),
            labelled=torch.from_numpy(labels.visibility > UNLABELLED),
            reference_length=torch.from_numpy(labels.reference_length),
            sample_index=torch.arange(len(rows)),
        )
        return metric.curve(np.linspace(0, limit, CURVE_POINTS))

    def by_error(self) -> tuple[Int64[np.ndarray, " L"], Float[np.ndarray, " L"]]:
        """Rows of the predicted, scored persons, best first, and the mean of their joints' errors."""
        found = self.scored.any(-1) & (self.matches.rows != UNMATCHED)
        rows = np.flatnonzero(found)
        errors = np.nanmean(self.error[rows], axis=-1) if len(rows) else np.zeros(0)
        order = np.argsort(errors, kind="stable")
        return rows[order], errors[order]

    def missed(self) -> int:
        """Number of scored persons for whom nothing was predicted."""
        return int((self.scored.any(-1) & (self.matches.rows == UNMATCHED)).sum())

    def record(self, criterion: Criterion) -> dict[str, Any]:
        """Rates of every joint, all and by visibility, as a record keeps them (None of none)."""
        joints = self.matches.labels.skeleton.joints
        kinds: dict[str, int | None] = {"all": None, **VISIBILITIES}
        columns = {kind: self.rates(criterion.thresholds, flag) for kind, flag in kinds.items()}
        return {
            "criterion": criterion.label,
            "reference_length": criterion.reference,
            "missed_persons": self.missed(),
            "joints": {
                joint: {
                    "threshold": round(float(criterion.thresholds[k]), 4),
                    **{
                        kind: {
                            "percent": None if counts[k] == 0 else round(float(rates[k]), 4),
                            "labels": int(counts[k]),
                        }
                        for kind, (rates, counts) in columns.items()
                    },
                }
                for k, joint in enumerate(joints)
            },
        }
