"""Candidate operations against the paper's definitions in plain torch modules."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from pnfs.models.fuse import fuse_operation
from pnfs.models.operations import BACKBONE_OPERATIONS, Operation, SeparableConv

CHANNELS = 4
# The kernels of conf/operations/all_5x5 are not in the two tables of the package.
FACTORIES: dict[str, Callable[[int, int], Operation]] = {
    **{name: build for name, build in BACKBONE_OPERATIONS.items() if build is not None},
    "sep_conv_5x5": partial(SeparableConv, kernel_size=5),
    "dil_conv_5x5": partial(SeparableConv, kernel_size=5, dilation=2, repeats=1),
}
COMPUTING = list(FACTORIES)
LAYOUTS = [torch.contiguous_format, torch.channels_last]


def plain_block(kernel: int, dilation: int) -> list[nn.Module]:
    """Depthwise-pointwise-BN-ReLU."""
    depthwise = nn.Conv2d(
        CHANNELS, CHANNELS, kernel, padding="same", dilation=dilation, groups=CHANNELS, bias=False
    )
    pointwise = nn.Conv2d(CHANNELS, CHANNELS, 1, bias=False)
    return [depthwise, pointwise, nn.BatchNorm2d(CHANNELS, affine=False), nn.ReLU()]


def plain_operation(name: str) -> nn.Sequential:
    """One part's operation as section III-A defines it."""
    norm = nn.BatchNorm2d(CHANNELS, affine=False)
    layers: dict[str, Callable[[], list[nn.Module]]] = {
        "skip": lambda: [nn.Identity()],
        "sep_conv_3x3": lambda: plain_block(3, 1) + plain_block(3, 1),
        "dil_conv_3x3": lambda: plain_block(3, 2),
        "avg_pool_3x3": lambda: [nn.AvgPool2d(3, 1, 1, count_include_pad=False), norm],
        "max_pool_3x3": lambda: [nn.MaxPool2d(3, 1, 1), norm],
        "sep_conv_5x5": lambda: plain_block(5, 1) + plain_block(5, 1),
        "dil_conv_5x5": lambda: plain_block(5, 2),
    }
    return nn.Sequential(*layers[name]()).double()


def randomise_statistics(module: nn.Module) -> None:
    for name, buffer in module.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_()
        elif name.endswith("running_var"):
            buffer.uniform_(0.5, 2)


def own_tensors(operation: Operation) -> list[Tensor]:
    """Weights and statistics in the order of computation, all parts in one tensor each."""
    if not isinstance(operation, SeparableConv):
        return [buffer for name, buffer in operation.named_buffers() if "running" in name]
    triples = zip(operation.depthwise, operation.pointwise, operation.norm, strict=True)
    return [
        tensor
        for depthwise, pointwise, norm in triples
        for tensor in (depthwise.weight, pointwise.weight, norm.running_mean, norm.running_var)
    ]


def plain_tensors(plain: nn.Sequential) -> list[Tensor]:
    found: list[Tensor] = []
    for layer in plain:
        if isinstance(layer, nn.Conv2d):
            found.append(layer.weight)
        elif isinstance(layer, nn.BatchNorm2d):
            assert layer.running_mean is not None
            assert layer.running_var is not None
            found += [layer.running_mean, layer.running_var]
    return found


def plain_copies(name: str, operation: Operation, parts: int) -> list[nn.Sequential]:
    """For each part a plain operation with the same weights and statistics."""
    copies = [plain_operation(name).train(operation.training) for _ in range(parts)]
    for part, plain in enumerate(copies):
        pairs = zip(own_tensors(operation), plain_tensors(plain), strict=True)
        for ours, theirs in pairs:
            theirs.data.copy_(ours.detach().chunk(parts)[part])
    return copies


def assert_gradients_are_equal(ours: Tensor, theirs: list[Tensor]) -> None:
    assert ours.grad is not None
    grads = [tensor.grad for tensor in theirs]
    assert all(grad is not None for grad in grads)
    torch.testing.assert_close(ours.grad, torch.cat(grads))


@pytest.mark.parametrize("layout", LAYOUTS, ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("name", COMPUTING)
def test_an_operation_is_the_papers_times_its_weight(name, training, parts, layout) -> None:
    torch.manual_seed(0)
    operation = FACTORIES[name](parts, CHANNELS).double().train(training)
    randomise_statistics(operation)
    copies = plain_copies(name, operation, parts)
    x = torch.randn(2, parts * CHANNELS, 6, 5, dtype=torch.double)
    x = x.contiguous(memory_format=layout).requires_grad_()
    mixing = torch.rand(parts, dtype=torch.double).requires_grad_()
    direction = torch.randn_like(x)

    out = operation(x, mixing)
    (out * direction).sum().backward()

    plain_x = x.detach().clone().requires_grad_()
    plain_mixing = mixing.detach().clone().requires_grad_()
    inputs = plain_x.split(CHANNELS, dim=1)
    expected = torch.cat(
        [plain_mixing[part] * plain(inputs[part]) for part, plain in enumerate(copies)], dim=1
    )
    (expected * direction).sum().backward()

    torch.testing.assert_close(out, expected)
    torch.testing.assert_close(x.grad, plain_x.grad)
    torch.testing.assert_close(mixing.grad, plain_mixing.grad)
    theirs = list(zip(*(plain_tensors(plain) for plain in copies), strict=True))
    for ours, per_part in zip(own_tensors(operation), theirs, strict=True):
        # Running statistics after the step, in training mode changed ones.
        torch.testing.assert_close(ours.detach(), torch.cat([t.detach() for t in per_part]))
        if ours.requires_grad:
            assert_gradients_are_equal(ours, list(per_part))


@pytest.mark.parametrize("name", COMPUTING)
def test_channels_last_gradients_in_single_precision_equal_those_of_double(name: str) -> None:
    torch.manual_seed(1)
    single, double = FACTORIES[name](1, 64), FACTORIES[name](1, 64).double()
    double.load_state_dict(single.state_dict())
    x = torch.randn(2, 64, 8, 8)
    alpha = torch.randn(1, 4)
    gradients = []
    for operation, layout in ((single, torch.channels_last), (double, torch.contiguous_format)):
        dtype = torch.float32 if operation is single else torch.float64
        logits = torch.tensor(alpha.tolist(), dtype=dtype, requires_grad=True)
        images = x.to(dtype).contiguous(memory_format=layout).requires_grad_()
        out = operation(images, logits.softmax(-1)[:, 1])
        (out * torch.linspace(-1, 1, out.numel(), dtype=dtype).view_as(out)).sum().backward()
        gradients.append([images.grad, logits.grad, *(p.grad for p in operation.parameters())])
    for ours, exact in zip(*gradients, strict=True):
        torch.testing.assert_close(ours.double(), exact, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize("name", COMPUTING)
def test_a_fused_operation_is_the_operation(name: str, parts: int) -> None:
    torch.manual_seed(0)
    operation = FACTORIES[name](parts, CHANNELS).eval()
    randomise_statistics(operation)
    x, weight = torch.randn(2, parts * CHANNELS, 6, 5), torch.rand(parts) + 0.1
    with torch.no_grad():
        fused = fuse_operation(operation, weight, CHANNELS)
        torch.testing.assert_close(fused(x), operation(x, weight))
