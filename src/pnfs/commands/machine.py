"""Is this machine fit to train on? Library versions, devices, shared memory, disk."""

import os
import platform
import shutil
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import torch
import torchvision

from pnfs.data.check import worst_first
from pnfs.data.faults import Finding

LIBRARIES = (
    "pnfs", "torch", "torchvision", "lightning", "hydra-core", "omegaconf", "numpy", "timm",
    "opencv-python-headless", "albumentations", "wandb", "onnxruntime",
)  # fmt: skip
COMPROMISED = ("lightning 2.6.2", "lightning 2.6.3")
"""Releases that were withdrawn because they carried foreign code."""
_GIB = 2**30


def inspect_machine(run_root: Path | str, precision: str | None = None) -> list[Finding]:
    """Everything that a run would stumble over, and what it will run on, errors first; changes and sends nothing.

    Args:
        run_root: Folder that runs are written below.
        precision: Lightning's precision that training asks for, such as "bf16-mixed".
    """
    findings = [*check_libraries(), *check_devices(precision), *check_memory()]
    return worst_first([*findings, check_disk(Path(run_root))])


def check_libraries() -> Iterator[Finding]:
    """Versions, known bad releases, and whether torchvision's operators fit torch."""
    found = [f"{name} {_version(name)}" for name in LIBRARIES]
    yield Finding("note", "libraries", f"Python {platform.python_version()}", ", ".join(found))
    for release in (release for release in found if release in COMPROMISED):
        problem = "this release was withdrawn because it carried foreign code"
        advice = "Install another one at once; then change the passwords and keys that this machine holds."
        yield Finding("error", "libraries", release, problem, advice)
    try:
        torchvision.ops.nms(torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.ones(1), 0.5)
    except (RuntimeError, NotImplementedError) as error:
        problem = f"its operators do not load beside this torch: {str(error).splitlines()[0]}"
        advice = "Install torch and torchvision together, from the same index."
        yield Finding("error", "libraries", "torchvision", problem, advice)


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


def check_devices(precision: str | None = None) -> Iterator[Finding]:
    """GPUs, whether they compute, and the precisions they support."""
    cores = f"{os.cpu_count() or 1} cores, {torch.get_num_threads()} threads for torch"
    yield Finding(
        "note", "devices", "CPU", f"{platform.processor() or platform.machine()}, {cores}"
    )
    if torch.cuda.is_available():
        yield from (_check_gpu(gpu, precision) for gpu in range(torch.cuda.device_count()))
    elif shutil.which("nvidia-smi"):
        problem = (
            f"torch, built for CUDA {torch.version.cuda or '-'}, cannot use this machine's GPU"
        )
        advice = "Install torch for the driver's CUDA version (pytorch.org, Get Started), or update the driver."
        yield Finding("warning", "devices", "GPU", problem, advice)
    elif not torch.backends.mps.is_available():
        advice = (
            "Enough for the demo, predictions and small sets; the paper's trainings need a GPU."
        )
        yield Finding("note", "devices", "GPU", "no GPU: torch runs on the CPU", advice)


def _check_gpu(index: int, precision: str | None) -> Finding:
    """One small matrix product in each precision: a GPU that is listed need not work."""
    where, name = f"cuda:{index}", torch.cuda.get_device_name(index)
    dtypes = [torch.float32, torch.float16]
    dtypes += [torch.bfloat16] if torch.cuda.is_bf16_supported(including_emulation=False) else []
    try:
        for dtype in dtypes:
            ones = torch.ones(64, 64, device=where, dtype=dtype)
            if float((ones @ ones).float().mean()) != 64:
                raise RuntimeError(f"a matrix product in {dtype} came out wrong")
        free, total = (size / _GIB for size in torch.cuda.mem_get_info(index))
    except RuntimeError as error:
        problem = f"{name} does not compute: {str(error).splitlines()[0]}"
        advice = "See nvidia-smi; or choose another GPU with CUDA_VISIBLE_DEVICES."
        return Finding("error", "devices", where, problem, advice)
    kinds = ", ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)
    described = f"{name}, {free:.1f} of {total:.1f} GiB free, CUDA {torch.version.cuda}, {kinds}"
    if str(precision).startswith("bf16") and torch.bfloat16 not in dtypes:
        advice = "It has no bfloat16: train with trainer.precision=16-mixed."
        return Finding("warning", "devices", where, described, advice)
    return Finding("note", "devices", where, described, "Use trainer=gpu.")


def check_memory(shared: Path = Path("/dev/shm")) -> Iterator[Finding]:
    """Shared memory, through which loader processes hand over their batches."""
    if shared.is_dir() and (size := shutil.disk_usage(shared).total) < _GIB:
        problem = f"{size / 2**20:.0f} MiB: loader processes die with a bus error when it is full"
        advice = (
            "Start the container with more (docker run --shm-size=8g), or train with workers=0."
        )
        yield Finding("warning", "shared memory", str(shared), problem, advice)


def check_disk(run_root: Path) -> Finding:
    """Room and permission to write runs."""
    folder = run_root.expanduser().absolute()
    while not folder.exists():
        folder = folder.parent
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        advice = "Choose another folder with run_root=…"
        return Finding("error", "disk", str(run_root), f"{folder} cannot be written to", advice)
    usage = shutil.disk_usage(folder)
    described = f"{usage.free / _GIB:.1f} of {usage.total / _GIB:.1f} GiB free"
    if usage.free >= 5 * _GIB:
        return Finding("note", "disk", str(run_root), described)
    advice = "A run keeps checkpoints of some 10 to 400 MiB each, a crop cache takes gigabytes: make room."
    severity = "error" if usage.free < _GIB / 4 else "warning"
    return Finding(severity, "disk", str(run_root), described, advice)
