"""Training steps of the paper's ablation model, with each optimisation in turn."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from statistics import median

import torch
from torch import Tensor
from torch.optim import Adam

from pnfs.bench.apart import Call, CallApart, take_turns_apart
from pnfs.bench.timing import Timing, take_turns
from pnfs.codec.targets import gaussian_targets
from pnfs.models import PoseFabricNetwork, normalise_images
from pnfs.models.backbones import MobileNetV2
from pnfs.models.cost import measure_cost
from pnfs.training.loss import ScoreMapLoss
from pnfs.training.memory import keep_freed_memory

Grouping = Mapping[str, Sequence[str]]
"""Part name -> joint names."""


@dataclass(frozen=True)
class StepSettings:
    """How a training step runs; all ways compute the same thing.

    Args:
        channels_last: Memory layout; False is PyTorch's contiguous default.
        bfloat16: Mixed precision.
        compiled: `torch.compile` of the network.
        fused_optimizer: One kernel for all parameters in Adam.
        keep_memory: `keep_freed_memory`; it holds for a process, so only steps in processes of their own
            can differ in it.
    """

    channels_last: bool = True
    bfloat16: bool = False
    compiled: bool = False
    fused_optimizer: bool = False
    keep_memory: bool = False


class TrainingStep:
    """One optimisation step on one fixed batch of random crops.

    Args:
        grouping: The parts, of MPII's joints.
        settings: How it runs.
        device: Where.
        batch_size: Persons.
        input_size: (height, width) of the crops.
    """

    def __init__(
        self,
        grouping: Grouping,
        settings: StepSettings,
        *,
        device: torch.device,
        batch_size: int,
        input_size: tuple[int, int],
    ) -> None:
        torch.manual_seed(0)
        self.settings = settings
        self.device = device
        network = ablation_network(grouping)
        if not settings.channels_last:
            network = network.to(memory_format=torch.contiguous_format)
        self.network = network.to(device).train()
        if settings.compiled:
            self.network.compile(dynamic=False)
        self.loss = ScoreMapLoss()
        self.optimizer = Adam(self.network.parameters(), fused=settings.fused_optimizer)
        height, width = input_size
        joints = len(self.network.parts.skeleton)
        scale = torch.tensor([width, height], dtype=torch.float32)
        self.images = torch.randint(0, 256, (batch_size, height, width, 3), dtype=torch.uint8).to(
            device
        )
        self.joints = (torch.rand(batch_size, joints, 2) * scale).to(device)
        self.labelled = torch.ones(batch_size, joints, dtype=torch.bool, device=device)

    def __call__(self) -> Tensor:
        self.optimizer.zero_grad()
        images = normalise_images(self.images)
        if not self.settings.channels_last:
            images = images.contiguous()
        half = torch.autocast(self.device.type, torch.bfloat16)
        with half if self.settings.bfloat16 else nullcontext():
            maps = self.network(images)
        targets, weights = gaussian_targets(
            self.joints, self.labelled, heatmap_size=(maps.shape[-2], maps.shape[-1])
        )
        loss = self.loss(maps, targets, weights, self.network.map_joints)
        loss.backward()
        self.optimizer.step()
        return loss.detach()


def ablation_network(grouping: Grouping) -> PoseFabricNetwork:
    """The paper's ablation model: MobileNet-V2, H=1, C=10, d=8."""
    return PoseFabricNetwork(
        backbone=MobileNetV2(weights="none"),
        skeleton="mpii",
        parts=grouping,
    )


def ladder(device: torch.device) -> dict[str, StepSettings]:
    """From plain eager to everything, one optimisation more in each row."""
    plain = StepSettings(channels_last=False)
    steps = {"contiguous, float32": plain}
    last = steps["+ channels-last"] = replace(plain, channels_last=True)
    if device.type == "cuda":
        half = replace(last, bfloat16=True)
        steps["+ bfloat16"] = half
        steps["+ fused optimiser"] = replace(half, fused_optimizer=True)
        steps["+ compiled"] = replace(half, fused_optimizer=True, compiled=True)
    else:
        fused = replace(last, fused_optimizer=True)
        steps["+ fused optimiser"] = fused
        steps["+ memory kept"] = replace(fused, keep_memory=True)
    return steps


def step_times(
    grouping: Grouping,
    settings: Mapping[str, StepSettings],
    *,
    device: torch.device | str = "cpu",
    batch_size: int = 8,
    input_size: tuple[int, int] = (256, 256),
    rounds: int = 5,
    repeats: int = 1,
) -> dict[str, Timing]:
    """Seconds of a training step for each of the settings, timed in turns."""
    device = torch.device(device)
    steps: dict[str, Callable[[], object]] = {
        name: TrainingStep(
            grouping, how, device=device, batch_size=batch_size, input_size=input_size
        )
        for name, how in settings.items()
    }
    return take_turns(steps, device=device, rounds=rounds, repeats=repeats)


@dataclass(frozen=True)
class StepApart:
    """Makes a training step on the CPU in a process of its own; the images given to its call are not read.

    Args:
        grouping: The parts, of MPII's joints.
        settings: How it runs.
        batch_size: Persons.
        input_size: (height, width) of the crops.
    """

    grouping: Grouping
    settings: StepSettings
    batch_size: int
    input_size: tuple[int, int]

    def __call__(self) -> Call:
        if self.settings.keep_memory:
            keep_freed_memory()
        step = TrainingStep(
            self.grouping,
            self.settings,
            device=torch.device("cpu"),
            batch_size=self.batch_size,
            input_size=self.input_size,
        )
        return lambda images: step()


def step_times_apart(
    grouping: Grouping,
    settings: Mapping[str, StepSettings],
    *,
    batch_size: int = 8,
    input_size: tuple[int, int] = (256, 256),
    rounds: int = 5,
    repeats: int = 1,
) -> dict[str, Timing]:
    """Seconds of a training step on the CPU, each of the settings in a process of its own, in turns."""
    threads = torch.get_num_threads()
    calls = {
        name: CallApart(StepApart(grouping, how, batch_size, input_size), threads)
        for name, how in settings.items()
    }
    seconds = take_turns_apart(calls, rounds=rounds, repeats=repeats, warm_up=1)
    for call in calls.values():
        call.close()
    return {name: Timing(median(s), min(s), max(s)) for name, s in seconds.items()}


def cost_against_parts(
    groupings: Mapping[int, Grouping], times: Mapping[int, Timing], input_size: tuple[int, int]
) -> list[dict[str, float]]:
    """Step time and MACs for each P, and both as multiples of the smallest P's."""
    macs = {
        count: measure_cost(ablation_network(grouping), input_size).macs
        for count, grouping in groupings.items()
    }
    first = min(groupings)
    return [
        {
            "parts": count,
            "macs": macs[count],
            "macs_ratio": macs[count] / macs[first],
            "seconds": times[count].median,
            "seconds_ratio": times[count].median / times[first].median,
        }
        for count in groupings
    ]
