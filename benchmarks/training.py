"""A training step of the paper's ablation model: optimisations, cost against P."""

from collections.abc import Iterator
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml
from torch.optim import Adam

from benchmarks.timing import Call, Section, take_turns
from pnfs.codec import Codec
from pnfs.models import NeuralFabrics, PoseFabricNetwork
from pnfs.models.backbones import MobileNetV2
from pnfs.models.cost import measure_cost
from pnfs.training.loss import HeatmapLoss
from pnfs.training.module import keep_freed_memory


def ablation_network(parts: int) -> PoseFabricNetwork:
    """MobileNet-V2, H=1, C=10, d=8, with MPII's joints in this many parts."""
    file = Path(__file__).parents[1] / "conf" / "parts" / f"p{parts}.yaml"
    groups = yaml.safe_load(file.read_text())["mpii"]
    backbone = MobileNetV2(weights="none")
    fabrics = NeuralFabrics(part_names=tuple(groups), last_layers=3)
    return PoseFabricNetwork(backbone=backbone, fabrics=fabrics, skeleton="mpii", parts=groups)


def training_step(
    parts: int, *, device: str, batch: int, size: int, channels_last: bool = True, bfloat16: bool = False,
    fused: bool = False, compiled: bool = False, keep_memory: bool = False,
) -> Call:  # fmt: skip
    """One optimisation step on a fixed batch of random crops, `size` px a side; all ways compute the same thing.

    `fused` is Adam's one kernel for all parameters.
    """
    torch.manual_seed(0)
    torch.backends.cudnn.benchmark = True
    if keep_memory:
        keep_freed_memory()
    network = ablation_network(parts)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    network = network.to(device, memory_format=layout).train()
    if compiled:
        network.compile(dynamic=False)
    loss, optimizer = HeatmapLoss(), Adam(network.parameters(), fused=fused)
    images = torch.randint(0, 256, (batch, size, size, 3), dtype=torch.uint8)
    if not channels_last:
        images = images.permute(0, 3, 1, 2).float().contiguous() / 128 - 1
    images = images.to(device)
    joints = (size * torch.rand(batch, len(network.parts.skeleton), 2)).to(device)
    joint_batch = {"joints_crop": joints, "labelled": torch.ones_like(joints[..., 0]) > 0}

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast(device, torch.bfloat16) if bfloat16 else nullcontext():
            maps = network(images)
        loss(maps, joint_batch, Codec(), network.map_joints).backward()
        optimizer.step()

    return step


def ladder(device: str, eager: bool) -> dict[str, dict[str, Any]]:
    """From plain eager to everything, one optimisation more in each row; `eager`: without compiling."""
    ways: dict[str, dict[str, Any]] = {"contiguous": {"channels_last": False}}
    ways["+ channels-last"] = {}
    if device == "cuda":
        ways["+ bfloat16"] = {"bfloat16": True}
    ways["+ fused optimiser"] = {**list(ways.values())[-1], "fused": True}
    if eager and device == "cuda":
        return ways
    name, key = ("compiled", "compiled") if device == "cuda" else ("memory kept", "keep_memory")
    return ways | {f"+ {name}": {**ways["+ fused optimiser"], key: True}}


def sections(
    *, device: str, parts: list[int], batch: int, size: int, threads: int, rounds: int, eager: bool, **_: Any
) -> Iterator[Section]:
    """A table for each P, then one of all P."""
    step = partial(training_step, device=device, batch=batch, size=size)
    turns = {"threads": threads, "rounds": rounds, "items": batch}
    steps = ladder(device, eager)
    best = list(steps.values())[-1]
    for count in parts:
        ways = {how: partial(step, count, **options) for how, options in steps.items()}
        table = take_turns(ways, **turns)
        yield Section(f"Training step, P={count}, batch {batch}, {size}x{size}", table)
    table = take_turns({f"P={count}": partial(step, count, **best) for count in parts}, **turns)
    macs = [measure_cost(ablation_network(count), (size, size)).macs for count in parts]
    table.insert(0, "step time / first", table["ms"] / table["ms"].iloc[0])
    table.insert(1, "MACs / first", [value / macs[0] for value in macs])
    title = f"Training step by P, all optimisations, batch {batch}, {size}x{size}"
    yield Section(title, table, "step time / first")
