"""The loss: squared error of heatmaps."""

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from pnfs.codec import Codec
from pnfs.data.crops import PoseBatch
from pnfs.errors import PnfsError


class HeatmapLoss(nn.Module):
    """Squared error between heatmaps and targets, its mean over pixels and then over the batch.

    The second mean is over all persons and joints: a joint without label adds zero to the sum and counts in
    the denominator, as in the losses of HRNet, mmpose and the authors' public code.

    `maps` says where: "parts" on each part's map of a joint (paper), "joints" on the sum of the maps of all parts
    that hold the joint (the authors' public code). `factor` on the loss is 1 in the paper, 1/2 in the public code.
    """

    def __init__(self, maps: Literal["parts", "joints"] = "parts", factor: float = 1.0) -> None:
        super().__init__()
        if maps not in ("parts", "joints"):
            raise PnfsError(f"loss.maps must be parts or joints, got {maps!r}")
        self.maps = maps
        self.factor = factor

    def forward(
        self, part_maps: Float[Tensor, "B J h w"], batch: PoseBatch, codec: Codec, map_joints: Int64[Tensor, " J"]
    ) -> Float[Tensor, ""]:
        """One number, never in half precision; `map_joints` says which joint each part map shows."""
        size = (part_maps.shape[-2], part_maps.shape[-1])
        targets, weights = codec.targets(batch["joints_crop"], batch["labelled"], size)
        scores = part_maps.to(torch.promote_types(part_maps.dtype, torch.float32))
        if self.maps == "parts":
            targets, weights = targets[:, map_joints], weights[:, map_joints]
        else:
            scores = scores.new_zeros(targets.shape).index_add(1, map_joints, scores)
        # Of one type: torch 2.9 has no gradient of the gradient else.
        error = F.mse_loss(scores, targets.to(scores.dtype), reduction="none")
        error = error.mean((-2, -1))  # (B, J or K)
        return self.factor * (error * weights).mean()
