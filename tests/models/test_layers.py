"""Layers, operations, the cell (Eq. 1) and the head, against plain torch and the paper's definitions."""

from collections.abc import Iterable
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pnfs.errors import PnfsError
from pnfs.models.cell import Cell, cell_edges
from pnfs.models.fuse import fuse_operation
from pnfs.models.head import VectorHead
from pnfs.models.layers import block_diagonal, dilated_as_phases, shifted_sums
from pnfs.models.operations import BACKBONE_OPERATIONS, Operation, SeparableConv, Skip
from tiny import randomise_statistics

CHANNELS = 4
# The kernels of conf/operations/all_5x5 are not in the two tables of the package.
FACTORIES = {
    **{name: build for name, build in BACKBONE_OPERATIONS.items() if build is not None},
    "sep_conv_5x5": partial(SeparableConv, kernel_size=5),
    "dil_conv_5x5": partial(SeparableConv, kernel_size=5, dilation=2, repeats=1),
}


def assert_same(found: Tensor, expected: Tensor, *inputs: Tensor) -> None:
    """Equal values, and equal gradients for the inputs."""
    torch.testing.assert_close(found, expected)
    direction = torch.linspace(-1, 1, found.numel(), dtype=found.dtype).view(found.shape)
    pair = [torch.autograd.grad((x * direction).sum(), inputs, retain_graph=True) for x in (found, expected)]
    torch.testing.assert_close(*pair)


