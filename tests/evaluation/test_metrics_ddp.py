"""Each metric gives the same value in two processes as in one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from ddp_metrics import PERSONS, results

from pnfs.evaluation import person_metric

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


@pytest.mark.parametrize("name", ["PCKh", "PCK", "AP"])
def test_two_processes_score_as_one(name: str, by_rank) -> None:
    single = results(list(range(PERSONS)))[name]
    for found in by_rank:
        assert found[name] == pytest.approx(single, abs=1e-6, nan_ok=True)


def test_the_padding_would_show(monkeypatch: pytest.MonkeyPatch) -> None:
    """A person who counts twice changes every score: equality above is not for want of effect."""
    whole = results(list(range(PERSONS)))
    monkeypatch.setattr(person_metric, "first_rows", lambda index: np.arange(len(index)))
    padded = results([*range(PERSONS), 0])
    for name, scores in whole.items():
        assert scores != pytest.approx(padded[name], abs=1e-3, nan_ok=True), name
