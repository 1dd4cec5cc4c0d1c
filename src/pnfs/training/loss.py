"""The loss: squared error of score maps."""

from typing import Literal

import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from pnfs.models.head import at_least_float32


class ScoreMapLoss(nn.Module):
    """Squared error between score maps and targets, its mean over pixels and then over the batch.

    The second mean is over all persons and joints: a joint without label adds zero to the sum and counts in
    the denominator, as in the losses of HRNet, mmpose and the authors' public code.

    Args:
        maps: "parts": on each part's own map of a joint (paper). "joints": on the sum of the maps of
            all parts that hold the joint (the authors' public code).
        factor: Of the whole loss; 1 in the paper, 1/2 in the public code.
    """

    def __init__(self, maps: Literal["parts", "joints"] = "parts", factor: float = 1.0) -> None:
        super().__init__()
        if maps not in ("parts", "joints"):
            raise ValueError(f"loss.maps must be parts or joints, got {maps!r}")
        self.maps = maps
        self.factor = factor

    def forward(
        self,
        part_maps: Float[Tensor, "B J h w"],
        targets: Float[Tensor, "B K h w"],
        weights: Float[Tensor, "B K"],
        map_joints: Int64[Tensor, " J"],
    ) -> Float[Tensor, ""]:
        """One number, never in half precision.

        Args:
            part_maps: Score maps of all parts' joints.
            targets: Target map of each joint.
            weights: 1 for joints to learn from, 0 for the others.
            map_joints: Which joint each part map shows.
        """
        scores = at_least_float32(part_maps)
        if self.maps == "parts":
            targets, weights = targets[:, map_joints], weights[:, map_joints]
        else:
            summed = scores.new_zeros(targets.shape)
            scores = summed.index_add(1, map_joints, scores)
        error = F.mse_loss(scores, targets, reduction="none").mean((-2, -1))  # (B, J or K)
        return self.factor * (error * weights).mean()
