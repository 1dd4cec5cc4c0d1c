"""Keeps what was predicted, beside the metric that scores it."""

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from pnfs.data.predictions import Predictions
from pnfs.evaluation.pck import first_rows


class PredictionCollector(Metric):
    """Gathers predicted joints from all processes, each sample once, in the samples' order.

    Attributes:
        predictions: Of the last `compute`; None before.
    """

    is_differentiable = False
    full_state_update = False

    sample_index: list[Tensor]
    joints_and_scores: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.predictions: Predictions | None = None
        self.add_state("sample_index", default=[], dist_reduce_fx="cat")
        self.add_state("joints_and_scores", default=[], dist_reduce_fx="cat")

    def update(
        self,
        *,
        predicted: Float[Tensor, "B K 2"],
        scores: Float[Tensor, "B K"],
        sample_index: Int64[Tensor, " B"],
    ) -> None:
        """Take in a batch: x, y in image pixels, scores, and which sample each row is."""
        self.joints_and_scores.append(
            torch.cat([predicted.float(), scores.float()[..., None]], dim=-1)
        )
        self.sample_index.append(sample_index)

    def compute(self) -> dict[str, Tensor]:
        """No score; sets `predictions`."""
        if len(self.sample_index) > 0:
            first = first_rows(dim_zero_cat(self.sample_index))
            table = dim_zero_cat(self.joints_and_scores)[first].cpu().numpy().astype(np.float32)
            self.predictions = Predictions(table[..., :2], table[..., 2])
        return {}
