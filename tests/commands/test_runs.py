"""`pnfs runs`: what is listed, how, and the comparison of two runs."""

import csv
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf
from rich.console import Console
from rich.text import Text

from pnfs.commands import runs
from pnfs.commands.configuration import UsageError
from pnfs.runs.finding import Run, find_runs


def run_of(name: str, status: Any, config: dict[str, Any], score: float | None = None) -> Run:
    record = None if score is None else {"score": score, "scores": {"PCK": score}, "seconds": 5000}
    return Run(Path("runs") / name, status, None, config, record)


RUNS = [
    run_of("1a", "finished", {"seed": 0, "model": {"d": 8}, "workers": 2}, 50.0),
    run_of("1b", "failed", {"seed": 1, "model": {"d": 8}, "workers": 2}),
    run_of("2c", "finished", {"seed": 0, "model": {"d": 4}, "workers": 3}, 40.0),
]


@pytest.mark.parametrize(
    ("conditions", "names"),
    [
        ({}, ["1a", "1b", "2c"]),
        ({"seed": 0}, ["1a", "2c"]),
        ({"model.d": 8, "state": "finished"}, ["1a"]),
        ({"state": "running"}, []),
    ],
)
def test_filter(conditions: dict[str, Any], names: list[str]) -> None:
    assert [run.folder.name for run in runs.filtered(RUNS, conditions)] == names


def test_filter_by_a_key_that_no_run_has_is_refused() -> None:
    with pytest.raises(UsageError, match=r"model\.depth"):
        runs.filtered(RUNS, {"model.depth": 8})


def column(table: Any, number: int) -> list[str]:
    return [str(cell) for cell in table.columns[number].cells]


def test_comparison_holds_what_differs_and_the_scores() -> None:
    table = runs.comparison(RUNS[0], RUNS[2])
    keys = column(table, 0)
    assert keys[0] == "model.d"
    assert "workers (does not define the run)" in keys[1]
    assert keys[2:] == ["state", "PCK"]
    assert column(table, 1) == ["8", "2", "finished", "50.00"]
    assert column(table, 2) == ["4", "3", "finished", "40.00"]


def listed(root: Path, width: int = 80) -> list[str]:
    console = Console(width=width, file=io.StringIO())
    lines = runs.run_lines([runs.card_of(run, root) for run in RUNS], width)
    console.print("\n".join(lines), soft_wrap=True, highlight=False)
    return console.file.getvalue().splitlines()  # type: ignore[attr-defined]


def test_list_shows_state_score_and_duration() -> None:
    header, *lines = listed(Path("runs"))
    assert header.split()[:6] == ["run", "state", "score", "params", "MACs", "duration"]
    assert [line.split()[:6] for line in lines if not line.startswith(" ")] == [
        ["1a", "finished", "50.0", "–", "–", "1"],
        ["1b", "failed", "–", "–", "–", "–"],
        ["2c", "finished", "40.0", "–", "–", "1"],
    ]


@pytest.mark.parametrize("width", [80, 120])
def test_list_fits_the_terminal_and_cuts_no_hash(width: int) -> None:
    long = [run_of(f"reproduce/table3/{n:08x}", "failed", {"seed": n}, None) for n in range(3)]
    cause = "CUDA out of memory [tried 2 GiB]: " + "word " * 40
    cards = [replace(runs.card_of(run, Path("runs")), cause=cause) for run in long]
    lines = [Text.from_markup(line).plain for line in runs.run_lines(cards, width)]
    assert max(map(len, lines)) <= width
    started = [line.split()[0] for line in lines if line.startswith("reproduce")]
    assert started == [f"reproduce/table3/{n:08x}" for n in range(3)]
    assert "[tried 2 GiB]" in " ".join(" ".join(lines).split())


def test_other_programs_read_the_list(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, score in (("a", 1.5), ("b", float("nan"))):
        (tmp_path / name).mkdir()
        record = {"score": score, "scores": {"AP": score}, "config": {"seed": 3}, "seconds": 9}
        (tmp_path / name / "result.json").write_text(json.dumps(record))
    for form in ("json", "csv"):
        runs.console.file = None  # Standard output as it is now.
        settings = {"run_root": str(tmp_path), "sort": "path", "compare": None, "filter": None}
        runs.run(OmegaConf.create(settings | {"format": form}))
        text = capsys.readouterr().out
        assert "nan" not in text.lower()
        read = json.loads(text) if form == "json" else list(csv.DictReader(io.StringIO(text)))
        assert [each["run"] for each in read] == ["a", "b"]
        assert [float(each["score"]) for each in read if each["score"]] == [1.5]
        assert str(read[0]["seed"]) == "3"


def test_unknown_format_is_refused(tmp_path: Path) -> None:
    settings = {"run_root": str(tmp_path), "sort": "path", "compare": None, "filter": None}
    with pytest.raises(UsageError, match=r"format=xml.*csv"):
        runs.run(OmegaConf.create(settings | {"format": "xml"}))


def test_what_lies_inside_a_run_is_no_run(tmp_path: Path) -> None:
    record = json.dumps({"config": {}, "score": 1.0})
    for folder in ("a/1", "a/1/wandb/copy", "b/2"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "result.json").write_text(record)
    # A score that was evaluated later is no run, nor does it hide those below.
    (tmp_path / "a/result.json").write_text(json.dumps({"score": 1.0}))
    assert [run.folder.relative_to(tmp_path).as_posix() for run in find_runs(tmp_path)] == [
        "a/1",
        "b/2",
    ]


def test_record_is_json(tmp_path: Path) -> None:
    # `find_runs` reads what a crashed writer may leave behind.
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "state.json").write_text(json.dumps({"state": "run"})[:5])
    with pytest.raises(ValueError, match=r"state\.json.*not a readable record"):
        find_runs(tmp_path)
