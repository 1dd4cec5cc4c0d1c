"""What Weights & Biases is told about runs, read from the files that an offline run leaves."""

import json
import os
import struct
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pnfs.runs.wandb_run import RunLogger, finished_wandb
from tiny_runs import PEOPLE, TINY, record_of

wandb = pytest.importorskip("wandb")
from wandb.proto import wandb_internal_pb2  # noqa: E402

GIVEN = [*PEOPLE, *TINY, "parts=p3", "batch_size=4", "workers=0", "epochs=1", "logger=wandb", "name=tiny",
         "tags=[mine]"]  # fmt: skip


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


def named(items: Iterable[Any]) -> dict[str, Any]:
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}


def offline_run(folder: Path) -> SimpleNamespace:
    """What the only offline run of a folder says."""
    (path,) = folder.glob("wandb/offline-run-*/*.wandb")
    found = SimpleNamespace(run=None, exit=None, config={}, summary={}, history={})
    for record in records(path):
        match record.WhichOneof("record_type"):
            case "run":
                found.run = record.run
                found.config |= named(record.run.config.update)
            case "config":
                found.config |= named(record.config.update)
            case "summary":
                found.summary |= named(record.summary.update)
            case "history":
                found.history |= named(record.history.item)
            case "exit":
                found.exit = record.exit.exit_code
    return found


def test_resumed_run_keeps_its_id_and_others_have_their_own(tmp_path: Path) -> None:
    folders = [tmp_path / "one" / "1a2b3c4d", tmp_path / "other" / "1a2b3c4d"]
    first, again, other = (RunLogger(save_dir=str(folders[n]), mode="disabled") for n in (0, 0, 1))
    assert first.version == again.version
    # The hash is the same where only the experiment's name differs.
    assert first.version != other.version


def test_an_interruption_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    codes: list[int] = []
    monkeypatch.setattr(wandb, "finish", lambda exit_code: codes.append(exit_code))
    with pytest.raises(KeyboardInterrupt), finished_wandb([RunLogger.__new__(RunLogger)]):
        raise KeyboardInterrupt
    assert codes == [130]


@pytest.mark.slow
def test_every_job_of_a_sweep_is_its_own_run(tmp_path: Path) -> None:
    """Three jobs in one process; the loss of the second is not finite."""
    asked = ["--multirun", f"run_root={tmp_path}", "optimizer.lr=0.001,1e30,0.002", *GIVEN]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("WANDB_")}
    script = [sys.executable, "-c", "from pnfs.commands.main import main; main()", "train", *asked]
    done = subprocess.run(script, env=environment | {"OMP_NUM_THREADS": "1"}, check=False)
    assert done.returncode != 0
    folders = list((tmp_path / "tiny").iterdir())
    found = {folder: offline_run(folder) for folder in folders}
    exits = {run.config["optimizer"]["lr"]: run.exit for run in found.values()}
    assert exits == {0.001: 0, 1e30: 1, 0.002: 0}
    for folder, said in found.items():
        run = said.run
        assert (run.project, run.run_group, run.job_type) == ("pnfs", "tiny", "train")
        assert run.run_id == (folder / "wandb_id.txt").read_text().strip()
        assert ([*run.tags], run.display_name) == (["mine"], f"tiny/{folder.name}")
        if said.exit:
            assert not (folder / "result.json").exists()
            continue
        record = record_of(folder)
        assert {key: said.config[key] for key in record["config"]} == record["config"]
        assert said.summary["final/score"] == record["score"]
        assert said.summary["cost/macs"] == record["cost"]["macs"]
        assert "architecture/head/alpha/skip" in said.history
        for what in ("predictions", "architecture"):
            assert f"media/{what}/filenames" in said.history
            assert list(folder.glob(f"wandb/offline-run-*/files/media/images/media/{what}_*.png"))
