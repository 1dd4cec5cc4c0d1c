"""Tables from hand-written records: every number in them is worked out by hand here."""

import csv
import io
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from pnfs.reproduce.published import Printed, Published
from pnfs.reproduce.tables import summary, to_csv, write_table

from pnfs.reproduce.figures import draw_loss_curves, draw_poses, draw_trade_off
from pnfs.reproduce.page import grid, page
from pnfs.reproduce.results import PlannedRun, RowResult, read_results, scale
from pnfs.reproduce.targets import Row, Target, TargetError, chosen_rows, read_target
from pnfs.runs.record import write_result

SETTINGS: dict[str, Any] = {
    "dataset": {"_target_": "pnfs.data.synthetic.Synthetic", "train": 40, "val": 20},
    "input_size": [64, 32],
    "epochs": 3,
    "batch_size": 8,
    "trainer": {"precision": "32-true", "devices": 2},
}


def record(score: float, *, seconds: float = 43_200.0, device: str = "H100") -> dict[str, Any]:
    return {
        "score": score,
        "scores": {"PCKh@0.5": score, "PCKh@0.5/head": 90.0, "PCKh@0.1": 1.0, "PCKh@0.11": 2.0},
        "cost": {
            "parameters": 3_300_000,
            "live_parameters": 2_890_000,
            "macs": 1_250_000_000,
            "macs_by_output": 3 * 2**29,
        },
        "seconds": seconds,
        "device": device,
        "config": SETTINGS,
    }


def planned(root: Path, row: Row, seed: int) -> PlannedRun:
    return PlannedRun(row, seed, (f"seed={seed}",), root / f"{row.label}{seed}", SETTINGS)


def target_of(*rows: Row, kind: Any = "table", profile: str = "smoke") -> Target:
    return Target(
        name="table9", title="Table IX: numbers", tests="Does it add up?", source="a book",
        kind=kind, profile=profile, profile_says="worth nothing.", overrides=(), rows=rows,
        published=tuple(row.paper for row in rows if row.paper),
    )  # fmt: skip


def printed(text: str, deviation: str = "", name: str = "PCKh@0.5", **others: str) -> Published:
    return Published(f"method {text}", False, {name: Printed(text, deviation)}, others)


SEEDED = Row("seeded", (), (0, 1, 2), printed("87.1", "0.2", params="3.3", flops="1.2"))
LONELY = Row("lonely", (), (0,), printed("86.0"), note="on its own")
HIDDEN = Row("hidden", (), (), printed("85.0"), cannot="labels are hidden")
TARGET = target_of(SEEDED, LONELY, HIDDEN)


@pytest.fixture
def results(tmp_path: Path) -> list[RowResult]:
    """Two of three seeds finished; the other row has no run, the last cannot have one."""
    runs = [planned(tmp_path, SEEDED, seed) for seed in (0, 1, 2)] + [planned(tmp_path, LONELY, 0)]
    for run, score in zip(runs[:2], (10.0, 14.0), strict=True):
        assert run.folder is not None
        write_result(run.folder, record(score))
    return read_results(runs, TARGET.rows)


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def test_markdown_holds_ours_beside_the_papers(results: list[RowResult]) -> None:
    header, _, *rows = (cells(line) for line in grid(TARGET, results))
    table = {row[0]: dict(zip(header, row, strict=True)) for row in rows}
    seeded = table["seeded"]
    assert seeded["paper: PCKh@0.5"] == "87.1 ± 0.2"
    # Mean of 10 and 14; deviation sqrt(((10-12)^2 + (14-12)^2) / (2-1)).
    assert seeded["ours (smoke): PCKh@0.5"] == "12.0 ± 2.8"
    assert (seeded["paper: parameters (M)"], seeded["paper: MACs (G)"]) == ("3.3", "1.2")
    assert (seeded["ours: live parameters (M)"], seeded["ours: all parameters (M)"]) == (
        "2.89",
        "3.30",
    )
    assert seeded["ours: MACs (G, 10^9)"] == "1.250"
    assert seeded["ours: MACs (G, counted as the paper's)"] == "1.500"
    # Half a day on two devices.
    assert seeded["ours: search time"] == "1 GPU-days (H100)"
    assert seeded["seeds"] == "2 of 3"
    assert table["lonely"]["ours (smoke): PCKh@0.5"] == "missing"
    assert table["lonely"]["ours: search time"] == "–"
    assert table["hidden"]["ours (smoke): PCKh@0.5"] == "not possible here"
    # The paper's numbers and ours never share a column.
    assert not any(name.startswith("paper") and "smoke" in name for name in header)


