"""The measurements run, and what they compare does the same work."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def test_loop_over_joints_finds_the_same_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks.evaluation import by_pnfs, in_a_loop

    scores = by_pnfs(30, 5, 24)()
    assert scores == pytest.approx(in_a_loop(30, 5, 24)(), abs=1e-3)
    assert 20 < scores[0] < 95  # Joints are right and wrong.


@pytest.mark.slow
def test_sections_write_tables_and_pictures(tmp_path: Path) -> None:
    small = ["--size", "64", "--batch", "2", "--rounds", "1", "--threads", "1", "--parts", "1", "3"]
    command = [sys.executable, "-m", "benchmarks", "training", "data", *small, "--out", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for name in ("training", "data"):
        assert "times as fast" in (tmp_path / f"{name}.md").read_text()
        assert (tmp_path / f"{name}.png").stat().st_size > 10_000
    assert (tmp_path / "training.md").read_text().count("\n## ") == 3
