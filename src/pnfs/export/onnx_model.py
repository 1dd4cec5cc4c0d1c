"""Export to ONNX: images in, heatmaps out, in float32 or 8-bit integers, checked against PyTorch."""

import io
import logging
import tempfile
import warnings
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, fields, replace
from itertools import chain
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from pnfs.codec import Codec
from pnfs.codec.codec import decode
from pnfs.export.runtimes import ExportError, ModelMetadata, OnnxRuntime, library
from pnfs.models.fuse import fuse
from pnfs.models.network import PoseNetwork

OPSET = 20
TOLERANCE = 1e-3
"""Largest difference of a score from PyTorch's that an export may have; times the largest score where scalar
scores, which nothing squashes, go beyond 1."""
BATCH = 8  # Crops that go through the network at once.
GROUPS = 12  # Neighbouring convolutions are tried, and left in float32, in so many groups.
# Convolutions, and the activations behind them: a range measured in front of a ReLU6 would waste most of it.
_OPERATORS = ["Conv", "Clip", "Relu"]


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


@dataclass(frozen=True)
class ExportReport:
    """What `export_onnx` wrote."""

    path: Path
    metadata: ModelMetadata
    differences: dict[int, float]  # Batch size -> largest difference of a score from PyTorch's, in float32.
    convolutions: tuple[int, int] | None = None  # All of them, and those in float32; None for a file in float32.
    moved: float = 0.0  # Share of held-out joints that 8-bit integers move by more than a heatmap pixel.


class _Heatmaps(nn.Module):
    """Images to one heatmap a joint, as a module's `forward`."""

    def __init__(self, network: PoseNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: UInt8[Tensor, "B h w 3"]) -> Float[Tensor, "B K h/4 w/4"]:
        return self.network.heatmaps(images)


def export_onnx(
    network: PoseNetwork,
    path: str | Path,
    *,
    input_size: tuple[int, int],
    codec: Codec | None = None,
    padding: float = 1.25,
    checkpoint: str = "",
    int8: Calibration | None = None,
) -> ExportReport:
    """Writes an ONNX file and compares what ONNX Runtime makes of it with the network's outputs.

    The file takes `images`, uint8 (B, h, w, 3), RGB, for any B, and returns `maps`, float32 (B, K, h/4, w/4). A
    fused copy of the network, which is put into evaluation mode, is written.

    For `input_size`, `padding` and `checkpoint` see `ModelMetadata`; `codec` is how the network was trained to be
    read (None: the paper's way). `int8` are crops to put most convolutions into 8-bit integers by; None writes all
    in float32.

    Raises:
        ExportError: The size does not fit the network, a package is missing, outputs differ by more than
            `TOLERANCE`, or 8-bit integers move more joints than `int8` allows; then no file is written.
    """
    path = Path(path)
    if any(side % 32 or side < 32 for side in input_size):
        raise ExportError(f"input height and width must divide by 32, got {input_size}")
    skeleton = network.parts.skeleton
    told = vars(skeleton) | vars(codec or Codec()) | {"skeleton": skeleton.name, "stride": network.stride}
    told |= {"input_size": input_size, "padding": padding, "checkpoint": checkpoint}
    told["parts"] = tuple((name, tuple(of)) for name, of in network.parts.parts.items())
    metadata = ModelMetadata(**{f.name: told[f.name] for f in fields(ModelMetadata) if f.name in told})
    path.parent.mkdir(parents=True, exist_ok=True)
    # A file that was there before is replaced only when the new one has passed.
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".export") as folder:
        made = Path(folder) / path.name
        _write(_Heatmaps(fuse(network)).eval(), made, metadata)
        in_torch = _in_torch(network)
        report = ExportReport(path, metadata, check_export(in_torch, made))
        if int8 is not None:
            convolutions = quantise(made, int8)
            moved = moved_share(*(heatmaps_of(run, int8.held_out) for run in (OnnxRuntime(made), in_torch)))
            if not moved <= 2 * int8.max_moved:
                text = f"8-bit integers move {moved:.1%} of the joints on crops that it was not calibrated on"
                raise ExportError(f"{path}: {text}; it was not kept; calibrate on more crops (int8.crops)")
            metadata = replace(metadata, precision="int8")
            report = replace(report, metadata=metadata, convolutions=convolutions, moved=moved)
        made.replace(path)
    return report


