"""Evaluation from score maps: its time beside a loop over joints, and the decoders' accuracy."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from pnfs.bench.timing import take_turns
from pnfs.codec import decode, gaussian_targets, to_image
from pnfs.codec.decode import DecodeMethod
from pnfs.data.geometry import apply, crop_matrix, invert
from pnfs.evaluation import PCK

STRIDE = 4
"""Crop pixels per heatmap pixel."""

THRESHOLDS = (0.5, 0.1, 0.11)
"""Of PCKh, as shares of the head size; MPII's tables state all three."""

_ROWS_AT_ONCE = 64


def bench_evaluation(
    persons: int = 2958,
    joints: int = 16,
    size: tuple[int, int] = (64, 64),
    rounds: int = 5,
    seed: int = 0,
) -> dict[str, Any]:
    """Decoding and PCKh on one core, beside the same written out joint by joint.

    Args:
        persons: How many; MPII's validation set has 2,958.
        joints: Of each person.
        size: (height, width) of the score maps.
        rounds: Of measurement; medians count.
        seed: Of the score maps.

    Returns:
        `seconds` of ours, `loops`: library that the loop calls -> its "seconds" and the "ratio" of them to
        ours; the scores that all found, and what was measured.

    Raises:
        RuntimeError: They disagree about a score.
    """
    with _one_thread():
        case = ScoreMapCase.random(persons, joints, size, seed)
        loops = {"NumPy": case.evaluate_in_numpy_loop, "PyTorch": case.evaluate_in_torch_loop}
        scores = case.evaluate()
        for name, loop in loops.items():
            if not np.allclose(scores, found := loop(), atol=1e-2, rtol=0):
                raise RuntimeError(f"PCKh is {scores}, in a loop with {name} {found}")
        times = take_turns({"ours": case.evaluate} | loops, rounds=rounds, repeats=1, warm_up=0)
    ours = times["ours"].median
    return {
        "seconds": ours,
        "loops": {
            name: {"seconds": times[name].median, "ratio": times[name].median / ours}
            for name in loops
        },
        "scores": dict(zip((f"PCKh@{t:g}" for t in THRESHOLDS), scores, strict=True)),
        "persons": persons,
        "joints": joints,
        "size": list(size),
        "rounds": rounds,
        "threads": 1,
    }


def decoding_errors(
    count: int = 4096,
    size: tuple[int, int] = (64, 64),
    sigma: float = 2.0,
    noise: Sequence[float] = (0.0, 0.02, 0.05),
    seed: int = 0,
) -> dict[str, dict[str, float]]:
    """Mean distance between a joint and its place decoded from its score map, in crop pixels.

    The score maps are Gaussians with peak 1 around places drawn from the whole map, not rounded
    to pixels, plus white noise; a heatmap pixel is four crop pixels.

    Args:
        count: Joints for each number.
        size: (height, width) of the score maps.
        sigma: Standard deviation of the Gaussians, in heatmap pixels.
        noise: Standard deviations of the noise.
        seed: Of places and noise.

    Returns:
        Decoder -> noise, as text -> mean error.
    """
    generator = torch.Generator().manual_seed(seed)
    last = torch.tensor([size[1] - 1.0, size[0] - 1.0])
    places = STRIDE * last * torch.rand(1, count, 2, generator=generator)
    clean = _gaussians(places, size, sigma)
    white = torch.randn(clean.shape, generator=generator)
    methods: tuple[DecodeMethod, ...] = get_args(DecodeMethod)
    errors: dict[str, dict[str, float]] = {method: {} for method in methods}
    for level in noise:
        maps = clean + level * white
        for method in methods:
            found, _ = decode(maps, method, sigma=sigma)
            distance = torch.linalg.vector_norm(STRIDE * found - places, dim=-1)
            errors[method][f"{level:g}"] = distance.mean().item()
    return errors


