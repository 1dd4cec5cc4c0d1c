"""Measurements of a size at which they say nothing, for what is written about them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pnfs.bench.training import ablation_network
from pnfs.commands.bench import groupings
from pnfs.models.cost import measure_cost

PNFS = Path(sys.executable).with_name("pnfs")
SMALL = ["input_size=[64,64]", "batch_size=2", "rounds=1", "part_counts=[1,3]", "device=cpu"]

pytestmark = pytest.mark.slow


def bench(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(PNFS), "bench", *SMALL, f"out={folder}", *arguments],
        env={**os.environ, "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_tables_of_training_steps(tmp_path: Path) -> None:
    done = bench(tmp_path, "sections=[parts,ladder]")
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "bench.json").read_text())
    assert list(report) == ["parts", "ladder P=1", "ladder P=3"]
    macs = [row["MACs"] for row in report["parts"]["rows"]]
    assert macs == [
        measure_cost(ablation_network(g), (64, 64)).macs for g in groupings([1, 3]).values()
    ]
    steps = report["ladder P=3"]["rows"]
    assert len(steps) == 4
    for row in steps:
        assert row["persons/s"] == pytest.approx(2e3 / row["ms"])
    text = (tmp_path / "bench.md").read_text()
    for section in report.values():
        assert f"## {section['title']}\n" in text
    assert (tmp_path / "bench.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("sections=[forms]", "there is no forms; there are ceilings, ladder"),
        ("part_counts=[2]", "there is no part mode with 2 parts"),
        pytest.param(
            "device=cuda",
            "PyTorch sees no GPU here",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU"),
        ),
    ],
)
def test_mistakes_are_told(tmp_path: Path, argument: str, message: str) -> None:
    done = bench(tmp_path, argument)
    assert done.returncode != 0
    assert message in done.stderr
    assert "Traceback" not in done.stderr
