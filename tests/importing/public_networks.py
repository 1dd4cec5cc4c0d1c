"""Public networks, computed slowly from the names of their state dicts (oracles): HRNet, SimpleBaseline, PoseNFS.

The authors' (PoseNFS) is written after the public code's description of its modules, one cell and one part after
another; nothing is shared with the package.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

# The order in which the public code's MPII networks give their 16 maps.
PUBLIC_MPII = [
    "right_ankle", "right_knee", "right_hip", "left_hip",
    "left_knee", "left_ankle", "pelvis", "thorax",
    "upper_neck", "head_top", "right_wrist", "right_elbow",
    "right_shoulder", "left_shoulder", "left_elbow", "left_wrist",
]  # fmt: skip


class Weights:
    """Layers by their public names; what is asked for the first time is drawn."""

    def __init__(self, seed: int = 0) -> None:
        self.state: dict[str, Tensor] = {}
        self.generator = torch.Generator().manual_seed(seed)

    def _entry(self, name: str, shape: tuple[int, ...], mean: float, std: float) -> Tensor:
        if name not in self.state:
            self.state[name] = mean + std * torch.randn(shape, generator=self.generator)
        return self.state[name]

    def conv(self, x: Tensor, name: str, out: int, kernel: int, stride: int = 1, bias: bool = False) -> Tensor:
        inputs = x.shape[1]
        std = (2 / (inputs * kernel * kernel)) ** 0.5
        weight = self._entry(f"{name}.weight", (out, inputs, kernel, kernel), 0, std)
        added = self._entry(f"{name}.bias", (out,), 0, 0.1) if bias else None
        return F.conv2d(x, weight, added, stride=stride, padding=kernel // 2)

    def deconv(self, x: Tensor, name: str, out: int) -> Tensor:
        weight = self._entry(f"{name}.weight", (x.shape[1], out, 4, 4), 0, 0.02)
        return F.conv_transpose2d(x, weight, stride=2, padding=1)

    def norm(self, x: Tensor, name: str, affine: bool = True) -> Tensor:
        shape, variance = (x.shape[1],), f"{name}.running_var"
        if variance not in self.state:
            self.state[variance] = 0.5 + torch.rand(shape, generator=self.generator)
        weight = self._entry(f"{name}.weight", shape, 0.5, 0.1) if affine else None
        bias = self._entry(f"{name}.bias", shape, 0, 0.1) if affine else None
        mean = self._entry(f"{name}.running_mean", shape, 0, 0.1)
        return F.batch_norm(x, mean, self.state[variance], weight, bias, eps=1e-5)

    def conv_norm(self, x: Tensor, conv: str, norm: str, *shape: int) -> Tensor:
        return self.norm(self.conv(x, conv, *shape), norm)

    def bottleneck(self, x: Tensor, name: str, width: int, stride: int = 1) -> Tensor:
        out = self.conv_norm(x, f"{name}.conv1", f"{name}.bn1", width, 1).relu()
        out = self.conv_norm(out, f"{name}.conv2", f"{name}.bn2", width, 3, stride).relu()
        out = self.conv_norm(out, f"{name}.conv3", f"{name}.bn3", 4 * width, 1)
        if stride != 1 or x.shape[1] != 4 * width:
            down = f"{name}.downsample"
            x = self.conv_norm(x, f"{down}.0", f"{down}.1", 4 * width, 1, stride)
        return (out + x).relu()

    def basic(self, x: Tensor, name: str) -> Tensor:
        width = x.shape[1]
        out = self.conv_norm(x, f"{name}.conv1", f"{name}.bn1", width, 3).relu()
        out = self.conv_norm(out, f"{name}.conv2", f"{name}.bn2", width, 3)
        return (out + x).relu()


def simple_baseline(weights: Weights, x: Tensor, joints: int, blocks: tuple[int, ...] = (3, 4, 6, 3)) -> Tensor:
    """Score maps (B, K, h/4, w/4) of normalised images; blocks of ResNet-50 by default."""
    x = weights.conv_norm(x, "conv1", "bn1", 64, 7, 2).relu()
    x = F.max_pool2d(x, 3, stride=2, padding=1)
    for stage, count in enumerate(blocks):
        for block in range(count):
            stride = 2 if stage and not block else 1
            x = weights.bottleneck(x, f"layer{stage + 1}.{block}", 64 * 2**stage, stride)
    for layer in range(3):
        x = weights.deconv(x, f"deconv_layers.{3 * layer}", 256)
        x = weights.norm(x, f"deconv_layers.{3 * layer + 1}").relu()
    return weights.conv(x, "final_layer", joints, 1, bias=True)


def _module(weights: Weights, maps: list[Tensor], name: str, outputs: int) -> list[Tensor]:
    """One HRNet module: four basic blocks a branch, then every branch to every output."""
    for branch in range(len(maps)):
        for block in range(4):
            maps[branch] = weights.basic(maps[branch], f"{name}.branches.{branch}.{block}")
    fused = []
    for i in range(outputs):
        total: Tensor | int = 0
        for j, x in enumerate(maps):
            fuse = f"{name}.fuse_layers.{i}.{j}"
            if j > i:
                x = weights.conv_norm(x, f"{fuse}.0", f"{fuse}.1", maps[i].shape[1], 1)
                x = F.interpolate(x, scale_factor=2 ** (j - i), mode="nearest")
            for step in range(i - j):
                width = maps[i].shape[1] if step == i - j - 1 else x.shape[1]
                x = weights.conv_norm(x, f"{fuse}.{step}.0", f"{fuse}.{step}.1", width, 3, 2)
                x = x.relu() if step < i - j - 1 else x
            total = total + x
        assert isinstance(total, Tensor)
        fused.append(total.relu())
    return fused


def hrnet(weights: Weights, x: Tensor, joints: int, width: int = 32) -> Tensor:
    """Score maps (B, K, h/4, w/4) of normalised images."""
    x = weights.conv_norm(x, "conv1", "bn1", 64, 3, 2).relu()
    x = weights.conv_norm(x, "conv2", "bn2", 64, 3, 2).relu()
    for block in range(4):
        x = weights.bottleneck(x, f"layer1.{block}", 64)
    first = weights.conv_norm(x, "transition1.0.0", "transition1.0.1", width, 3).relu()
    second = weights.conv_norm(x, "transition1.1.0.0", "transition1.1.0.1", 2 * width, 3, 2).relu()
    maps = [first, second]
    for stage, modules in ((2, 1), (3, 4), (4, 3)):
        if stage > 2:
            name = f"transition{stage - 1}.{stage - 1}.0"
            coarse = 2 ** (stage - 1) * width
            maps.append(weights.conv_norm(maps[-1], f"{name}.0", f"{name}.1", coarse, 3, 2).relu())
        for module in range(modules):
            last = stage == 4 and module == modules - 1
            maps = _module(weights, maps, f"stage{stage}.{module}", 1 if last else stage)
    return weights.conv(maps[0], "final_layer", joints, 1, bias=True)


def state(name: str, joints: int, *arguments) -> dict[str, Tensor]:
    """Random weights of a public network, in its own names."""
    weights = Weights()
    globals()[name](weights, torch.zeros(1, 3, 32, 32), joints, *arguments)
    return weights.state


@dataclass(frozen=True)
class Fabric:
    """A fabric in the public code's own keys; layers count from 0."""

    depth: int
    first: int
    last: int
    hidden_states_num: int
    factor: int
    operators: tuple[str, ...]
    one_alpha_a_cell: bool = False

    def cells(self, layer: int) -> int:
        return min(layer + 2, 4, self.depth - layer)


