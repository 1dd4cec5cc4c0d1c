"""Export to ONNX: images in, score maps or joints out, checked against PyTorch."""

import contextlib
import copy
import io
import logging
import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from pnfs.codec.decode import REACHES, DecodeMethod, decode
from pnfs.data.geometry import heatmap_stride
from pnfs.export.metadata import ExportError, ModelMetadata, Outputs
from pnfs.export.runtimes import OnnxRuntime
from pnfs.models.network import PoseNetwork

OPSET = 20
"""ONNX operator set of exported files."""

TOLERANCE = 1e-3
"""Largest difference of a score from PyTorch's that an export may have; times the largest score where scalar
scores, which nothing squashes, go beyond 1."""

CHECKED_BATCHES = (1, 3)


class ImagesToMaps(nn.Module):
    """A network with the normalisation in front and the sum of overlapping joints behind.

    Args:
        network: A `PoseNetwork`.
    """

    def __init__(self, network: PoseNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: UInt8[Tensor, "B h w 3"]) -> Float[Tensor, "B K h/4 w/4"]:
        return self.network.joint_maps(self.network(self.network.normalise(images)))


class ImagesToJoints(nn.Module):
    """Images to joints in pixels of the image, and their scores.

    Args:
        maps: Images to score maps.
        stride: Image pixels for each pixel of a map, along x and y.
        method: How joints are located.
        sigma: Of the target Gaussians, pixels of a map.
    """

    stride: Tensor

    def __init__(
        self,
        maps: ImagesToMaps,
        stride: tuple[float, float],
        method: DecodeMethod,
        sigma: float = 2.0,
    ) -> None:
        super().__init__()
        self.maps = maps
        self.register_buffer("stride", torch.tensor(stride), persistent=False)
        self.method: DecodeMethod = method
        self.sigma = sigma

    def forward(
        self, images: UInt8[Tensor, "B h w 3"]
    ) -> tuple[Float[Tensor, "B K 2"], Float[Tensor, "B K"]]:
        locations, scores = decode(self.maps(images), self.method, sigma=self.sigma)
        return locations * self.stride, scores


@dataclass(frozen=True)
class ExportReport:
    """What `export_onnx` wrote.

    Attributes:
        path: The file.
        metadata: What it says about itself.
        differences: Batch size -> largest difference of a score from PyTorch's.
    """

    path: Path
    metadata: ModelMetadata
    differences: dict[int, float]


def export_onnx(
    network: PoseNetwork,
    path: str | Path,
    *,
    input_size: tuple[int, int],
    outputs: Outputs = "maps",
    decode_method: DecodeMethod = "quarter",
    sigma: float = 2.0,
    unbiased: bool = False,
    flip_shift: int = 1,
    padding: float = 1.25,
    checkpoint: str = "",
    fuse: bool = True,
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
        decode_method: How joints are located.
        sigma: Of the target Gaussians, pixels of a map; "dark" needs it.
        unbiased: The crops' geometry in training; see `pnfs.data.geometry.crop_matrix`.
        flip_shift: Of the flip test, and
        padding: of person boxes: written into the file for those who run it.
        checkpoint: SHA-256 of the checkpoint, to be written into the file.
        fuse: Whether the network is fused first; see `PoseNetwork.fused`.

    Raises:
        ExportError: The size does not fit the network, a package is missing, or outputs differ by more than
            `TOLERANCE`; then no file is left.
    """
    path = Path(path)
    height, width = input_size
    if height % 32 or width % 32 or height < 32 or width < 32:
        raise ExportError(f"input height and width must divide by 32, got {height}x{width}")
    skeleton = network.parts.skeleton
    metadata = ModelMetadata(
        input_size=(height, width),
        stride=network.stride,
        skeleton=skeleton.name,
        joints=skeleton.joints,
        limbs=skeleton.limbs,
        flip_pairs=skeleton.flip_pairs,
        outputs=outputs,
        decode_method=decode_method,
        sigma=sigma,
        unbiased=unbiased,
        flip_shift=flip_shift,
        padding=padding,
        checkpoint=checkpoint,
    )
    model: nn.Module = ImagesToMaps(network.fused() if fuse else copy.deepcopy(network))
    if outputs == "joints":
        heatmap_size = (height // network.stride, width // network.stride)
        stride = heatmap_stride((height, width), heatmap_size, unbiased)
        model = ImagesToJoints(model, stride, decode_method, sigma)
    path.parent.mkdir(parents=True, exist_ok=True)
    _write(model.eval(), path, metadata)
    try:
        differences = check_export(network, path)
    except ExportError:
        path.unlink()
        raise
    return ExportReport(path, metadata, differences)


def check_export(network: PoseNetwork, path: Path) -> dict[int, float]:
    """Compares an exported file in ONNX Runtime with the network, on noise.

    Returns:
        Batch size -> largest difference of a score.

    Raises:
        ExportError: A score differs by more than `TOLERANCE` allows, or a joint lies where PyTorch's map has
            no peak.
    """
    runtime = OnnxRuntime(path)
    height, width = runtime.metadata.input_size
    device = next(network.parameters()).device
    reference = ImagesToMaps(network).to(device)
    was_training = network.training
    network.eval()
    differences, allowed = {}, {}
    for batch in CHECKED_BATCHES:
        images = np.random.default_rng(batch).integers(0, 256, (batch, height, width, 3), np.uint8)
        with torch.no_grad():
            maps = reference(torch.from_numpy(images).to(device)).cpu().float()
        found = runtime(images)
        if isinstance(found, tuple):
            joints, scores = (torch.from_numpy(x) for x in found)
            stride = heatmap_stride(
                (height, width), (maps.shape[-2], maps.shape[-1]), runtime.metadata.unbiased
            )
            method = runtime.metadata.decode_method
            _check_peaks(maps, joints / torch.tensor(stride), method, path)
            difference = scores - maps.amax((2, 3))
        else:
            difference = torch.from_numpy(found) - maps
        differences[batch] = float(difference.abs().max())
        allowed[batch] = _allowed(maps)
    network.train(was_training)
    # Not the other way round: NaN is no success.
    if not all(differences[batch] <= allowed[batch] for batch in differences):
        raise ExportError(
            f"{path}: the exported model's scores differ from PyTorch's by "
            f"{', '.join(f'{d:.1e} at batch {b}' for b, d in differences.items())}, more than "
            f"{max(allowed.values()):.1e}; the file was not kept"
        )
    return differences


def _allowed(maps: Float[Tensor, "B K h w"]) -> float:
    return TOLERANCE * max(1.0, float(maps.abs().max()))


def _check_peaks(
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
    highest = maps.flatten(2).amax(2)
    allowed = _allowed(maps)
    # Without a positive score there is no peak: the location is (0, 0), wherever the maximum lies.
    if not bool(((nearby >= highest - allowed) | (highest <= allowed)).all()):
        raise ExportError(
            f"{path}: the exported model places joints where PyTorch's score maps have no peak; the "
            "file was not kept"
        )


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
