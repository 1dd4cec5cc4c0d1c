"""The paper's numbers: every cell of every paper.csv stands in the built table, where it belongs."""

import csv
import hashlib
from pathlib import Path
from typing import Any

import pytest
import yaml
from pnfs.reproduce.published import PublishedError, read_published
from pnfs.reproduce.tables import summary, to_csv

from pnfs.reproduce.drawing import draw
from pnfs.reproduce.page import page
from pnfs.reproduce.results import PlannedRun, read_results
from pnfs.reproduce.targets import Target, read_target
from pnfs.runs.record import write_result

ROOT = Path(__file__).parents[2] / "experiments"
FILES = sorted(ROOT.glob("*/paper.csv"))
NAMES = [path.parent.name for path in FILES]

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
"""Column of a file -> heading of the paper's column in a table, typed here a second time."""


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


def without_runs(name: str, profile: str) -> tuple[Target, str]:
    target = read_target(ROOT, name, profile)
    return target, page(target, read_results([], target.rows))


def test_all_tables_of_the_paper_are_there() -> None:
    assert set(NAMES) == {f"table{n}" for n in range(2, 8)} | {"figure5"}


@pytest.mark.parametrize("profile", ["smoke", "lspet", "paper"])
@pytest.mark.parametrize("name", NAMES)
def test_every_published_number_is_in_the_table_even_without_a_run(name: str, profile: str) -> None:
    target, text = without_runs(name, profile)
    labels = {row.paper.method: row.label for row in target.rows if row.paper}
    rows = rows_of(text)
    seen = 0
    for line in published_lines(ROOT / name / "paper.csv"):
        row = rows[labels.get(line["method"], line["method"])]
        assert row["published as"] == {"ours": "the paper's own", "cited": "cited"}[line["who"]]
        for column, cell in line.items():
            if column in ("method", "who") or not cell:
                continue
            if column.endswith("_std"):
                mean, plus_minus, deviation = row[heading(name, column[:-4])].partition(" ± ")
                assert (mean, plus_minus, deviation) == (line[column[:-4]], " ± ", cell)
            else:
                assert row[heading(name, column)].partition(" ± ")[0] == cell
            seen += 1
    assert seen >= len(rows)
    assert len(rows) == len(published_lines(ROOT / name / "paper.csv"))


@pytest.mark.parametrize("name", NAMES)
def test_every_published_number_is_in_the_csv(name: str) -> None:
    target = read_target(ROOT, name, "smoke")
    written = list(csv.reader(to_csv(target, read_results([], target.rows)).splitlines()))
    labels = {row.paper.method: row.label for row in target.rows if row.paper}
    by_label = {line[2]: line for line in written[1:]}
    for line in published_lines(ROOT / name / "paper.csv"):
        row = by_label[labels.get(line["method"], line["method"])]
        assert len(row) == len(written[0])
        wanted = [v for k, v in line.items() if k not in ("method", "who") and v]
        assert all(value in row for value in wanted)


@pytest.mark.parametrize("name", NAMES)
def test_the_papers_own_rows_are_all_trained(name: str) -> None:
    assert all(row.cited for row in read_target(ROOT, name, "paper").published_alone)


def test_numbers_have_one_place() -> None:
    for path in ROOT.glob("*/target.yaml"):
        for row in yaml.safe_load(path.read_text())["rows"]:
            assert isinstance(row.get("paper", ""), str), path


# What the paper prints, as bytes below the lines that name the source: a typing error changes the sum.
SUMS = {
    "table2": "6576149182d4573f",
    "table3": "04323cd82415ed24",
    "table4": "bd81346bee966fe1",
    "table5": "28d206afa7a8ea67",
    "table6": "16f7be89e1822041",
    "table7": "b731c24c0ee4807c",
}


@pytest.mark.parametrize("name", SUMS)
def test_files_are_as_transcribed(name: str) -> None:
    lines = (ROOT / name / "paper.csv").read_text().splitlines(keepends=True)
    assert "arXiv 1909.07068" in lines[0]
    content = "".join(line for line in lines if not line.startswith("#"))
    assert hashlib.sha256(content.encode()).hexdigest()[:16] == SUMS[name]


# --- ours beside it

SCORES = {"PCKh@0.5": 50.0, "PCKh@0.1": 10.0, "PCKh@0.11": 11.0}


def settings(backbone: str, data: str = "MPII") -> dict[str, Any]:
    return {
        "dataset": {"_target_": f"data.{data}"},
        "model": {"backbone": {"_target_": f"nets.{backbone}", "weights": "none"}},
        "input_size": [64, 64],
        "epochs": 1,
        "batch_size": 1,
        "trainer": {"precision": "32-true"},
    }


def trained(name: str, profile: str, folder: Path, macs: float = 7_230_000_000) -> tuple[Any, Any]:
    """A target of which every row with one seed has a record under its own backbone."""
    target = read_target(ROOT, name, profile)
    runs = []
    for row in target.rows:
        config = settings("ResNet" if "SimpleBaseline" in row.label else "MobileNet")
        run = PlannedRun(row, 0, (), folder / f"run{len(runs)}", config)
        runs.append(run)
        cost = {"parameters": 34e6, "live_parameters": 34e6, "macs": macs}
        cost["macs_by_output"] = 12 * 2**30
        record = {"scores": SCORES, "cost": cost, "seconds": 1, "device": "CPU", "config": config}
        assert run.folder is not None
        write_result(run.folder, record)
    return target, read_results(runs, target.rows)


