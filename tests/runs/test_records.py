"""The record of a run."""

import contextlib
import json
import math
import os
import time
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from pnfs.errors import PnfsError
from pnfs.files import write_whole
from pnfs.runs import state
from pnfs.runs.state import RESULT, STATE, UnfinishedError, find_runs, held_run, kept_state, read_run, write_result
from pnfs.training.module import NonFiniteLossError

OUTER = RuntimeError("hydra")
OUTER.__cause__ = OSError("disk\n full")
CONFIG: dict[str, Any] = {"name": "train", "seed": 0, "trainer": {"devices": 1}}


def test_record_comes_back_as_written(tmp_path: Path) -> None:
    unknown = {"PCKh@0.5/head": math.nan, "PCKh@0.5/hip": -math.inf}
    record = {"scores": {"PCKh@0.5": 12.5} | unknown, "data": {"list": [math.inf, 1]}}
    folder = tmp_path / "not" / "there" / "yet"
    assert write_result(folder, record) == folder / RESULT
    assert state.read_result(tmp_path) is None
    # JSON has neither nan nor infinity.
    scores = {"PCKh@0.5": 12.5, "PCKh@0.5/head": None, "PCKh@0.5/hip": None}
    expected = {"scores": scores, "data": {"list": [None, 1]}}
    assert state.read_result(folder) == expected
    # One that cannot be written leaves the old one; nothing else is left behind.
    for wrong in ({"score": object()}, {"scores": 1.0}):
        with pytest.raises(ValidationError):
            write_result(folder, wrong)
    assert state.read_result(folder) == expected
    assert [path.name for path in folder.iterdir()] == [RESULT]


def test_files_written_at_once_do_not_meet(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    ended = os.fork()
    if not ended:
        os._exit(0)
    os.waitpid(ended, 0)
    # Another process is at it; a third was killed.
    running, killed = (tmp_path / f"page.html.{process}.part" for process in (1, ended))
    for left in (running, killed):
        left.write_text("half")
    write_whole(path, "whole")
    assert sorted(tmp_path.iterdir()) == [path, running]
    assert path.read_text() == "whole"
    with pytest.raises(OSError, match=r"page\.html"):
        write_whole(path / "page.html", "no folder")


def seen(folder: Path) -> tuple[str, str | None]:
    run = read_run(folder)
    assert run is not None
    assert run.config == CONFIG
    return run.status, run.cause


def test_state_follows_a_run(tmp_path: Path) -> None:
    assert read_run(tmp_path) is None
    with held_run(tmp_path), kept_state(tmp_path, CONFIG) as earlier:
        assert earlier == 0
        assert seen(tmp_path) == ("running", None)
        write_result(tmp_path, {"config": CONFIG, "score": 1.0})
    assert seen(tmp_path) == ("finished", None)
    write_result(tmp_path / "val", {"score": 1.0})  # A record of an evaluation is no run.
    assert [(run.folder, run.status) for run in find_runs(tmp_path)] == [(tmp_path, "finished")]
    (tmp_path / RESULT).unlink()
    child = os.fork()
    if not child:
        with held_run(tmp_path), kept_state(tmp_path, CONFIG):
            os._exit(0)  # Without a chance to write anything, as SIGKILL.
    os.waitpid(child, 0)
    assert json.loads((tmp_path / STATE).read_text())["state"] == "running"
    assert seen(tmp_path)[0] == "interrupted"


@pytest.mark.parametrize(
    ("error", "status", "cause"),
    [
        (OUTER, "failed", "OSError: disk full"),
        (KeyboardInterrupt(), "interrupted", "KeyboardInterrupt"),
        (UnfinishedError("2 of 3 epochs"), "interrupted", "2 of 3 epochs"),
        (NonFiniteLossError("nan in step 7"), "failed", "nan in step 7"),
    ],
)
def test_state_tells_how_a_run_ended(tmp_path: Path, error: BaseException, status: str, cause: str) -> None:
    with pytest.raises(type(error)), kept_state(tmp_path, CONFIG):
        raise error
    assert seen(tmp_path) == (status, cause)


def test_learning_rates_of_finished_epochs_outlive_a_new_start(tmp_path: Path) -> None:
    path, rows = tmp_path / state.METRICS, ["epoch,step,lr", ",0,0.1", "0,1,", ",2,0.2", "1,3,", ",4,0.3", "2,5,"]
    path.write_text("\n".join(rows))
    state.set_aside(tmp_path, 2)
    state.put_together(tmp_path)
    assert path.read_text().split() == rows[:5]


def interrupted_start(folder: Path, checkpoint_after: float | None = None) -> float:
    """A start that is interrupted; returns the seconds that it took over from earlier ones."""
    with contextlib.suppress(KeyboardInterrupt), kept_state(folder, CONFIG) as earlier:
        if checkpoint_after is not None:
            checkpoint = folder / "checkpoints" / "last.ckpt"
            checkpoint.parent.mkdir(exist_ok=True)
            checkpoint.touch()
            os.utime(checkpoint, (0, time.time() + checkpoint_after))
        raise KeyboardInterrupt
    return earlier


def test_time_of_earlier_starts_counts_up_to_their_checkpoint(tmp_path: Path) -> None:
    assert interrupted_start(tmp_path) == 0
    # Without a checkpoint the run begins anew.
    assert interrupted_start(tmp_path, checkpoint_after=100) == 0
    assert interrupted_start(tmp_path, checkpoint_after=50) == pytest.approx(100, abs=5)
    # This start comes to no further checkpoint, and adds nothing.
    assert interrupted_start(tmp_path, checkpoint_after=-1000) == pytest.approx(150, abs=5)
    assert interrupted_start(tmp_path) == pytest.approx(150, abs=5)


def test_only_a_run_is_cleared_and_no_link_is_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, mine = tmp_path / "run", tmp_path / "mine"
    for path in (folder / ".hydra", mine):
        path.mkdir(parents=True)
    (folder / "link").symlink_to(mine)
    for named in ("no run", "the working directory"):
        with pytest.raises(PnfsError, match=rf"run: restart=true .* {named}; set another run_dir"):
            state.clear(folder)
        (folder / STATE).touch()
        monkeypatch.chdir(folder / ".hydra")
    monkeypatch.chdir(tmp_path)
    for _ in range(2):  # Now and when it is empty.
        state.clear(folder)
    assert [*folder.iterdir(), *tmp_path.glob("mine")] == [folder / ".hydra", mine]