@dataclass(frozen=True)
class ScoreMapCase:
    """Score maps and the joints to find in them.

    Args:
        maps: Score maps.
        to_image: Affine maps from crop pixels to image pixels.
        target: x, y in image pixels.
        reference_length: Head sizes in image pixels.
    """

    maps: Float[Tensor, "B K h w"]
    to_image: Float[Tensor, "B 2 3"]
    target: Float[Tensor, "B K 2"]
    reference_length: Float[Tensor, " B"]

    @classmethod
    def random(cls, persons: int, joints: int, size: tuple[int, int], seed: int) -> "ScoreMapCase":
        """Gaussians with noise, a share of them far off."""
        generator = np.random.default_rng(seed)
        extent = STRIDE * np.array([size[1], size[0]])
        crop = (STRIDE * size[0], STRIDE * size[1])
        matrices = np.stack(
            [
                invert(crop_matrix(center, np.array([width, width]), 0.0, crop))
                for center, width in zip(
                    generator.uniform(200, 800, (persons, 2)),
                    generator.uniform(100, 500, persons),
                    strict=True,
                )
            ]
        )
        in_crop = generator.uniform(0.1, 0.9, (persons, joints, 2)) * extent
        target = np.stack([apply(m, p) for m, p in zip(matrices, in_crop, strict=True)])
        head = extent[0] / 8 * np.linalg.norm(matrices[:, 0, :2], axis=-1)
        spread = generator.choice([2.0, 30.0], (persons, joints, 1), p=[0.8, 0.2])
        seen = torch.from_numpy(in_crop + spread * generator.normal(size=in_crop.shape)).float()
        # NumPy asks the system for large pages, as one does for arrays of this size.
        maps = torch.from_numpy(np.empty((persons, joints, *size), np.float32))
        noise = torch.Generator().manual_seed(seed)
        for rows in torch.arange(persons).split(_ROWS_AT_ONCE):
            white = torch.randn(len(rows), joints, *size, generator=noise)
            maps[rows] = _gaussians(seen[rows], size, 2.0) + 0.02 * white
        columns = (torch.from_numpy(array).float() for array in (matrices, target, head))
        return cls(maps, *columns)

    def evaluate(self) -> list[float]:
        """PCKh at each threshold, by the suite's decoder and metric."""
        persons, joints = self.maps.shape[:2]
        locations, _ = decode(self.maps, "quarter")
        names = [str(joint) for joint in range(joints)]
        metric = PCK(joints=names, groups={}, thresholds=THRESHOLDS, name="PCKh")
        metric.update(
            predicted=to_image(locations, self.to_image, STRIDE),
            joints_image=self.target,
            labelled=torch.ones(persons, joints, dtype=torch.bool),
            reference_length=self.reference_length,
            sample_index=torch.arange(persons),
        )
        return [score.item() for score in metric.compute().values()]

    def evaluate_in_torch_loop(self) -> list[float]:
        """The same as one writes it down at first for a network's output: a person and a joint at a time."""
        persons, joints, height, width = self.maps.shape
        right = [0] * len(THRESHOLDS)
        for person in range(persons):
            for joint in range(joints):
                heatmap = self.maps[person, joint]
                y, x = divmod(int(heatmap.argmax()), width)
                location = torch.tensor([x, y], dtype=torch.float32)
                if heatmap[y, x] <= 0:
                    location = torch.zeros(2)
                elif 1 < x < width - 1 and 1 < y < height - 1:
                    slope_x = heatmap[y, x + 1] - heatmap[y, x - 1]
                    slope_y = heatmap[y + 1, x] - heatmap[y - 1, x]
                    location += 0.25 * torch.stack([slope_x, slope_y]).sign()
                matrix = self.to_image[person]
                in_image = matrix[:, :2] @ (STRIDE * location) + matrix[:, 2]
                distance = torch.linalg.vector_norm(in_image - self.target[person, joint])
                for number, threshold in enumerate(THRESHOLDS):
                    if distance <= threshold * self.reference_length[person]:
                        right[number] += 1
        return [100 * count / (persons * joints) for count in right]

    def evaluate_in_numpy_loop(self) -> list[float]:
        """The same in NumPy."""
        maps, matrices = self.maps.numpy(), self.to_image.numpy()
        target, length = self.target.numpy(), self.reference_length.numpy()
        persons, joints, height, width = maps.shape
        right = [0] * len(THRESHOLDS)
        for person in range(persons):
            for joint in range(joints):
                heatmap = maps[person, joint]
                y, x = np.unravel_index(np.argmax(heatmap), heatmap.shape)
                location = np.array([x, y], dtype=np.float32)
                if heatmap.max() <= 0:
                    location = np.zeros(2, dtype=np.float32)
                elif 1 < x < width - 1 and 1 < y < height - 1:
                    slope = np.array(
                        [
                            heatmap[y, x + 1] - heatmap[y, x - 1],
                            heatmap[y + 1, x] - heatmap[y - 1, x],
                        ]
                    )
                    location = location + 0.25 * np.sign(slope)
                in_image = matrices[person] @ np.array([*(STRIDE * location), 1.0])
                distance = np.linalg.norm(in_image - target[person, joint])
                for number, threshold in enumerate(THRESHOLDS):
                    if distance <= threshold * length[person]:
                        right[number] += 1
        return [100 * count / (persons * joints) for count in right]


def _gaussians(
    places: Float[Tensor, "B K 2"], size: tuple[int, int], sigma: float
) -> Float[Tensor, "B K h w"]:
    labelled = torch.ones(places.shape[:2], dtype=torch.bool)
    return gaussian_targets(
        places, labelled, heatmap_size=size, stride=STRIDE, sigma=sigma, quantised=False
    )[0]


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
