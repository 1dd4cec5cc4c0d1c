"""Jobs side by side: each process keeps a GPU that no other has."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pnfs.commands import processes
from pnfs.errors import PnfsError

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


def holder(folder: Path, gpus: int, visible: str | None) -> "subprocess.Popen[str]":
    environment = {k: v for k, v in os.environ.items() if k != "CUDA_VISIBLE_DEVICES"}
    environment |= {"PNFS_GPUS": str(gpus), "TMPDIR": str(folder)}
    environment |= {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    command = [sys.executable, "-c", TAKE_TWICE]
    return subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def seen_by(process: "subprocess.Popen[str]") -> list[str]:
    assert process.stdout is not None
    return json.loads(process.stdout.readline())


@pytest.mark.parametrize(("visible", "names"), [(None, "0 1"), ("5,7,GPU-a", "5 7")])
def test_process_keeps_a_gpu_of_its_own(tmp_path: Path, visible: str | None, names: str) -> None:
    first, second = (holder(tmp_path, 2, visible) for _ in range(2))
    taken = [seen_by(first), seen_by(second)]
    # Both jobs of a process see the GPU that it took for the first.
    assert sorted(taken) == [[name, name] for name in names.split()]
    first.communicate(timeout=60)
    # A third gets what the first has left, not the GPU of the second.
    third = holder(tmp_path, 2, visible)
    assert seen_by(third) == taken[0]
    second.communicate(timeout=60)
    third.communicate(timeout=60)


@pytest.mark.parametrize(("asked", "advice"), [("0", 2), ("all", 2), ("3", 2)])
def test_what_cannot_be_shared_out_is_refused(monkeypatch: pytest.MonkeyPatch, asked: str, advice: int) -> None:
    monkeypatch.setenv("PNFS_GPUS", asked)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "6,2")
    with pytest.raises(PnfsError, match=rf"hydra\.launcher\.n_jobs={advice}"):
        processes.take_gpu_if_asked.__wrapped__()
