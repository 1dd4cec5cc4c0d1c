"""Export to ONNX: images in, heatmaps or joints out, checked against PyTorch."""

import contextlib
import copy
import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from pnfs.codec import Codec
from pnfs.export.checks import check_export, check_moved
from pnfs.export.int8 import Calibration, Convolutions, quantise
from pnfs.export.metadata import ExportError, ModelMetadata, Outputs
from pnfs.models.fuse import fuse
from pnfs.models.network import PoseNetwork

OPSET = 20
"""ONNX operator set of exported files."""


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
        path: The file.
        metadata: What it says about itself.
        differences: Batch size -> largest difference of a score from PyTorch's, in float32.
        convolutions: How many are in 8-bit integers; None for a file in float32.
        moved: Share of the joints that the 8-bit integers move by more than a pixel of the score maps.
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

    Args:
        network: The trained network; left as it is.
        path: File to write.
        input_size: (height, width) of the images.
        outputs: What the file returns.
        codec: How the network was trained to be read; None for the paper's way.
        padding: Factor on person boxes, for those who run the file.
        checkpoint: SHA-256 of the checkpoint, to be written into the file.
        fused: Whether the network is fused first; see `pnfs.models.fuse`.
        int8: Crops to put most convolutions into 8-bit integers by; None writes all in float32.

    Raises:
        ExportError: The size does not fit the network, a package is missing, outputs differ by more than
            `TOLERANCE`, or 8-bit integers move more joints than `int8` allows; then no file is left.
    """
    path = Path(path)
    height, width = input_size
    if height % 32 or width % 32 or height < 32 or width < 32:
        raise ExportError(f"input height and width must divide by 32, got {height}x{width}")
    skeleton, codec = network.parts.skeleton, codec or Codec()
    metadata = ModelMetadata(
        input_size=(height, width),
        stride=network.stride,
        skeleton=skeleton.name,
        joints=tuple(skeleton.joints),
        limbs=_pairs(skeleton.limbs),
        flip_pairs=_pairs(skeleton.flip_pairs),
        outputs=outputs,
        decode_method=codec.decode_method,
        sigma=codec.sigma,
        unbiased=codec.unbiased,
        flip_shift=codec.flip_shift,
        padding=padding,
        checkpoint=checkpoint,
        parts=tuple((name, tuple(joints)) for name, joints in network.parts.parts.items()),
    )
    model = _Exported(
        fuse(network) if fused else copy.deepcopy(network), codec if outputs == "joints" else None
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    _write(model.eval(), path, metadata)
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


def _pairs(pairs: Sequence[Sequence[str]]) -> tuple[tuple[str, str], ...]:
    return tuple((a, b) for a, b in pairs)


def _write(model: nn.Module, path: Path, metadata: ModelMetadata) -> None:
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ExportError(
            f"export needs the packages onnx and onnxscript: pip install 'pnfs[onnx]' ({error})"
        ) from error
    # Two images, since the exporter takes a dimension of 1 for a constant.
    example = torch.zeros(2, *metadata.input_size, 3, dtype=torch.uint8)
    names = ["maps"] if metadata.outputs == "maps" else ["joints", "scores"]
    with torch.no_grad(), _quiet():
        program = torch.onnx.export(
            model.cpu(),
            (example,),
            dynamo=True,
            input_names=["images"],
            output_names=names,
            dynamic_shapes={"images": {0: torch.export.Dim("batch")}},
            opset_version=OPSET,
            verbose=False,
        )
    assert program is not None
    program.model.metadata_props.update(metadata.to_properties())
    program.save(path)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps the exporter's notes on its own optimisations from the user."""
    logger = logging.getLogger("onnxscript")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
