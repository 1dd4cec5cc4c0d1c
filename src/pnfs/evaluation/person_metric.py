"""The base of all metrics: keeps what they need of every person, each person once."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from pnfs.errors import PnfsError

Columns = Mapping[str, np.ndarray]
"""Name -> array with one row for each person."""

_OF_JOINTS = {"predicted": (2,), "joints_image": (2,), "scores": (), "labelled": ()}
"""Columns with an entry for each joint -> its shape."""


class Criterion(NamedTuple):
    """When a joint counts as right, by the rule of a metric."""

    label: str  # "PCKh@0.5", …
    reference: str  # Name of the reference length, which errors are divided by.
    thresholds: Float[np.ndarray, " K"]  # The largest error at which each joint is right, a share of that length.


class PersonMetric(Metric):
    """Keeps columns of each batch and scores all persons, of `joint_count` joints, at the end of an epoch.

    A subclass names its `columns` and computes `score` from them.
    """

    higher_is_better = True
    is_differentiable = False
    full_state_update = False

    columns: ClassVar[tuple[str, ...]] = ("predicted", "scores")
    """Arguments of `update` that the metric keeps."""

    sample_index: list[Tensor]

    def __init__(self, joint_count: int) -> None:
        super().__init__()
        self.joint_count = joint_count
        for name in ("sample_index", *self.columns):
            self.add_state(name, default=[], dist_reduce_fx="cat")

    @abstractmethod
    def score(self, persons: Columns) -> Mapping[str, float]:
        """Scores, name -> value, the first of which decides, the higher the better; of all persons' `columns` and
        "sample_index", in the order of the samples."""

    def criterion(self) -> Criterion | None:
        """When a joint counts as right; None if the metric has no such rule."""
        return None

    def update(self, *, sample_index: Int64[Tensor, " B"], **batch: Tensor) -> None:
        """Add a batch; what is not in `columns` is ignored, and of several rows of one person the first counts.

        `predicted`, (B, K, 2), are in image pixels, `scores` (B, K) the joints'; others as in `PoseBatch`.

        Raises:
            PnfsError: A column is missing, or has another number of joints or persons.
        """
        kept = {"sample_index": sample_index}
        for name in self.columns:
            if name not in batch:
                raise PnfsError(f"{type(self).__name__} needs the column {name}")
            values = kept[name] = batch[name].detach()
            if values.shape != self._shape(name, len(sample_index), values.shape[1:]):
                what = f"{len(sample_index)} persons of {self.joint_count} joints"
                raise PnfsError(f"{name} has shape {tuple(values.shape)}, not that of {what}")
        for name, values in kept.items():
            # NumPy has no bfloat16.
            half = values.dtype in (torch.float16, torch.bfloat16)
            getattr(self, name).append(values.float() if half else values)

    def compute(self) -> dict[str, Tensor]:
        """The scores of all persons, gathered from all processes."""
        return {
            name: torch.tensor(float(value), dtype=torch.float32, device=self.device)
            for name, value in self.score(self.persons()).items()
        }

    def persons(self) -> dict[str, np.ndarray]:
        """What `score` gets, of this process alone unless called from `compute`."""
        if len(self.sample_index) == 0:
            empty = {name: np.zeros(self._shape(name, 0, ())) for name in self.columns}
            return {"sample_index": np.zeros(0, np.int64), **empty}
        names = ("sample_index", *self.columns)
        table = {name: dim_zero_cat(getattr(self, name)).cpu().numpy() for name in names}
        # A distributed sampler gives some persons to two processes.
        first = np.unique(table["sample_index"], return_index=True)[1]
        return {name: values[first] for name, values in table.items()}

    def _shape(self, name: str, persons: int, other: tuple[int, ...]) -> tuple[int, ...]:
        tail = (self.joint_count, *_OF_JOINTS[name]) if name in _OF_JOINTS else other
        return (persons, *tail)
