"""Places that are full, read-only or gone, and processes that are stopped or killed: one sentence says which."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from conftest import FEW, Tally, only, refused
from train_server import TrainServer, assert_same_training

FULL = "the file that could not be written, why, and which key names another place; nothing half written"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 40 megabytes."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=40m", "tmpfs", str(place)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a file system is not allowed here")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.mark.parametrize(
    "free", [40, *(pytest.param(k, marks=pytest.mark.slow) for k in (0, 4, 12, 2000, 5000, 6000))]
)
def test_full_disk(server: TrainServer, small_disk: Path, tmp_path: Path, tally: Tally, free: int) -> None:
    """A training is stopped by a full disk, and goes on when there is room again."""
    filler = small_disk / "filler"
    room = shutil.disk_usage(small_disk).free
    filler.write_bytes(bytes(room - 1024 * free))
    done = server.run(tmp_path, "train", *FEW, f"run_root={small_disk}")
    refused(done, "No space left on device", str(small_disk) if free > 20 else "run_root")
    filler.unlink()
    server.train([*FEW, f"run_root={small_disk}"], tmp_path / "log.txt")
    server.train([*FEW, f"run_root={tmp_path / 'whole'}"], tmp_path / "log.txt")
    (folder,) = [path for path in small_disk.glob("*/*") if (path / "result.json").is_file()]
    assert_same_training(only(tmp_path / "whole"), folder)
    tally("full disk while training", 1, FULL)


@pytest.mark.slow
@pytest.mark.parametrize("command", ["predict", "export", "derive", "show", "data", "tables", "runs"])
def test_full_disk_of_other_commands(
    server: TrainServer, runs: dict[str, Path], small_disk: Path, tmp_path: Path, tally: Tally, command: str
) -> None:
    run = only(runs["whole"])
    cv2.imwrite(str(tmp_path / "p.png"), np.zeros((40, 40, 3), np.uint8))
    (small_disk / "filler").write_bytes(bytes(shutil.disk_usage(small_disk).free))
    arguments = {
        "predict": [f"checkpoint={run}", "input=p.png", f"out={small_disk / 'out'}"],
        "export": [f"checkpoint={run}", f"out={small_disk / 'm.onnx'}"],
        "derive": [f"checkpoint={run}", f"out={small_disk / 'out'}"],
        "show": [f"checkpoint={run}", f"out={small_disk / 'out.png'}"],
        "data": ["dataset=synthetic", "dataset.train=4", "dataset.val=4", f"out={small_disk}/o"],
        "tables": ["target=table3", "profile=smoke", f"out={small_disk / 'out'}"],
        "runs": [f"run_root={runs['whole']}", f"html={small_disk / 'page.html'}"],
    }
    done = server.run(tmp_path, command, *arguments[command])
    refused(done, "No space left on device")
    tally("full disk in other commands", 1, FULL)