def test_page_names_profile_scale_source_notes_and_what_is_missing(
    results: list[RowResult],
) -> None:
    text = page(TARGET, results)
    assert text.startswith("# Table IX: numbers (profile smoke)\n")
    for part in (
        "Does it add up?", "a book", "worth nothing.", "40 persons train, 20 validate",
        "input 64×32", "epochs 3", "- lonely: on its own", "- seeded, seed 2: not run",
        "- lonely, seed 0: not run", "- hidden: labels are hidden",
        "make reproduce-table9 PROFILE=smoke",
    ):  # fmt: skip
        assert part in text, part


def test_page_and_records_say_what_was_asked_of_all_rows_and_no_places(tmp_path: Path) -> None:
    asked = (
        "dataset.root=/home/me/lspet",
        "epochs=8",
        "backbone.weights=/home/me/net.pth",
        "~logger",
    )
    rows = [Row("one", ("parts=p1",), (0,)), Row("two", ("parts=p3",), (0, 1))]
    runs = [
        PlannedRun(
            row, seed, ("profile=smoke", *asked, *row.overrides, f"seed={seed}"), tmp_path, {}
        )
        for row in rows
        for seed in row.seeds
    ]
    target = target_of(*rows)
    files = write_table(target, read_results(runs, rows), tmp_path)
    text = files["md"].read_text()
    given = "epochs=8 backbone.weights=…/net.pth ~logger"
    assert f'`make reproduce-table9 PROFILE=smoke ARGS="{given} ..."`' in text
    entries = json.loads(files["records"].read_text())
    assert entries[2]["overrides"] == ["profile=smoke", *given.split(), "parts=p3", "seed=1"]
    assert all("/home" not in path.read_text() for name, path in files.items() if name != "png")


def test_csv_holds_full_precision_and_empty_cells_for_what_is_missing(
    results: list[RowResult],
) -> None:
    rows = {row["row"]: row for row in csv.DictReader(io.StringIO(to_csv(TARGET, results)))}
    seeded = rows["seeded"]
    assert float(seeded["ours PCKh@0.5"]) == 12.0
    assert float(seeded["ours PCKh@0.5 sd"]) == pytest.approx(8**0.5)
    assert float(seeded["paper PCKh@0.5 sd"]) == 0.2
    assert float(seeded["search_device_days"]) == 1.0
    assert (seeded["macs"], seeded["macs_as_published"]) == ("1250000000", "1500000000")
    assert (seeded["paper parameters (M)"], seeded["published"]) == ("3.3", "own")
    assert (seeded["seeds_finished"], seeded["seeds_planned"]) == ("2", "3")
    for name in ("ours PCKh@0.5", "ours PCKh@0.5 sd", "parameters", "search_device_days"):
        assert rows["lonely"][name] == ""
    assert rows["hidden"]["missing"] == "labels are hidden"


def test_everything_is_written(results: list[RowResult], tmp_path: Path) -> None:
    written = write_table(TARGET, results, tmp_path / "out")
    with Image.open(written["png"]) as picture:
        assert min(picture.size) > 200
    entries = json.loads(written["records"].read_text())
    assert [entry.get("score") for entry in entries] == [10.0, 14.0, None, None]
    assert [entry.get("missing", False) for entry in entries] == [False, False, True, True]


