"""Which runs there are below a folder, and what each folder says about its run."""

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pnfs.errors import PnfsError
from pnfs.runs.plain import read_json
from pnfs.runs.record import RESULT, read_result
from pnfs.runs.state import STATE, RunStatus, State, is_held

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Run:
    """What the folder of a run says about it."""

    folder: Path
    status: RunStatus
    cause: str | None
    """Why it failed."""
    config: Mapping[str, Any]
    record: Mapping[str, Any] | None
    """Content of `result.json`, for a finished run."""
    identity: Mapping[str, Any] | None = None
    """What makes it the run it is; None for one that was written without."""


def read_run(folder: Path) -> Run | None:
    """The run in a folder; None if there is none.

    Raises:
        PnfsError: A file of it is damaged.
    """
    record = read_result(folder)
    if record is not None and record.get("kind", "train") == "train":
        if not record.get("config"):
            raise PnfsError(
                f"{folder / RESULT}: config: a training's record holds its configuration"
            )
        return Run(folder, "finished", None, record["config"], record, record.get("identity"))
    state = read_json(folder / STATE, State)
    if state is None:
        return None
    status: RunStatus = state.state
    if status == "running" and not is_held(folder):
        status = "interrupted"
    if status == "finished":  # Its record was deleted since.
        status = "interrupted"
    return Run(folder, status, state.cause, state.config, None, state.identity)


def find_runs(root: Path) -> list[Run]:
    """All runs below a folder, sorted by their paths; one whose file is damaged is left out, with a warning."""
    runs = []
    for folder, below, files in os.walk(root):
        if RESULT not in files and STATE not in files:
            continue
        try:
            run = read_run(Path(folder))
        except PnfsError as error:
            log.warning("left out: %s", error)
            below.clear()
            continue
        if run is not None:
            runs.append(run)
            below.clear()  # A run holds no runs, but perhaps thousands of other files.
    return sorted(runs, key=lambda run: run.folder.parts)
