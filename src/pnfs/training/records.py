"""A run is a record: what defines it names its folder, what came out of it is one JSON file."""

import copy
import hashlib
import json
import platform
import subprocess
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

RESULT = "result.json"

# Where a run's data lie, what it prints and where it computes do not make it another run.
_NOT_DEFINING = (
    "run_root", "name", "logger", "workers", "eval_batch_size", "restart", "evaluate_untrained",
    "dataset.check_images", "data.workers", "data.eval_batch_size", "model.form",
)  # fmt: skip
_DEFINING_TRAINER_KEYS = (
    "precision", "accumulate_grad_batches", "gradient_clip_val", "limit_train_batches", "devices",
)  # fmt: skip


def defining_part(config: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a resolved configuration that makes a run what it is.

    Folders count by their last component only, so that moved weights are the same weights.
    """
    part = copy.deepcopy(dict(config))
    for key in _NOT_DEFINING:
        _remove(part, key.split("."))
    dataset = part.get("dataset", {})
    if dataset.get("root") is not None:
        dataset["root"] = Path(str(dataset["root"])).name
    trainer = part.get("trainer", {})
    part["trainer"] = {k: v for k, v in trainer.items() if k in _DEFINING_TRAINER_KEYS}
    for holder in (part, part.get("model", {})):
        backbone = holder.get("backbone", {})
        if "weights" in backbone:
            backbone["weights"] = Path(str(backbone["weights"])).name
    return part


def _remove(tree: dict[str, Any], path: Sequence[str]) -> None:
    for key in path[:-1]:
        if not isinstance(tree.get(key), dict):
            return
        tree = tree[key]
    tree.pop(path[-1], None)


def run_hash(config: Mapping[str, Any]) -> str:
    """Eight hexadecimal digits that stand for the defining part of a configuration."""
    text = json.dumps(defining_part(config), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def run_folder(config: Mapping[str, Any]) -> Path:
    """`<run_root>/<name>/<hash>`."""
    return Path(config["run_root"]).expanduser() / str(config["name"]) / run_hash(config)


def provenance() -> dict[str, Any]:
    """Versions, git revision, machine and time, as they belong into a record."""
    packages = ("pnfs", "torch", "torchvision", "lightning", "hydra-core", "numpy")
    return {
        "versions": {name: version(name) for name in packages}
        | {"python": platform.python_version()},
        "git_revision": _git_revision(),
        "device": _device_name(),
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


def _device_name() -> str:
    import torch

    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"CPU, {torch.get_num_threads()} threads"


def write_result(folder: Path, result: Mapping[str, Any]) -> Path:
    """Writes `result.json` whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / RESULT
    temporary = path.with_suffix(".json.tmp")
    temporary.write_text(json.dumps(result, indent=2) + "\n")
    temporary.replace(path)
    return path


def read_result(folder: Path) -> dict[str, Any] | None:
    """The record of a finished run; None where the run is not finished.

    Raises:
        ValueError: The file is not a record.
    """
    path = folder / RESULT
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{path}: not a readable record ({error}); delete it to run again"
        ) from error
