"""Vector in pixel: a joint's score is the squashed length of a vector at each pixel (section III-D)."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from pnfs.models.layers import Map


def at_least_float32(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Half precision widened; double stays double."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def squashed_length(vectors: Float[Tensor, "B J d h w"]) -> Float[Tensor, "B J h w"]:
    """|v|^2 / (1 + |v|^2), the score in [0, 1), never computed in half precision.

    Only the square of the length enters, so that the gradient is finite at v = 0 without an epsilon.
    """
    squared = at_least_float32(vectors).square().sum(dim=2)
    return squared / (1 + squared)


def squash(
    vectors: Float[Tensor, "B J d h w"], epsilon: float = 1e-12
) -> Float[Tensor, "B J d h w"]:
    """The vectors with their length squashed and their direction kept, never in half precision.

    Args:
        vectors: Raw vectors.
        epsilon: Under the norm, so that the direction of a zero vector has a finite gradient.
    """
    vectors = at_least_float32(vectors)
    squared = vectors.square().sum(dim=2, keepdim=True)
    return vectors * squared / (1 + squared) / (squared + epsilon).sqrt()


def expected_length(score: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """The raw length whose squashed length is `score`: sqrt(1 / (1 - p) - 1)  (Appendix A).

    Args:
        score: p in [0, 1); 1 gives infinity.
    """
    return (1 / (1 - score) - 1).sqrt()


class VectorHead(nn.Module):
    """ReLU, then for each part a 1x1 convolution to d numbers for each of its joints.

    With PyTorch's default initialisation scores begin near 0.5 and the first epoch is lost unlearning that; at
    v = 0 the squash has no gradient. So weights and a random bias begin small, and `calibrate` brings
    the mean score to `initial_score` on real features, whose scale depends on the fabric.

    Args:
        channels: Channels of one part's last cell.
        joint_counts: J_p for each part.
        vector_dim: d; 1 means an ordinary scalar score map, without squash.
        initial_score: Mean score at the start that the initialisation aims at (d > 1).
    """

    def __init__(
        self,
        channels: int,
        joint_counts: Sequence[int],
        vector_dim: int = 8,
        initial_score: float = 0.03,
    ) -> None:
        super().__init__()
        if vector_dim < 1:
            raise ValueError(f"vector_dim must be at least 1, got {vector_dim}")
        self.joint_counts = tuple(joint_counts)
        self.vector_dim = vector_dim
        self.initial_score = initial_score
        outputs = sum(joint_counts) * vector_dim
        self.weight = nn.Parameter(torch.empty(outputs, channels, 1, 1))
        self.bias = nn.Parameter(torch.zeros(outputs))
        if vector_dim == 1:
            nn.init.normal_(self.weight, std=0.001)
        else:
            nn.init.normal_(self.weight, std=self._share / math.sqrt(channels))
            nn.init.normal_(self.bias, std=self._share)

    @property
    def _share(self) -> float:
        """Standard deviation of one component, such that features and bias make half of |v|^2 each."""
        aim = self.initial_score / (1 - self.initial_score)
        return math.sqrt(aim / self.vector_dim / 2)

    @torch.no_grad()
    def calibrate(self, features: Map) -> None:
        """Rescales the weights of each part such that `features` give scores of `initial_score`.

        A bias that keeps the vector off zero makes half of the squared length, the features the other half.
        Does nothing for d = 1.
        """
        if self.vector_dim == 1:
            return
        sizes = self._sizes
        for x, weight in zip(
            F.relu(features).chunk(len(sizes), dim=1), self.weight.split(sizes), strict=True
        ):
            spread = F.conv2d(x, weight).float().square().mean().sqrt()
            weight.mul_(self._share / spread.clamp(min=1e-6))

    @property
    def _sizes(self) -> list[int]:
        """Output channels of each part."""
        return [count * self.vector_dim for count in self.joint_counts]

    def forward(self, features: Map) -> Float[Tensor, "B J d h w"]:
        """Features of all parts (B, P*C, h, w) to the vectors of all parts' joints, part after part."""
        features, sizes = F.relu(features), self._sizes
        if features.is_cuda:
            # As in `PartConv2d`: one convolution, zero between the parts.
            blocks = torch.block_diag(*(rows.flatten(1) for rows in self.weight.split(sizes)))
            maps = F.conv2d(features, blocks[..., None, None], self.bias)
        else:
            shares = (
                features.chunk(len(sizes), dim=1),
                self.weight.split(sizes),
                self.bias.split(sizes),
            )
            maps = torch.cat([F.conv2d(*share) for share in zip(*shares, strict=True)], dim=1)
        # (B, sum(J_p)*d, h, w) -> (B, sum(J_p), d, h, w): the vector index runs fastest.
        return maps.unflatten(1, (-1, self.vector_dim))

    def scores(self, vectors: Float[Tensor, "B J d h w"]) -> Float[Tensor, "B J h w"]:
        """Squashed lengths; for d = 1 the number itself. Float32 under mixed precision."""
        return (
            at_least_float32(vectors[:, :, 0]) if self.vector_dim == 1 else squashed_length(vectors)
        )
