"""Latency of inference: the plain network, its grouped and folded forms, and exported files."""

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
from pnfs.models.folding import FusedPoseNetwork, fold_batch_norms, fuse

Maker = Callable[[], Call]

BASELINE = "eager, loop over parts"
"""What ratios are taken against: parts one after another, contiguous memory."""


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
    """Times every form of the paper's ablation model (H=1, C=10, d=8, MobileNet-V2) with random weights.

    Within a model and batch size the forms take turns, each in a process of its own. All take uint8 images and
    return score maps of joints.

    Args:
        part_modes: Name -> part mode, P = 1, 3, 5, 8.
        others: Name -> network to time beside them, such as baselines; batch norms are folded.
        batches: Batch sizes.
        input_size: (height, width).
        rounds: Rounds that count.
        repeats: Calls in a row in each round.
        threads: Threads for every form.
        compiled: Also time the folded network under `torch.compile`.

    Yields:
        A model's name, and batch size -> form -> "ms" (median), "ms_low", "speedup" over the baseline by
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
            forms = _forms(network.eval(), Path(folder), input_size, threads, compiled)
            yield name, _time_forms(forms, **options)
    for name, network in (others or {}).items():
        with tempfile.TemporaryDirectory() as folder:
            forms = _other_forms(network.eval(), Path(folder), input_size, threads)
            yield name, _time_forms(forms, **options)
    torch.manual_seed(0)
    yield "MobileNet-V2 alone", _time_forms(_backbone_forms(), **options)


@torch.no_grad()
def _make_lively(network: PoseFabricNetwork, input_size: tuple[int, int]) -> None:
    """Score maps with peaks and batch norms with statistics, so that differences between forms show."""
    images = torch.randint(0, 256, (4, *input_size, 3), dtype=torch.uint8)
    for parameter in network.architecture_parameters().values():
        parameter.normal_()
    network.calibrate(normalise_images(images))
    network.train()
    for _ in range(20):
        network(normalise_images(images))
    # From a mean of 3 percent to scores that reach high.
    network.subnetworks.head.weight.mul_(4)


def _forms(
    network: PoseFabricNetwork,
    folder: Path,
    input_size: tuple[int, int],
    threads: int,
    compiled: bool,
) -> dict[str, Maker]:
    plain = _with_form(network, "loop").to(memory_format=torch.contiguous_format)
    forms: dict[str, Maker] = {
        BASELINE: Eager(plain),
        "eager, loop, channels last": Eager(_with_form(network, "loop")),
        "eager, grouped, channels last": Eager(_with_form(network, "grouped")),
        "folded, PyTorch": Eager(fuse(network)),
    }
    if compiled:
        forms["folded, torch.compile"] = Eager(fuse(network), compiled=True)
    return forms | _exported(network, folder, input_size, threads)


def _other_forms(
    network: PoseNetwork, folder: Path, input_size: tuple[int, int], threads: int
) -> dict[str, Maker]:
    plain = copy.deepcopy(network).to(memory_format=torch.contiguous_format)
    forms: dict[str, Maker] = {BASELINE: Eager(plain), "folded, PyTorch": Eager(fuse(network))}
    return forms | _exported(network, folder, input_size, threads)


def _backbone_forms() -> dict[str, Maker]:
    """The pyramid's finest map stands for the output."""
    backbone = MobileNetV2("none").eval()
    folded = fold_batch_norms(backbone).to(memory_format=torch.channels_last)
    return {BASELINE: Eager(backbone), "folded, PyTorch": Eager(folded)}


def _exported(
    network: PoseNetwork, folder: Path, input_size: tuple[int, int], threads: int
) -> dict[str, Maker]:
    path = folder / "model.onnx"
    export_onnx(network, path, input_size=input_size)
    return {
        "exported, ONNX Runtime": partial(OnnxRuntime, path, threads),
        "exported, OpenVINO": partial(OpenVinoRuntime, path, threads),
    }


def _with_form(network: PoseFabricNetwork, form: Any) -> PoseFabricNetwork:
    copied = copy.deepcopy(network)
    copied.subnetworks.form = form
    return copied


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
        if isinstance(self.network, PoseNetwork | FusedPoseNetwork):
            return self.network.joint_maps(output)
        return output[0]


def _laid_out(images: np.ndarray, network: nn.Module) -> Tensor:
    """Normalised images in the memory layout of the network's first weights."""
    weight = next(p for p in network.parameters() if p.dim() == 4 and p.shape[1] > 1)
    normalised = normalise_images(torch.from_numpy(images))
    return normalised.contiguous() if weight.is_contiguous() else normalised


def _time_forms(
    forms: Mapping[str, Maker],
    *,
    batches: Sequence[int],
    input_size: tuple[int, int],
    rounds: int,
    repeats: int,
    threads: int,
) -> dict[int, dict[str, dict[str, float]]]:
    result = {}
    calls = {name: CallApart(make, threads) for name, make in forms.items()}
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