def test_terminal_shows_the_score_that_counts(results: list[RowResult]) -> None:
    header, rows = summary(TARGET, results)
    assert header[1:3] == ["paper PCKh@0.5", "ours (smoke) PCKh@0.5"]
    assert rows[0][:3] == ["seeded", "87.1 ± 0.2", "12.0 ± 2.8"]


def test_fractions_keep_three_digits(tmp_path: Path) -> None:
    row = Row("coco", (), (0,), printed("0.674", name="AP"))
    run = planned(tmp_path, row, 0)
    assert run.folder is not None
    write_result(run.folder, record(0.0) | {"scores": {"AP": 0.1234}})
    _, rows = summary(target_of(row), read_results([run], [row]))
    assert rows[0][1:3] == ["0.674", "0.123"]


def test_failed_run_says_why(tmp_path: Path) -> None:
    run = planned(tmp_path, LONELY, 0)
    assert run.folder is not None
    run.folder.mkdir()
    state = {"state": "failed", "cause": "DataError: no images", "config": {}, "started": 0}
    (run.folder / "state.json").write_text(json.dumps(state))
    (result,) = read_results([run], [LONELY])
    assert result.missing == ("seed 0: failed (DataError: no images)",)


def test_scale_that_differs_between_rows_is_said(tmp_path: Path) -> None:
    runs = [
        PlannedRun(SEEDED, 0, (), tmp_path / "a", SETTINGS),
        PlannedRun(LONELY, 0, (), tmp_path / "b", SETTINGS | {"epochs": 20}),
    ]
    text = scale(read_results(runs, [SEEDED, LONELY]))
    assert "epochs 20 or 3" in text
    assert "batch 8" in text


# --- figures


def write_metrics(folder: Path, losses: list[float]) -> None:
    lines = ["epoch,step,train/loss_epoch,val/loss"]
    lines += [f"{n},{n},{loss},{2 * loss}" for n, loss in enumerate(losses)]
    (folder / "metrics.csv").write_text("\n".join(lines) + "\n")


def test_loss_curves_are_means_over_seeds(tmp_path: Path, results: list[RowResult]) -> None:
    for run, losses in zip(results[0].finished, ([4.0, 2.0, 1.0], [2.0, 1.0]), strict=True):
        write_metrics(run.folder, losses)
    picture = draw_loss_curves(TARGET, results, tmp_path)
    assert picture is not None
    assert picture.stat().st_size > 5_000
    rows = list(csv.DictReader((tmp_path / "curves.csv").open()))
    train = [(int(r["epoch"]), float(r["loss"])) for r in rows if r["split"] == "training"]
    # The second seed has two epochs.
    assert train == [(0, 3.0), (1, 1.5)]


def test_trade_off_and_poses_are_drawn(tmp_path: Path, results: list[RowResult]) -> None:
    assert draw_trade_off(TARGET, results, tmp_path) is not None
    Image.new("RGB", (80, 40), "red").save(results[0].finished[0].folder / "predictions_val.png")
    page = draw_poses(TARGET, results, tmp_path)
    assert page is not None
    with Image.open(page) as picture:
        assert picture.width == 1600
        red, green, _ = picture.getpixel((800, picture.height - 100))
        assert red > 200 > 50 > green


def test_without_records_there_is_no_figure(tmp_path: Path) -> None:
    none = read_results([planned(tmp_path, LONELY, 0)], [LONELY])
    for draw in (draw_trade_off, draw_loss_curves, draw_poses):
        assert draw(TARGET, none, tmp_path) is None


# --- descriptions

ROOT = Path(__file__).parents[2] / "experiments"
NAMES = [f"table{n}" for n in range(2, 8)] + ["figure5", "figure6", "figure7_8"]


