"""What came out of a run is one JSON file, its record; with it stand versions, revision and device."""

import platform
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pnfs.runs.plain import read_json, write_json

RESULT = "result.json"


def provenance(accelerator: str = "auto") -> dict[str, Any]:
    """Versions, git revision, device and time, as they belong into a record.

    Args:
        accelerator: The trainer's; "cpu" computes there even if there is a GPU.
    """
    packages = ("pnfs", "torch", "torchvision", "lightning", "hydra-core", "numpy")
    return {
        "versions": {name: version(name) for name in packages}
        | {"python": platform.python_version()},
        "git_revision": _git_revision(),
        "device": _device_name(accelerator),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _git_revision() -> str | None:
    """Revision of the source tree this package runs from; None outside of one."""
    here = Path(__file__).parent
    try:
        command = ["git", "-C", str(here), "rev-parse", "HEAD"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def _device_name(accelerator: str) -> str:
    import torch

    if accelerator != "cpu" and torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"CPU, {torch.get_num_threads()} threads"


def write_result(folder: Path, result: Mapping[str, Any]) -> Path:
    """Writes `result.json` whole or not at all; what is nan or infinite becomes null."""
    return write_json(folder / RESULT, result)


def read_result(folder: Path) -> dict[str, Any] | None:
    """The record of a finished run; None where the run is not finished.

    Raises:
        ValueError: The file is not a record.
    """
    return read_json(folder / RESULT)
