"""Ways of computing the same layers."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pnfs.models.layers import (
    PartBatchNorm2d,
    block_diagonal,
    dilated_as_phases,
    shifted_sums,
)


def gradients(output: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
    weights = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view(output.shape)
    return torch.autograd.grad((output * weights).sum(), inputs)


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (8, 6)])
def test_doubling_is_bilinear_interpolation(size) -> None:
    x = torch.randn(2, 5, *size, dtype=torch.float64, requires_grad=True)
    expected = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
    found = shifted_sums(x)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(gradients(found, x), gradients(expected, x))


@pytest.mark.parametrize("size", [(8, 6), (2, 2), (7, 6)])
@pytest.mark.parametrize("kernel", [3, 5])
def test_phases_are_a_dilated_convolution(size, kernel) -> None:
    x = torch.randn(2, 4, *size, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(4, 1, kernel, kernel, dtype=torch.float64, requires_grad=True)
    expected = F.conv2d(x, weight, padding=kernel - 1, dilation=2, groups=4)
    found = dilated_as_phases(x, weight)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(gradients(found, x, weight), gradients(expected, x, weight))


@pytest.mark.parametrize("kernel", [1, 3])
def test_a_block_diagonal_convolution_is_a_grouped_one(kernel) -> None:
    x = torch.randn(2, 12, 5, 4, dtype=torch.float64)
    weight = torch.randn(6, 4, kernel, kernel, dtype=torch.float64, requires_grad=True)
    expected = F.conv2d(x, weight, padding=kernel // 2, groups=3)
    found = F.conv2d(x, block_diagonal(weight, 3), padding=kernel // 2)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(gradients(found, weight), gradients(expected, weight))


def test_a_batch_norm_of_parts_has_no_count_and_asks_no_state_dict_for_it() -> None:
    norm = PartBatchNorm2d(2, 3, affine=True)
    state = norm.state_dict()
    assert list(state) == ["weight", "bias", "running_mean", "running_var"]
    # A plain dictionary, as checkpoints hold it, without the versions that state dicts carry.
    norm.load_state_dict({f"{name}": value + 1 for name, value in state.items()})
    assert norm.running_mean is not None
    assert norm.running_mean.tolist() == [1.0] * 6
