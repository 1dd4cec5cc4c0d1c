"""Public networks from the names of their state dicts (oracles that share nothing with the package).

HRNet and SimpleBaseline are timm's and torchvision's modules. The authors' network (PoseNFS) is computed slowly,
after the public code's description of its modules, one cell and one part after another.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import timm
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from tiny import randomise_statistics

# The order in which the public code's MPII networks give their 16 maps.
PUBLIC_MPII = [
    "right_ankle", "right_knee", "right_hip", "left_hip",
    "left_knee", "left_ankle", "pelvis", "thorax",
    "upper_neck", "head_top", "right_wrist", "right_elbow",
    "right_shoulder", "left_shoulder", "left_elbow", "left_wrist",
]  # fmt: skip


Public = tuple[dict[str, Tensor], Callable[[Tensor], Tensor]]
"""The state dict of a public network with random weights, and what makes score maps of normalised images."""


def simple_baseline(joints: int) -> Public:
    """On ResNet-50."""
    net = torchvision.models.resnet50()
    net.deconv_layers = nn.Sequential()
    for channels in (2048, 256, 256):
        deconv = nn.ConvTranspose2d(channels, 256, 4, 2, 1, bias=False)
        net.deconv_layers.extend([deconv, nn.BatchNorm2d(256), nn.ReLU()])
    net.final_layer = nn.Conv2d(256, joints, 1)
    randomise_statistics(net.eval())
    state = {name: value for name, value in net.state_dict().items() if not name.startswith("fc.")}
    return state, nn.Sequential(*(m for name, m in net.named_children() if name not in ("avgpool", "fc")))


def hrnet(joints: int) -> Public:
    """HRNet-W32; the last module of the public pose networks makes the finest map alone."""
    net = timm.create_model("hrnet_w32")
    net.final_layer = nn.Conv2d(32, joints, 1)
    randomise_statistics(net.eval())
    stem = nn.Sequential(net.conv1, net.bn1, net.act1, net.conv2, net.bn2, net.act2)
    others = "incre", "downsamp", "classifier", *(f"stage4.2.fuse_layers.{n}" for n in (1, 2, 3))
    state = {name: value for name, value in net.state_dict().items() if not name.startswith(others)}
    return state, lambda images: net.final_layer(net.stages(stem(images))[0])


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


class PoseNFSWeights:
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
