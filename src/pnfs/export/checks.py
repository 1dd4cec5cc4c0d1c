"""Exported files against the network in PyTorch."""

import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from pnfs.codec import Codec
from pnfs.codec.decode import REACHES, decode
from pnfs.export.int8 import BATCH, Calibration, answers, moved_share
from pnfs.export.metadata import ExportError
from pnfs.export.runtimes import OnnxRuntime
from pnfs.models.network import PoseNetwork

TOLERANCE = 1e-3
"""Largest difference of a score from PyTorch's that an export may have; times the largest score where scalar
scores, which nothing squashes, go beyond 1."""

CHECKED_BATCHES = (1, 3)


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
    differences, allowed = {}, {}
    for batch in CHECKED_BATCHES:
        images = np.random.default_rng(batch).integers(0, 256, (batch, height, width, 3), np.uint8)
        maps = _maps(network, images)
        found = runtime(images)
        if isinstance(found, tuple):
            joints, scores = (torch.from_numpy(x) for x in found)
            codec = Codec(unbiased=runtime.metadata.unbiased)
            stride = codec.stride((maps.shape[-2], maps.shape[-1]))
            method = runtime.metadata.decode_method
            _check_peaks(maps, joints / torch.tensor(stride), method, path)
            difference = scores - maps.amax((2, 3))
        else:
            difference = torch.from_numpy(found) - maps
        differences[batch] = float(difference.abs().max())
        allowed[batch] = _allowed(maps)
    # Not the other way round: NaN is no success.
    if not all(differences[batch] <= allowed[batch] for batch in differences):
        raise ExportError(
            f"{path}: the exported model's scores differ from PyTorch's by "
            f"{', '.join(f'{d:.1e} at batch {b}' for b, d in differences.items())}, more than "
            f"{max(allowed.values()):.1e}; the file was not kept"
        )
    return differences


def check_moved(network: PoseNetwork, path: Path, calibration: Calibration) -> float:
    """Compares where an int8 file and the network put joints, on crops that the file was not calibrated on.

    Returns:
        Share of the joints that lie more than a pixel of the score maps away along x or y.

    Raises:
        ExportError: It is more than twice what the calibration allows on its own crops.
    """
    runtime = OnnxRuntime(path)
    metadata, crops = runtime.metadata, calibration.held_out
    method = metadata.decode_method if metadata.outputs == "joints" else "argmax"
    expected = [
        decode(_maps(network, crops[n : n + BATCH]), method, sigma=metadata.sigma)[0].numpy()  # type: ignore[arg-type]
        for n in range(0, len(crops), BATCH)
    ]
    moved = moved_share(answers(runtime, crops)[0], np.concatenate(expected))
    if not moved <= 2 * calibration.max_moved:
        raise ExportError(
            f"{path}: {moved:.1%} of the joints lie more than a pixel away from where PyTorch puts them, on "
            f"crops that the file was not calibrated on, more than {2 * calibration.max_moved:.1%}; the file "
            "was not kept; calibrate on more crops (int8.crops)"
        )
    return moved


@torch.no_grad()
def _maps(network: PoseNetwork, images: np.ndarray) -> Float[Tensor, "B K h w"]:
    was_training, device = network.training, next(network.parameters()).device
    maps = network.eval().heatmaps(torch.from_numpy(images).to(device)).cpu().float()
    network.train(was_training)
    return maps


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
