"""Candidate operations against the paper's definitions in plain torch modules."""

from collections.abc import Callable, Iterable
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from pnfs.models.fuse import fuse_operation
from pnfs.models.operations import BACKBONE_OPERATIONS, Operation, SeparableConv
from tiny import randomise_statistics

CHANNELS = 4
# The kernels of conf/operations/all_5x5 are not in the two tables of the package.
FACTORIES: dict[str, Callable[[int, int], Operation]] = {
    **{name: build for name, build in BACKBONE_OPERATIONS.items() if build is not None},
    "sep_conv_5x5": partial(SeparableConv, kernel_size=5),
    "dil_conv_5x5": partial(SeparableConv, kernel_size=5, dilation=2, repeats=1),
}


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
    assert len(ours) == len(theirs)
    for own, copies in zip(ours, theirs, strict=True):
        for share, tensor in zip(own.detach().chunk(parts), copies, strict=True):
            tensor.data.copy_(share)
    x = torch.randn(2, parts * CHANNELS, 6, 5, dtype=torch.double)
    x = x.contiguous(memory_format=layout).requires_grad_()
    mixing = torch.rand(parts, dtype=torch.double).requires_grad_()
    direction = torch.randn_like(x)

    out = operation(x, mixing)
    (out * direction).sum().backward()

    plain_x = x.detach().clone().requires_grad_()
    plain_mixing = mixing.detach().clone().requires_grad_()
    shares = zip(plain, plain_x.split(CHANNELS, dim=1), plain_mixing, strict=True)
    expected = torch.cat([weight * layers(share) for layers, share, weight in shares], dim=1)
    (expected * direction).sum().backward()

    torch.testing.assert_close(out, expected)
    torch.testing.assert_close(x.grad, plain_x.grad)
    torch.testing.assert_close(mixing.grad, plain_mixing.grad)
    for own, copies in zip(ours, theirs, strict=True):
        # Running statistics after the step, in training mode changed ones.
        torch.testing.assert_close(own.detach(), torch.cat([t.detach() for t in copies]))
        if own.requires_grad:
            torch.testing.assert_close(own.grad, torch.cat([t.grad for t in copies]))


@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize("name", FACTORIES)
def test_a_fused_operation_is_the_operation(name: str, parts: int) -> None:
    torch.manual_seed(0)
    operation = FACTORIES[name](parts, CHANNELS).eval()
    randomise_statistics(operation)
    x, weight = torch.randn(2, parts * CHANNELS, 6, 5), torch.rand(parts) + 0.1
    with torch.no_grad():
        fused = fuse_operation(operation, weight, CHANNELS)
        torch.testing.assert_close(fused(x), operation(x, weight))
