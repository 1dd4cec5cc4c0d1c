"""Latency of inference: the plain network, its grouped and folded forms, and exported files."""

import copy
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pnfs.bench.timing import take_turns
from pnfs.body import PartMode
from pnfs.export.onnx_model import export_onnx
from pnfs.export.runtimes import OnnxRuntime, OpenVinoRuntime
from pnfs.models import PoseFabricNetwork, PoseNetwork, normalise_images
from pnfs.models.backbones import MobileNetV2
from pnfs.models.folding import fold_batch_norms, fuse

Call = Callable[[np.ndarray], Any]

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
) -> dict[str, Any]:
    """Times every form of the paper's ablation model (H=1, C=10, d=8, MobileNet-V2) with random weights.

    Within a model and batch size the forms take turns. All take uint8 images and return score maps of joints.

    Args:
        part_modes: Name -> part mode, P = 1, 3, 5, 8.
        others: Name -> network to time beside them, such as baselines; batch norms are folded.
        batches: Batch sizes.
        input_size: (height, width).
        rounds: Rounds that count.
        repeats: Calls in a row in each round.
        threads: Threads for every form.
        compiled: Also time the folded network under `torch.compile`.

    Returns:
        "threads", "input_size", and "models": name -> batch size -> form -> "ms" (median), "ms_low", "speedup"
        over the baseline by medians, "difference" of its scores from the baseline's.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    options = {"batches": batches, "input_size": input_size, "rounds": rounds, "repeats": repeats}
    models: dict[str, Any] = {}
    try:
        for name, mode in part_modes.items():
            torch.manual_seed(0)
            network = PoseFabricNetwork(
                backbone=MobileNetV2("none"), skeleton=mode.skeleton.name, parts=mode.parts
            )
            _make_lively(network, input_size)
            with tempfile.TemporaryDirectory() as folder:
                forms = _forms(network.eval(), Path(folder), input_size, threads, compiled)
                models[name] = _time_forms(forms, **options)
        for name, network in (others or {}).items():
            with tempfile.TemporaryDirectory() as folder:
                forms = _other_forms(network.eval(), Path(folder), input_size, threads)
                models[name] = _time_forms(forms, **options)
        torch.manual_seed(0)
        models["MobileNet-V2 alone"] = _time_forms(_backbone_forms(), **options)
    finally:
        torch.set_num_threads(before)
    return {"threads": threads, "input_size": list(input_size), "models": models}


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
) -> dict[str, Call]:
    forms = {
        BASELINE: _eager(_with_form(network, "loop").to(memory_format=torch.contiguous_format)),
        "eager, loop, channels last": _eager(_with_form(network, "loop")),
        "eager, grouped, channels last": _eager(_with_form(network, "grouped")),
        "folded, PyTorch": _eager(fuse(network)),
    }
    if compiled:
        folded = fuse(network)
        folded.compile()
        forms["folded, torch.compile"] = _eager(folded)
    return forms | _exported(network, folder, input_size, threads)


def _other_forms(
    network: PoseNetwork, folder: Path, input_size: tuple[int, int], threads: int
) -> dict[str, Call]:
    plain = copy.deepcopy(network).to(memory_format=torch.contiguous_format)
    forms = {BASELINE: _eager(plain), "folded, PyTorch": _eager(fuse(network))}
    return forms | _exported(network, folder, input_size, threads)


def _backbone_forms() -> dict[str, Call]:
    """The pyramid's finest map stands for the output."""
    backbone = MobileNetV2("none").eval()
    folded = fold_batch_norms(backbone).to(memory_format=torch.channels_last)
    return {BASELINE: _pyramid(backbone), "folded, PyTorch": _pyramid(folded)}


def _exported(
    network: PoseNetwork, folder: Path, input_size: tuple[int, int], threads: int
) -> dict[str, Call]:
    path = folder / "model.onnx"
    export_onnx(network, path, input_size=input_size)
    return {
        "exported, ONNX Runtime": OnnxRuntime(path, threads),
        "exported, OpenVINO": OpenVinoRuntime(path, threads),
    }


def _with_form(network: PoseFabricNetwork, form: Any) -> PoseFabricNetwork:
    copied = copy.deepcopy(network)
    copied.subnetworks.form = form
    return copied


def _eager(network: nn.Module) -> Call:
    @torch.inference_mode()
    def call(images: np.ndarray) -> Tensor:
        return network.joint_maps(network(_laid_out(images, network)))  # type: ignore[operator]

    return call


def _pyramid(backbone: nn.Module) -> Call:
    @torch.inference_mode()
    def call(images: np.ndarray) -> Tensor:
        return backbone(_laid_out(images, backbone))[0]

    return call


def _laid_out(images: np.ndarray, network: nn.Module) -> Tensor:
    """Normalised images in the memory layout of the network's first weights."""
    weight = next(p for p in network.parameters() if p.dim() == 4 and p.shape[1] > 1)
    normalised = normalise_images(torch.from_numpy(images))
    return normalised.contiguous() if weight.is_contiguous() else normalised


def _time_forms(
    forms: Mapping[str, Call],
    *,
    batches: Sequence[int],
    input_size: tuple[int, int],
    rounds: int,
    repeats: int,
) -> dict[int, dict[str, dict[str, float]]]:
    result = {}
    for batch in batches:
        images = np.random.default_rng(0).integers(0, 256, (batch, *input_size, 3), np.uint8)
        expected = np.asarray(forms[BASELINE](images))
        differences = {
            name: float(np.abs(np.asarray(form(images)) - expected).max())
            for name, form in forms.items()
        }
        calls = {name: _bound(form, images) for name, form in forms.items()}
        times = take_turns(calls, rounds=rounds, repeats=repeats if batch == 1 else 1)
        result[batch] = {
            name: {
                "ms": 1e3 * time.median,
                "ms_low": 1e3 * time.low,
                "speedup": times[BASELINE].median / time.median,
                "difference": differences[name],
            }
            for name, time in times.items()
        }
    return result


def _bound(form: Call, images: np.ndarray) -> Callable[[], Any]:
    return lambda: form(images)
