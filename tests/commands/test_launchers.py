"""Sweeps through every launcher, runs in several processes, a GPU for each process."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
import yaml

from pnfs.commands.configuration import plain
from pnfs.commands.processes import take_gpu_if_asked
from pnfs.commands.train_checks import check_settings
from pnfs.errors import PnfsError
from pnfs.runs.state import find_runs
from tiny_runs import PEOPLE, TINY, composed, record_of


def train(folder: Path, *overrides: str) -> "subprocess.CompletedProcess[str]":
    tiny = [*PEOPLE, *TINY, "dataset.train=32", "epochs=1", "batch_size=16", "workers=0"]
    command = [sys.executable, "-c", "from pnfs.commands.main import main; main()", "train", *tiny, *overrides]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=900)


def states(folder: Path) -> dict[int, str]:
    """Channels -> state of the run."""
    runs = find_runs(folder / "runs")
    return {run.config["model"]["fabrics"]["channels"]: run.status for run in runs}


RAY = ["+hydra.launcher.ray.init.num_cpus=2", "+hydra.launcher.ray.init.include_dashboard=false"]
LAUNCHERS = {
    "joblib_gpus": ("hydra_plugins.hydra_joblib_launcher", ["hydra.launcher.n_jobs=2"]),
    "submitit_local": ("hydra_plugins.hydra_submitit_launcher", []),
    "ray": ("hydra_plugins.hydra_ray_launcher.ray_launcher", RAY),
}


@pytest.mark.slow
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_launcher_runs_all_jobs_and_names_the_one_that_fails(tmp_path: Path, launcher: str) -> None:
    plugin, overrides = LAUNCHERS[launcher]
    pytest.importorskip(plugin, reason="an extra of the package, not installed")
    jobs = ["model.fabrics.channels=2,0,3", "--multirun"]
    done = train(tmp_path, f"hydra/launcher={launcher}", *overrides, *jobs)
    # The second job cannot be built.
    assert states(tmp_path) == {2: "finished", 0: "failed", 3: "finished"}, done.stderr
    assert done.returncode == 1
    (failed,) = [line for line in done.stderr.splitlines() if line.startswith("pnfs train: failed")]
    assert "model.fabrics.channels=0" in failed
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_search_returns_its_best_trial(tmp_path: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper", reason="the extra optuna")
    overrides = ["hydra.sweeper.n_trials=2", "model.fabrics.nodes=choice(1,2)"]
    done = train(tmp_path, "experiment=tune", *overrides, "--multirun")
    assert done.returncode == 0, done.stderr
    trials = {run.config["strategy"]["lr_factor"]: run.record["score"] for run in find_runs(tmp_path / "runs")}
    assert [0.1 <= factor <= 100 for factor in trials] == [True] * 2
    (results,) = tmp_path.glob("runs/sweeps/*/optimization_results.yaml")
    best = yaml.safe_load(results.read_text())
    # The channels are given, which takes them out of the search.
    assert set(best["best_params"]) == {"strategy.lr_factor", "model.fabrics.nodes"}
    assert (
        best["best_value"]
        == max(trials.values())
        == pytest.approx(trials[best["best_params"]["strategy.lr_factor"]])
    )


@pytest.mark.slow
def test_two_processes_make_one_run_each_in_a_sweep_too(tmp_path: Path) -> None:
    ddp = ["trainer=ddp", "trainer.accelerator=cpu", "evaluate_untrained=true"]
    done = train(tmp_path, *ddp, "model.fabrics.channels=2,3", "--multirun")
    assert done.returncode == 0, done.stderr
    assert states(tmp_path) == {2: "finished", 3: "finished"}
    for folder in (tmp_path / "runs" / "train").iterdir():
        record = record_of(folder)
        assert record["config"]["trainer"]["devices"] == 2
        last = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
        # 32 persons in batches of 16 are two steps for one process, one for two.
        assert last["global_step"] == 1
        assert record["untrained_scores"].keys() == record["scores"].keys()
        trajectory = [json.loads(row) for row in (folder / "architecture.jsonl").open()]
        assert [row["epoch"] for row in trajectory] == [-1, 0]
    # One process speaks.
    assert done.stdout.count("record: ") == 2
    assert done.stdout.count("synthetic train: 32 persons") == 2
    # Started again, there is nothing to do: the same configuration is the same run.
    again = train(tmp_path, *ddp, "model.fabrics.channels=3")
    assert "finished before" in again.stdout


RANKS = """
import os, signal, sys, time
from pathlib import Path
from pnfs.commands.processes import run_in_processes

