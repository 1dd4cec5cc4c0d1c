"""Vectors in pixels: squash, head, and where the scores start."""

import pytest
import torch
from torch import Tensor

from pnfs.errors import PnfsError
from pnfs.models.head import VectorHead


def literal_scores(head: VectorHead, features: Tensor, joint_counts: list[int]) -> Tensor:
    """ReLU, the part's 1x1 convolution, |v|^2 / (1 + |v|^2), joint by joint in double precision."""
    scores, channels, joint = [], head.weight.shape[1], 0
    weight, bias = head.weight.detach().double(), head.bias.detach().double()
    for part, count in enumerate(joint_counts):
        own = features.double()[:, part * channels : (part + 1) * channels].clamp(min=0)
        for _ in range(count):
            rows = slice(joint * head.vector_dim, (joint + 1) * head.vector_dim)
            vectors = torch.einsum("oc,bchw->bohw", weight[rows, :, 0, 0], own)
            vectors = vectors + bias[rows, None, None]
            squared = vectors.square().sum(1)
            scores.append(vectors[:, 0] if head.vector_dim == 1 else squared / (1 + squared))
            joint += 1
    return torch.stack(scores, 1)


@pytest.mark.parametrize("dim", [1, 4])
def test_a_score_is_the_squashed_length_of_the_parts_own_vector(dim: int) -> None:
    torch.manual_seed(0)
    head = VectorHead(5, [2, 1, 4], dim)
    features = torch.randn(2, 15, 3, 4)
    expected = literal_scores(head, features, [2, 1, 4])
    torch.testing.assert_close(head(features).double(), expected, rtol=1e-5, atol=1e-6)
    vectors = head(features, vectors=True)
    assert vectors.shape == (2, 7, dim, 3, 4)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = head(features)
    # Half precision holds no more than 65504; the length's square is not computed in it.
    assert rounded.dtype == torch.float32
    torch.testing.assert_close(rounded.double(), expected, atol=0.05, rtol=0.05)


def test_the_zero_vector_has_a_finite_gradient() -> None:
    head = VectorHead(3, [2], 8)
    torch.nn.init.zeros_(head.weight)
    torch.nn.init.zeros_(head.bias)
    scores = head(torch.rand(1, 3, 4, 4))
    scores.sum().backward()
    assert not scores.any()
    assert head.weight.grad is not None
    assert head.weight.grad.isfinite().all()
    with pytest.raises(PnfsError, match="vector_dim"):
        VectorHead(4, [3], 0)


def test_scores_begin_small_whatever_the_features_scale() -> None:
    torch.manual_seed(0)
    head = VectorHead(64, [16], 8)
    features = 5 * torch.randn(4, 64, 16, 16)
    head.calibrate(features)
    assert head(features).mean().item() == pytest.approx(head.initial_score, rel=0.4)
    head.calibrate(-torch.ones(1, 64, 3, 3))  # Features that are zero.
    assert all(parameter.isfinite().all() for parameter in head.parameters())
    plain = VectorHead(64, [16], 1)
    before = plain.weight.detach().clone()
    plain.calibrate(features)
    assert torch.equal(plain.weight, before)
