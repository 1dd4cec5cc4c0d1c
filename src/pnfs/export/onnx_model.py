"""Export to ONNX: images in, heatmaps or joints out, checked against PyTorch."""

import copy
import io
import logging
import math
import warnings
from contextlib import redirect_stdout
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from pnfs.codec import Codec
from pnfs.codec.codec import REACHES
from pnfs.export.int8 import Calibration, Convolutions, answers, check_moved, maps_of, quantise
from pnfs.export.runtimes import ExportError, ModelMetadata, OnnxRuntime, Outputs, library
from pnfs.models.fuse import fuse
from pnfs.models.network import PoseNetwork

OPSET = 20
TOLERANCE = 1e-3
"""Largest difference of a score from PyTorch's that an export may have; times the largest score where scalar
scores, which nothing squashes, go beyond 1."""


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
        convolutions: How many there are, and in float32; None for a file in float32.
        moved: Share of the joints that the 8-bit integers move by more than a heatmap pixel.
    """

    path: Path
    metadata: ModelMetadata
    differences: dict[int, float]
    convolutions: Convolutions | None = None
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
    fused: bool = True,
    int8: Calibration | None = None,
) -> ExportReport:
    """Writes an ONNX file and compares what ONNX Runtime makes of it with the network's outputs.

    The file takes `images`, uint8 (B, h, w, 3), RGB, for any B. With outputs="maps" it returns `maps`, float32
    (B, K, h/4, w/4); with "joints" `joints`, float32 (B, K, 2), x and y in pixels of the image, and `scores`
    (B, K).

    The network is left as it is; `fused` fuses a copy first (see `pnfs.models.fuse`). For `input_size`, `outputs`,
    `padding` and `checkpoint` see `ModelMetadata`; `codec` is how the network was trained to be read (None: the
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
    whole = fuse(network) if fused else copy.deepcopy(network)
    path.parent.mkdir(parents=True, exist_ok=True)
    _write(_Exported(whole, codec if outputs == "joints" else None).eval(), path, metadata)
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
        ExportError: A score differs by more than `TOLERANCE` allows, or a joint lies where PyTorch's map has
            no peak.
    """
    runtime = OnnxRuntime(path)
    metadata, differences = runtime.metadata, {}
    for batch in (1, 3):
        shape = (batch, *metadata.input_size, 3)
        images = np.random.default_rng(batch).integers(0, 256, shape, np.uint8)
        maps = maps_of(network, images)
        joints, scores = (torch.from_numpy(x) for x in answers(runtime, images))
        expected = maps
        if metadata.outputs == "joints":
            check_peaks(maps, joints, metadata.decode_method, path)
            expected = maps.amax((2, 3))
        differences[batch] = float((scores - expected).abs().max())
        # Not the other way round: NaN is no success.
        if not differences[batch] <= _allowed(maps):
            text = f"scores differ from PyTorch's by {differences[batch]:.1e} at batch {batch}"
            raise ExportError(f"{path}: {text}, more than {_allowed(maps):.1e}; it was not kept")
    return differences


def _allowed(maps: Float[Tensor, "B K h w"]) -> float:
    return TOLERANCE * max(1.0, float(maps.abs().max()))


def check_peaks(
    maps: Float[Tensor, "B K h w"], locations: Float[Tensor, "B K 2"], method: str, path: Path
) -> None:
    """Each location must lie as near to a peak as the decoding puts it; which of equal ones is left open.

    Raises:
        ExportError: One does not.
    """
    height, width = maps.shape[-2:]
    reach = math.ceil(REACHES.get(method, max(REACHES.values())))
    x, y = locations.round().long().unbind(-1)
    index = y.clamp(0, height - 1) * width + x.clamp(0, width - 1)
    around = F.max_pool2d(maps, 2 * reach + 1, stride=1, padding=reach)
    nearby = around.flatten(2).gather(2, index[..., None])[..., 0]
    highest, allowed = maps.amax((2, 3)), _allowed(maps)
    # Without a positive score there is no peak: the location is (0, 0), wherever the maximum lies.
    if not bool(((nearby >= highest - allowed) | (highest <= allowed)).all()):
        raise ExportError(f"{path}: joints lie where PyTorch's maps have no peak; it was not kept")
