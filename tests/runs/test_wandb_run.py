"""What Weights & Biases is told about runs, read from the files that an offline run leaves."""

import json
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pnfs.runs.wandb_run import RunLogger, finished_wandb

wandb = pytest.importorskip("wandb")
from wandb.proto import wandb_internal_pb2  # noqa: E402

TINY = [
    "backbone=fabric", "backbone.fabrics.first_layers=3", "backbone.fabrics.channels=2",
    "model.fabrics.channels=2",
    "parts=p3", "input_size=[64,64]", "batch_size=4", "eval_batch_size=6", "augmentation=none",
    "workers=0", "trainer=cpu", "epochs=1", "dataset.train=8", "dataset.val=4",
    "dataset.image_size=[64,64]", "logger=wandb", "name=tiny", "tags=[mine]",
]  # fmt: skip


def records(path: Path) -> Iterator[Any]:
    """The messages of a `.wandb` file: LevelDB's log format behind a header of 7 bytes."""
    content = path.read_bytes()
    assert content[:4] == b":W&B"
    at, message = 7, b""
    while at + 7 <= len(content):
        left = 32768 - at % 32768
        if left < 7:  # No header fits into the rest of a block.
            at += left
            continue
        length, kind = struct.unpack("<HB", content[at + 4 : at + 7])
        message += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # Whole, or the last piece.
            record = wandb_internal_pb2.Record()
            record.ParseFromString(message)
            yield record
            message = b""


def offline_run(folder: Path) -> dict[str, Any]:
    """What the only offline run of a folder says."""
    (path,) = folder.glob("wandb/offline-run-*/*.wandb")
    found: dict[str, Any] = {"config": {}, "summary": {}, "history": set(), "exit": None}
    for record in records(path):
        kind = record.WhichOneof("record_type")
        if kind == "run":
            found["run"] = record.run
            updates = [*record.run.config.update]
        elif kind == "config":
            updates = [*record.config.update]
        else:
            updates = []
        for item in updates:
            found["config"][item.key or "/".join(item.nested_key)] = json.loads(item.value_json)
        if kind == "summary":
            for item in record.summary.update:
                name = item.key or "/".join(item.nested_key)
                found["summary"][name] = json.loads(item.value_json)
        if kind == "history":
            found["history"] |= {
                item.key or "/".join(item.nested_key) for item in record.history.item
            }
        if kind == "exit":
            found["exit"] = record.exit.exit_code
    return found


def test_resumed_run_keeps_its_id_and_others_have_their_own(tmp_path: Path) -> None:
    folders = [tmp_path / "one" / "1a2b3c4d", tmp_path / "other" / "1a2b3c4d"]
    first, again, other = (RunLogger(save_dir=str(folders[n]), mode="disabled") for n in (0, 0, 1))
    assert first.version == again.version
    # The hash is the same where only the experiment's name differs.
    assert first.version != other.version


@pytest.mark.parametrize(
    ("error", "code"),
    [(None, 0), (ValueError, 1), (KeyboardInterrupt, 130), (SystemExit, 130)],
)
def test_end_of_the_block_is_the_end_of_the_run(
    error: type[BaseException] | None, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lightning.pytorch.loggers import WandbLogger

    codes: list[int] = []
    monkeypatch.setattr(wandb, "finish", lambda exit_code: codes.append(exit_code))
    logger = WandbLogger.__new__(WandbLogger)
    if error is None:
        with finished_wandb([logger]):
            assert codes == []
    else:
        with pytest.raises(error), finished_wandb([logger]):
            raise error
    assert codes == [code]


def train(*overrides: str) -> subprocess.CompletedProcess[str]:
    script = "from pnfs.commands.main import main; main()"
    environment = {k: v for k, v in os.environ.items() if not k.startswith("WANDB_")}
    return subprocess.run(
        [sys.executable, "-c", script, "train", *overrides, *TINY],
        capture_output=True,
        text=True,
        env=environment | {"OMP_NUM_THREADS": "1"},
        check=False,
    )


@pytest.mark.slow
def test_every_job_of_a_sweep_is_its_own_run(tmp_path: Path) -> None:
    """Three jobs in one process; the loss of the second is not finite."""
    done = train("--multirun", f"run_root={tmp_path}", "optimizer.lr=0.001,1e30,0.002")
    assert done.returncode != 0
    folders = list((tmp_path / "tiny").iterdir())
    runs = [offline_run(folder) for folder in folders]
    exits = {run["config"]["optimizer"]["lr"]: run["exit"] for run in runs}
    assert exits == {0.001: 0, 1e30: 1, 0.002: 0}
    for folder, run in zip(folders, runs, strict=True):
        assert run["run"].project == "pnfs"
        assert run["run"].run_group == "tiny"
        assert run["run"].job_type == "train"
        assert run["run"].run_id == (folder / "wandb_id.txt").read_text().strip()
        assert list(run["run"].tags) == ["mine"]
        assert run["run"].display_name == f"tiny/{folder.name}"
        if run["exit"]:
            assert not (folder / "result.json").exists()
            continue
        record = json.loads((folder / "result.json").read_text())
        assert {key: run["config"][key] for key in record["config"]} == record["config"]
        assert run["summary"]["final/score"] == record["score"]
        assert run["summary"]["cost/macs"] == record["cost"]["macs"]
        assert "architecture/head/alpha/skip" in run["history"]
        for what in ("predictions", "architecture"):
            assert f"media/{what}/filenames" in run["history"]
            assert list(folder.glob(f"wandb/offline-run-*/files/media/images/media/{what}_*.png"))
