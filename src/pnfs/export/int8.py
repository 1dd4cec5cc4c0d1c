"""An exported file's convolutions in 8-bit integers, by ONNX Runtime's own static quantisation."""

import logging
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8

from pnfs.codec.codec import decode
from pnfs.export.runtimes import ExportError, ModelMetadata, OnnxRuntime, library
from pnfs.models.network import PoseNetwork

# Convolutions, and the activations behind them: a range measured in front of a ReLU6 would waste most of it.
_OPERATORS = ["Conv", "Clip", "Relu"]
BATCH = 8  # Crops that go through the network at once.
GROUPS = 12  # Neighbouring convolutions are tried, and left in float32, in so many groups.


@dataclass(frozen=True)
class Calibration:
    """Crops, as the network sees them in training: those that 8-bit ranges are measured on, and others as a check.

    `max_moved` is the share of the joints that may move by more than a heatmap pixel; groups of layers stay in
    float32 until no more do on `crops`.
    """

    crops: UInt8[np.ndarray, "N h w 3"]
    held_out: UInt8[np.ndarray, "M h w 3"]
    max_moved: float = 0.01

    def __post_init__(self) -> None:
        if not 0 < self.max_moved <= 1:
            raise ExportError(f"int8.max_moved is a share above 0, to 1; not {self.max_moved}")
        if not len(self.crops) or not len(self.held_out):
            raise ExportError("int8 needs crops to calibrate on, and others to check on")


def quantise(path: Path, calibration: Calibration) -> tuple[int, int]:
    """Puts a file of 8-bit convolutions in a float32 file's place; their number, and how many stay in float32.

    Weights get a scale a channel, activations a scale a tensor, from the mean of the batches' extremes. The
    first convolutions and the last, which make the vectors, stay in float32, and so does all that is no
    convolution. Where more than `calibration.max_moved` of the joints move, the rest is tried in `GROUPS` groups
    by themselves, and those that change the scores most stay in float32 too.

    Raises:
        ExportError: A package is missing, or even one group moves too many joints; the file is as it was.
    """
    graph = library("onnx", extra="onnx").load(path).graph
    ends = _ends(graph)
    inner = [n.name for n in graph.node if n.op_type == "Conv" and n.name not in ends]
    groups = [g.tolist() for g in np.array_split(inner, GROUPS) if len(g)]
    exact_at, exact = answers(OnnxRuntime(path), calibration.crops)
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "int8.onnx"

        def harm(in_float: Sequence[Sequence[str]]) -> tuple[float, float]:
            """Share of the joints that move, and the scores' mean squared difference."""
            _quantise(path, target, calibration.crops, [*ends, *chain(*in_float)])
            found_at, found = answers(OnnxRuntime(target), calibration.crops)
            return moved_share(found_at, exact_at), float(np.square(found - exact).mean())

        left_out: list[list[str]] = []
        if (moved := harm(left_out)[0]) > calibration.max_moved:
            # By the scores, which all change a little: by itself a group moves few joints or none.
            alone = {n: harm([*groups[:n], *groups[n + 1 :]])[1] for n in range(len(groups))}
            groups = [groups[n] for n in sorted(alone, key=lambda n: -alone[n])]
        while moved > calibration.max_moved:
            left_out = groups[: len(left_out) + 1]
            if len(left_out) == len(groups):
                remedy = "raise int8.max_moved, or export with precision=f32"
                raise ExportError(f"precision=int8: even in part it moves joints; {remedy}")
            moved = harm(left_out)[0]
        path.write_bytes(target.read_bytes())
    return len(ends) + len(inner), len(ends) + sum(map(len, left_out))


def check_moved(network: PoseNetwork, path: Path, calibration: Calibration) -> float:
    """Share of the joints that an int8 file moves by more than a heatmap pixel, on `calibration.held_out`.

    Raises:
        ExportError: It is more than twice what the calibration allows on its own crops.
    """
    runtime, crops = OnnxRuntime(path), calibration.held_out
    moved = moved_share(answers(runtime, crops)[0], joints_of(network, crops, runtime.metadata)[0])
    if not moved <= 2 * calibration.max_moved:
        raise ExportError(
            f"{path}: 8-bit integers move {moved:.1%} of the joints by more than a pixel on crops that the file "
            f"was not calibrated on; the file was not kept; calibrate on more crops (int8.crops)"
        )
    return moved