def test_the_papers_point_one_stands_beside_ours_at_0_11_and_0_10_apart(tmp_path: Path) -> None:
    text = page(*trained("table2", "paper", tmp_path))
    header = next(line for line in text.splitlines() if line.startswith("| "))
    names = [cell.strip() for cell in header.strip("|").split("|")]
    at = names.index('paper: "PCKh@0.1"')
    assert names[at + 1] == 'ours (paper): PCKh@0.11 (the paper\'s "PCKh@0.1")'
    row = rows_of(text)["random"]
    assert row[names[at + 1]] == "11.0"
    assert row["ours (paper): PCKh@0.1 (true 0.10)"] == "10.0"


def test_macs_have_one_unit_and_digits(tmp_path: Path) -> None:
    row = rows_of(page(*trained("table6", "paper", tmp_path)))["SimpleBaseline-R50"]
    assert row["paper: MACs (G)"] == "12.0"
    assert row["ours: MACs (G, counted as the paper's)"] == "12.000"
    assert row["ours: MACs (G, 10^9)"] == "7.230"


def test_record_without_the_published_count_leaves_it_open(tmp_path: Path) -> None:
    target, results = trained("table2", "paper", tmp_path)
    del results[0].records[0]["cost"]["macs_by_output"]  # As records of earlier versions.
    row = rows_of(page(target, results))["random"]
    assert row["ours: MACs (G, counted as the paper's)"] == "–"


def test_backbones_have_tables_of_their_own(tmp_path: Path) -> None:
    target, results = trained("table6", "paper", tmp_path)
    text = page(target, results)
    tables = [block for block in text.split("\n\n") if block.startswith("| ")]
    assert [sorted(rows_of(table)) for table in tables] == [
        ["HRNet-W32", "HRNet-W32 + vector (d=8)", "d=1", "d=16", "d=4", "d=8"],
        ["SimpleBaseline-R50", "SimpleBaseline-R50 + vector (d=8)"],
    ]
    assert "\nResNet:\n" in text
    header, lines = summary(target, results)
    where = header.index("backbone or data")
    assert {line[where] for line in lines} == {"MobileNet", "ResNet"}


def test_datasets_have_tables_of_their_own(tmp_path: Path) -> None:
    target = read_target(ROOT, "figure7_8", "smoke")
    runs = [
        PlannedRun(row, 0, (), tmp_path / data, settings("ResNet", data))
        for row, data in zip(target.rows, ("MPII", "COCO"), strict=True)
    ]
    text = page(target, read_results(runs, target.rows))
    assert "\nMPII:\n" in text
    assert "\nCOCO:\n" in text
    assert sum(line.startswith("| ---") for line in text.splitlines()) == 2


@pytest.mark.parametrize(("scores", "bars"), [([50.0], 0), ([50.0, 54.0], 1)])
def test_only_several_seeds_have_a_bar(
    scores: list[float], bars: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = read_target(ROOT, "figure6", "smoke")
    runs = [PlannedRun(target.rows[0], n, (), tmp_path / f"{n}", settings("A")) for n in (0, 1)]
    for run, score in zip(runs, scores, strict=False):
        assert run.folder is not None
        record = {"score": score, "scores": {"PCKh@0.5": score}, "config": run.settings}
        write_result(run.folder, record)
    drawn = []
    monkeypatch.setattr(
        "matplotlib.figure.Figure.savefig", lambda self, *a, **k: drawn.append(self)
    )
    draw(target, read_results(runs, target.rows), tmp_path / "table.png")
    (axes,) = drawn[0].axes
    assert len(axes.containers) == bars
    hollow = [line for line in axes.lines if line.get_markerfacecolor() == "white"]
    assert len(hollow) == 1 - bars


# --- files that are not as they should be

GOOD = "# Source: a book.\nmethod,who,x,params\nfirst,ours,1.0,2.0\nsecond,cited,,\n"


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("1.0", "one", ["first", "x"]),
        ("2.0", "nan", ["first", "params"]),
        ("params", "speed", ["speed"]),
        (",x,", ",z,", ["x"]),
        ("cited", "quoted", ["second", "quoted"]),
        ("second,", "first,", ["same method"]),
        (",cited,,", ",cited,", ["second"]),
    ],
)
def test_damaged_file_is_named(tmp_path: Path, old: str, new: str, words: list[str]) -> None:
    path = tmp_path / "paper.csv"
    path.write_text(GOOD)
    assert [row.method for row in read_published(path, {"x": "X"})] == ["first", "second"]
    path.write_text(GOOD.replace(old, new))
    with pytest.raises(PublishedError) as error:
        read_published(path, {"x": "X"})
    assert all(word in str(error.value) for word in [str(path), *words])


def test_absent_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(PublishedError, match=r"paper\.csv"):
        read_published(tmp_path / "paper.csv", {})
