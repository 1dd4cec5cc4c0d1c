"""The public HRNet and SimpleBaseline, computed slowly from their state dicts' names (an oracle)."""

import cv2
import numpy as np
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

    def norm(self, x: Tensor, name: str) -> Tensor:
        shape = (x.shape[1],)
        return F.batch_norm(
            x,
            self._entry(f"{name}.running_mean", shape, 0, 0.1),
            self._variance(f"{name}.running_var", shape),
            self._entry(f"{name}.weight", shape, 0.5, 0.1),
            self._entry(f"{name}.bias", shape, 0, 0.1),
            eps=1e-5,
        )

    def _variance(self, name: str, shape: tuple[int, ...]) -> Tensor:
        if name not in self.state:
            self.state[name] = 0.5 + torch.rand(shape, generator=self.generator)
        return self.state[name]

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


def public_input(crops: Tensor, bgr: bool) -> Tensor:
    """RGB crops (B, h, w, 3) as the public loaders normalise them: the numbers of RGB in either order."""
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    pictures = [crop.numpy() for crop in crops]
    if bgr:
        pictures = [cv2.cvtColor(picture, cv2.COLOR_RGB2BGR) for picture in pictures]
    scaled = (np.stack(pictures) / 255 - mean) / std
    return torch.from_numpy(scaled.transpose(0, 3, 1, 2)).float()


def crops_with_border(seed: int = 0, size: int = 64) -> Tensor:
    """Two noisy RGB crops, one with the black that stands for what lies outside an image."""
    crops = torch.randint(
        0, 256, (2, size, size, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed)
    )
    crops[0, :, : size // 4] = 0
    return crops
