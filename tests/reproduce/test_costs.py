"""The cost table: what it compares, what it marks, what it writes."""

import csv
import re
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from pnfs.reproduce.costs import CostRow, cost_columns, measure_costs, write_costs
from pnfs.reproduce.targets import TargetError, target_names

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
ROW = CostRow(
    table="table6",
    label="d=8",
    size=(256, 192),
    paper_parameters=3.3e6,
    parameters=3_000_000,
    live_parameters=2_900_000,
    paper_macs=1.2e9,
    macs=1_250_000_000,
    macs_as_published=1.164e9,
    reason="dead weights",
)


@pytest.mark.parametrize(
    ("change", "problems"),
    [
        ({}, ()),
        # 15 % of 3.3 and half a digit are 0.545, 10 % of 1.2 and half a digit 0.17.
        ({"live_parameters": 2_756_000}, ()),
        ({"live_parameters": 2_754_000}, ("parameters",)),
        ({"live_parameters": 3_846_000}, ("parameters",)),
        ({"live_parameters": 2_754_000, "binding": False}, ()),
        ({"live_parameters": 1, "paper_parameters": None}, ()),
        ({"macs_as_published": 1.031e9}, ()),
        ({"macs_as_published": 1.029e9}, ("MACs",)),
        ({"macs_as_published": 1.371e9}, ("MACs",)),
        ({"macs_as_published": 9e9, "paper_macs": None}, ()),
    ],
)
def test_what_is_too_far_from_the_paper_is_marked(change, problems) -> None:
    row = replace(ROW, **change)
    assert row.problems == problems
    columns = cost_columns(row)
    assert ("(!)" in columns["ratio live"]) == ("parameters" in problems)
    assert ("(!)" in columns["ratio MACs"]) == ("MACs" in problems)


def test_a_row_reads_as_the_paper_prints() -> None:
    assert list(cost_columns(ROW).values()) == [
        "table6", "d=8", "256×192", "3.3", "2.90", "3.00", "0.88", "1.2", "1.25", "1.16", "0.97",
        "dead weights",
    ]  # fmt: skip
    assert cost_columns(replace(ROW, paper_macs=None))["ratio MACs"] == "–"


def test_files_hold_every_row(tmp_path: Path) -> None:
    files = write_costs([ROW, replace(ROW, label="d=1", paper_macs=None)], tmp_path / "new")
    with files["data"].open() as file:
        rows = list(csv.DictReader(file))
    assert [row["configuration"] for row in rows] == ["d=8", "d=1"]
    assert rows[0]["live_parameters"] == "2900000"
    assert rows[1]["paper_macs"] == ""
    text = files["table"].read_text()
    assert "| table6 | d=8 | 256×192 |" in text
    assert text.count("\n| ") == 4


def test_every_table_that_states_costs_has_reasons() -> None:
    reasons = yaml.safe_load((EXPERIMENTS / "costs" / "reasons.yaml").read_text())
    stating = set()
    for name in target_names(EXPERIMENTS):
        content = yaml.safe_load((EXPERIMENTS / name / "target.yaml").read_text())
        labels = {row["label"] for row in content["rows"]}
        published = EXPERIMENTS / name / "paper.csv"
        if published.exists() and re.search("params|flops", published.read_text()):
            stating.add(name)
        notes = reasons.get(name, {})
        assert set(notes.get("rows", {})) <= labels
    assert stating <= set(reasons)


@pytest.mark.parametrize(
    "text", ["[]", "table6: 3", "table6: {skeleton: mpii}", "a: [", "t: {x: 1}"]
)
def test_damaged_reasons_are_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "costs").mkdir()
    (tmp_path / "costs" / "reasons.yaml").write_text(text)
    with pytest.raises(TargetError, match=r"reasons.yaml"):
        measure_costs(tmp_path, lambda *_: ({}, (64, 64)), lambda _: None)  # type: ignore[arg-type, return-value]
