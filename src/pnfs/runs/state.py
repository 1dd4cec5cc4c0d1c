"""A run's folder: its record, one JSON file, and whether it trains, was interrupted, failed, or is finished."""

import logging
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from filelock import FileLock, Timeout
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import to_json

from pnfs.errors import PnfsError
from pnfs.files import write_whole

if TYPE_CHECKING:
    import pandas as pd

RESULT, STATE, METRICS, _EARLIER = "result.json", "state.json", "metrics.csv", "metrics_earlier.csv"
LAST_CHECKPOINT = Path("checkpoints") / "last.ckpt"
_LOCK = "lock"

RunStatus = Literal["finished", "running", "interrupted", "failed"]
Content = TypeVar("Content", bound=BaseModel)

log = logging.getLogger(__name__)


class Record(BaseModel):
    """What is read of `result.json`, whatever command wrote it; it holds more."""

    model_config = ConfigDict(extra="allow")

    kind: Literal["train", "evaluate", "derive"] = "train"
    primary: str | None = None  # Name of the score that counts, an entry of `scores`; `score` is its value.
    score: float | None = None
    scores: dict[str, Any] = {}  # Metric -> score; of a derivation network -> metric -> score.
    evaluated_with: dict[str, Any] = {}  # Everything besides weights and data that the scores depend on.
    cost: dict[str, int | dict[str, int]] = {}
    seconds: float | None = None  # Time that all starts of a training have taken.
    seed: int | None = None
    config: dict[str, Any] = {}  # Resolved, of a training; `identity` is made of it, see `run_identity`.
    identity: dict[str, Any] | None = None
    data: dict[str, Any] = {}  # Split -> persons, and what was left out.
    device: str | None = None
    git_revision: str | None = None


def provenance(accelerator: str = "auto") -> dict[str, Any]:
    """Versions, git revision, time, and the device that the trainer's `accelerator` computes on."""
    import torch  # Here and not above: `pnfs runs` is not to wait for it.

    packages = ("pnfs", "torch", "torchvision", "lightning", "hydra-core", "numpy")
    versions = {name: version(name) for name in packages} | {"python": platform.python_version()}
    on_gpu = accelerator != "cpu" and torch.cuda.is_available()
    device = torch.cuda.get_device_name() if on_gpu else f"CPU, {torch.get_num_threads()} threads"
    revision = None  # Outside of a source tree.
    with suppress(OSError, subprocess.CalledProcessError):
        command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
        revision = subprocess.check_output(command, stderr=subprocess.DEVNULL, text=True).strip()
    finished = datetime.now(UTC).isoformat(timespec="seconds")
    return {"versions": versions, "git_revision": revision, "device": device, "finished": finished}


def write_result(folder: Path, result: Mapping[str, Any]) -> Path:
    """Writes `result.json`; a field of another type than that of a `Record` is a `ValidationError`."""
    return write_json(folder / RESULT, Record.model_validate(result).model_dump(exclude_unset=True))


def read_result(folder: Path) -> dict[str, Any] | None:
    """The record of a finished run; None where the run is not finished. Errors are `read_json`'s."""
    record = read_json(folder / RESULT, Record)
    return None if record is None else record.model_dump(exclude_unset=True)


def write_json(path: Path, content: Mapping[str, Any]) -> Path:
    """Writes a file whole or not at all; what is nan or infinite becomes null."""
    return write_whole(path, to_json(content, indent=2, inf_nan_mode="null") + b"\n")


def read_json(path: Path, kind: type[Content]) -> Content | None:
    """A file of a run; None where there is none. If it holds something else, a `PnfsError` names file and key."""
    if not path.is_file():
        return None
    try:
        return kind.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"])) or "the file"
        raise PnfsError(f"{path}: {key}: {first['msg']}; delete the file to run again") from None


# --- states


class State(BaseModel):
    """The content of `state.json`."""

    state: RunStatus
    cause: str | None = None  # Why it failed, or was interrupted.
    started: float  # Time of the last start, seconds since 1970.
    earlier_seconds: float = 0.0  # What earlier starts spent on what this one resumes from.
    pid: int
    config: dict[str, Any]  # Resolved; `identity` is made of it, see `run_identity`.
    identity: dict[str, Any] | None = None


class UnfinishedError(PnfsError):
    """A run was stopped before it had trained its epochs; the message says what resumes it."""


@contextmanager
def held_run(folder: Path) -> Iterator[None]:
    """Holds the run in a folder while the block works on it; waits for another process that does."""
    folder.mkdir(parents=True, exist_ok=True)
    if _is_held(folder):
        log.info("another process trains this run, %s: waiting for its result", folder)
    with FileLock(folder / _LOCK):
        yield


def _is_held(folder: Path) -> bool:
    try:
        with FileLock(folder / _LOCK, timeout=0):
            return False
    except Timeout:
        return True


