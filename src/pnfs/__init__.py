"""Pose Neural Fabrics Search: part-aware neural fabrics for 2D human pose estimation."""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING

__version__ = version("pnfs")

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Literal

    from pnfs.codec.codec import DecodeMethod
    from pnfs.export.runtimes import Precision
    from pnfs.inference import Predictor


def load(
    checkpoint: str | Path,
    device: str = "auto",
    *,
    runtime: Literal["torch", "onnx", "openvino"] | None = None,
    precision: Precision | None = None,
    padding: float | None = None,
    decode_method: DecodeMethod | None = None,
    flip_shift: Literal[0, 1] | None = None,
    batch_size: int = 16,
    trust: bool = False,
) -> Predictor:
    """A trained network that finds joints in pictures.

        predictor = pnfs.load("runs/train/1a2b3c4d")
        poses = predictor.predict(image, boxes)
        poses.joints, poses.scores

    Args:
        checkpoint: A checkpoint, a run's folder (its best checkpoint is taken), or an .onnx file that
            `pnfs export` wrote.
        device: "auto" (an accelerator if there is one), "cpu", "cuda", "cuda:1", ...; exported files run
            on the CPU.
        runtime: What runs the network; None: "onnx" for .onnx files, else "torch".
        precision: What OpenVINO computes in, "f32" or "bf16"; None: f32. Other runtimes have no choice.
        padding: Factor on the sides of given boxes; None: as in training.
        decode_method: From heatmaps to locations; None: as in training.
        flip_shift: Pixels by which mirrored maps move to the right in the flip test, 0 or 1; None: as
            in training.
        batch_size: Persons that go through the network at once.
        trust: Build whatever classes the checkpoint's configuration names, your own ones too. That runs
            their code: only for checkpoints that you wrote.

    Raises:
        CheckpointError: There is no such checkpoint, or it cannot be used.
        ValueError: There is no such device or runtime, or no such precision on this processor.
    """
    # Here and not above: `import pnfs` is to stay as cheap as reading a few lines.
    from hydra.utils import instantiate

    from pnfs.inference.predictor import load_predictor

    return load_predictor(
        checkpoint,
        device,
        build=lambda model: instantiate(model, _convert_="all"),
        runtime=runtime,
        precision=precision,
        padding=padding,
        decode_method=decode_method,
        flip_shift=flip_shift,
        batch_size=batch_size,
        trust=trust,
    )
