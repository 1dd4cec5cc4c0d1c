"""Vector in pixel: a joint's score is the squashed length of a vector at each pixel (section III-D)."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from pnfs.errors import PnfsError
from pnfs.models.layers import Map


class VectorHead(nn.Module):
    """ReLU, for each part a 1x1 convolution to d numbers for each of its joints, and their squashed length.

    The score is |v|^2 / (1 + |v|^2), in [0, 1), never computed in half precision. With PyTorch's default
    initialisation scores begin near 0.5 and the first epoch is lost unlearning that; at v = 0 the squash has no
    gradient. So weights and a random bias begin small, and `calibrate` brings the mean score to `initial_score`
    on real features, whose scale depends on the fabric.

    `channels` are those of one part's last cell, `joint_counts` J_p of each part; d = `vector_dim`, where 1 means
    an ordinary scalar heatmap, without squash.
    """

    initial_score = 0.03

    def __init__(self, channels: int, joint_counts: Sequence[int], vector_dim: int = 8) -> None:
        super().__init__()
        if vector_dim < 1:
            raise PnfsError(f"vector_dim must be at least 1, got {vector_dim}")
        self.vector_dim = vector_dim
        self.sizes = [count * vector_dim for count in joint_counts]
        # Deviation of one component, such that features and bias make half of |v|^2 each.
        score = self.initial_score
        self._share = math.sqrt(score / (1 - score) / vector_dim / 2)
        self.weight = nn.Parameter(torch.empty(sum(self.sizes), channels, 1, 1))
        self.bias = nn.Parameter(torch.zeros(sum(self.sizes)))
        if vector_dim == 1:
            nn.init.normal_(self.weight, std=0.001)
        else:
            nn.init.normal_(self.weight, std=self._share / math.sqrt(channels))
            nn.init.normal_(self.bias, std=self._share)

    @torch.no_grad()
    def calibrate(self, features: Map) -> None:
        """Rescales each part's weights so that `features` make half of |v|^2, as the bias does; not for d = 1."""
        if self.vector_dim == 1:
            return
        maps, weights = features.relu().chunk(len(self.sizes), 1), self.weight.split(self.sizes)
        for x, weight in zip(maps, weights, strict=True):
            spread = F.conv2d(x, weight).float().square().mean().sqrt()
            weight.mul_(self._share / spread.clamp(min=1e-6))

    def forward(
        self, features: Map, vectors: bool = False
    ) -> Float[Tensor, "B J h w"] | Float[Tensor, "B J d h w"]:
        """Features (B, P*C, h, w), not rectified yet, to the heatmaps of all parts' joints, part after part.

        With `vectors`, to the raw vectors in place of their squashed lengths.
        """
        features, weights = F.relu(features), self.weight.split(self.sizes)
        if features.is_cuda:
            # As in `PartConv2d`: one convolution, zero between the parts.
            blocks = torch.block_diag(*self.weight.flatten(1).split(self.sizes))
            maps = F.conv2d(features, blocks[..., None, None], self.bias)
        else:
            shares = features.chunk(len(weights), dim=1), weights, self.bias.split(self.sizes)
            maps = torch.cat(list(map(F.conv2d, *shares)), dim=1)
        # (B, sum(J_p)*d, h, w) -> (B, sum(J_p), d, h, w): the vector index runs fastest.
        found = maps.unflatten(1, (-1, self.vector_dim))
        if vectors:
            return found
        found = found.to(torch.promote_types(found.dtype, torch.float32))
        if self.vector_dim == 1:
            return found[:, :, 0]
        squared = found.square().sum(dim=2)
        return squared / (1 + squared)
