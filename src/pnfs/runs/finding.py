"""Which runs there are below a folder, and what each folder says about its run."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pnfs.runs.record import RESULT, read_json, read_result
from pnfs.runs.state import STATE, RunStatus, is_held


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
    if record is not None and record.get("kind", "train") == "train" and record.get("config"):
        return Run(folder, "finished", None, record["config"], record, record.get("identity"))
    state = read_json(folder / STATE)
    if state is None:
        return None
    status: RunStatus = state["state"]
    # Killed, or its record was deleted since.
    if (status == "running" and not is_held(folder)) or status == "finished":
        status = "interrupted"
    return Run(folder, status, state["cause"], state["config"], None, state.get("identity"))


def find_runs(root: Path) -> list[Run]:
    """All runs below a folder, sorted by their paths."""
    runs = []
    for folder, below, files in os.walk(root):
        if (RESULT in files or STATE in files) and (run := read_run(Path(folder))) is not None:
            runs.append(run)
            below.clear()  # A run holds no runs, but perhaps thousands of other files.
    return sorted(runs, key=lambda run: run.folder.parts)
