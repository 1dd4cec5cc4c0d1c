"""Percentage of correct keypoints: PCKh (MPII) and PCK (LSP)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64, Integer
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from pnfs.body import Skeleton

HEAD_SIZE_FACTOR = 0.6
"""MPII's head size as a share of the head box's diagonal."""

CURVE_THRESHOLDS = tuple(step / 100 for step in range(51))
"""Of a PCK curve, as shares of the reference length: 0, 0.01, ... 0.5 as in MPII's plots."""


def head_size(headbox: Float[np.ndarray, "*N 2 2"]) -> Float[np.ndarray, "*N"]:
    """Reference length of PCKh, in pixels: 0.6 times the diagonal of the head box.

    Args:
        headbox: Two opposite corners, x, y each.
    """
    return HEAD_SIZE_FACTOR * np.linalg.norm(headbox[..., 1, :] - headbox[..., 0, :], axis=-1)


def torso_size(
    joints: Float[np.ndarray, "*N K 2"],
    visibility: Integer[np.ndarray, "*N K"],
    skeleton: Skeleton,
) -> Float[np.ndarray, "*N"]:
    """Reference length of PCK, in pixels: the longer diagonal of the torso.

    The diagonals run from left shoulder to right hip and from right shoulder to left hip.

    Returns:
        Lengths; nan for persons of whom one of the four joints is unlabelled, so that they are
        left out of the score.

    Raises:
        ValueError: The skeleton lacks one of these joints.
    """
    ends = skeleton.indices(["left_shoulder", "right_hip", "right_shoulder", "left_hip"])
    corners = joints[..., ends, :]
    diagonals = np.linalg.norm(corners[..., ::2, :] - corners[..., 1::2, :], axis=-1)
    known = (visibility[..., ends] > 0).all(-1)
    return np.where(known, diagonals.max(-1), np.nan)


def first_rows(sample_index: Int64[Tensor, " N"]) -> Int64[Tensor, " M"]:
    """Positions at which each sample occurs for the first time, in the order of the samples.

    A distributed sampler fills up its last batches with samples that another process has too.
    """
    _, first = np.unique(sample_index.cpu().numpy(), return_index=True)
    return torch.from_numpy(first).to(sample_index.device)


@dataclass(frozen=True)
class PCKCurve:
    """Scores over thresholds, on the CPU; nan where no joint counts.

    Args:
        thresholds: Shares of the reference length.
        mean: Percentage of all counting joints, each counting the same.
        groups: Label -> mean of the percentages of the group's joints.
    """

    thresholds: Float[Tensor, " T"]
    mean: Float[Tensor, " T"]
    groups: dict[str, Float[Tensor, " T"]]