class PoseNFSWeights(Weights):
    """Layers of the authors' code besides those of public networks."""

    def operator(self, x: Tensor, name: str, operator: str) -> Tensor:
        if operator == "Zero":
            return x * 0
        if operator == "skip_connect":
            return x
        if operator == "avg_pool_3x3":
            pooled = F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)
            return self.norm(pooled, f"{name}.1", affine=False)
        if operator == "max_pool_3x3":
            return self.norm(F.max_pool2d(x, 3, stride=1, padding=1), f"{name}.1", affine=False)
        (kind, _, kernel), channels = operator.split("_"), x.shape[1]
        kernel, dilation, base = int(kernel[0]), 1 if kind == "Sep" else 2, f"{name}.operation"
        for step in range(2 if kind == "Sep" else 1):
            weight = self._entry(f"{base}.{4 * step}.weight", (channels, 1, kernel, kernel), 0, 1 / kernel)
            x = F.conv2d(x, weight, padding=dilation * (kernel // 2), dilation=dilation, groups=channels)
            x = self.conv(x, f"{base}.{4 * step + 1}", channels, 1)
            x = self.norm(x, f"{base}.{4 * step + 2}", affine=False).relu()
        return x

    def connection(self, x: Tensor, name: str, channels: int) -> Tensor:
        if x.shape[1] == channels:
            return x
        if x.shape[1] == 2 * channels:
            x = self.conv(x, f"{name}.conv_1x1", channels, 1, bias=True)
            x = self.norm(x, f"{name}.bn")
            return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)
        x = self.conv(x, f"{name}.operation.0", channels, 3, 2, bias=True)
        return self.norm(x, f"{name}.operation.1")

    def cell(
        self, inputs: list[Tensor], name: str, fabric: Fabric, channels: int, alpha: Tensor, beta: Tensor
    ) -> Tensor:
        mixed = torch.zeros(())
        for k, (x, share) in enumerate(zip(inputs, beta.softmax(-1), strict=True)):
            mixed = mixed + 3 * share * self.connection(x, f"{name}.propress_list.{k}", channels)
        states, edge = [mixed.relu()], 0
        for _ in range(fabric.hidden_states_num):
            total = torch.zeros_like(states[0])
            for source in states:
                shares = alpha[edge].softmax(-1)
                for k, operator in enumerate(fabric.operators):
                    made = self.operator(source, f"{name}.cell_arch.{edge}.ops.{k}", operator)
                    total = total + len(fabric.operators) * shares[k] * made
                edge += 1
            states.append(total)
        return self.conv(torch.cat(states[1:], dim=1), f"{name}.channel_keep", channels, 1, bias=True)

    def fabric(self, maps: list[Tensor], name: str, fabric: Fabric) -> list[Tensor]:
        """The maps of the last layer, finest first; `maps` feed the first one."""
        layers = range(fabric.first, fabric.last + 1)
        count = sum(fabric.cells(layer) for layer in layers)
        hidden, ops = fabric.hidden_states_num, len(fabric.operators)
        edges, index = hidden * (hidden + 1) // 2, 0
        shape = (count, edges, ops) if fabric.one_alpha_a_cell else (edges, ops)
        alphas = self._entry(f"{name}.alphas", shape, 0, 1)
        betas = self._entry(f"{name}.betas", (count, 3), 0, 1)
        for layer in layers:
            made = []
            for i in range(fabric.cells(layer)):
                parallel = maps[i] if i < len(maps) else maps[-1]
                above = maps[i - 1] if i else parallel
                below = maps[i + 1] if i + 1 < len(maps) else parallel
                alpha = alphas[index] if fabric.one_alpha_a_cell else alphas
                inputs, cell = [parallel, above, below], f"{name}.cell_{layer}_{i}"
                made.append(self.cell(inputs, cell, fabric, fabric.factor * 4 * 2**i, alpha, betas[index]))
                index += 1
            maps = made
        return maps

    def stem(self, x: Tensor, name: str, channels: int) -> Tensor:
        x = self.conv_norm(x, f"{name}.0", f"{name}.1", 64, 3, 2)
        x = self.conv_norm(x, f"{name}.2", f"{name}.3", 64, 3, 2).relu()
        return self.conv(x, f"{name}.5", channels, 1)


def posenfs(
    weights: PoseNFSWeights,
    images: Tensor,
    *,
    backbone: Fabric,
    subnetwork: Fabric,
    parts: Mapping[str, Sequence[int]],
    vector_dim: int,
) -> Tensor:
    """Score maps (B, K, h/4, w/4) of their network on a fabric backbone."""
    stem = weights.stem(images, "backbone.stem", 4 * backbone.factor)
    pyramid = weights.fabric([stem], "backbone", backbone)
    joints = 1 + max(joint for ids in parts.values() for joint in ids)
    total = torch.zeros(len(images), joints, *pyramid[0].shape[2:])
    for place, (part, ids) in enumerate(parts.items()):
        maps = pyramid
        if backbone.factor != subnetwork.factor:
            maps = [
                weights.conv(x, f"reduce.{place}.{level}", 4 * subnetwork.factor * 2**level, 1, bias=True)
                for level, x in enumerate(pyramid)
            ]
        # Built, never read.
        weights.stem(images, f"{part}.stem", 4 * subnetwork.factor)
        last = weights.fabric(maps, part, subnetwork)[0].relu()
        out = weights.conv(last, f"{part}.final_layer.1", len(ids) * vector_dim, 1, bias=True)
        if vector_dim > 1:
            squared = out.unflatten(1, (len(ids), vector_dim)).square().sum(2)
            out = squared / (1 + squared)
        for channel, joint in enumerate(ids):
            total[:, joint] += out[:, channel]
    return total
