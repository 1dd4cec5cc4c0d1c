"""Export to ONNX: images in, heatmaps or joints out, checked against PyTorch."""

import io
import logging
import warnings
from contextlib import redirect_stdout
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from pnfs.codec import Codec
from pnfs.export.int8 import Calibration, answers, check_moved, joints_of, moved_share, quantise
from pnfs.export.runtimes import ExportError, ModelMetadata, OnnxRuntime, Outputs, library
from pnfs.models.fuse import fuse
from pnfs.models.network import PoseNetwork

OPSET = 20
TOLERANCE = 1e-3
"""Largest difference of a score from PyTorch's that an export may have; times the largest score where scalar
scores, which nothing squashes, go beyond 1."""
NEAR_TIES = 0.1  # Share of the joints in noise that rounding may put elsewhere.


class _Exported(nn.Module):
    """Images to one heatmap a joint, or to joints in pixels of the image and their scores."""

    def __init__(self, network: PoseNetwork, codec: Codec | None) -> None:
        super().__init__()
        self.network = network
        self.codec = codec

    def forward(
        self, images: UInt8[Tensor, "B h w 3"]
    ) -> Float[Tensor, "B K h/4 w/4"] | tuple[Float[Tensor, "B K 2"], Float[Tensor, "B K"]]:
        maps = self.network.heatmaps(images)
        return maps if self.codec is None else self.codec.decode(maps)


@dataclass(frozen=True)
class ExportReport:
    """What `export_onnx` wrote.

    Attributes:
        differences: Batch size -> largest difference of a score from PyTorch's, in float32.
        convolutions: How many there are, and how many of them in float32; None for a file in float32.
        moved: Share of the joints that the 8-bit integers move by more than a heatmap pixel.
    """

    path: Path
    metadata: ModelMetadata
    differences: dict[int, float]
    convolutions: tuple[int, int] | None = None
    moved: float = 0.0


def export_onnx(
    network: PoseNetwork,
    path: str | Path,
    *,
    input_size: tuple[int, int],
    outputs: Outputs = "maps",
    codec: Codec | None = None,
    padding: float = 1.25,
    checkpoint: str = "",
    int8: Calibration | None = None,
) -> ExportReport:
    """Writes an ONNX file and compares what ONNX Runtime makes of it with the network's outputs.

    The file takes `images`, uint8 (B, h, w, 3), RGB, for any B. With outputs="maps" it returns `maps`, float32
    (B, K, h/4, w/4); with "joints" `joints`, float32 (B, K, 2), x and y in pixels of the image, and `scores`
    (B, K).

    A fused copy of the network is written. For `input_size`, `outputs`, `padding` and `checkpoint` see
    `ModelMetadata`; `codec` is how the network was trained to be read (None: the
    paper's way). `int8` are crops to put most convolutions into 8-bit integers by; None writes all in float32.

    Raises:
        ExportError: The size does not fit the network, a package is missing, outputs differ by more than
            `TOLERANCE`, or 8-bit integers move more joints than `int8` allows; then no file is left.
    """
    path = Path(path)
    if any(side % 32 or side < 32 for side in input_size):
        raise ExportError(f"input height and width must divide by 32, got {input_size}")
    skeleton, codec = network.parts.skeleton, codec or Codec()
    told = vars(skeleton) | vars(codec) | {"skeleton": skeleton.name, "stride": network.stride}
    told |= {"input_size": input_size, "outputs": outputs, "padding": padding}
    told["parts"] = tuple((name, tuple(of)) for name, of in network.parts.parts.items())
    known = {field.name for field in fields(ModelMetadata)}
    told = {name: value for name, value in told.items() if name in known}
    metadata = ModelMetadata(**told, checkpoint=checkpoint)
    path.parent.mkdir(parents=True, exist_ok=True)
    _write(_Exported(fuse(network), codec if outputs == "joints" else None).eval(), path, metadata)
    try:
        differences = check_export(network, path)
        if int8 is None:
            return ExportReport(path, metadata, differences)
        convolutions = quantise(path, int8)
        moved = check_moved(network, path, int8)
    except ExportError:
        path.unlink()
        raise
    metadata = replace(metadata, precision="int8")
    return ExportReport(path, metadata, differences, convolutions, moved)


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
            output_names=["maps"] if metadata.outputs == "maps" else ["joints", "scores"],
            dynamic_shapes={"images": {0: torch.export.Dim("batch")}},
            opset_version=OPSET,
            verbose=False,
        )
    assert program is not None
    program.model.metadata_props.update(metadata.to_properties())
    program.save(path)


def check_export(network: PoseNetwork, path: Path) -> dict[int, float]:
    """Batch size -> largest difference of a score in ONNX Runtime from the network's, on noise.

    Raises:
        ExportError: A score differs by more than `TOLERANCE` allows, or more joints than near ties explain.
    """
    runtime = OnnxRuntime(path)
    metadata, differences = runtime.metadata, {}
    for batch in (1, 3):
        shape = (batch, *metadata.input_size, 3)
        images = np.random.default_rng(batch).integers(0, 256, shape, np.uint8)
        expected_joints, peaks, maps = joints_of(network, images, metadata)
        joints, scores = answers(runtime, images)
        expected = maps if metadata.outputs == "maps" else peaks
        differences[batch] = float(np.abs(scores - expected).max())
        allowed = TOLERANCE * max(1.0, float(np.abs(maps).max()))
        moved = moved_share(joints, expected_joints) if metadata.outputs == "joints" else 0.0
        # Not the other way round: NaN is no success.
        if not (differences[batch] <= allowed and moved <= NEAR_TIES):
            text = f"scores differ from PyTorch's by {differences[batch]:.1e} at batch {batch}"
            raise ExportError(f"{path}: {text} (allowed: {allowed:.1e}), {moved:.0%} of the joints lie elsewhere")
    return differences
