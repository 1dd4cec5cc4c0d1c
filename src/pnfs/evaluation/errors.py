"""Where predictions are wrong: errors by joint, by visibility and by person."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int64, Integer

from pnfs.body import Skeleton
from pnfs.evaluation.coco_eval import VISIBILITIES
from pnfs.evaluation.pck import PCKCurve, joint_rates, pck_curve
from pnfs.evaluation.person_metric import Criterion

CURVE_POINTS = 101
"""Number of thresholds of a curve."""


@dataclass(frozen=True)
class Errors:
    """Errors of M labelled persons."""

    skeleton: Skeleton
    relative: Float[np.ndarray, "M K"]
    """See `pnfs.evaluation.pck.relative_errors`."""
    visibility: Integer[np.ndarray, "M K"]
    """COCO's flags."""
    predicted: Bool[np.ndarray, " M"]
    """Persons who have a prediction."""

    @cached_property
    def scored(self) -> Bool[np.ndarray, "M K"]:
        """Joints that have an error."""
        return ~np.isnan(self.relative)

    def rates(
        self, thresholds: float | Float[np.ndarray, " K"], visibility: int | None = None
    ) -> tuple[Float[np.ndarray, " K"], Int64[np.ndarray, " K"]]:
        """`joint_rates` of the joints with this visibility flag; None takes all labelled joints."""
        asked = visibility is None or self.visibility == visibility
        return joint_rates(np.where(asked, self.relative, np.nan), thresholds)

    def curve(self, criterion: Criterion) -> PCKCurve:
        """Scores over thresholds from 0 to the criterion's highest."""
        groups = {label: self.skeleton.indices(n) for label, n in self.skeleton.groups.items()}
        thresholds = np.linspace(0, float(criterion.thresholds.max()), CURVE_POINTS)
        return pck_curve(self.relative, thresholds, list(criterion.mean_rows), groups)

    def by_error(self) -> tuple[Int64[np.ndarray, " L"], Float[np.ndarray, " L"]]:
        """Rows of the predicted, scored persons, best first, and the mean of their joints' errors."""
        rows = np.flatnonzero(self.scored.any(-1) & self.predicted)
        errors = np.nanmean(self.relative[rows], axis=-1) if len(rows) else np.zeros(0)
        order = np.argsort(errors, kind="stable")
        return rows[order], errors[order]

    def record(self, criterion: Criterion) -> dict[str, Any]:
        """Rates of every joint, all and by visibility, for `result.json`; None where no label is."""
        joints: dict[str, dict[str, Any]] = {
            joint: {"threshold": round(float(threshold), 4)}
            for joint, threshold in zip(self.skeleton.joints, criterion.thresholds, strict=True)
        }
        for kind, flag in {"all": None, **VISIBILITIES}.items():
            rates, counts = self.rates(criterion.thresholds, flag)
            for joint, rate, count in zip(joints, rates.tolist(), counts.tolist(), strict=True):
                percent = round(rate, 4) if count else None
                joints[joint][kind] = {"percent": percent, "labels": count}
        return {
            "criterion": criterion.label,
            "reference_length": criterion.reference,
            "missed_persons": int((self.scored.any(-1) & ~self.predicted).sum()),
            "joints": joints,
        }