def _write(model: nn.Module, path: Path, metadata: ModelMetadata) -> None:
    library("onnx", extra="onnx")
    library("onnxscript", extra="onnx")
    # Two images, since the exporter takes a dimension of 1 for a constant.
    example = torch.zeros(2, *metadata.input_size, 3, dtype=torch.uint8)
    # The exporter's notes on its own optimisations are kept from the user.
    logging.getLogger("onnxscript").setLevel(logging.ERROR)
    with torch.no_grad(), warnings.catch_warnings(action="ignore"), redirect_stdout(io.StringIO()):
        program = torch.onnx.export(
            model.cpu(),
            (example,),
            dynamo=True,
            input_names=["images"],
            output_names=["maps"],
            dynamic_shapes={"images": {0: torch.export.Dim("batch")}},
            opset_version=OPSET,
            verbose=False,
        )
    assert program is not None
    program.model.metadata_props.update(metadata.to_properties())
    program.save(path)


Run = Callable[[UInt8[np.ndarray, "B h w 3"]], Float[np.ndarray, "B K h/4 w/4"]]


def _in_torch(network: PoseNetwork) -> Run:
    """The network, called as a runtime is."""
    device = next(network.eval().parameters()).device

    @torch.no_grad()
    def run(crops: np.ndarray) -> np.ndarray:
        return network.heatmaps(torch.from_numpy(crops).to(device)).cpu().float().numpy()

    return run


def check_export(in_torch: Run, path: Path) -> dict[int, float]:
    """Batch size -> largest difference of a score in ONNX Runtime from PyTorch's, on noise.

    Raises:
        ExportError: A score differs by more than `TOLERANCE` allows.
    """
    runtime, differences = OnnxRuntime(path), {}
    for batch in (1, 3):
        shape = (batch, *runtime.metadata.input_size, 3)
        images = np.random.default_rng(batch).integers(0, 256, shape, np.uint8)
        expected = in_torch(images)
        differences[batch] = float(np.abs(runtime(images) - expected).max())
        allowed = TOLERANCE * max(1.0, float(np.abs(expected).max()))
        if not differences[batch] <= allowed:  # Not the other way round: NaN is no success.
            text = f"scores differ from PyTorch's by {differences[batch]:.1e} at batch {batch}"
            raise ExportError(f"{path.name}: {text} (allowed: {allowed:.1e})")
    return differences


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
    exact = heatmaps_of(OnnxRuntime(path), calibration.crops)
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "int8.onnx"

        def harm(in_float: Sequence[Sequence[str]]) -> tuple[float, float]:
            """Share of the joints that move, and the scores' mean squared difference."""
            _quantise(path, target, calibration.crops, [*ends, *chain(*in_float)])
            found = heatmaps_of(OnnxRuntime(target), calibration.crops)
            return moved_share(found, exact), float(np.square(found - exact).mean())

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


def heatmaps_of(run: Run, crops: UInt8[np.ndarray, "N h w 3"]) -> Float[np.ndarray, "N K h/4 w/4"]:
    return np.concatenate([run(crops[n : n + BATCH]) for n in range(0, len(crops), BATCH)])


def moved_share(found: Float[np.ndarray, "N K h w"], expected: Float[np.ndarray, "N K h w"]) -> float:
    """Share of the joints whose highest pixel lies more than one away along x or y. Each counts by its score: that
    of an uncertain joint may lie anywhere."""
    (there, _), (here, scores) = (decode(torch.from_numpy(maps), "argmax") for maps in (found, expected))
    weights = scores.clamp(min=1e-6)
    return float((((there - here).abs().amax(-1) > 1) * weights).sum() / weights.sum())


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
