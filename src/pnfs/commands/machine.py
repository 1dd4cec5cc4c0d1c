"""Is this machine fit to train on? Library versions, devices, memory, disk, Weights & Biases."""

import netrc
import os
import platform
import shutil
from collections.abc import Mapping
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

import torch
import torchvision

from pnfs.data.check.findings import Finding, found, worst_first

LIBRARIES = (
    "torch", "torchvision", "lightning", "torchmetrics", "hydra-core", "omegaconf", "numpy",
    "opencv-python-headless", "albumentations",
)  # fmt: skip
COMPROMISED = {"lightning": ("2.6.2", "2.6.3")}
"""Releases that were withdrawn because they carried foreign code."""
_GIB = 2**30
_LITTLE_DISK, _LITTLE_SHARED_MEMORY = 5 * _GIB, _GIB
_NEEDED_DISK = _GIB // 4


def inspect_machine(run_root: Path | str, precision: str | None = None) -> list[Finding]:
    """Everything about this machine that a run would stumble over, and what it will run on.

    Args:
        run_root: Folder that runs are written below.
        precision: Lightning's precision that training asks for, such as "bf16-mixed"; None for
            none in particular.

    Returns:
        Findings, errors first; nothing is changed, written or sent.
    """
    devices, disk = check_devices(precision), check_disk(Path(run_root))
    return worst_first([*check_libraries(), *devices, *check_memory(), *disk, *check_wandb()])


def check_libraries() -> list[Finding]:
    """Versions, known bad releases, and whether torchvision's operators fit torch."""
    versions = {name: _version(name) for name in ("pnfs", *LIBRARIES)}
    listed = ", ".join(f"{name} {version or 'not installed'}" for name, version in versions.items())
    findings = found("note", "libraries", f"Python {platform.python_version()}", listed, "")
    for name, version in versions.items():
        if version in COMPROMISED.get(name, ()):
            problem = "this release was withdrawn because it carried foreign code"
            advice = (
                f'Install another one at once: pip install -U "{name}"; then change the passwords '
                "and keys that this machine holds."
            )
            findings += found("error", "libraries", f"{name} {version}", problem, advice)
    try:
        torchvision.ops.nms(torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.ones(1), 0.5)
    except (RuntimeError, NotImplementedError) as error:
        problem = f"its operators do not load beside this torch: {_first_line(error)}"
        advice = "Install torch and torchvision together, from the same index."
        findings += found("error", "libraries", "torchvision", problem, advice)
    return findings


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


def check_devices(precision: str | None = None) -> list[Finding]:
    """GPUs, whether they compute, and the precisions they support."""
    processor = platform.processor() or platform.machine()
    cores = f"{os.cpu_count() or 1} cores, {torch.get_num_threads()} threads for torch"
    return [*found("note", "devices", "CPU", f"{processor}, {cores}", ""), *_check_gpus(precision)]


def _check_gpus(precision: str | None) -> list[Finding]:
    if torch.cuda.is_available():
        gpus = range(torch.cuda.device_count())
        return [finding for gpu in gpus for finding in _check_gpu(gpu, precision)]
    if torch.backends.mps.is_available():
        return found("note", "devices", "MPS", "Apple's GPU is available", "Use trainer=auto.")
    if shutil.which("nvidia-smi") or Path("/dev/nvidia0").exists():
        built = torch.version.cuda
        reason = (
            f"torch is built for CUDA {built}, which the installed driver does not serve"
            if built
            else "torch is the build without CUDA"
        )
        problem = f"this machine has an NVIDIA GPU that torch cannot use: {reason}"
        advice = "Install torch for the driver's CUDA version (pytorch.org, Get Started), or update the driver."
        return found("warning", "devices", "GPU", problem, advice)
    problem = f"no GPU; torch {torch.__version__} runs on the CPU"
    advice = "Enough for the demo, predictions and small sets; the paper's trainings need a GPU."
    return found("note", "devices", "GPU", problem, advice)


