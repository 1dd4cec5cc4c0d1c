"""The paper's numbers: every cell of every paper.csv stands in the built page, where it belongs."""

import csv
from pathlib import Path

import pandas as pd
import pytest
import yaml
from records import PAPER, results_of, target_of

from pnfs.errors import PnfsError
from pnfs.reproduce.page import page
from pnfs.reproduce.results import read_target, target_names

ROOT = Path(__file__).parents[2] / "experiments"
NAMES = sorted(path.parent.name for path in ROOT.glob("*/paper.csv"))

HEADINGS = {
    "pckh50": "PCKh@0.5", "pckh10": '"PCKh@0.1"', "total": "PCKh@0.5",
    "head": "PCKh@0.5/head", "shoulder": "PCKh@0.5/shoulder", "elbow": "PCKh@0.5/elbow",
    "wrist": "PCKh@0.5/wrist", "hip": "PCKh@0.5/hip", "knee": "PCKh@0.5/knee",
    "ankle": "PCKh@0.5/ankle",
    "ap": "AP", "ap50": "AP .5", "ap75": "AP .75", "ap_m": "AP (M)", "ap_l": "AP (L)",
    "ar": "AR", "ar50": "AR .5", "ar75": "AR .75", "ar_m": "AR (M)", "ar_l": "AR (L)",
    "params": "parameters (M)", "flops": "MACs (G)", "gpu_days": "search time (GPU-days)",
    "backbone": "backbone", "backbone_params": "backbone parameters (M)",
    "head_params": "head parameters (M)",
}  # fmt: skip
"""Column of a file -> heading of the paper's column in a page, typed here a second time."""


def published_lines(path: Path) -> list[dict[str, str]]:
    lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    # Table III calls its first column "mode".
    return [{"method": row.pop("mode", ""), **row} for row in csv.DictReader(lines)]


def rows_of(text: str) -> dict[str, dict[str, str]]:
    """First cell of a row -> heading -> cell, of all tables of a Markdown page."""
    found: dict[str, dict[str, str]] = {}
    header: list[str] = []
    for line in text.splitlines():
        if not line.startswith("| "):
            header = []
            continue
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if not header:
            header = cells
        elif not cells[0].startswith("---"):
            assert cells[0] not in found
            found[cells[0]] = dict(zip(header, cells, strict=True))
    return found


def heading(name: str, column: str) -> str:
    # Table V's head is a part of the network, Table IV's a part of the body.
    return f"paper: {'head' if (name, column) == ('table5', 'head') else HEADINGS[column]}"


@pytest.mark.parametrize("name", NAMES)
def test_every_published_number_is_in_the_page_even_without_a_run(name: str, tmp_path: Path) -> None:
    target = read_target(ROOT, name)
    results = results_of(tmp_path, target)
    rows = rows_of(page(target, results, "lspet"))
    lines = published_lines(ROOT / name / "paper.csv")
    for line in lines:
        row = rows[line["method"]]
        assert row["published as"] == {"ours": "the paper's own", "cited": "cited"}[line["who"]]
        for column, cell in line.items():
            if column in ("method", "who") or not cell:
                continue
            if column.endswith("_std"):
                assert row[heading(name, column[:-4])] == f"{line[column[:-4]]} ± {cell}"
            else:
                assert row[heading(name, column)].partition(" ± ")[0] == cell
    assert len(rows) == len(lines)


@pytest.mark.parametrize("name", NAMES)
def test_the_papers_own_rows_are_all_trained(name: str) -> None:
    target = read_target(ROOT, name)
    assert set(target.published["who"][target.cited]) <= {"cited"}
    assert set(target.rows.values()) <= set(target.published.index)


def test_shipped_targets_are_complete() -> None:
    assert set(NAMES) == {f"table{n}" for n in range(2, 8)} | {"figure5"}
    for name in target_names(ROOT):
        target = read_target(ROOT, name)
        assert target.tests.endswith("?")
        files = (ROOT.parent / "conf" / "experiment" / name).glob("*.yaml")
        assert {path.stem for path in files} == set(target.rows)
        assert set(target.counts) <= {"all", *target.rows}
        assert set(target.notes) <= set(yaml.safe_load((ROOT / "profiles.yaml").read_text()))
        # Every table that states costs says why ours differ.
        assert "all" in target.counts or not {"params", "flops"} & set(target.published)


# --- files that are not as they should be


@pytest.mark.parametrize(
    ("old", "new", "word"),
    [
        ("87.1", "one", "one"), ("params", "speed", "speed"), (",cited,", ",quoted,", "who"),
        ("lonely,", "seeded,", "same method"), ("86.0,,,", "86.0,,,,", "cannot be read"),
    ],
)  # fmt: skip
def test_damaged_numbers_are_named(tmp_path: Path, old: str, new: str, word: str) -> None:
    assert list(target_of(tmp_path).published.index) == ["cited one", "seeded", "lonely"]
    with pytest.raises(PnfsError, match=word) as error:
        target_of(tmp_path, paper=PAPER.replace(old, new))
    assert str(tmp_path / "paper.csv") in str(error.value)


GOOD = "title: T\ntests: Why?\nsource: S\nkind: table\nrows: {one: One}\n"


@pytest.mark.parametrize(
    ("old", "new", "word"),
    [
        ("kind: table", "kind: tabel", "kind"), ("tests: Why?\n", "", "tests"), ("{one: One}", "[one]", "rows"),
        ("rows:", "rows: [", "cannot be read"), ("rows:", "against: two\nrows:", "two"),
        ("rows:", "questions: {three: Why?}\nrows:", "three"), ("rows:", "scores: {x: X}\nrows:", "paper.csv"),
    ],
)  # fmt: skip
def test_wrong_description_is_named(tmp_path: Path, old: str, new: str, word: str) -> None:
    (tmp_path / "t").mkdir()
    with pytest.raises(PnfsError, match="experiments"):
        target_names(tmp_path)
    (tmp_path / "t" / "target.yaml").write_text(GOOD)
    assert read_target(tmp_path, "t").rows == {"one": "One"}
    with pytest.raises(PnfsError, match="there are t"):
        read_target(tmp_path, "table99")
    (tmp_path / "t" / "target.yaml").write_text(GOOD.replace(old, new))
    with pytest.raises(PnfsError, match=word) as error:
        read_target(tmp_path, "t")
    assert str(tmp_path / "t") in str(error.value)


# --- the table of costs

ROW = {
    "table": "table6", "configuration": "d=8", "input": "256×192",
    "paper_parameters": 3.3, "parameters": 3.0, "live_parameters": 2.9,
    "paper_macs": 1.2, "macs": 1.25, "macs_as_published": 1.164, "reason": "dead weights",
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "marked"),
    [
        # 15 % of 3.3 and half a digit are 0.545, 10 % of 1.2 and half a digit 0.17.
        ({"live_parameters": 2.756, "macs_as_published": 1.031}, []),
        ({"live_parameters": 2.754}, ["ratio live"]),
        ({"live_parameters": 2.754, "table": "table4"}, []),
        ({"live_parameters": 1, "paper_parameters": float("nan")}, []),
        ({"macs_as_published": 1.029}, ["ratio MACs"]),
    ],
)
def test_what_is_too_far_from_the_paper_is_marked(script, change: dict, marked: list[str]) -> None:
    cost_columns = script("tools/table_costs.py").cost_columns
    (row,) = cost_columns(pd.DataFrame([ROW | change])).to_dict("records")
    assert [name for name, text in row.items() if "(!)" in text] == marked