class PCK(Metric):
    """Share of labelled joints whose error is at most a threshold times the reference length.

    For each threshold t the result holds, in percent, `"<name>@<t>"`, the mean in which every
    labelled joint counts the same, and `"<name>@<t>/<group>"`, the mean of the rates of the group's
    joints, each counting the same (the two rules of HRNet's `MPIIDataset.evaluate`). What that code
    and the tables made with it call "Mean@0.1" is the rate at 0.11: the eleventh of its thresholds
    0, 0.01, 0.02, ... Ask for both 0.1 and 0.11; each stands under its true name.

    A share of nothing is nan: without input, or for joints that no person has labelled.

    Args:
        joints: Names of the K joints, in the order of the arrays.
        groups: Label -> names of joints, for scores beside the mean over all joints.
        thresholds: Shares of the reference length.
        name: "PCKh" if the reference is the head size, "PCK" if it is the torso size.
        mean_excludes: Names of joints that the mean over all joints leaves out; MPII's leaves out
            pelvis and thorax.
        **kwargs: See `torchmetrics.Metric`.

    Raises:
        ValueError: A name that is not among `joints`, or a threshold that is not positive.
    """

    higher_is_better = True
    is_differentiable = False
    full_state_update = False

    sample_index: list[Tensor]
    relative_error: list[Tensor]

    def __init__(
        self,
        *,
        joints: Sequence[str],
        groups: Mapping[str, Sequence[str]],
        thresholds: Sequence[float],
        name: str = "PCK",
        mean_excludes: Sequence[str] = (),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        for label, names in {**groups, "mean_excludes": mean_excludes}.items():
            unknown = [joint for joint in names if joint not in joints]
            if unknown:
                raise ValueError(f"{name}: {label} names {unknown}, which are not among {joints}")
        if not thresholds or min(thresholds) <= 0:
            raise ValueError(f"{name}: thresholds must be positive, not {thresholds}")
        self.name = name
        self.joint_count = len(joints)
        self.thresholds = tuple(thresholds)
        self.mean_rows = [k for k, joint in enumerate(joints) if joint not in mean_excludes]
        self.group_rows = {
            label: [list(joints).index(joint) for joint in names] for label, names in groups.items()
        }
        self.add_state("sample_index", default=[], dist_reduce_fx="cat")
        self.add_state("relative_error", default=[], dist_reduce_fx="cat")

    def update(
        self,
        *,
        predicted: Float[Tensor, "B K 2"],
        joints_image: Float[Tensor, "B K 2"],
        labelled: Bool[Tensor, "B K"],
        reference_length: Float[Tensor, " B"],
        sample_index: Int64[Tensor, " B"],
    ) -> None:
        """Take in a batch.

        Args:
            predicted: x, y in image pixels; a joint predicted as nan counts as wrong.
            joints_image: Labelled x, y in image pixels.
            labelled: Joints that count.
            reference_length: What errors are divided by, in image pixels; persons for whom it is
                nan or not positive are left out.
            sample_index: Which person each row is; of several rows of one person the first counts.

        Raises:
            ValueError: The arrays do not have the metric's number of joints, or not one row for
                each person.
        """
        if predicted.shape != joints_image.shape or predicted.shape[1:] != (self.joint_count, 2):
            raise ValueError(
                f"{self.name} of {self.joint_count} joints: predicted has shape "
                f"{tuple(predicted.shape)}, joints_image {tuple(joints_image.shape)}"
            )
        rows = len(predicted)
        if not (
            labelled.shape == predicted.shape[:2]
            and reference_length.shape == sample_index.shape == (rows,)
        ):
            raise ValueError(
                f"{self.name} of {rows} persons: labelled has shape {tuple(labelled.shape)}, "
                f"reference_length {tuple(reference_length.shape)}, "
                f"sample_index {tuple(sample_index.shape)}"
            )
        # Double precision keeps errors that lie on a threshold there; Apple's GPUs have none.
        exact = torch.float32 if predicted.device.type == "mps" else torch.float64
        distance = torch.linalg.vector_norm(predicted.to(exact) - joints_image.to(exact), dim=-1)
        length = reference_length.to(exact)[:, None]
        counts = labelled & (length > 0)
        error = torch.nan_to_num(distance, nan=torch.inf, posinf=torch.inf) / length
        self.relative_error.append(torch.where(counts, error, torch.nan))
        self.sample_index.append(sample_index)

    def compute(self) -> dict[str, Tensor]:
        """Scores in percent."""
        scores = {}
        error = self._errors()
        for threshold in self.thresholds:
            label = f"{self.name}@{threshold:g}"
            scores[label], rates = self._rates(error, threshold)
            scores |= {f"{label}/{group}": rate for group, rate in rates.items()}
        return scores

    def curve(
        self, thresholds: Sequence[float] | Float[Tensor | np.ndarray, " T"] = CURVE_THRESHOLDS
    ) -> PCKCurve:
        """The scores over many thresholds, for a plot; call it before `reset`.

        Like `compute` it gathers what all processes have seen, so that each has to call it.

        Args:
            thresholds: Shares of the reference length, not negative.

        Raises:
            ValueError: A threshold is negative or nan.
        """
        values = torch.as_tensor(thresholds, dtype=torch.float64).flatten().tolist()
        if not all(threshold >= 0 for threshold in values):
            raise ValueError(f"{self.name}: a curve's thresholds must not be negative: {values}")
        with self.sync_context(dist_sync_fn=self.dist_sync_fn):
            error = self._errors()
        mean, rates = [], {group: [] for group in self.group_rows}
        for threshold in values:
            overall, by_group = self._rates(error, threshold)
            mean.append(overall)
            for group, rate in by_group.items():
                rates[group].append(rate)

        def column(scores: list[Tensor]) -> Tensor:
            return torch.stack(scores).cpu() if scores else torch.empty(0)

        return PCKCurve(
            thresholds=torch.tensor(values),
            mean=column(mean),
            groups={group: column(scores) for group, scores in rates.items()},
        )

    def _errors(self) -> Float[Tensor, "N K"]:
        """Errors of each person once, as shares of the reference length; nan does not count."""
        if len(self.sample_index) == 0:
            return torch.full((1, self.joint_count), torch.nan, device=self.device)
        first = first_rows(dim_zero_cat(self.sample_index))
        return dim_zero_cat(self.relative_error)[first]

    def _rates(
        self, error: Float[Tensor, "N K"], threshold: float
    ) -> tuple[Float[Tensor, ""], dict[str, Float[Tensor, ""]]]:
        """Percentages of right joints: the mean over joints, and by group."""
        counted = (~error.isnan()).sum(0).float()
        right = (error <= threshold).sum(0).float()
        mean = 100 * right[self.mean_rows].sum() / counted[self.mean_rows].sum()
        rates = 100 * right / counted
        return mean, {group: rates[rows].nanmean() for group, rows in self.group_rows.items()}
