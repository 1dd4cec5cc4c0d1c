"""`pnfs export`: a trained network as an ONNX file."""

import hashlib
from pathlib import Path

from omegaconf import DictConfig
from rich.console import Console

from pnfs.commands.configuration import UsageError, build_network, plain
from pnfs.export.onnx_model import TOLERANCE, export_onnx
from pnfs.inference.loading import DEFAULT_PADDING, trained_unbiased
from pnfs.training.checkpoints import (
    CONFIG_KEY,
    find_checkpoint,
    read_checkpoint,
    without_downloads,
)
from pnfs.training.module import load_network_state

_CHOICES = {"format": ("onnx",), "outputs": ("maps", "joints")}

console = Console()


def run(config: DictConfig) -> None:
    settings = plain(config)
    for key, choices in _CHOICES.items():
        if settings[key] not in choices:
            raise UsageError(f"unknown {key} {settings[key]!r}; there are {', '.join(choices)}")
    path = find_checkpoint(settings["checkpoint"])
    checkpoint = read_checkpoint(path, builds=("model",), trust=settings["trust"])
    trained = without_downloads(checkpoint[CONFIG_KEY])
    network = build_network(trained["model"])
    load_network_state(network, checkpoint["state_dict"])
    codec = trained.get("codec", {})
    height, width = settings["input_size"] or trained["input_size"]
    out = Path(settings["out"]) if settings["out"] else path.parent.parent / "model.onnx"
    console.print(f"exporting {path} (about half a minute)", soft_wrap=True)
    report = export_onnx(
        network.eval(),
        out,
        input_size=(height, width),
        outputs=settings["outputs"],
        decode_method=settings["decode_method"] or codec.get("decode_method", "quarter"),
        sigma=codec.get("sigma", 2.0),
        unbiased=trained_unbiased(trained),
        flip_shift=codec.get("flip_shift", 1),
        padding=trained["dataset"].get("padding", DEFAULT_PADDING),
        checkpoint=hashlib.sha256(path.read_bytes()).hexdigest(),
        fuse=settings["fuse"],
    )
    differences = ", ".join(f"{d:.1e} at batch {b}" for b, d in report.differences.items())
    console.print(
        f"{report.path}: {report.metadata.outputs}, {height}x{width}, "
        f"{report.path.stat().st_size / 1e6:.1f} MB",
        soft_wrap=True,
    )
    console.print(f"largest difference from PyTorch: {differences} (allowed: {TOLERANCE})")
