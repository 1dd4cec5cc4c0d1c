"""Where predictions are wrong: errors by joint, by visibility and by person."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int64, Integer

from pnfs.body import Skeleton
from pnfs.evaluation.coco_eval import VISIBILITIES
from pnfs.evaluation.pck import PCKCurve, count_right, pck_curve, percent
from pnfs.evaluation.person_metric import Criterion

CURVE_POINTS = 101
"""Number of thresholds of a curve."""


@dataclass(frozen=True)
class Errors:
    """Errors of M labelled persons.

    Args:
        skeleton: Names the K joints.
        relative: See `pnfs.evaluation.pck.relative_errors`.
        visibility: COCO's visibility flag of each label.
        predicted: Persons who have a prediction.
    """

    skeleton: Skeleton
    relative: Float[np.ndarray, "M K"]
    visibility: Integer[np.ndarray, "M K"]
    predicted: Bool[np.ndarray, " M"]

    @cached_property
    def scored(self) -> Bool[np.ndarray, "M K"]:
        """Joints that have an error."""
        return ~np.isnan(self.relative)

    def rates(
        self, thresholds: float | Float[np.ndarray, " K"], visibility: int | None = None
    ) -> tuple[Float[np.ndarray, " K"], Int64[np.ndarray, " K"]]:
        """Percentage of each joint's errors up to a threshold (nan of none), and their number.

        Args:
            thresholds: Shares of the reference length, one for all joints or one each.
            visibility: Only joints with this flag; None takes all labelled joints.
        """
        asked = visibility is None or self.visibility == visibility
        right, counts = count_right(np.where(asked, self.relative, np.nan), thresholds)
        return percent(right, counts), counts

    def curve(self, criterion: Criterion) -> PCKCurve:
        """Scores over thresholds from 0 to the criterion's highest."""
        groups = {
            label: self.skeleton.indices(names) for label, names in self.skeleton.groups.items()
        }
        thresholds = np.linspace(0, float(criterion.thresholds.max()), CURVE_POINTS)
        return pck_curve(self.relative, thresholds, list(criterion.mean_rows), groups)

    def by_error(self) -> tuple[Int64[np.ndarray, " L"], Float[np.ndarray, " L"]]:
        """Rows of the predicted, scored persons, best first, and the mean of their joints' errors."""
        rows = np.flatnonzero(self.scored.any(-1) & self.predicted)
        errors = np.nanmean(self.relative[rows], axis=-1) if len(rows) else np.zeros(0)
        order = np.argsort(errors, kind="stable")
        return rows[order], errors[order]

    def missed(self) -> int:
        """Number of scored persons for whom nothing was predicted."""
        return int((self.scored.any(-1) & ~self.predicted).sum())

    def record(self, criterion: Criterion) -> dict[str, Any]:
        """Rates of every joint, all and by visibility, for `result.json`; None where no label is."""
        kinds: Mapping[str, int | None] = {"all": None, **VISIBILITIES}
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
                for k, joint in enumerate(self.skeleton.joints)
            },
        }