def drawn(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (7, 6), (8, 6)])
def test_other_ways_of_computing_a_layer_are_that_layer(size: tuple[int, int]) -> None:
    x = drawn(2, 12, *size)
    doubled = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
    assert_same(shifted_sums(x), doubled, x)
    for kernel in (3, 5):
        weight = drawn(12, 1, kernel, kernel)
        dilated = F.conv2d(x, weight, padding=kernel - 1, dilation=2, groups=12)
        assert_same(dilated_as_phases(x, weight), dilated, x, weight)
        weight = drawn(6, 4, kernel, kernel)
        grouped = F.conv2d(x, weight, padding=kernel // 2, groups=3)
        assert_same(F.conv2d(x, block_diagonal(weight, 3), padding=kernel // 2), grouped, x, weight)


# --- candidate operations


def plain_operation(name: str) -> nn.Sequential:
    """One part's operation as section III-A defines it."""
    norm = nn.BatchNorm2d(CHANNELS, affine=False)
    if name == "skip":
        return nn.Sequential(nn.Identity())
    if name == "avg_pool_3x3":
        return nn.Sequential(nn.AvgPool2d(3, 1, 1, count_include_pad=False), norm)
    if name == "max_pool_3x3":
        return nn.Sequential(nn.MaxPool2d(3, 1, 1), norm)
    kernel, separable = int(name[-1]), name.startswith("sep")
    layers: list[nn.Module] = []
    for _ in range(2 if separable else 1):
        spread = {"padding": "same", "dilation": 1 if separable else 2, "groups": CHANNELS}
        depthwise = nn.Conv2d(CHANNELS, CHANNELS, kernel, bias=False, **spread)  # type: ignore[arg-type]
        pointwise = nn.Conv2d(CHANNELS, CHANNELS, 1, bias=False)
        layers += [depthwise, pointwise, nn.BatchNorm2d(CHANNELS, affine=False), nn.ReLU()]
    return nn.Sequential(*layers)


def tensors(layers: Iterable[nn.Module]) -> list[Tensor]:
    """Weights and statistics in the order of computation, all parts in one tensor each."""
    found: list = []
    for layer in layers:
        if isinstance(layer, nn.Conv2d):
            found.append(layer.weight)
        elif isinstance(layer, nn.BatchNorm2d):
            found += [layer.running_mean, layer.running_var]
    return found


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("name", FACTORIES)
def test_an_operation_is_the_papers_times_its_weight(name, training, parts, layout) -> None:
    torch.manual_seed(0)
    operation = FACTORIES[name](parts, CHANNELS).double().train(training)
    randomise_statistics(operation)
    plain = [plain_operation(name).double().train(training) for _ in range(parts)]
    ours, theirs = tensors(operation.layers), list(zip(*map(tensors, plain), strict=True))
    for own, copies in zip(ours, theirs, strict=True):
        for share, tensor in zip(own.detach().chunk(parts), copies, strict=True):
            tensor.data.copy_(share)
    x = drawn(2, parts * CHANNELS, 6, 5).detach().contiguous(memory_format=layout).requires_grad_()
    mixing = torch.rand(parts, dtype=torch.double).requires_grad_()
    if not training:  # Fused, it is the same.
        fused = fuse_operation(operation, mixing.detach(), CHANNELS)
        torch.testing.assert_close(fused(x), operation(x, mixing))
    out = operation(x, mixing)
    shares = zip(plain, x.split(CHANNELS, dim=1), mixing, strict=True)
    expected = torch.cat([weight * layers(share) for layers, share, weight in shares], dim=1)
    assert_same(out, expected, x, mixing)
    for result in (out, expected):
        (result.square().sum() / 2).backward(retain_graph=True)
    for own, copies in zip(ours, theirs, strict=True):
        # Running statistics after the step, in training mode changed ones.
        torch.testing.assert_close(own.detach(), torch.cat([t.detach() for t in copies]))
        if own.requires_grad:
            torch.testing.assert_close(own.grad, torch.cat([t.grad for t in copies]))


# --- the head


def test_scores_are_squashed_lengths_and_never_in_half_precision() -> None:
    torch.manual_seed(0)
    head, features = VectorHead(5, [2, 1, 4], 4), torch.randn(2, 15, 3, 4)
    vectors = head(features, vectors=True)
    assert vectors.shape == (2, 7, 4, 3, 4)
    squared = vectors.square().sum(2)
    torch.testing.assert_close(head(features), squared / (1 + squared))
    with torch.autocast("cpu", torch.bfloat16):
        rounded = head(features)
    # Half precision holds no more than 65504; the length's square is not computed in it.
    assert rounded.dtype == torch.float32
    torch.testing.assert_close(rounded, head(features), atol=0.05, rtol=0.05)


def test_scores_begin_small_whatever_the_features_scale_and_zero_vectors_have_a_gradient() -> None:
    torch.manual_seed(0)
    head, features = VectorHead(64, [16], 8), 5 * torch.randn(4, 64, 16, 16)
    head.calibrate(features)
    assert head(features).mean().item() == pytest.approx(head.initial_score, rel=0.4)
    head.calibrate(-torch.ones(1, 64, 3, 3))  # Features that are zero.
    assert all(parameter.isfinite().all() for parameter in head.parameters())
    for parameter in head.parameters():
        nn.init.zeros_(parameter)
    head(features).sum().backward()
    assert head.weight.grad is not None
    assert head.weight.grad.isfinite().all()
    with pytest.raises(PnfsError, match="vector_dim"):
        VectorHead(4, [3], 0)


class Tripling(Operation):
    """Three times the input; nothing to learn."""

    def __init__(self, parts: int, channels: int) -> None:
        super().__init__()

    def forward(self, x: Tensor, weight: Tensor) -> Tensor:
        return 3 * weight.item() * x


def reads_out_all_nodes(nodes: int, operations: dict) -> Cell:
    """A cell with one channel whose output is h_1 + 1000 h_2 + 1000000 h_3."""
    cell = Cell(1, 1, nodes, operations).double()
    cell.output.weight.data.copy_(torch.tensor([1.0, 1e3, 1e6])[:nodes].view(1, nodes, 1, 1))
    assert cell.output.bias is not None
    cell.output.bias.data.zero_()
    return cell


def test_rows_of_weights_belong_to_edges_and_columns_to_operations() -> None:
    assert cell_edges(3) == [(0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3)]
    cell = reads_out_all_nodes(3, {"skip": Skip})
    weights = torch.tensor([2.0, 3, 5, 7, 11, 13]).double().view(1, 6, 1)
    first, second = 2, 3 + 5 * 2
    third = 7 + 11 * first + 13 * second
    out = cell(torch.ones(1, 1, 1, 1).double(), weights)
    assert out.item() == first + 1e3 * second + 1e6 * third
    cell = reads_out_all_nodes(2, {"skip": Skip, "zero": None, "tripling": Tripling})
    weights = torch.tensor([[[1.0, 100, 2], [0, 50, 1], [4, 7, 0]]]).double()
    first = 1 + 3 * 2
    out = cell(torch.ones(1, 1, 1, 1).double(), weights)
    assert out.item() == first + 1e3 * (3 * 1 + 4 * first)


def test_a_cell_of_zeros_gives_its_bias() -> None:
    cell = Cell(1, CHANNELS, 2, {"zero": None})
    out = cell(torch.full((2, CHANNELS, 3, 3), 7.0), torch.ones(1, 3, 1))
    assert cell.output.bias is not None
    torch.testing.assert_close(out, cell.output.bias.view(1, -1, 1, 1).expand_as(out))
    with pytest.raises(PnfsError, match="H=2 has 3 edges, 2 are listed"):
        Cell(1, CHANNELS, 2, BACKBONE_OPERATIONS, [["skip"], []])
