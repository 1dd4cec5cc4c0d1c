"""Which runs there are below a folder, and what each folder says about its run."""

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pnfs.errors import PnfsError
from pnfs.runs.record import RESULT, read_json, read_result
from pnfs.runs.state import STATE, RunStatus, State, is_held

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Run:
    """What the folder of a run says about it; errors of damaged files are `read_json`'s."""

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
    """The run in a folder; None if there is none."""
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
    if (status == "running" and not is_held(folder)) or status == "finished":
        status = "interrupted"
    return Run(folder, status, state.cause, state.config, None, state.identity)


def find_runs(root: Path) -> list[Run]:
    """All runs below a folder, sorted by their paths; one whose file is damaged is left out, with a warning."""
    runs: list[Run | None] = []
    for folder, below, files in os.walk(root):
        if RESULT in files or STATE in files:
            try:
                runs.append(run := read_run(Path(folder)))
            except PnfsError as error:
                log.warning("left out: %s", error)
            else:
                if run is None:
                    continue
            below.clear()  # A run holds no runs, but perhaps thousands of other files.
    return sorted((run for run in runs if run is not None), key=lambda run: run.folder.parts)
