"""Decoding and PCKh from heatmaps, beside a loop over joints."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.timing import Call, Section, take_turns
from pnfs.codec import Codec, to_image
from pnfs.evaluation import PCK

THRESHOLDS = (0.5, 0.1, 0.11)


def sections(*, rounds: int, persons: int = 2958, joints: int = 16, **_: Any) -> Iterator[Section]:
    """Time on one core for as many persons as MPII's validation set has."""
    makers = {"loop over joints": in_a_loop, "pnfs": by_pnfs}
    ways = {name: partial(make, persons, joints) for name, make in makers.items()}
    table = take_turns(ways, threads=1, rounds=rounds, items=persons)
    yield Section(f"Decoding and PCKh of {persons} persons, one core", table)


def score_maps(persons: int, joints: int, side: int = 64) -> tuple[Tensor, Tensor, Tensor]:
    """Maps (B, K, h, w) of Gaussians with noise, a share of them far off; the truth and lengths, crop px."""
    noise = torch.Generator().manual_seed(0)
    truth = 4 * side * (0.1 + 0.8 * torch.rand(persons, joints, 2, generator=noise))
    far = torch.where(torch.rand(persons, joints, 1, generator=noise) < 0.2, 30.0, 2.0)
    seen = truth + far * torch.randn(truth.shape, generator=noise)
    labelled, size = torch.ones(persons, joints, dtype=torch.bool), (side, side)
    pieces = zip(seen.split(64), labelled.split(64), strict=True)
    maps = torch.cat([Codec().targets(*piece, size)[0] for piece in pieces])
    maps += 0.02 * torch.randn(maps.shape, generator=noise)
    return maps, truth, torch.full((persons,), side / 2)


def by_pnfs(persons: int, joints: int, side: int = 64) -> Call:
    maps, truth, lengths = score_maps(persons, joints, side)
    identity = torch.eye(2, 3).repeat(persons, 1, 1)

    def call() -> list[float]:
        names = [str(joint) for joint in range(joints)]
        metric = PCK(joints=names, groups={}, thresholds=THRESHOLDS, name="PCKh")
        metric.update(
            predicted=to_image(Codec().decode(maps)[0], identity),
            joints_image=truth, labelled=torch.ones(persons, joints, dtype=torch.bool),
            reference_length=lengths, sample_index=torch.arange(persons),
        )  # fmt: skip
        return [score.item() for score in metric.compute().values()]

    return call


def in_a_loop(persons: int, joints: int, side: int = 64) -> Call:
    """The same as one writes it down at first: a person and a joint at a time, in NumPy."""
    maps, truth, lengths = (tensor.numpy() for tensor in score_maps(persons, joints, side))

    def call() -> list[float]:
        right = np.zeros(len(THRESHOLDS))
        for person, joint in np.ndindex(persons, joints):
            heatmap = maps[person, joint]
            y, x = np.unravel_index(np.argmax(heatmap), heatmap.shape)
            place = np.array([x, y], np.float32)
            if 1 < x < side - 1 and 1 < y < side - 1:
                near = heatmap[y - 1 : y + 2, x - 1 : x + 2]
                place += 0.25 * np.sign([near[1, 2] - near[1, 0], near[2, 1] - near[0, 1]])
            distance = np.linalg.norm(4 * place - truth[person, joint])
            right += distance <= np.array(THRESHOLDS) * lengths[person]
        return list(100 * right / (persons * joints))

    return call
