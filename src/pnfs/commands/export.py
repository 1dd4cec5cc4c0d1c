"""`pnfs export`: a trained network as an ONNX file."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import numpy as np

from pnfs.codec import Codec
from pnfs.commands.building import data_for, read_trained, trained_network
from pnfs.commands.configuration import UsageError, console
from pnfs.export.int8 import Calibration
from pnfs.export.onnx_model import TOLERANCE, export_onnx
from pnfs.export.runtimes import FilePrecision
from pnfs.inference.loading import DEFAULT_PADDING
from pnfs.training.checkpoints import results_folder


def run(settings: dict[str, Any]) -> None:
    """Writes the file, checks it against PyTorch, and says how far it is away."""
    # What OpenVINO computes in, the same key of other commands, is another choice.
    if settings["precision"] not in get_args(FilePrecision):
        choices = ", ".join(get_args(FilePrecision))
        raise UsageError(f"precision={settings['precision']}: must be one of {choices}")
    # Eight bits are calibrated on the run's own training crops.
    is_int8 = settings["precision"] == "int8"
    path, trained, content = read_trained(settings, ("model", "dataset") if is_int8 else ("model",))
    out = settings["out"] or results_folder(path, settings["run_root"]) / "model.onnx"
    file = Path(out).expanduser()
    if file.suffix not in ("", ".onnx") or file.is_dir():
        raise UsageError(f"out={settings['out']}: name a file that ends in .onnx")
    network = trained_network(trained, content, path)
    codec = dict(trained.get("codec", {}))
    codec["decode_method"] = settings["decode_method"] or codec.get("decode_method", "quarter")
    height, width = settings["input_size"] or trained["input_size"]
    int8 = _calibration(settings, {**trained, "input_size": (height, width)}, path) if is_int8 else None
    duration = "one to three minutes" if is_int8 else "half a minute"
    console.print(f"exporting {path} (about {duration})")
    report = export_onnx(
        network.eval(),
        file.with_suffix(".onnx"),  # Other commands go by it.
        input_size=(height, width),
        outputs=settings["outputs"],
        codec=Codec(**codec),
        padding=trained["dataset"].get("padding", DEFAULT_PADDING),
        checkpoint=hashlib.sha256(path.read_bytes()).hexdigest(),
        int8=int8,
    )
    differences = ", ".join(f"{d:.1e} at batch {b}" for b, d in report.differences.items())
    before = "" if report.convolutions is None else ", before it was put into 8-bit integers"
    console.print(
        f"{report.path}: {report.metadata.outputs}, {height}x{width}, {report.metadata.precision}, "
        f"{report.path.stat().st_size / 1e6:.1f} MB\n"
        f"largest difference from PyTorch: {differences} (allowed: {TOLERANCE}){before}"
    )
    if int8 is not None and report.convolutions is not None:
        total, in_float = report.convolutions
        console.print(
            f"int8: {total - in_float} of {total} convolutions; {report.moved:.2%} of the joints lie more than a "
            f"pixel of the score maps away from PyTorch's, on {len(int8.held_out)} crops that it was not "
            f"calibrated on (allowed: {min(1.0, 2 * int8.max_moved):.2%})"
        )


def _calibration(settings: Mapping[str, Any], trained: Mapping[str, Any], path: Path) -> Calibration:
    """Plain training crops, spread over the split, in turns to calibrate on and to check on."""
    count = settings["int8"]["crops"]
    crops = data_for(settings, trained, trained["model"]["skeleton"], path)[1].dataset("train")
    if count > len(crops) // 2:
        raise UsageError(
            f"int8.crops={count}: take from 1 to {len(crops) // 2}, half of the {len(crops)} training persons"
        )
    rows = np.linspace(0, len(crops) - 1, 2 * count).astype(int)
    images = np.stack([np.asarray(crops[int(row)]["image"]) for row in rows])
    return Calibration(images[::2], images[1::2], settings["int8"]["max_moved"])
