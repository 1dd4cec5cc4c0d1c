"""Places that are read-only or gone, processes that are stopped, losses that are nan: one sentence says which."""

import os
import shutil
import signal
import time
from pathlib import Path

import psutil
import pytest

from conftest import FEW, Tally, only, refused
from pnfs.data.synthetic import Synthetic
from train_server import TrainServer
from written_datasets import write_mpii

LONG = [*(word for word in FEW if not word.startswith(("epochs", "workers"))), "epochs=500"]


def started(server: TrainServer, folder: Path, *overrides: str) -> int:
    """The process of a training that has ended an epoch."""
    files = {name: folder / f"{name}.txt" for name in ("output", "errors")}
    pid = server.start_command(folder, ["train", *LONG, "run_root=runs", *overrides], **files)
    deadline = time.monotonic() + 120
    while not list(folder.glob("runs/*/*/checkpoints/last.ckpt")):
        assert time.monotonic() < deadline, (folder / "errors.txt").read_text()
        time.sleep(0.05)
    return pid


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(("sign", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signal_to_the_whole_group(
    server: TrainServer, tmp_path: Path, tally: Tally, workers: int, sign: signal.Signals, status: int
) -> None:
    pid = started(server, tmp_path, f"workers={workers}")
    children = psutil.Process(pid).children(recursive=True)
    os.killpg(pid, sign)
    assert server.wait() == status
    said = (tmp_path / "output.txt").read_text() + (tmp_path / "errors.txt").read_text()
    assert "Traceback" not in said
    assert '"interrupted"' in next(tmp_path.glob("runs/*/*/state.json")).read_text()
    assert not psutil.wait_procs(children, timeout=10)[1]
    tally(
        "SIGINT and SIGTERM to the process group",
        1,
        "interrupted; exit status 130 or 143; the same command resumes",
    )


@pytest.mark.slow
def test_killed_loader_process(server: TrainServer, tmp_path: Path, tally: Tally) -> None:
    pid = started(server, tmp_path, "workers=2")
    workers = [c for c in psutil.Process(pid).children() if "pt_data_worker" in c.name() or c.children() == []]
    assert workers
    for worker in workers:
        worker.kill()
    assert server.wait() == 1
    said = (tmp_path / "errors.txt").read_text()
    assert "Traceback" not in said
    assert "worker" in said
    tally("loader process killed", 1, "that a loader process was killed, and by which signal")


@pytest.fixture
def mpii(tmp_path: Path) -> Path:
    drawn = Synthetic("mpii", train=8, val=4, image_size=(48, 48))
    write_mpii({split: drawn.persons(split) for split in ("train", "val")}, tmp_path / "mpii")
    return tmp_path / "mpii"


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("what", ["image", "images", "dataset", "half an image"])
def test_what_vanishes_is_named(
    server: TrainServer, mpii: Path, tmp_path: Path, tally: Tally, workers: int, what: str
) -> None:
    """The dataset was there when the run began; when it is resumed, a part of it is not."""
    words = [w for w in FEW if not w.startswith(("dataset", "workers", "epochs"))]
    words += ["dataset=mpii", f"dataset.root={mpii}", f"workers={workers}", "dataset.check_images=false"]
    killed = ("pnfs.training.keeping:KeepLast.on_train_epoch_end", 1, True)
    server.start([*words, "epochs=3", f"run_root={tmp_path / 'runs'}"], tmp_path / "log.txt", killed)
    assert server.wait() == -signal.SIGKILL, (tmp_path / "log.txt").read_text()
    image = sorted((mpii / "images").iterdir())[0]
    if what == "half an image":
        image.write_bytes(image.read_bytes()[:100])
    else:
        gone = {"image": image, "images": mpii / "images", "dataset": mpii}[what]
        gone.rename(tmp_path / "elsewhere")
    done = server.run(tmp_path, "train", *words, "epochs=3", f"run_root={tmp_path / 'runs'}")
    refused(done, image.name if what == "image" or "half" in what else "mpii")
    tally("image or dataset gone, loader with and without processes", 1, "the file that is not there")


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() == 0 and not shutil.which("chattr"), reason="root writes everywhere")
def test_read_only_place(server: TrainServer, tmp_path: Path, tally: Tally) -> None:
    place = tmp_path / "place"
    place.mkdir()
    server.train([*FEW, f"run_root={place}"], tmp_path / "log.txt")
    mounted = os.system(f"mount --bind {place} {place} && mount -o remount,ro,bind {place}") == 0
    if not mounted:
        pytest.skip("mounting is not allowed here")
    try:
        done = server.run(tmp_path, "train", *FEW, "seed=1", f"run_root={place}")
        refused(done, "Read-only file system", "run_root")
        done = server.run(tmp_path, "evaluate", f"checkpoint={only(place)}", "workers=0", "trainer=cpu")
        refused(done, "Read-only file system", str(place))
    finally:
        os.system(f"umount -l {place}")
    tally("read-only places", 2, "the file, why, and which key names another place")


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["synchronous", "first_order", "random", "second_order"])
def test_loss_that_is_not_finite(server: TrainServer, tmp_path: Path, tally: Tally, strategy: str) -> None:
    words = [f"strategy={strategy}", "optimizer.lr=1e30", f"run_root={tmp_path / 'runs'}"]
    done = server.run(tmp_path, "train", *FEW, *words)
    refused(done, "loss")
    assert '"failed"' in next((tmp_path / "runs").glob("*/*/state.json")).read_text()
    tally("losses that are not finite", 1, "epoch and step at which it happened, and what to lower")
