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

from pnfs.data.findings import Finding, worst_first

LIBRARIES = (
    "torch", "torchvision", "lightning", "torchmetrics", "hydra-core", "omegaconf", "numpy",
    "opencv-python-headless", "albumentations", "pycocotools",
)  # fmt: skip
COMPROMISED = {"lightning": ("2.6.2", "2.6.3")}
"""Releases that were withdrawn because they carried foreign code."""
_GIB = 2**30
_LITTLE_DISK, _LITTLE_SHARED_MEMORY = 5 * _GIB, _GIB
_NEEDED_DISK = _GIB // 4


def inspect_environment(run_root: Path | str, precision: str | None = None) -> list[Finding]:
    """Everything about this machine that a run would stumble over, and what it will run on.

    Args:
        run_root: Folder that runs are written below.
        precision: Lightning's precision that training asks for, such as "bf16-mixed"; None for
            none in particular.

    Returns:
        Findings, errors first; nothing is changed, written or sent.
    """
    return worst_first(
        [
            *check_libraries(),
            *check_devices(precision),
            *check_memory(),
            *check_disk(Path(run_root)),
            *check_wandb(),
        ]
    )


def check_libraries() -> list[Finding]:
    """Versions, known bad releases, and whether torchvision's operators fit torch."""
    found = {name: _version(name) for name in ("pnfs", *LIBRARIES)}
    listed = ", ".join(f"{name} {version or 'not installed'}" for name, version in found.items())
    findings = [Finding("note", "libraries", f"Python {platform.python_version()}", listed, "")]
    for name, version in found.items():
        if version in COMPROMISED.get(name, ()):
            findings.append(
                Finding(
                    "error",
                    "libraries",
                    f"{name} {version}",
                    "this release was withdrawn because it carried foreign code",
                    f'Install another one at once: pip install -U "{name}"; then change the '
                    "passwords and keys that this machine holds.",
                )
            )
    try:
        torchvision.ops.nms(torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.ones(1), 0.5)
    except (RuntimeError, NotImplementedError) as error:
        findings.append(
            Finding(
                "error",
                "libraries",
                "torchvision",
                f"its operators do not load beside this torch: {error}".splitlines()[0],
                "Install torch and torchvision together, from the same index.",
            )
        )
    return findings


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def check_devices(precision: str | None = None) -> list[Finding]:
    """GPUs, whether they compute, and the precisions they support."""
    cores = os.cpu_count() or 1
    findings = [
        Finding(
            "note",
            "devices",
            "CPU",
            f"{platform.processor() or platform.machine()}, {cores} cores, "
            f"{torch.get_num_threads()} threads for torch",
            "",
        )
    ]
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            findings.append(_check_gpu(index, precision))
        return findings
    if torch.backends.mps.is_available():
        findings.append(
            Finding("note", "devices", "MPS", "Apple's GPU is available", "Use trainer=auto.")
        )
        return findings
    if shutil.which("nvidia-smi") or Path("/dev/nvidia0").exists():
        built = torch.version.cuda
        reason = (
            f"torch is built for CUDA {built}, which the installed driver does not serve"
            if built
            else "torch is the build without CUDA"
        )
        findings.append(
            Finding(
                "warning",
                "devices",
                "GPU",
                f"this machine has an NVIDIA GPU that torch cannot use: {reason}",
                "Install torch for the driver's CUDA version (pytorch.org, Get Started), or update "
                "the driver.",
            )
        )
        return findings
    findings.append(
        Finding(
            "note",
            "devices",
            "GPU",
            f"no GPU; torch {torch.__version__} runs on the CPU",
            "Enough for the demo, predictions and small sets; the paper's trainings need a GPU.",
        )
    )
    return findings


def _check_gpu(index: int, precision: str | None) -> Finding:
    """One small matrix product in each precision: a GPU that is listed need not work."""
    where = f"cuda:{index}"
    properties = torch.cuda.get_device_properties(index)
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
        return Finding(
            "error",
            "devices",
            where,
            f"{properties.name} does not compute: {error}".splitlines()[0],
            "Check the driver with nvidia-smi, and that no other process fills the GPU's memory; "
            "or choose another GPU with CUDA_VISIBLE_DEVICES.",
        )
    described = (
        f"{properties.name}, compute capability {properties.major}.{properties.minor}, "
        f"{free / _GIB:.1f} of {properties.total_memory / _GIB:.1f} GiB free, CUDA "
        f"{torch.version.cuda}, {', '.join(supported)}"
    )
    if precision and precision.startswith("bf16") and "bfloat16" not in supported:
        advice = "Train with trainer.precision=16-mixed."
        return Finding("warning", "devices", where, f"{described}: no bfloat16", advice)
    if free < 0.5 * properties.total_memory:
        advice = "Other processes use this GPU; see nvidia-smi."
        return Finding("warning", "devices", where, described, advice)
    return Finding("note", "devices", where, described, "Use trainer=gpu.")


def check_memory(shared: Path = Path("/dev/shm")) -> list[Finding]:
    """Shared memory, through which loader processes hand over their batches."""
    if not shared.is_dir():
        return []
    size = shutil.disk_usage(shared).total
    if size >= _LITTLE_SHARED_MEMORY:
        return []
    return [
        Finding(
            "warning",
            "shared memory",
            str(shared),
            f"{size / 2**20:.0f} MiB: loader processes hand over their batches through it and die "
            "with a bus error when it is full",
            "Start the container with more (docker run --shm-size=8g), or train with workers=0.",
        )
    ]


def check_disk(run_root: Path) -> list[Finding]:
    """Room and permission to write runs."""
    folder = run_root.expanduser().absolute()
    while not folder.exists():
        folder = folder.parent
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        advice = "Choose another folder with run_root=…"
        return [Finding("error", "disk", str(run_root), f"{folder} cannot be written to", advice)]
    usage = shutil.disk_usage(folder)
    described = f"{usage.free / _GIB:.1f} of {usage.total / _GIB:.1f} GiB free"
    if usage.free >= _LITTLE_DISK:
        return [Finding("note", "disk", str(run_root), described, "")]
    return [
        Finding(
            "error" if usage.free < _NEEDED_DISK else "warning",
            "disk",
            str(run_root),
            described,
            "A run keeps checkpoints of some 10 to 400 MiB each, a crop cache takes gigabytes: "
            "make room, or choose another folder with run_root=…",
        )
    ]


def check_wandb(environment: Mapping[str, str] = os.environ) -> list[Finding]:
    """Whether Weights & Biases is installed and has a key; the key itself is not shown or sent."""
    version = _version("wandb")
    if version is None or find_spec("wandb") is None:
        return [
            Finding(
                "note",
                "Weights & Biases",
                "wandb",
                "not installed",
                'Only logger=wandb needs it: pip install "pnfs[wandb]".',
            )
        ]
    mode = environment.get("WANDB_MODE")
    modes = f", WANDB_MODE={mode}" if mode else ""
    if _has_key(environment):
        problem, advice = "a key is stored", "logger=wandb logger.wandb.mode=online uploads runs."
    else:
        problem = "not logged in"
        advice = (
            "logger=wandb writes offline runs, which `wandb sync` uploads later; `wandb login` "
            "first for logger.wandb.mode=online."
        )
    return [Finding("note", "Weights & Biases", f"wandb {version}", f"{problem}{modes}", advice)]


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
