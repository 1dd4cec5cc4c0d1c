"""Latency of inference: the plain network, the fused one, and exported files, float32 and less."""

import copy
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.timing import Call, Maker, Section, take_turns
from benchmarks.training import ablation_network
from pnfs.export.onnx_model import export_onnx
from pnfs.export.runtimes import ExportError, OnnxRuntime, OpenVinoRuntime
from pnfs.models import PoseNetwork
from pnfs.models.backbones import HRNet, ResNet
from pnfs.models.baselines import HRNetPose, SimpleBaseline
from pnfs.models.fuse import fuse


def networks(parts: list[int]) -> Iterator[tuple[str, PoseNetwork]]:
    """The ablation model for each P, and two baselines, with random weights."""
    for count in parts:
        network = ablation_network(count)
        for parameter in network.architecture_parameters().values():
            torch.nn.init.normal_(parameter)
        yield f"P={count}", network
    resnet = ResNet(depth=50, weights="none")
    yield "SimpleBaseline-R50", SimpleBaseline(backbone=resnet, skeleton="mpii")
    hrnet = HRNet(width=32, last_stage=4, finest_only=True, weights="none")
    yield "HRNet-W32", HRNetPose(backbone=hrnet, skeleton="mpii")


def sections(
    *, parts: list[int], size: int, threads: int, rounds: int, files: list[Path], **_: Any
) -> Iterator[Section]:
    """A table for each network at batch 1 and 8, on the CPU; or one of exported files, if there are any."""
    turns = {"threads": threads, "rounds": rounds, "repeats": 3}
    if files:
        table = take_turns(_of_files(files, threads), **turns)
        yield Section("Inference, batch 1, exported files", table)
        return
    for name, network in networks(parts):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            export_onnx(network.eval(), path, input_size=(size, size))
            plain = copy.deepcopy(network).to(memory_format=torch.contiguous_format)
            for batch in (1, 8):
                images = _images(batch, size)
                ways: dict[str, Maker] = {
                    "eager, contiguous": partial(_eager, plain, images, torch.contiguous_format),
                    "eager, channels-last": partial(_eager, network, images),
                    "fused, PyTorch": partial(_eager, fuse(network), images),
                    "exported, ONNX Runtime": partial(_file, OnnxRuntime, path, threads, images),
                    "exported, OpenVINO": partial(_file, OpenVinoRuntime, path, threads, images),
                }
                title = f"Inference, {name}, batch {batch}, {size}x{size}, float32"
                yield Section(title, take_turns(ways, items=batch, **turns))


def _of_files(files: list[Path], threads: int) -> dict[str, Maker]:
    images = _images(1, OnnxRuntime(files[0], 1).metadata.input_size[0])
    ways: dict[str, Maker] = {}
    for path in files:
        ways[f"{path.name}, ONNX Runtime"] = partial(_file, OnnxRuntime, path, threads, images)
        ways[f"{path.name}, OpenVINO"] = partial(_file, OpenVinoRuntime, path, threads, images)
        try:
            OpenVinoRuntime(path, 1, precision="bf16")
        except ExportError as error:
            print(f"{path}: {error}")
            continue
        half = partial(OpenVinoRuntime, precision="bf16")
        ways[f"{path.name}, OpenVINO, bf16"] = partial(_file, half, path, threads, images)
    return ways


def _images(batch: int, size: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (batch, size, size, 3), np.uint8)


def _eager(network: PoseNetwork, images: np.ndarray, layout=torch.channels_last) -> Call:
    inputs = torch.from_numpy(images)
    if layout is torch.contiguous_format:
        inputs = inputs.permute(0, 3, 1, 2).float().contiguous() / 128 - 1

    @torch.inference_mode()
    def call() -> None:
        network.heatmaps(inputs)

    return call


def _file(runtime, path: Path, threads: int, images: np.ndarray) -> Call:
    return partial(runtime(path, threads), images)
