"""Vectors in pixels: squash, head, and where the scores start."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from pnfs.body import LSP, PartMode
from pnfs.models import PAPER, POSENFS, FabricRules, PoseFabricNetwork
from pnfs.models.backbones import Backbone
from pnfs.models.head import VectorHead, expected_length, squash, squashed_length
from tiny import fabric_network

numbers = st.floats(-50, 50, width=32)


@given(st.lists(st.lists(numbers, min_size=3, max_size=3), min_size=4, max_size=4))
def test_the_score_is_the_squashed_length(pixels: list[list[float]]) -> None:
    # Four pixels of one joint with d = 3.
    vectors = torch.tensor(pixels).T.reshape(1, 1, 3, 2, 2)
    scores = squashed_length(vectors)
    assert scores.shape == (1, 1, 2, 2)
    for score, vector in zip(scores.flatten().tolist(), pixels, strict=True):
        squared = math.fsum(x * x for x in vector)
        assert score == pytest.approx(squared / (1 + squared), rel=1e-5)
        assert 0 <= score <= 1


@given(st.lists(numbers, min_size=5, max_size=5))
def test_squashing_keeps_the_direction(components: list[float]) -> None:
    length = math.sqrt(math.fsum(x * x for x in components))
    vector = torch.tensor(components).view(1, 1, 5, 1, 1)
    squashed = squash(vector).flatten().tolist()
    if length < 1e-4:
        assert math.hypot(*squashed) < 1e-7
        return
    factor = length**2 / (1 + length**2) / length
    assert squashed == pytest.approx([factor * x for x in components], rel=1e-4, abs=1e-6)


@given(st.floats(0, 0.9999))
def test_expected_length_undoes_the_squash(score: float) -> None:
    length = expected_length(torch.tensor(score, dtype=torch.float64))
    assert length**2 / (1 + length**2) == pytest.approx(score, rel=1e-9, abs=1e-12)
    # Any direction will do.
    vector = torch.tensor([0.6, -0.8]).view(1, 1, 2, 1, 1) * length.float()
    assert squashed_length(vector).item() == pytest.approx(score, abs=1e-6)


def test_a_score_of_one_needs_an_infinite_vector() -> None:
    assert expected_length(torch.tensor(1.0)) == math.inf


@pytest.mark.parametrize("function", [squash, squashed_length])
def test_the_zero_vector_has_a_finite_gradient(function) -> None:
    vectors = torch.zeros(1, 2, 8, 3, 3, requires_grad=True)
    out = function(vectors)
    assert not out.any()
    out.sum().backward()
    assert vectors.grad is not None
    assert vectors.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("function", [squash, squashed_length])
def test_half_precision_vectors_are_squashed_in_single(function, dtype: torch.dtype) -> None:
    # Their squares sum up to 80,000: more than float16 holds.
    vectors = torch.full((1, 1, 8, 2, 2), 100.0, dtype=dtype)
    out = function(vectors)
    assert out.dtype == torch.float32
    assert torch.equal(out, function(vectors.float()))
    assert out.isfinite().all()


@pytest.mark.parametrize("dim", [1, 8])
def test_scores_are_single_precision_under_autocast(dim: int) -> None:
    head = VectorHead(6, [2, 3], dim)
    with torch.autocast("cpu", torch.bfloat16):
        vectors = head(torch.randn(2, 12, 4, 4))
        scores = head.scores(vectors)
    assert vectors.dtype == torch.bfloat16
    assert scores.dtype == torch.float32
    exact = vectors.double()
    squared = exact.square().sum(2)
    expected = exact[:, :, 0] if dim == 1 else squared / (1 + squared)
    torch.testing.assert_close(scores.double(), expected, rtol=1e-6, atol=1e-7)


def test_one_number_a_joint_is_a_plain_score_map() -> None:
    vectors = torch.tensor([-3.0, 0.5, 7.0]).view(1, 3, 1, 1, 1)
    scores = VectorHead(6, [3], 1).scores(vectors)
    assert scores.flatten().tolist() == [-3.0, 0.5, 7.0]


@pytest.mark.parametrize("dim", [1, 4])
def test_the_head_is_a_relu_and_a_1x1_convolution_for_each_part(dim: int) -> None:
    torch.manual_seed(0)
    joint_counts, channels = [2, 1, 4], 5
    head = VectorHead(channels, joint_counts, dim).double()
    features = torch.randn(2, 3 * channels, 3, 4).double()
    vectors = head(features)
    assert vectors.shape == (2, 7, dim, 3, 4)
    joint = 0
    for part, count in enumerate(joint_counts):
        own = features[:, part * channels : (part + 1) * channels].clamp(min=0)
        for _ in range(count):
            for component in range(dim):
                row = joint * dim + component
                expected = sum(head.weight[row, c] * own[:, c] for c in range(channels))
                expected = expected + head.bias[row]
                torch.testing.assert_close(vectors[:, joint, component], expected)
            joint += 1


@pytest.mark.parametrize("dim", [0, -1])
def test_vectors_without_components_are_refused(dim: int) -> None:
    with pytest.raises(ValueError, match=f"vector_dim must be at least 1, got {dim}"):
        VectorHead(4, [3], dim)


PARTS = PartMode(
    LSP,
    {
        "upper": [j for j in LSP.joints if j not in ("left_knee", "right_knee", "left_ankle")],
        "legs": ["left_knee", "right_knee", "left_ankle"],
    },
)


class OddPyramid(Backbone):
    """Features whose scale is far from 1, as a backbone may give them."""

    channels = (3, 4, 5, 6)

    def forward(self, images: Tensor) -> list[Tensor]:
        generator = torch.Generator().manual_seed(0)
        sizes = [images.shape[-1] // scale for scale in (4, 8, 16, 32)]
        return [
            20 * torch.randn(len(images), channels, size, size, generator=generator).relu()
            for channels, size in zip(self.channels, sizes, strict=True)
        ]


def network_on_odd_features(**arguments) -> PoseFabricNetwork:
    torch.manual_seed(0)
    return fabric_network(
        backbone=OddPyramid(), skeleton="lsp", parts=PARTS.parts, channels=2, **arguments
    )


IMAGES = torch.zeros(4, 3, 64, 64)


@pytest.mark.parametrize("dim", [4, 8])
@pytest.mark.parametrize("nodes", [1, 2])
@pytest.mark.parametrize("rules", [PAPER, POSENFS], ids=["paper", "reference"])
def test_calibrated_scores_start_at_a_few_percent(rules: FabricRules, nodes: int, dim: int) -> None:
    model = network_on_odd_features(rules=rules, nodes=nodes, vector_dim=dim)
    # Whatever scale the fabric gives its features, here a hundred times the usual.
    model.head.weight.data.mul_(100)
    others = {n: p.clone() for n, p in model.named_parameters() if n != "head.weight"}
    model.calibrate(IMAGES)
    for part in model(IMAGES).split(PARTS.joint_counts, dim=1):
        assert 0.01 < part.mean().item() < 0.06
    assert all(torch.equal(others[n], p) for n, p in model.named_parameters() if n in others)


def test_calibration_leaves_plain_score_maps_alone() -> None:
    model = network_on_odd_features(vector_dim=1)
    before = {name: p.clone() for name, p in model.named_parameters()}
    model.calibrate(IMAGES)
    assert all(torch.equal(before[name], p) for name, p in model.named_parameters())


def test_calibration_survives_features_that_are_zero() -> None:
    head = VectorHead(4, [2], 8)
    head.calibrate(-torch.ones(1, 4, 3, 3))
    assert all(parameter.isfinite().all() for parameter in head.parameters())


@pytest.mark.parametrize("score", [0.01, 0.03, 0.2])
def test_the_head_can_aim_at_another_score(score: float) -> None:
    torch.manual_seed(0)
    head = VectorHead(64, [16], 8, initial_score=score)
    features = 5 * torch.randn(4, 64, 16, 16)
    head.calibrate(features)
    assert head.scores(head(features)).mean().item() == pytest.approx(score, rel=0.4)


def test_no_component_of_a_fresh_vector_is_stuck_at_zero() -> None:
    head = VectorHead(16, [3], 8)
    assert isinstance(head.bias, nn.Parameter)
    vectors = head(torch.zeros(1, 16, 2, 2))
    # At v = 0 the squash has no gradient.
    assert (vectors.square().sum(2) > 0).all()
