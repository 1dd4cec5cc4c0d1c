"""The cost table: what it compares, what it marks, what it writes."""

import re
from pathlib import Path

import pandas as pd
import pytest

from pnfs.reproduce.costs import cost_columns, write_costs
from pnfs.reproduce.targets import read_target, target_names

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
ROW = {
    "table": "table6", "configuration": "d=8", "height": 256, "width": 192,
    "paper_parameters": 3.3e6, "parameters": 3_000_000, "live_parameters": 2_900_000,
    "paper_macs": 1.2e9, "macs": 1_250_000_000, "macs_as_published": 1.164e9, "reason": "dead weights",
}  # fmt: skip
NAN = float("nan")


@pytest.mark.parametrize(
    ("change", "marked"),
    [
        # 15 % of 3.3 and half a digit are 0.545, 10 % of 1.2 and half a digit 0.17.
        ({"live_parameters": 2_756_000}, []),
        ({"live_parameters": 2_754_000}, ["ratio live"]),
        ({"live_parameters": 2_754_000, "table": "table4"}, []),
        ({"live_parameters": 1, "paper_parameters": NAN}, []),
        ({"macs_as_published": 1.031e9}, []),
        ({"macs_as_published": 1.029e9}, ["ratio MACs"]),
        ({"macs_as_published": 9e9, "paper_macs": NAN}, []),
    ],
)
def test_what_is_too_far_from_the_paper_is_marked(change: dict, marked: list[str]) -> None:
    (row,) = cost_columns(pd.DataFrame([ROW | change])).to_dict("records")
    assert [name for name, text in row.items() if "(!)" in text] == marked


def test_files_hold_every_row_as_the_paper_prints(tmp_path: Path) -> None:
    rows = pd.DataFrame([ROW, ROW | {"configuration": "d=1", "paper_macs": NAN}])
    files = write_costs(rows, tmp_path / "new")
    data = pd.read_csv(files["data"])
    assert list(data["configuration"]) == ["d=8", "d=1"]
    assert (data["live_parameters"][0], data["paper_macs"].isna()[1]) == (2_900_000, True)
    *_, first, second = files["table"].read_text().splitlines()
    assert first == (
        "| table6 | d=8 | 256×192 | 3.3 | 2.90 | 3.00 | 0.88 | 1.2 | 1.25 | 1.16 | 0.97 | dead weights |"
    )
    assert "| – | 1.25 | 1.16 | – |" in second


def test_every_table_that_states_costs_says_why_ours_differ() -> None:
    for name in target_names(EXPERIMENTS):
        published = EXPERIMENTS / name / "paper.csv"
        if published.exists() and re.search("params|flops", published.read_text()):
            assert "all" in read_target(EXPERIMENTS, name).counts
