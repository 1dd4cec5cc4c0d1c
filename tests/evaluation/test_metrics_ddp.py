"""Each metric gives the same value in two processes as in one."""

import json
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
import torch
from ddp_metrics import PERSONS, results

PROCESSES = 2


@pytest.fixture(scope="module")
def by_rank(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, dict[str, float]]]:
    folder = tmp_path_factory.mktemp("processes")
    script = str(Path(__file__).with_name("ddp_metrics.py"))
    environment = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    running = [
        subprocess.Popen(
            [sys.executable, script, str(folder), str(rank), str(PROCESSES)],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(PROCESSES)
    ]
    for process in running:
        try:
            _, errors = process.communicate(timeout=180)
        finally:
            process.kill()
        assert process.returncode == 0, errors
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(PROCESSES)]


@pytest.mark.parametrize("name", ["PCKh", "PCKh curve", "PCK", "PCK curve", "AP"])
def test_two_processes_score_as_one(name: str, by_rank) -> None:
    single = results(list(range(PERSONS)))[name]
    for found in by_rank:
        assert found[name] == pytest.approx(single, abs=1e-6, nan_ok=True)


def test_the_padding_would_show(monkeypatch: pytest.MonkeyPatch) -> None:
    """A person who counts twice changes every score: equality above is not for want of effect."""
    whole = results(list(range(PERSONS)))
    for module in ("pnfs.evaluation.pck", "pnfs.evaluation.oks"):
        # By module: the package has a function `oks` too, which hides the module's name.
        monkeypatch.setattr(
            import_module(module), "first_rows", lambda index: torch.arange(len(index))
        )
    padded = results([*range(PERSONS), 0])
    for name, scores in whole.items():
        assert scores != pytest.approx(padded[name], abs=1e-3, nan_ok=True), name
