"""A run is a record: what defines it names its folder, what came out of it is one JSON file."""

import copy
import hashlib
import json
import os
import platform
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout

RESULT = "result.json"
STATE = "state.json"
LAST_CHECKPOINT = Path("checkpoints") / "last.ckpt"
_LOCK = "lock"

RunStatus = Literal["finished", "running", "interrupted", "failed"]

# Where a run's data lie, what it prints, where and how fast it computes do not make it another run.
_NOT_DEFINING = (
    "run_root", "name", "logger", "workers", "eval_batch_size", "restart", "evaluate_untrained",
    "dataset.check_images", "data.workers", "data.eval_batch_size",
    "acceleration", "data.resident", "optimizer.fused",
)  # fmt: skip
_DEFINING_TRAINER_KEYS = (
    "precision", "accumulate_grad_batches", "gradient_clip_val", "limit_train_batches", "devices",
)  # fmt: skip


def defining_part(config: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a resolved configuration that makes a run what it is.

    Datasets and pretrained weights count by the last component of their paths, so that moved ones are the
    same; `architecture` and `initial` count by the content of the file, or by the name of the run's folder.
    """
    part = copy.deepcopy(dict(config))
    for key in _NOT_DEFINING:
        _remove(part, key.split("."))
    trainer = part.get("trainer", {})
    part["trainer"] = {k: v for k, v in trainer.items() if k in _DEFINING_TRAINER_KEYS}
    dataset = part.get("dataset", {})
    for key, value in dataset.items():
        if key == "root" or (isinstance(value, str) and "/" in value):
            dataset[key] = None if value is None else Path(str(value)).name
    data = part.get("data", {})
    if "cache" in data:
        data["cache"] = data["cache"] is not None  # JPEG crops differ a little, wherever they lie.
    for holder, key in _held(part, "weights"):
        holder[key] = Path(str(holder[key])).name
    for name in ("architecture", "initial"):
        for holder, key in _held(part, name):
            holder[key] = _content(Path(holder[key]))
    return part


def _held(tree: Any, key: str) -> Iterator[tuple[dict[str, Any], str]]:
    """Every dictionary of a tree that holds a text under a key."""
    if isinstance(tree, dict):
        if isinstance(tree.get(key), str):
            yield tree, key
        for value in tree.values():
            yield from _held(value, key)


def _content(path: Path) -> str:
    path = path.expanduser()
    if not path.is_file():
        return path.name
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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


def provenance(accelerator: str = "auto") -> dict[str, Any]:
    """Versions, git revision, device and time, as they belong into a record.

    Args:
        accelerator: Of the trainer; "cpu" computes there even if there is a GPU.
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
    """Writes `result.json` whole or not at all."""
    return _write(folder / RESULT, result)


def _write(path: Path, content: Mapping[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".json.tmp")
    temporary.write_text(json.dumps(content, indent=2) + "\n")
    temporary.replace(path)
    return path


def read_result(folder: Path) -> dict[str, Any] | None:
    """The record of a finished run; None where the run is not finished.

    Raises:
        ValueError: The file is not a record.
    """
    return _read(folder / RESULT)


def _read(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{path}: not a readable record ({error}); delete it to run again"
        ) from error


class RunBusyError(ValueError):
    """Another process trains this run."""


@contextmanager
def kept_state(folder: Path, config: Mapping[str, Any]) -> Iterator[float]:
    """Keeps the state of a run in `state.json` of its folder while the block trains it.

    The state is "running", and afterwards "finished", "failed" with the cause, or "interrupted". A killed
    process cannot say so itself; it shows by the lock, which the operating system takes from it.

    Args:
        folder: Of the run.
        config: Resolved.

    Yields:
        Seconds that earlier starts spent on what the run resumes from; 0 if it starts anew.

    Raises:
        RunBusyError: Another process holds the run.
    """
    # Here and not above: listing runs need not wait for Lightning.
    from lightning.fabric.utilities.rank_zero import rank_zero_only

    # The other processes of a distributed run belong to the first.
    if getattr(rank_zero_only, "rank", 0):
        yield 0.0
        return
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / _LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise RunBusyError(
            f"{folder}: another process trains this run; wait until it is done, or stop it"
        ) from None
    try:
        state: dict[str, Any] = {
            "state": "running",
            "cause": None,
            "started": time.time(),
            "earlier_seconds": _seconds_kept(folder),
            "pid": os.getpid(),
            "config": dict(config),
        }
        _write(folder / STATE, state)
        try:
            yield state["earlier_seconds"]
        except BaseException as error:
            stopped = isinstance(error, (KeyboardInterrupt, SystemExit))
            outcome = {"state": "interrupted" if stopped else "failed", "cause": cause_of(error)}
            _write(folder / STATE, state | outcome)
            raise
        _write(folder / STATE, state | {"state": "finished"})
    finally:
        lock.release()


def keep_failure(folder: Path, config: Mapping[str, Any], error: Exception) -> None:
    """Records that a run failed before `kept_state` could, as when its data are missing."""
    if isinstance(error, RunBusyError):
        return  # The state is that of the process which trains it.
    anew = {"started": time.time(), "earlier_seconds": 0.0, "pid": os.getpid()}
    outcome = {"state": "failed", "cause": cause_of(error), "config": dict(config)}
    _write(folder / STATE, (_read(folder / STATE) or anew) | outcome)


def cause_of(error: BaseException) -> str:
    """What went wrong, on one line: libraries wrap the error that says why."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = " ".join(str(error).split())
    # The project's own errors speak for themselves; others need their name.
    own = type(error).__module__.startswith("pnfs.")
    return text if own and text else f"{type(error).__name__}: {text}".rstrip(": ")


def _seconds_kept(folder: Path) -> float:
    """What earlier starts spent up to the checkpoint that the next one resumes from."""
    checkpoint = folder / LAST_CHECKPOINT
    before = _read(folder / STATE)
    if before is None or not checkpoint.is_file():
        return 0.0
    return before["earlier_seconds"] + max(0.0, checkpoint.stat().st_mtime - before["started"])


@dataclass(frozen=True)
class Run:
    """What the folder of a run says about it."""

    folder: Path
    status: RunStatus
    cause: str | None
    """Why it failed."""
    config: Mapping[str, Any]
    record: Mapping[str, Any] | None
    """Of a finished run."""


def read_run(folder: Path) -> Run | None:
    """The run in a folder; None if there is none.

    Raises:
        ValueError: A file of it is damaged.
    """
    record, state = read_result(folder), _read(folder / STATE)
    if record is not None and "config" in record:
        return Run(folder, "finished", None, record["config"], record)
    if state is None:
        return None
    status: RunStatus = state["state"]
    if status == "running" and not _is_held(folder):
        status = "interrupted"
    if status == "finished":  # Its record was deleted since.
        status = "interrupted"
    return Run(folder, status, state["cause"], state["config"], None)


def _is_held(folder: Path) -> bool:
    lock = FileLock(folder / _LOCK)
    try:
        with lock.acquire(timeout=0):
            return False
    except Timeout:
        return True


def find_runs(root: Path) -> list[Run]:
    """All runs below a folder, sorted by their paths.

    Raises:
        ValueError: A file of a run is damaged.
    """
    folders = {path.parent for name in (STATE, RESULT) for path in root.rglob(name)}
    runs = (read_run(folder) for folder in sorted(folders))
    return [run for run in runs if run is not None]