def _check_gpu(index: int, precision: str | None) -> list[Finding]:
    """One small matrix product in each precision: a GPU that is listed need not work."""
    where = f"cuda:{index}"
    gpu = torch.cuda.get_device_properties(index)
    supported = {"float32": torch.float32, "float16": torch.float16}
    if torch.cuda.is_bf16_supported(including_emulation=False):
        supported["bfloat16"] = torch.bfloat16
    try:
        for dtype in supported.values():
            ones = torch.ones(64, 64, device=where, dtype=dtype)
            if float((ones @ ones).float().mean()) != 64:
                raise RuntimeError(f"a matrix product in {dtype} came out wrong")
        free = torch.cuda.mem_get_info(index)[0]
    except RuntimeError as error:
        problem = f"{gpu.name} does not compute: {_first_line(error)}"
        advice = (
            "Check the driver with nvidia-smi, and that no other process fills the GPU's memory; "
            "or choose another GPU with CUDA_VISIBLE_DEVICES."
        )
        return found("error", "devices", where, problem, advice)
    described = (
        f"{gpu.name}, compute capability {gpu.major}.{gpu.minor}, {free / _GIB:.1f} of "
        f"{gpu.total_memory / _GIB:.1f} GiB free, CUDA {torch.version.cuda}, {', '.join(supported)}"
    )
    if precision and precision.startswith("bf16") and "bfloat16" not in supported:
        advice = "Train with trainer.precision=16-mixed."
        return found("warning", "devices", where, f"{described}: no bfloat16", advice)
    if free < 0.5 * gpu.total_memory:
        advice = "Other processes use this GPU; see nvidia-smi."
        return found("warning", "devices", where, described, advice)
    return found("note", "devices", where, described, "Use trainer=gpu.")


def check_memory(shared: Path = Path("/dev/shm")) -> list[Finding]:
    """Shared memory, through which loader processes hand over their batches."""
    if not shared.is_dir() or (size := shutil.disk_usage(shared).total) >= _LITTLE_SHARED_MEMORY:
        return []
    problem = (
        f"{size / 2**20:.0f} MiB: loader processes hand over their batches through it and die with a "
        "bus error when it is full"
    )
    advice = "Start the container with more (docker run --shm-size=8g), or train with workers=0."
    return found("warning", "shared memory", shared, problem, advice)


def check_disk(run_root: Path) -> list[Finding]:
    """Room and permission to write runs."""
    folder = run_root.expanduser().absolute()
    while not folder.exists():
        folder = folder.parent
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        advice = "Choose another folder with run_root=…"
        return found("error", "disk", run_root, f"{folder} cannot be written to", advice)
    usage = shutil.disk_usage(folder)
    described = f"{usage.free / _GIB:.1f} of {usage.total / _GIB:.1f} GiB free"
    if usage.free >= _LITTLE_DISK:
        return found("note", "disk", run_root, described, "")
    advice = (
        "A run keeps checkpoints of some 10 to 400 MiB each, a crop cache takes gigabytes: make room, "
        "or choose another folder with run_root=…"
    )
    severity = "error" if usage.free < _NEEDED_DISK else "warning"
    return found(severity, "disk", run_root, described, advice)


def check_wandb(environment: Mapping[str, str] = os.environ) -> list[Finding]:
    """Whether Weights & Biases is installed and has a key; the key itself is not shown or sent."""
    check, version = "Weights & Biases", _version("wandb")
    if version is None or find_spec("wandb") is None:
        advice = 'Only logger=wandb needs it: pip install "pnfs[wandb]".'
        return found("note", check, "wandb", "not installed", advice)
    if _has_key(environment):
        problem, advice = "a key is stored", "logger=wandb logger.wandb.mode=online uploads runs."
    else:
        problem = "not logged in"
        advice = (
            "logger=wandb writes offline runs, which `wandb sync` uploads later; `wandb login` "
            "first for logger.wandb.mode=online."
        )
    mode = environment.get("WANDB_MODE")
    modes = f", WANDB_MODE={mode}" if mode else ""
    return found("note", check, f"wandb {version}", f"{problem}{modes}", advice)


def _has_key(environment: Mapping[str, str]) -> bool:
    """Whether one of the two places that wandb documents holds a key."""
    if environment.get("WANDB_API_KEY"):
        return True
    host = urlsplit(environment.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname
    file = Path(environment.get("NETRC", "~/.netrc")).expanduser()
    try:
        return host is not None and netrc.netrc(str(file)).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False
