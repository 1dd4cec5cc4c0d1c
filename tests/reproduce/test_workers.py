"""Jobs in processes of their own: what fails or is killed stops nothing else."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from pnfs.reproduce.workers import run_jobs


def job(name: str) -> None:
    """What a job does, by its name; runs in a worker."""
    print(f"doing {name}", flush=True)
    if name == "raises":
        raise ValueError("no such\nthing")
    if name == "wraps":
        raise RuntimeError("outer") from OSError("inner")
    if name == "exits":
        sys.exit(3)
    if name == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if name.startswith("/"):
        deadline = time.monotonic() + 60
        while not Path(name).exists() and time.monotonic() < deadline:
            time.sleep(0.02)


def test_failures_are_told_and_stop_nothing(tmp_path: Path) -> None:
    names = ["raises", "wraps", "killed", "exits", "good"]
    started: list[str] = []
    outcomes = run_jobs(
        job, names, log_of=lambda name: tmp_path / f"{name}.log", on_start=started.append
    )
    causes = {outcome.job: outcome.cause for outcome in outcomes}
    assert started == names
    assert list(causes) == names
    assert causes["raises"] == "ValueError: no such thing"
    assert causes["wraps"] == "OSError: inner"
    assert "was killed" in (causes["killed"] or "")
    assert causes["exits"] == "SystemExit: 3"
    assert causes["good"] is None
    assert (tmp_path / "good.log").read_text() == "doing good\n"
    assert "Traceback" in (tmp_path / "raises.log").read_text()


def test_fail_fast_starts_nothing_after_a_failure(tmp_path: Path) -> None:
    started: list[str] = []
    outcomes = run_jobs(
        job,
        ["good", "raises", *("good",) * 30],
        log_of=lambda name: tmp_path / name,
        fail_fast=True,
        on_start=started.append,
    )
    causes = []
    for outcome in outcomes:
        time.sleep(0.5)  # A slow reader: the other jobs would have the time to start.
        causes.append(outcome.cause)
    assert causes == [None, "ValueError: no such thing"]
    assert started == ["good", "raises"]


def test_fail_fast_lets_a_job_at_work_end(tmp_path: Path) -> None:
    signal_to_end = tmp_path / "end"
    ended: list[str] = []
    for outcome in run_jobs(
        job,
        ["raises", str(signal_to_end), *("good",) * 5],
        log_of=lambda name: tmp_path / f"{Path(name).name}.log",
        processes=2,
        fail_fast=True,
    ):
        ended.append(outcome.job)
        assert (outcome.cause is None) == (outcome.job != "raises")
        signal_to_end.touch()  # Only now, after the failure, may the second job end.
    assert ended == ["raises", str(signal_to_end)]


def test_no_jobs_no_processes(tmp_path: Path) -> None:
    assert list(run_jobs(job, [], log_of=lambda name: tmp_path / name)) == []


PARENT = """
import os, sys, time
from pathlib import Path
from pnfs.reproduce.workers import run_jobs

def sleep(path):
    Path(path).write_text(str(os.getpid()))
    time.sleep(300)

if __name__ == "__main__":
    list(run_jobs(sleep, [sys.argv[1]], log_of=lambda path: Path(path + ".log")))
"""


def alive(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    # A zombie is dead; nobody has asked for its status yet.
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")
def test_worker_ends_when_its_parent_is_killed(tmp_path: Path) -> None:
    script, pid_file = tmp_path / "parent.py", tmp_path / "pid"
    script.write_text(PARENT)
    parent = subprocess.Popen([sys.executable, str(script), str(pid_file)])
    deadline = time.monotonic() + 200
    while not (pid_file.exists() and pid_file.read_text()) and time.monotonic() < deadline:
        time.sleep(0.2)
    worker = int(pid_file.read_text())
    assert alive(worker)
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 60
    while alive(worker) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not alive(worker)
