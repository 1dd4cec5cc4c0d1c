"""A run is a record: what defines it names its folder, what came out of it is one JSON file."""

import json
import os
import platform
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout

from pnfs.training.identity import PERSONS, differences, run_identity, runs_of
from pnfs.training.plain import json_ready

RESULT = "result.json"
STATE = "state.json"
LAST_CHECKPOINT = Path("checkpoints") / "last.ckpt"
_LOCK = "lock"

RunStatus = Literal["finished", "running", "interrupted", "failed"]


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
    """Writes `result.json` whole or not at all; what is nan or infinite becomes null."""
    return _write(folder / RESULT, result)


def _write(path: Path, content: Mapping[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".json.tmp")
    temporary.write_text(json.dumps(json_ready(content), indent=2, allow_nan=False) + "\n")
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


class UnfinishedError(ValueError):
    """A run was stopped before it had trained its epochs; the message says what resumes it."""


class OtherRunError(ValueError):
    """A file in a run's folder is of another run; the message says what differs."""


def require_same(file: Path, theirs: Mapping[str, Any] | None, ours: Mapping[str, Any]) -> None:
    """Refuses a record or checkpoint whose run is not the one that is asked for.

    Args:
        file: That it comes from.
        theirs: Identity that it holds; None for one that was written without.
        ours: Identity of the run that is asked for.

    Raises:
        OtherRunError: Names the file and the keys that differ.
    """
    differing = [] if theirs is None else differences(theirs, ours)
    if differing:
        raise OtherRunError(
            f"{file} is of another run; what differs: {', '.join(differing)} (persons: the dataset's images, "
            "boxes or joints). Move that folder away, or train anew with restart=true"
        )


@contextmanager
def kept_state(
    folder: Path, config: Mapping[str, Any], identity: Mapping[str, Any] | None = None
) -> Iterator[float]:
    """Keeps the state of a run in `state.json` of its folder while the block trains it.

    The state is "running", and afterwards "finished", "failed" with the cause, or "interrupted". A killed
    process cannot say so itself; it shows by the lock, which the operating system takes from it.

    Args:
        folder: Of the run.
        config: Resolved.
        identity: What makes the run what it is; see `run_identity`.

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
            "identity": identity,
        }
        _write(folder / STATE, state)
        try:
            yield state["earlier_seconds"]
        except BaseException as error:
            stopped = isinstance(error, (KeyboardInterrupt, SystemExit, UnfinishedError))
            outcome = {"state": "interrupted" if stopped else "failed", "cause": cause_of(error)}
            _write(folder / STATE, state | outcome)
            raise
        _write(folder / STATE, state | {"state": "finished"})
    finally:
        lock.release()


def keep_failure(folder: Path, config: Mapping[str, Any], error: Exception) -> None:
    """Records that a run failed before `kept_state` could, as when its data are missing."""
    if isinstance(error, (RunBusyError, UnfinishedError)):
        return  # The state is that of the process which trains it, or says already what happened.
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
    identity: Mapping[str, Any] | None = None
    """What makes it the run it is; None for one that was written without."""


def read_run(folder: Path) -> Run | None:
    """The run in a folder; None if there is none.

    Raises:
        ValueError: A file of it is damaged.
    """
    record = read_result(folder)
    if record is not None and "config" in record:
        return Run(folder, "finished", None, record["config"], record, record.get("identity"))
    state = _read(folder / STATE)
    if state is None:
        return None
    status: RunStatus = state["state"]
    if status == "running" and not _is_held(folder):
        status = "interrupted"
    if status == "finished":  # Its record was deleted since.
        status = "interrupted"
    return Run(folder, status, state["cause"], state["config"], None, state.get("identity"))


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
    runs = []
    for folder, below, files in os.walk(root):
        if (RESULT in files or STATE in files) and (run := read_run(Path(folder))) is not None:
            runs.append(run)
            below.clear()  # A run holds no runs, but perhaps thousands of other files.
    return sorted(runs, key=lambda run: run.folder.parts)


def find_same(config: Mapping[str, Any]) -> list[Run]:
    """The runs of a configuration, on whatever data: where the dataset is not at hand, tables find theirs so.

    Raises:
        ValueError: A file of a run is damaged.
    """
    ours = run_identity(config, {}) | {PERSONS: None}
    return [
        run
        for run in find_runs(runs_of(config))
        if run.identity is not None and dict(run.identity) | {PERSONS: None} == ours
    ]