def clear(folder: Path) -> None:
    """Deletes what earlier starts of a run left, but for what Hydra has just written; callers must hold the run.

    A folder that holds other things than a run, or the working directory, is a `PnfsError`.
    """
    left = [path for path in folder.iterdir() if path.name not in (_LOCK, ".hydra", "train.log")]
    is_run = any((folder / name).is_file() for name in (STATE, RESULT, LAST_CHECKPOINT))
    if left and (not is_run or Path.cwd().is_relative_to(folder.resolve())):
        why = "is or holds the working directory" if is_run else "holds files and no run"
        raise PnfsError(f"run_dir={folder}: restart=true empties no folder that {why}; set another run_dir")
    for path in left:
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


@contextmanager
def kept_state(
    folder: Path, config: Mapping[str, Any], identity: Mapping[str, Any] | None = None
) -> Iterator[float]:
    """Keeps the state of a run in `state.json` of its folder while the block, which holds the run, trains it.

    The state is "running", and afterwards "finished", "failed" with the cause, or "interrupted". A killed
    process cannot say so itself; it shows by the lock of `held_run`, which the operating system takes from it.

    Yields:
        Seconds that earlier starts spent on what the run resumes from; 0 if it starts anew.
    """
    state: dict[str, Any] = {"config": config, "identity": identity, "pid": os.getpid(), "started": time.time()}
    state["earlier_seconds"], last = 0.0, folder / LAST_CHECKPOINT
    try:
        before = read_json(folder / STATE, State)
        if before is not None and last.is_file():
            state["earlier_seconds"] = before.earlier_seconds + max(0.0, last.stat().st_mtime - before.started)
    except PnfsError as error:
        log.warning("%s", error)  # A new one takes its place.
    write_json(folder / STATE, state | {"state": "running"})
    try:
        yield state["earlier_seconds"]
    except BaseException as error:
        stopped = isinstance(error, (KeyboardInterrupt, SystemExit, UnfinishedError))
        end = {"state": "interrupted" if stopped else "failed", "cause": cause_of(error)}
        write_json(folder / STATE, state | end)
        raise
    write_json(folder / STATE, state | {"state": "finished"})


def cause_of(error: BaseException) -> str:
    """What went wrong, on one line: libraries wrap the error that says why."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = " ".join(str(error).split())
    # The project's own errors speak for themselves; others need their name.
    ours = isinstance(error, PnfsError) and text
    return text if ours else f"{type(error).__name__}: {text}".rstrip(": ")


@dataclass(frozen=True)
class Run:
    """A run: why it failed, the content of `result.json` where it is finished, and its identity if it has one."""

    folder: Path
    status: RunStatus
    cause: str | None
    config: Mapping[str, Any]
    record: Mapping[str, Any] | None
    identity: Mapping[str, Any] | None = None


def read_run(folder: Path) -> Run | None:
    """The run in a folder; None if there is none. Errors of damaged files are `read_json`'s."""
    record = read_result(folder)
    if record is not None and record.get("kind", "train") == "train":
        if not record.get("config"):
            raise PnfsError(f"{folder / RESULT}: config: a training's record holds its own")
        return Run(folder, "finished", None, record["config"], record, record.get("identity"))
    state = read_json(folder / STATE, State)
    if state is None:
        return None
    status = state.state
    # Killed, or its record was deleted since.
    if (status == "running" and not _is_held(folder)) or status == "finished":
        status = "interrupted"
    return Run(folder, status, state.cause, state.config, None, state.identity)


def find_runs(root: Path) -> list[Run]:
    """All runs below a folder, sorted by their paths; one whose file is damaged is left out, with a warning."""
    runs: list[Run] = []
    for folder, below, files in os.walk(root):
        if RESULT in files or STATE in files:
            try:
                if run := read_run(Path(folder)):
                    runs.append(run)
                    below.clear()  # A run holds no runs, but perhaps thousands of other files.
            except PnfsError as error:
                log.warning("left out: %s", error)
    return sorted(runs, key=lambda run: run.folder.parts)


# --- metrics.csv over interruptions: Lightning's CSV logger starts an empty file each time


def set_aside(folder: Path, finished_epochs: int) -> None:
    """Keeps what earlier starts of a run have logged of finished epochs, before a logger deletes it."""
    if (rows := _logged(folder)) is not None:
        epochs, steps = rows["epoch"].astype(float), rows["step"].astype(float)
        kept = epochs < finished_epochs
        # Learning rates have no epoch, but the step that they are for.
        kept |= epochs.isna() & (steps <= steps[kept].max())
        write_whole(folder / _EARLIER, rows[kept].to_csv(index=False))
        (folder / METRICS).unlink(missing_ok=True)


def put_together(folder: Path) -> None:
    """Brings what was set aside back into metrics.csv."""
    if (folder / _EARLIER).is_file() and (rows := _logged(folder)) is not None:
        write_whole(folder / METRICS, rows.to_csv(index=False))
        (folder / _EARLIER).unlink()


def _logged(folder: Path) -> "pd.DataFrame | None":
    """All rows as they were written: numbers keep their digits."""
    import pandas as pd  # Here and not above: a list of runs need not wait for it.

    paths = [folder / name for name in (_EARLIER, METRICS)]
    written = [path for path in paths if path.is_file() and path.stat().st_size]
    tables = [pd.read_csv(path, dtype=str, on_bad_lines="skip") for path in written]
    return pd.concat(tables, ignore_index=True) if tables else None