@torch.no_grad()
def joints_of(
    network: PoseNetwork, crops: UInt8[np.ndarray, "N h w 3"], metadata: ModelMetadata
) -> tuple[Float[np.ndarray, "N K 2"], Float[np.ndarray, "N K"], Float[np.ndarray, "N K h/4 w/4"]]:
    """What PyTorch makes of crops in evaluation mode: joints (heatmap pixels), their scores, the heatmaps."""
    was_training, device = network.training, next(network.parameters()).device
    batches = torch.from_numpy(crops).split(BATCH)
    maps = torch.cat([network.eval().heatmaps(batch.to(device)).cpu().float() for batch in batches])
    network.train(was_training)
    method: Any = metadata.decode_method if metadata.outputs == "joints" else "argmax"
    joints, scores = decode(maps, method, sigma=metadata.sigma)
    return joints.numpy(), scores.numpy(), maps.numpy()


def answers(
    run: OnnxRuntime, crops: UInt8[np.ndarray, "N h w 3"]
) -> tuple[Float[np.ndarray, "N K 2"], Float[np.ndarray, "N ..."]]:
    """Joints of crops (x, y in heatmap pixels); and the heatmaps, or the joints' scores."""
    height, width = (side // run.metadata.stride for side in run.metadata.input_size)
    found = [run(crops[n : n + BATCH]) for n in range(0, len(crops), BATCH)]
    if run.metadata.outputs == "joints":
        joints, scores = (np.concatenate(column) for column in zip(*found, strict=True))
        return joints / np.array(run.metadata.codec.stride((height, width))), scores
    maps = np.concatenate(found)
    return decode(torch.from_numpy(maps), "argmax")[0].numpy(), maps


def moved_share(found: Float[np.ndarray, "N K 2"], expected: Float[np.ndarray, "N K 2"]) -> float:
    """Share of the joints that lie more than a pixel away along x or y."""
    return float((np.abs(found - expected).max(-1) > 1).mean())


def _ends(graph: Any) -> list[str]:
    """The convolutions that no convolution comes before, or none after."""
    # Output of a node -> the nearest convolutions before it; convolution -> those before it.
    nearest: dict[str, set[str]] = {}
    inputs: dict[str, set[str]] = {}
    for node in graph.node:  # Nodes come after what they read.
        before = set().union(*(nearest.get(name, set()) for name in node.input))
        if node.op_type == "Conv":
            inputs[node.name], before = before, {node.name}
        nearest |= dict.fromkeys(node.output, before)
    followed = set().union(*inputs.values())
    return [name for name, before in inputs.items() if not before or name not in followed]


def _quantise(path: Path, target: Path, crops: np.ndarray, excluded: Sequence[str]) -> None:
    onnx, ort = (library(name, "onnx") for name in ("onnx", "onnxruntime.quantization"))
    batches = ({"images": crops[n : n + BATCH]} for n in range(0, len(crops), BATCH))
    # Has what is called of a CalibrationDataReader.
    reader: Any = SimpleNamespace(get_next=lambda: next(batches, None))
    # Advice on preparing models, which ours need not, is kept from the user.
    logging.disable(logging.WARNING)
    try:
        ort.quantize_static(
            path,
            target,
            reader,
            quant_format=ort.QuantFormat.QDQ,
            op_types_to_quantize=_OPERATORS,
            per_channel=True,
            activation_type=ort.QuantType.QUInt8,
            weight_type=ort.QuantType.QInt8,
            nodes_to_exclude=list(excluded),
            # The mean of the batches' extremes: one outlier does not set the scale.
            extra_options={"CalibMovingAverage": True},
        )
    finally:
        logging.disable(logging.NOTSET)
    model = onnx.load(target)
    properties = {p.key: p.value for p in model.metadata_props}
    onnx.helper.set_model_props(model, properties | {"pnfs.precision": '"int8"'})
    onnx.save(model, target)