def write_target(root: Path, text: str) -> None:
    (root / "t").mkdir(parents=True)
    (root / "t" / "target.yaml").write_text(text)
    (root / "t" / "paper.csv").write_text(PAPER)
    (root / "profiles.yaml").write_text("smoke: x\npaper: y\n")


PAPER = """# Source: a book.
method,who,x,y,y_std,params,flops
cited one,cited,0.5,,,,
"a, b",ours,1,2.00,0.5,3.3,
"""
GOOD = """
title: T
tests: A sentence.
source: S
kind: table
overrides: [a=1]
profiles: {smoke: {overrides: [b=2]}}
scores: {y: Y, x: X}
rows:
  - {label: one, overrides: [c=3], seeds: [4], paper: "a, b",
     profiles: {smoke: {overrides: [d=4], note: n}, paper: {cannot: hidden}}}
"""


def test_description_is_read(tmp_path: Path) -> None:
    write_target(tmp_path, GOOD)
    smoke, paper = (read_target(tmp_path, "t", profile) for profile in ("smoke", "paper"))
    assert (smoke.overrides, paper.overrides) == (("a=1", "b=2"), ("a=1",))
    (row,) = smoke.rows
    assert (row.overrides, row.seeds, row.note, row.cannot) == (("c=3", "d=4"), (4,), "n", "")
    assert row.paper is not None
    assert dict(row.paper.scores) == {"Y": Printed("2.00", "0.5"), "X": Printed("1")}
    assert (row.paper.number("params"), row.paper.number("flops")) == (3.3, None)
    assert [other.method for other in smoke.published_alone] == ["cited one"]
    assert paper.rows[0].cannot == "hidden"


def test_rows_are_chosen_from_any_of_the_targets(tmp_path: Path) -> None:
    write_target(tmp_path, GOOD)
    first = read_target(tmp_path, "t", "smoke")
    second = replace(first, name="u", rows=(replace(first.rows[0], label="two"),))
    assert chosen_rows([first, second], None) == first.rows + second.rows
    assert chosen_rows([first, second], ["two"]) == second.rows
    assert chosen_rows([first, second], ["two", "one"]) == first.rows + second.rows
    with pytest.raises(TargetError, match=r"no row \['four', 'three'\] in t or u.*'one', 'two'"):
        chosen_rows([first, second], ["one", "three", "four"])


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("kind: table", "kind: tabel", "kind is 'tabel'"),
        ("tests: A sentence.\n", "", "lacks tests"),
        ("overrides: [c=3]", "override: [c=3]", "lacks overrides and has an unknown key override"),
        ('paper: "a, b"', "paper: c", "row 'one': paper is 'c', which is no method in paper.csv"),
        ("{y: Y, x: X}", "[y, x]", "not a mapping of columns"),
        ("note: n", "noet: n", "unknown key noet"),
        ("rows:", "rows: [", "cannot be read"),
    ],
)
def test_wrong_description_is_one_clear_error(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    write_target(tmp_path, GOOD.replace(old, new))
    with pytest.raises(TargetError, match=r"t/target\.yaml.*" + re.escape(message)):
        read_target(tmp_path, "t", "smoke")


def test_what_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match="no table or figure here"):
        read_target(tmp_path, "t", "smoke")
    write_target(tmp_path, GOOD)
    with pytest.raises(TargetError, match="no target 'table99'; there are t"):
        read_target(tmp_path, "table99", "smoke")
    with pytest.raises(TargetError, match="no profile 'huge'; there are smoke, paper"):
        read_target(tmp_path, "t", "huge")


@pytest.mark.parametrize("profile", ["paper", "lspet", "smoke"])
@pytest.mark.parametrize("name", NAMES)
def test_shipped_target_is_complete(name: str, profile: str) -> None:
    target = read_target(ROOT, name, profile)
    assert target.rows
    assert "1909.07068" in target.source
    assert target.tests.endswith("?")
