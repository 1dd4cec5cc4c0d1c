"""What someone who knows Hydra, Lightning and lightning-hydra-template types, as whole command lines."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import yaml

import pnfs
from tiny_runs import record_of
from train_server import TrainServer

TINY = [
    "dataset=synthetic", "dataset.train=16", "dataset.val=8", "dataset.image_size=[64,64]",
    "input_size=[64,64]", "backbone=fabric", "backbone.fabrics.first_layers=3", "backbone.fabrics.channels=2",
    "model.fabrics.channels=2", "parts=p1", "epochs=1", "batch_size=8", "trainer=cpu", "workers=0",
]  # fmt: skip

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def server() -> Iterator[TrainServer]:
    server = TrainServer()
    yield server
    server.close()


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


def columns(folder: Path) -> set[str]:
    with (folder / "metrics.csv").open(newline="") as file:
        return {name for row in csv.DictReader(file) for name, value in row.items() if value}


# --- what is printed is what runs


def test_printed_configuration_is_the_one_that_runs(train: Run, tmp_path: Path) -> None:
    overrides = ["trainer.max_epochs=2", "callbacks=[default,early_stopping]", "seed=3"]
    printed = yaml.safe_load(train(*overrides, "--cfg", "job", "--resolve").stdout)
    assert not (tmp_path / "runs").exists()
    train(*overrides)
    (folder,) = folders(tmp_path)
    assert str(folder.relative_to(tmp_path)) == printed["run_dir"]
    assert record_of(folder)["config"] == printed
    last = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    assert last["pnfs_config"] == printed
    assert last["epoch"] == printed["trainer"]["max_epochs"] - 1


def test_run_folder_is_hydras(train: Run, tmp_path: Path) -> None:
    done = train("trainer.enable_model_summary=false")
    (folder,) = folders(tmp_path)
    for name in ("config.yaml", "hydra.yaml", "overrides.yaml"):
        assert (folder / ".hydra" / name).is_file()
    assert (
        "trainer.enable_model_summary=false" in (folder / ".hydra" / "overrides.yaml").read_text()
    )
    assert "%|" not in done.stdout  # No progress bar in a pipe.
    log = (folder / "train.log").read_text()
    assert "epoch 1 of 1" in log
    assert "result.json" in log
    assert not (tmp_path / "outputs").exists()


# --- callbacks, loggers, the trainer's keys


def test_callback_of_the_users_is_called_beside_the_groups(train: Run, tmp_path: Path) -> None:
    train("+trainer.callbacks=[{_target_: lightning.pytorch.callbacks.Timer}]", "~callbacks.speed")
    (folder,) = folders(tmp_path)
    last = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    assert "KeepBest" in str(last["callbacks"])
    assert "train/persons_per_second" not in columns(folder)
    assert "lr-Adam" in " ".join(columns(folder))


@pytest.mark.slow
def test_loggers_profiler_and_callbacks_of_the_groups(train: Run, tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    pytest.importorskip("tensorboard")
    choices = [
        "callbacks=[default,ema,pictures]",
        "callbacks.pictures.every=2",
        "callbacks.ema.decay=0.5",
    ]
    loggers = [
        "logger=[wandb,tensorboard]",
        "trainer.profiler=simple",
        "callbacks.pictures.persons=2",
    ]
    done = train(*choices, *loggers, "epochs=3")
    (folder,) = folders(tmp_path)
    assert list(folder.glob("events.out.tfevents.*"))
    assert list(folder.glob("wandb/offline-run-*"))
    assert (folder / "metrics.csv").is_file()
    assert "Profiler Report" in done.stdout + done.stderr
    assert [path.name for path in (folder / "pictures").iterdir()] == ["epoch_0002.png"]
    last = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    kept, current = last["state_dict"], last["current_model_state"]
    assert any(not torch.equal(kept[name], current[name]) for name in kept)


# --- debugging


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


# --- continue, start from


@pytest.mark.slow
def test_named_checkpoint_is_continued(train: Run, tmp_path: Path) -> None:
    train()
    (first,) = folders(tmp_path)
    train("epochs=2", f"ckpt_path={first}/checkpoints/last.ckpt", "name=longer")
    (longer,) = folders(tmp_path, "longer")
    last = torch.load(longer / "checkpoints" / "last.ckpt", weights_only=True)
    assert (last["epoch"], last["global_step"]) == (1, 4)
    assert "resuming after epoch 1 of 2" in (longer / "train.log").read_text()


@pytest.mark.slow
def test_network_of_a_checkpoint_is_trained_further(
    train: Run, server: TrainServer, tmp_path: Path
) -> None:
    train("model.fabrics.channels=3")
    (first,) = folders(tmp_path)
    tiny = [override for override in TINY if not override.startswith("model.")]
    finetune = ["train", *tiny, "experiment=finetune", f"initial={first}", "name=further"]
    done = server.run(tmp_path, *finetune, "--cfg", "job", "--resolve")
    assert yaml.safe_load(done.stdout)["model"]["fabrics"]["channels"] == 3
    assert server.run(tmp_path, *finetune).returncode == 0
    error = train(f"initial={first}", status=1).stderr
    assert "experiment=finetune" in error


# --- mistakes


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("epochs=-1", "epochs"),
        ("epochs=two", "epochs"),
        ("trainer.max_epochs=0", "trainer.max_epochs"),
        ("input_size=64", "input_size"),
        ("input_size=[100,100]", "input_size"),
        ("codec.decode_method=drak", "codec.decode_method"),
        ("batch_size=0", "batch_size"),
        ("optimizer.lr=text", "optimizer.lr"),
        ("strategy.lr_factor=text", "strategy.lr_factor"),
        ("data.augment=divice", "data.augment"),
        ("model.fabrics.nodes=one", "model.fabrics.nodes"),
        ("trainer=gpu", "trainer.accelerator"),
        ("epochz=3", "epochs"),
        ("+epochz=3", "epochs"),
        ("+trainer.max_epoch=3", "trainer.max_epochs"),
        ("+model.fabrics.chanels=3", "model.fabrics.channels"),
        ("+codec.sigmas=3", "codec.sigma"),
        ("+callbacks.best.moniter=x", "callbacks.best.monitor"),
    ],
)
def test_mistake_is_one_sentence_that_names_the_key(train: Run, override: str, key: str) -> None:
    if override == "trainer=gpu" and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    error = train(override, status=1).stderr
    assert key in error
    assert len(error.splitlines()) == 1
    assert error.startswith("pnfs train: ")


# --- sweeps


def test_sweep_goes_on_and_names_what_failed(train: Run, tmp_path: Path) -> None:
    done = train("model.fabrics.channels=2,0,3", "--multirun", status=1)
    assert "Launching 3 jobs" in done.stdout
    assert "#2 : " in done.stdout
    (line,) = [line for line in done.stderr.splitlines() if "failed: " in line]
    assert "model.fabrics.channels=0" in line
    channels = {
        path.parent: record_of(path.parent) for path in tmp_path.glob("runs/*/*/result.json")
    }
    assert sorted(r["config"]["model"]["fabrics"]["channels"] for r in channels.values()) == [2, 3]
    for folder in channels:
        assert (folder / ".hydra" / "config.yaml").is_file()
    # Its jobs have the folders that they have alone, and each sweep its own record.
    assert "finished before" in train().stdout
    train("seed=0,1", "model.fabrics.channels=3", "-m")
    assert len(list(tmp_path.glob("runs/sweeps/*/multirun.yaml"))) == 2
    assert len(folders(tmp_path)) == 4


# --- interruptions


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
    state = json.loads((folders(tmp_path)[0] / "state.json").read_text())
    assert state["state"] == "interrupted"


@pytest.mark.slow
def test_restart_deletes_only_what_it_holds(train: Run, tmp_path: Path) -> None:
    train()
    (folder,) = folders(tmp_path)
    (folder / "checkpoints" / "old.txt").touch()
    before = record_of(folder)["finished"]
    time.sleep(1.0)
    train("restart=true")
    assert record_of(folder)["finished"] > before
    assert not (folder / "checkpoints" / "old.txt").exists()


@pytest.mark.slow
def test_second_job_of_a_run_takes_the_first_ones_result(tmp_path: Path) -> None:
    script = "from pnfs.commands.main import main; main()"
    command = [sys.executable, "-c", script, "train", *TINY, "epochs=4"]
    jobs = [
        subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    outputs = [job.communicate()[0] for job in jobs]
    assert [job.returncode for job in jobs] == [0, 0]
    assert sum("epoch 4 of 4" in output for output in outputs) == 1
    assert sum("finished before" in output for output in outputs) == 1


# --- the command itself


def test_version(server: TrainServer, tmp_path: Path) -> None:
    assert server.run(tmp_path, "--version").stdout == f"pnfs {pnfs.__version__}\n"


@pytest.mark.parametrize(
    "more", ["--cfg job", pytest.param("name=kept", marks=pytest.mark.slow)], ids=["print", "run"]
)
def test_reader_that_has_seen_enough_gets_no_traceback_and_loses_nothing(
    tmp_path: Path, more: str
) -> None:
    script = "from pnfs.commands.main import main; main()"
    command = f"{sys.executable} -c '{script}' train {' '.join(TINY)} {more} | head -1"
    done = subprocess.run(["sh", "-c", command], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.count("\n") == 1
    assert done.stderr == ""
    assert len(list(tmp_path.glob("runs/kept/*/result.json"))) == ("kept" in more)