def run_as_rank(does):
    rank = int(os.environ["LOCAL_RANK"])
    Path(f"pid_{rank}").write_text(str(os.getpid()))
    if rank == 1 and does == "raises":
        raise ValueError("no such thing")
    if rank == 1 and does == "dies":
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(300)

if __name__ == "__main__":
    # What a shell starts in the background ignores Ctrl-C, these tests among it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    run_in_processes(run_as_rank, {"does": sys.argv[1]}, 2, Path("."))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("does", "status", "said"),
    [("raises", 1, "process 1 of 2 failed: .*no such thing"), ("dies", 1, "process 1 of 2 .*SIGKILL"),
     ("Ctrl-C", 130, ""), ("kill", -signal.SIGKILL, "")],
)  # fmt: skip
def test_processes_of_a_run_end_together(tmp_path: Path, does: str, status: int, said: str) -> None:
    (tmp_path / "ranks.py").write_text(RANKS)
    pipe: Any = {"stderr": subprocess.PIPE, "text": True}
    parent = subprocess.Popen([sys.executable, "ranks.py", does], cwd=tmp_path, start_new_session=True, **pipe)
    files, deadline = [tmp_path / f"pid_{rank}" for rank in range(2)], time.monotonic() + 300
    while does in ("Ctrl-C", "kill") and not all(file.is_file() and file.read_text() for file in files):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    if does == "Ctrl-C":
        os.killpg(parent.pid, signal.SIGINT)
    elif does == "kill":
        parent.kill()
    # The pipe is open as long as anyone lives who writes to it.
    errors = parent.communicate(timeout=100)[1]
    assert (parent.returncode, bool(re.search(said, errors))) == (status, True), errors
    pids = [int(file.read_text()) for file in files if file.is_file()]
    assert not psutil.wait_procs([psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)], timeout=60)[1]


TAKE_TWICE = """
import json, os, sys
from pnfs.commands.processes import take_gpu_if_asked
seen = []
for _ in range(2):
    take_gpu_if_asked()
    seen.append(os.environ.get("CUDA_VISIBLE_DEVICES"))
print(json.dumps(seen), flush=True)
sys.stdin.read()
"""


def test_process_keeps_a_gpu_of_its_own(tmp_path: Path) -> None:
    def start() -> tuple["subprocess.Popen[str]", list[str]]:
        gpus = {"PNFS_GPUS": "2", "TMPDIR": str(tmp_path), "CUDA_VISIBLE_DEVICES": "5,7,GPU-a"}
        pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        process = subprocess.Popen([sys.executable, "-c", TAKE_TWICE], env={**os.environ, **gpus}, **pipes)
        assert process.stdout is not None
        return process, json.loads(process.stdout.readline())

    (first, one), (second, two) = start(), start()
    # Both jobs of a process see the GPU that it took for the first.
    assert [one, two] == [["5", "5"], ["7", "7"]]
    first.communicate(timeout=60)
    # A third gets what the first has left, not the GPU of the second.
    third, three = start()
    assert three == one
    for process in (second, third):
        process.communicate(timeout=60)


@pytest.mark.parametrize("asked", ["0", "all", "3"])
def test_gpus_that_cannot_be_shared_out_are_refused(monkeypatch: pytest.MonkeyPatch, asked: str) -> None:
    monkeypatch.setenv("PNFS_GPUS", asked)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "6,2")
    with pytest.raises(PnfsError, match=r"hydra\.launcher\.n_jobs=2"):
        take_gpu_if_asked.__wrapped__()


def test_a_job_with_one_gpu_is_not_named_by_all_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PNFS_GPUS", "2")
    with pytest.raises(PnfsError, match=r"trainer\.devices=auto: .*joblib_gpus"):
        check_settings(plain(composed("train", "trainer=gpu", "trainer.devices=auto")))
