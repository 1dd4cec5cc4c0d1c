"""The authors' network (PoseNFS), computed slowly from the names of its state dict (an oracle).

Written after the public code's description of its modules, one cell and one part after another; shares nothing
with the package.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from public_networks import Weights


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
    """Layers of their code besides those of public networks."""

    def plain_norm(self, x: Tensor, name: str) -> Tensor:
        """Batch norm without affine parameters."""
        mean = self._entry(f"{name}.running_mean", (x.shape[1],), 0, 0.1)
        return F.batch_norm(x, mean, self._variance(f"{name}.running_var", (x.shape[1],)), eps=1e-5)

    def operator(self, x: Tensor, name: str, operator: str) -> Tensor:
        if operator == "Zero":
            return x * 0
        if operator == "skip_connect":
            return x
        if operator == "avg_pool_3x3":
            pooled = F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)
            return self.plain_norm(pooled, f"{name}.1")
        if operator == "max_pool_3x3":
            return self.plain_norm(F.max_pool2d(x, 3, stride=1, padding=1), f"{name}.1")
        (kind, _, kernel), channels = operator.split("_"), x.shape[1]
        kernel, dilation, base = int(kernel[0]), 1 if kind == "Sep" else 2, f"{name}.operation"
        for step in range(2 if kind == "Sep" else 1):
            weight = self._entry(f"{base}.{4 * step}.weight", (channels, 1, kernel, kernel), 0, 1 / kernel)
            x = F.conv2d(x, weight, padding=dilation * (kernel // 2), dilation=dilation, groups=channels)
            x = self.conv(x, f"{base}.{4 * step + 1}", channels, 1)
            x = self.plain_norm(x, f"{base}.{4 * step + 2}").relu()
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
    parts: dict[str, list[int]],
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
