"""Latency of inference: the plain network, the fused one, and exported files."""

import copy
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pnfs.bench.apart import Call, CallApart, take_turns_apart
from pnfs.body import PartMode
from pnfs.export.onnx_model import export_onnx
from pnfs.export.runtimes import OnnxRuntime, OpenVinoRuntime
from pnfs.models import PoseFabricNetwork, PoseNetwork, normalise_images
from pnfs.models.backbones import MobileNetV2

Maker = Callable[[], Call]

BASELINE = "eager"
"""What ratios are taken against: PyTorch in contiguous memory."""


def bench_inference(
    part_modes: Mapping[str, PartMode],
    *,
    others: Mapping[str, PoseNetwork] | None = None,
    batches: Sequence[int] = (1, 8, 32),
    input_size: tuple[int, int] = (256, 256),
    rounds: int = 7,
    repeats: int = 3,
    threads: int = 2,
    compiled: bool = False,
) -> Iterator[tuple[str, dict[int, dict[str, dict[str, float]]]]]:
    """Times every way to run the paper's ablation model (H=1, C=10, d=8, MobileNet-V2) with random weights.

    Within a model and batch size the ways take turns, each in a process of its own. All take uint8 images and
    return score maps of joints.

    Args:
        part_modes: Name -> part mode, P = 1, 3, 5, 8.
        others: Name -> network to time beside them, such as baselines.
        batches: Batch sizes.
        input_size: (height, width).
        rounds: Rounds that count.
        repeats: Calls in a row in each round.
        threads: Threads for each of them.
        compiled: Also time the fused network under `torch.compile`.

    Yields:
        A model's name, and batch size -> way -> "ms" (median), "ms_low", "speedup" over the baseline by
        medians, "difference" of its scores from the baseline's (as a share of the largest where that is above
        1), "highest" score.
    """
    options: dict[str, Any] = {
        "batches": batches,
        "input_size": input_size,
        "rounds": rounds,
        "repeats": repeats,
        "threads": threads,
    }
    for name, mode in part_modes.items():
        torch.manual_seed(0)
        network = PoseFabricNetwork(
            backbone=MobileNetV2("none"), skeleton=mode.skeleton.name, parts=mode.parts
        )
        _make_lively(network, input_size)
        with tempfile.TemporaryDirectory() as folder:
            ways = _ways(network.eval(), Path(folder), input_size, threads, compiled)
            yield name, _time_ways(ways, **options)
    for name, network in (others or {}).items():
        with tempfile.TemporaryDirectory() as folder:
            ways = _ways(network.eval(), Path(folder), input_size, threads, compiled=False)
            yield name, _time_ways(ways, **options)
    backbone = MobileNetV2("none").eval()
    yield "MobileNet-V2 alone", _time_ways({BASELINE: Eager(backbone)}, **options)


@torch.no_grad()
def _make_lively(network: PoseFabricNetwork, input_size: tuple[int, int]) -> None:
    """Score maps with peaks and batch norms with statistics, so that differences between ways show."""
    images = torch.randint(0, 256, (4, *input_size, 3), dtype=torch.uint8)
    for parameter in network.architecture_parameters().values():
        parameter.normal_()
    network.calibrate(normalise_images(images))
    network.train()
    for _ in range(20):
        network(normalise_images(images))
    # From a mean of 3 percent to scores that reach high.
    network.head.weight.mul_(4)


def _ways(
    network: PoseNetwork, folder: Path, input_size: tuple[int, int], threads: int, compiled: bool
) -> dict[str, Maker]:
    plain = copy.deepcopy(network).to(memory_format=torch.contiguous_format)
    ways: dict[str, Maker] = {
        BASELINE: Eager(plain),
        "eager, channels last": Eager(network),
        "fused, PyTorch": Eager(network.fused()),
    }
    if compiled:
        ways["fused, torch.compile"] = Eager(network.fused(), compiled=True)
    return ways | _exported(network, folder, input_size, threads)


def _exported(
    network: PoseNetwork, folder: Path, input_size: tuple[int, int], threads: int
) -> dict[str, Maker]:
    path = folder / "model.onnx"
    export_onnx(network, path, input_size=input_size)
    return {
        "exported, ONNX Runtime": partial(OnnxRuntime, path, threads),
        "exported, OpenVINO": partial(OpenVinoRuntime, path, threads),
    }


@dataclass(frozen=True)
class Eager:
    """Makes the plain call of a network.

    Args:
        network: With maps of joints, or a backbone, whose finest map stands for them.
        compiled: Under `torch.compile`.
    """

    network: nn.Module
    compiled: bool = False

    def __call__(self) -> Call:
        if self.compiled:
            self.network.compile()
        return self._maps

    @torch.inference_mode()
    def _maps(self, images: np.ndarray) -> Tensor:
        output = self.network(_laid_out(images, self.network))
        if isinstance(self.network, PoseNetwork):
            return self.network.joint_maps(output)
        return output[0]


def _laid_out(images: np.ndarray, network: nn.Module) -> Tensor:
    """Normalised images in the memory layout of the network's first weights."""
    weight = next(p for p in network.parameters() if p.dim() == 4 and p.shape[1] > 1)
    normalised = normalise_images(torch.from_numpy(images))
    return normalised.contiguous() if weight.is_contiguous() else normalised


def _time_ways(
    ways: Mapping[str, Maker],
    *,
    batches: Sequence[int],
    input_size: tuple[int, int],
    rounds: int,
    repeats: int,
    threads: int,
) -> dict[int, dict[str, dict[str, float]]]:
    result = {}
    calls = {name: CallApart(make, threads) for name, make in ways.items()}
    for batch in batches:
        images = np.random.default_rng(0).integers(0, 256, (batch, *input_size, 3), np.uint8)
        outputs = {name: call.output(images) for name, call in calls.items()}
        # Scalar scores are not squashed, and with random weights they grow large.
        scale = max(1.0, float(np.abs(outputs[BASELINE]).max()))
        times = take_turns_apart(calls, rounds=rounds, repeats=repeats if batch == 1 else 1)
        result[batch] = {
            name: {
                "ms": 1e3 * median(seconds),
                "ms_low": 1e3 * min(seconds),
                "speedup": median(times[BASELINE]) / median(seconds),
                "difference": float(np.abs(outputs[name] - outputs[BASELINE]).max()) / scale,
                "highest": float(outputs[name].max()),
            }
            for name, seconds in times.items()
        }
    for call in calls.values():
        call.close()
    return result
