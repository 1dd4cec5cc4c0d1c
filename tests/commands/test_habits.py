"""What someone who knows Hydra, Lightning and lightning-hydra-template types, as whole command lines."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

from pnfs.runs.state import find_runs
from tiny_runs import PEOPLE, record_of
from tiny_runs import TINY as SMALLEST
from train_server import TrainServer

TINY = [*PEOPLE, *SMALLEST, "dataset.train=16", "epochs=1", "batch_size=8", "workers=0"]
SCRIPT = "from pnfs.commands.main import main; main()"

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def train(server: TrainServer, tmp_path: Path) -> Run:
    """`pnfs train` of the tiny configuration with these arguments, in an empty folder."""

    def run(*arguments: str, status: int = 0) -> "subprocess.CompletedProcess[str]":
        done = server.run(tmp_path, "train", *TINY, *arguments)
        assert done.returncode == status, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return done

    return run


def folders(root: Path, name: str = "train") -> list[Path]:
    return sorted((root / "runs" / name).iterdir())


def last_of(folder: Path) -> dict:
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)


def test_printed_configuration_is_the_one_that_runs(train: Run, tmp_path: Path) -> None:
    overrides = ["trainer.max_epochs=2", "callbacks=[default,early_stopping]", "seed=3"]
    printed = yaml.safe_load(train(*overrides, "--cfg", "job", "--resolve").stdout)
    assert not (tmp_path / "runs").exists()
    done = train(*overrides)
    (folder,) = folders(tmp_path)
    assert str(folder.relative_to(tmp_path)) == printed["run_dir"]
    assert record_of(folder)["config"] == printed
    assert last_of(folder)["pnfs_config"] == printed
    assert last_of(folder)["epoch"] == printed["trainer"]["max_epochs"] - 1
    # The folder is Hydra's own.
    assert {path.stem for path in (folder / ".hydra").iterdir()} == {"config", "hydra", "overrides"}
    assert "trainer.max_epochs=2" in (folder / ".hydra" / "overrides.yaml").read_text()
    log = (folder / "train.log").read_text()
    assert [words for words in ("epoch 2 of 2", "result.json") if words not in log] == []
    assert not (tmp_path / "outputs").exists()
    assert "%|" not in done.stdout  # No progress bar in a pipe.


def test_callback_of_the_users_is_called_beside_the_groups(train: Run, tmp_path: Path) -> None:
    train("+trainer.callbacks=[{_target_: lightning.pytorch.callbacks.Timer}]", "~callbacks.speed")
    (folder,) = folders(tmp_path)
    assert "KeepBest" in str(last_of(folder)["callbacks"])
    columns = (folder / "metrics.csv").read_text().partition("\n")[0]
    assert "lr-Adam" in columns
    assert "train/persons_per_second" not in columns


@pytest.mark.slow
def test_loggers_profiler_and_callbacks_of_the_groups(train: Run, tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    pytest.importorskip("tensorboard")
    callbacks = ["callbacks=[default,ema,pictures]", "callbacks.pictures.every=2", "callbacks.ema.decay=0.5"]
    done = train(*callbacks, "logger=[wandb,tensorboard]", "trainer.profiler=simple", "epochs=3")
    (folder,) = folders(tmp_path)
    for pattern in ("events.out.tfevents.*", "wandb/offline-run-*", "metrics.csv"):
        assert list(folder.glob(pattern)), pattern
    assert "Profiler Report" in done.stdout + done.stderr
    assert [path.name for path in (folder / "pictures").iterdir()] == ["epoch_0002.png"]
    kept, current = (last_of(folder)[name] for name in ("state_dict", "current_model_state"))
    assert any(not torch.equal(kept[name], current[name]) for name in kept)
    found = yaml.safe_load(last_of(folder)["pnfs_architecture"])["subnetworks"]["parts"]["whole_body"]
    assert torch.equal(torch.tensor(found["beta"]), kept["network.fabrics.beta.whole_body"])


SLOW_CHOICES = [pytest.param(c, marks=pytest.mark.slow) for c in ("limit", "overfit", "profiler")]


@pytest.mark.parametrize("choice", ["fast_dev_run", *SLOW_CHOICES])
def test_debugging_has_folders_of_its_own(train: Run, tmp_path: Path, choice: str) -> None:
    train(f"debug={choice}", "epochs=1")
    (folder,) = folders(tmp_path, "debug")
    assert (folder / "result.json").is_file() is (choice != "fast_dev_run")
    assert not (tmp_path / "runs" / "train").exists()


def test_local_file_is_read_where_there_is_one(train: Run, tmp_path: Path) -> None:
    (tmp_path / "mine" / "local").mkdir(parents=True)
    (tmp_path / "mine/local/default.yaml").write_text("# @package _global_\nname: here\n")
    printed = train("--config-dir", "mine", "--cfg", "job").stdout
    assert yaml.safe_load(printed)["name"] == "here"


@pytest.mark.slow
def test_a_run_is_continued_finetuned_and_trained_anew(train: Run, server: TrainServer, tmp_path: Path) -> None:
    train("model.fabrics.channels=3")
    (first,) = folders(tmp_path)
    train("model.fabrics.channels=3", "epochs=2", f"ckpt_path={first}", "name=longer")
    (longer,) = folders(tmp_path, "longer")
    assert (last_of(longer)["epoch"], last_of(longer)["global_step"]) == (1, 4)
    assert "resuming after epoch 1 of 2" in (longer / "train.log").read_text()
    for start in (longer, "shipped"):  # No epoch is left; weights alone.
        assert f"ckpt_path={start}" in train("epochs=2", f"ckpt_path={start}", "name=none", status=1).stderr
    other = ["model.fabrics.channels=3", "epochs=3", f"ckpt_path={longer}", "strategy=frozen"]
    assert "strategy._target_" in train(*other, status=1).stderr
    # The network of a checkpoint is not the one that is configured here.
    tiny = [override for override in TINY if not override.startswith("model.")]
    finetune = ["train", *tiny, "experiment=finetune", f"initial={first}", "name=further"]
    done = server.run(tmp_path, *finetune, "--cfg", "job", "--resolve")
    assert yaml.safe_load(done.stdout)["model"]["fabrics"]["channels"] == 3
    assert server.run(tmp_path, *finetune).returncode == 0
    assert "experiment=finetune" in train(f"initial={first}", status=1).stderr
    (first / "checkpoints" / "old.txt").touch()
    train("model.fabrics.channels=3", "restart=true")
    assert not (first / "checkpoints" / "old.txt").exists()


def test_sweep_goes_on_and_names_what_failed(train: Run, tmp_path: Path) -> None:
    done = train("model.fabrics.channels=2,0,3", "--multirun", status=1)
    assert "Launching 3 jobs" in done.stdout
    assert "#2 : " in done.stdout
    (line,) = [line for line in done.stderr.splitlines() if "failed: " in line]
    assert "model.fabrics.channels=0" in line
    found = [run for run in find_runs(tmp_path / "runs") if run.status == "finished"]
    assert sorted(run.config["model"]["fabrics"]["channels"] for run in found) == [2, 3]
    assert all((run.folder / ".hydra" / "config.yaml").is_file() for run in found)
    # Its jobs have the folders that they have alone, and each sweep its own record.
    assert "finished before" in train().stdout
    train("seed=0,1", "model.fabrics.channels=3", "-m")
    assert len(list(tmp_path.glob("runs/sweeps/*/multirun.yaml"))) == 2
    assert len(folders(tmp_path)) == 4


@pytest.mark.slow
def test_second_job_of_a_run_takes_the_first_ones_result(tmp_path: Path) -> None:
    command = [sys.executable, "-c", SCRIPT, "train", *TINY, "epochs=4"]
    pipe = {"stdout": subprocess.PIPE, "text": True}
    jobs = [subprocess.Popen(command, cwd=tmp_path, **pipe) for _ in range(2)]
    outputs = [job.communicate()[0] for job in jobs]
    assert [job.returncode for job in jobs] == [0, 0]
    assert sum("epoch 4 of 4" in output for output in outputs) == 1
    assert sum("finished before" in output for output in outputs) == 1


def test_ctrl_c_interrupts_in_one_line(server: TrainServer, tmp_path: Path) -> None:
    errors = tmp_path / "errors.txt"
    arguments = ["train", *TINY, "epochs=500"]
    pid = server.start_command(tmp_path, arguments, output=tmp_path / "out.txt", errors=errors)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("runs/train/*/checkpoints/last.ckpt")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.kill(pid, signal.SIGINT)
    assert server.wait() == 130
    said = errors.read_text().splitlines()
    assert [line for line in said if "interrupted" in line] == said[-1:]
    assert "Traceback" not in errors.read_text()
    assert [run.status for run in find_runs(tmp_path / "runs")] == ["interrupted"]


@pytest.mark.parametrize(
    "more", ["--cfg job", pytest.param("name=kept", marks=pytest.mark.slow)], ids=["print", "run"]
)
def test_reader_that_has_seen_enough_gets_no_traceback_and_loses_nothing(tmp_path: Path, more: str) -> None:
    command = f"{sys.executable} -c '{SCRIPT}' train {' '.join(TINY)} {more} | head -1"
    done = subprocess.run(["sh", "-c", command], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.count("\n") == 1
    assert done.stderr == ""
    assert len(list(tmp_path.glob("runs/kept/*/result.json"))) == ("kept" in more)
