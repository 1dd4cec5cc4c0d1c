"""Where a run stands: training, interrupted, failed and why, or finished; one JSON file and one lock."""

import logging
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout
from pydantic import BaseModel

from pnfs.errors import PnfsError
from pnfs.runs.record import read_json, write_json

STATE = "state.json"
LAST_CHECKPOINT = Path("checkpoints") / "last.ckpt"
_LOCK = "lock"
_LOGS = (_LOCK, ".hydra", "train.log")
"""What a run that is trained anew keeps in its folder: Hydra has just written there."""

RunStatus = Literal["finished", "running", "interrupted", "failed"]

log = logging.getLogger(__name__)


class State(BaseModel):
    """The content of `state.json`.

    Attributes:
        cause: Why it failed, or was interrupted.
        started: Time of the last start, seconds since 1970.
        earlier_seconds: What earlier starts spent on what this one resumes from.
        config: Resolved; `identity` is made of it, see `run_identity`.
    """

    state: RunStatus
    cause: str | None = None
    started: float
    earlier_seconds: float = 0.0
    pid: int
    config: dict[str, Any]
    identity: dict[str, Any] | None = None

    def write(self, folder: Path, **changes: Any) -> None:
        """Writes it, with some values changed, whole or not at all."""
        write_json(folder / STATE, self.model_copy(update=changes).model_dump())


class UnfinishedError(PnfsError):
    """A run was stopped before it had trained its epochs; the message says what resumes it."""


@contextmanager
def held_run(folder: Path) -> Iterator[None]:
    """Holds the run in a folder while the block works on it; waits for another process that does."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / _LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        log.info("another process trains this run, %s: waiting for its result", folder)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def is_held(folder: Path) -> bool:
    """Whether a process trains the run in this folder."""
    try:
        with FileLock(folder / _LOCK).acquire(timeout=0):
            return False
    except Timeout:
        return True


def clear(folder: Path) -> None:
    """Deletes what earlier starts of a run left; only for who holds it."""
    for path in folder.iterdir():
        if path.name not in _LOGS:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


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
    state = State(
        state="running",
        started=time.time(),
        earlier_seconds=_seconds_kept(folder),
        pid=os.getpid(),
        config=dict(config),
        identity=None if identity is None else dict(identity),
    )
    state.write(folder)
    try:
        yield state.earlier_seconds
    except BaseException as error:
        stopped = isinstance(error, (KeyboardInterrupt, SystemExit, UnfinishedError))
        state.write(folder, state="interrupted" if stopped else "failed", cause=cause_of(error))
        raise
    state.write(folder, state="finished")


def _seconds_kept(folder: Path) -> float:
    """What earlier starts spent up to the checkpoint that the next one resumes from."""
    try:
        before = read_json(folder / STATE, State)
    except PnfsError as error:
        log.warning("%s", error)  # A new one takes its place.
        return 0.0
    last = folder / LAST_CHECKPOINT
    if before is None or not last.is_file():
        return 0.0
    return before.earlier_seconds + max(0.0, last.stat().st_mtime - before.started)


def cause_of(error: BaseException) -> str:
    """What went wrong, on one line: libraries wrap the error that says why."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = " ".join(str(error).split())
    # The project's own errors speak for themselves; others need their name.
    if isinstance(error, PnfsError) and text:
        return text
    return f"{type(error).__name__}: {text}".rstrip(": ")
