"""`pnfs runs`: the list, and the page about all."""

import csv
import io
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pnfs.commands import runs
from pnfs.commands.configuration import UsageError
from pnfs.runs.state import Run, find_runs
from pnfs.viz.cards import RunCard
from tiny_runs import call


def card(name: str, status: Any, score: float | None = None) -> RunCard:
    record = None if score is None else {"score": score, "scores": {"PCK": score}, "seconds": 5000}
    return runs.card_of(Run(Path("runs") / name, status, None, {}, record), Path("runs"))


def write_run(root: Path, folder: str, score: float | None = 1.0, **config: Any) -> Path:
    """A run's folder; without a score it failed."""
    path = root / folder
    path.mkdir(parents=True)
    settings = {
        "name": path.parent.name,
        "dataset": {"_target_": "pnfs.data.datasets.lsp.LSP", "root": "/somewhere"},
        "model": {"_target_": "pnfs.models.PoseFabricNetwork", "parts": {"head": ["neck"]}},
    } | config
    if score is None:
        state = {
            "state": "failed",
            "cause": "out of <memory>",
            "config": settings,
            "started": 0,
            "pid": 1,
        }
        (path / "state.json").write_text(json.dumps(state))
        return path
    record = {
        "score": score, "scores": {"PCK@0.2": score}, "seconds": 10.0, "config": settings,
        "cost": {"parameters": 10, "live_parameters": 9, "macs": 1000},
    }  # fmt: skip
    (path / "result.json").write_text(json.dumps(record))
    (path / "metrics.csv").write_text("epoch,step,train/loss_epoch,val/score\n0,3,0.5,12.5\n")
    return path


def test_list_shows_state_score_and_duration() -> None:
    cards = [card("1a", "finished", 50.0), card("1b", "failed"), card("2c", "finished", 40.0)]
    assert [line.split()[:6] for line in runs.run_lines(cards, 80) if not line.startswith(" ")] == [
        ["run", "state", "score", "params", "MACs", "duration"],
        ["1a", "finished", "50.0", "–", "–", "1"],
        ["1b", "failed", "–", "–", "–", "–"],
        ["2c", "finished", "40.0", "–", "–", "1"],
    ]


@pytest.mark.parametrize("width", [80, 120])
def test_list_fits_the_terminal_and_cuts_no_hash(width: int) -> None:
    names = [f"reproduce/table3/{n:08x}" for n in range(3)]
    cause = "CUDA out of memory [tried 2 GiB]: " + "word " * 40
    lines = runs.run_lines([replace(card(name, "failed"), cause=cause) for name in names], width)
    assert max(map(len, lines)) <= width
    assert [line.split()[0] for line in lines if line.startswith("reproduce")] == names
    assert "[tried 2 GiB]" in " ".join(" ".join(lines).split())


def test_other_programs_read_the_list(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path, "x/a", 1.5, seed=3)
    write_run(tmp_path, "x/b", float("nan"), seed=3)
    for form in ("json", "csv"):
        call("runs", f"run_root={tmp_path}", f"format={form}")
        text = capsys.readouterr().out
        assert "nan" not in text.lower()
        read = json.loads(text) if form == "json" else list(csv.DictReader(io.StringIO(text)))
        assert [each["run"] for each in read] == ["x/a", "x/b"]
        assert [float(each["score"]) for each in read if each["score"]] == [1.5]
        assert str(read[0]["seed"]) == "3"


def test_page_from_run_folders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path, "grid/aaaaaaaa", 61.5, seed=0)
    write_run(tmp_path, "grid/bbbbbbbb", None, seed=1)
    damaged = write_run(tmp_path, "grid/cccccccc", 60.0, seed=2) / "metrics.csv"
    damaged.write_text("epoch,step,val/score\n0,1,many\n")
    path = tmp_path / "pages" / "index.html"
    call("runs", f"run_root={tmp_path}", f"html={path}")
    assert str(damaged) in capsys.readouterr().out
    page = path.read_text()
    for text in ("grid/aaaaaaaa", "61.5", "out of &lt;memory&gt;", "<code>seed=0</code>"):
        assert text in page
    # The trade-off, the scores, and the losses under the name that Lightning gives epoch means.
    assert page.count("<svg") == 3


def test_runs_that_differ_in_their_seed_are_one_row(tmp_path: Path) -> None:
    for n, (seed, depth, workers) in enumerate([(0, 1, 4), (1, 1, 8), (0, 2, 4)]):
        data = {"seed": seed}
        write_run(tmp_path, f"grid/{n:08x}", seed=seed, depth=depth, workers=workers, data=data)
    write_run(tmp_path, "other/00000004", seed=0, depth=1)
    rows = [card.row for card in runs.page_cards(find_runs(tmp_path), tmp_path)]
    # The number of workers does not make another run.
    assert rows[0] == rows[1]
    assert len(set(rows)) == 3


@pytest.mark.parametrize("wrong", ["run_root=/nowhere/at/all", "format=xml", "sort=speed"])
def test_wrong_usage(tmp_path: Path, wrong: str) -> None:
    with pytest.raises(UsageError) as error:
        call("runs", f"run_root={tmp_path}", wrong)
    assert wrong.removeprefix("run_root=") in str(error.value)


def test_listing_waits_for_no_heavy_library(tmp_path: Path) -> None:
    write_run(tmp_path, "grid/aaaaaaaa")
    code = (
        "import sys; from pnfs.commands.main import main; main();"
        "sys.exit(bool({'torch', 'lightning', 'matplotlib', 'pandas', 'scipy'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", code, "runs", f"run_root={tmp_path}"]
    assert "grid/aaaaaaaa" in subprocess.check_output(command, text=True)
