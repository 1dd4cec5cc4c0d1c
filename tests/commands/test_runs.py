"""`pnfs runs`: the list, and the page about all, parsed and opened in a real browser where there is one."""

import csv
import io
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pnfs.commands import runs
from pnfs.commands.configuration import UsageError
from pnfs.data.images import DataError
from pnfs.runs.state import Run
from tiny_runs import call

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
PROBE = Path(__file__).with_name("runs_page_probe.js")
NASTY = "<script>alert(1)</script> & \"quoted\" 'text'"


def write_run(
    root: Path, folder: str, score: float | None = 1.0, *, of="PCK@0.2", cause="", drawn=False, **config: Any
) -> Path:
    """A run's folder; without a score it failed."""
    path = root / folder
    path.mkdir(parents=True)
    settings = {
        "name": path.parent.name,
        "dataset": {"_target_": "pnfs.data.datasets.lsp.LSP", "root": "/somewhere"},
        "model": {"_target_": "pnfs.models.PoseFabricNetwork", "parts": {"head": ["neck"]}},
    } | config
    if score is None:
        state = {"state": "failed", "cause": cause, "config": settings, "started": 0, "pid": 1}
        (path / "state.json").write_text(json.dumps(state))
        return path
    record = {
        "score": score, "scores": {of: score}, "seconds": 10.0, "config": settings,
        "cost": {"parameters": 1_500_000, "live_parameters": 9, "macs": 100_000_000},
    }  # fmt: skip
    (path / "result.json").write_text(json.dumps(record))
    (path / "metrics.csv").write_text("epoch,step,train/loss_epoch,val/score\n0,3,0.5,12.5\n")
    if drawn:
        noise = np.random.default_rng(0).integers(0, 256, (600, 2000, 3), np.uint8)
        Image.fromarray(noise).save(path / "architecture.png")
    return path


@pytest.mark.parametrize("width", [80, 120])
def test_list_fits_the_terminal_and_cuts_no_hash(width: int) -> None:
    names = [f"reproduce/table3/{n:08x}" for n in range(3)]
    cause = "CUDA out of memory [tried 2 GiB]: " + "word " * 40
    found = [Run(Path(name), "failed", cause, {}, None) for name in names]
    found.append(
        Run(Path("1a"), "finished", None, {}, {"score": 50.0, "scores": {"PCK": 50.0}, "seconds": 5000.0})
    )
    lines = runs.run_lines([runs.card_of(run, Path()) for run in found], width)
    assert max(map(len, lines)) <= width
    rows = [line.split() for line in lines if not line.startswith(" ")]
    assert rows[0] == ["run", "state", "score", "params", "MACs", "duration"]
    assert [row[:6] for row in rows[1:4]] == [[name, "failed", "–", "–", "–", "–"] for name in names]
    assert rows[4][:8] == ["1a", "finished", "50.0", "–", "–", "1", "h", "23"]
    assert "[tried 2 GiB]" in " ".join(" ".join(lines).split())


def test_other_programs_read_the_list(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path, "x/a", 1.5, seed=3)
    write_run(tmp_path, "x/b", None, seed=3)
    for form in ("json", "csv"):
        call("runs", f"run_root={tmp_path}", f"format={form}")
        text = capsys.readouterr().out
        read = json.loads(text) if form == "json" else list(csv.DictReader(io.StringIO(text)))
        assert [each["run"] for each in read] == ["x/a", "x/b"]
        assert [float(each["score"]) for each in read if each["score"]] == [1.5]
        assert str(read[0]["seed"]) == "3"
    for wrong in ("run_root=/nowhere/at/all", "format=xml"):
        with pytest.raises(UsageError, match=wrong.partition("=")[2]):
            call("runs", f"run_root={tmp_path}", wrong)


class Page(HTMLParser):
    """Tags with attributes, and the texts of the cells by row."""

    def __init__(self, root: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[list[str]] = []
        self.in_cell = False
        call("runs", f"run_root={root}", f"html={root / 'pages/index.html'}")
        self.text = (root / "pages/index.html").read_text()
        self.feed(self.text)
        self.rows = [[" ".join(cell.split()) for cell in row] for row in self.rows]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.rows += [[]] if tag == "tr" else []
        if tag in ("tr", "th", "td", "p", "section"):
            self.in_cell = tag == "td"
        if tag == "td":
            self.rows[-1].append("")

    def handle_data(self, data: str) -> None:
        if self.in_cell:
            self.rows[-1][-1] += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def test_rows_of_the_page(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Two seeds of one row, one of another, which differ in keys that make no other run too; a failed one."""
    for n, (seed, depth, workers) in enumerate([(0, 1, 4), (1, 1, 8), (0, 2, 4)]):
        more = {"seed": seed, "depth": depth, "workers": workers, "data": {"seed": seed}}
        write_run(tmp_path, f"grid/{n:08x}", 50.0 + n, **more)
    write_run(tmp_path, "other/00000004", None, seed=0, depth=1, cause="out of memory")
    damaged = tmp_path / "grid/00000002/metrics.csv"
    damaged.write_text("epoch,step,val/score\n0,1,many\n")
    page = Page(tmp_path)
    assert str(damaged) in caplog.text
    listed = [row for row in page.rows if len(row) == 7]
    assert listed[0][:6] == ["grid/00000000", "finished", "50.0 PCK@0.2", "1.50 M", "0.1 G", "10 s"]
    assert listed[0][6].startswith("LSP PoseFabricNetwork P=1 seed 0 ")
    assert listed[3] == ["other/00000004", "failed", *["–"] * 4, "out of memory LSP PoseFabricNetwork P=1 seed 0"]
    # The table sorts by numbers, not by their texts.
    values = [cell["data-value"] for cell in page.all("td") if "data-value" in cell]
    assert values[:4] == ["50", "1500000", "100000000", "10"]
    assert values[12:] == [""] * 4
    several, single, failed = (row for row in page.rows if len(row) == 4)
    assert several == ["grid: depth=1", "2", "50.5 ± 0.7", "0.1 G"]
    assert single == ["grid: depth=2", "1", "52.0 one seed", "0.1 G"]
    assert failed == ["other", "0", "–", "–"]
    # The trade-off, losses under the name that Lightning gives epoch means, scores.
    assert page.text.count("<svg") == 3
    pieces = page.text.split('<g class="row" data-row="')[1:]
    drawn = [(piece[0], piece.split("</g>")[0]) for piece in pieces]
    assert {row for row, _ in drawn} == {"0", "1"}
    assert {row for row, shape in drawn if "fill: #ffffff" in shape} == {"1"}


def test_page_asks_for_nothing_outside_and_runs_no_text_of_a_run(tmp_path: Path) -> None:
    named = {"dataset": {"_target_": f"a.{NASTY}"}, "name": NASTY}
    write_run(tmp_path, "a/1", 1.0, drawn=True, **named, seed=0)
    write_run(tmp_path, "a/2", None, cause=NASTY, **named, seed=NASTY)
    page = Page(tmp_path)
    assert len(page.all("script")) == 1
    assert "<script>alert" not in page.text
    assert NASTY in page.rows[2][-1]
    links = [attrs.get(name) or "#" for _, attrs in page.tags for name in ("src", "href", "xlink:href")]
    assert all(link.startswith(("#", "data:image/webp;base64,")) for link in links)
    assert not re.search(r"@import|url\((?!#)|fetch\(|XMLHttpRequest", page.text)
    (policy,) = [m["content"] for m in page.all("meta") if m.get("http-equiv")]
    assert str(policy).startswith("default-src 'none'")
    names = [attributes["id"] for _, attributes in page.tags if attributes.get("id")]
    assert len(names) == len(set(names))


def test_pictures_are_the_best_runs_of_every_benchmark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pnfs.viz.runs_page.PICTURED", 2)
    for n in range(3):
        picture = write_run(tmp_path, f"a/{n}", 50.0 + n, drawn=True, seed=n) / "architecture.png"
    coco = {"_target_": "pnfs.data.datasets.coco.COCO"}
    write_run(tmp_path, "a/3", 0.634, drawn=True, dataset=coco, of="AP")
    page = Page(tmp_path)
    assert {each["id"] for each in page.all("details")} == {"run-2", "run-3"}
    assert len(page.all("img")) == 2
    # Benchmarks share no axes; pictures are scaled down.
    assert len(page.all("svg")) == 6
    assert len(page.text) < picture.stat().st_size / 3
    # COCO's scores are fractions.
    assert [label in page.text for label in ("PCK@0.2 (%)", ">AP<", "AP (%)")] == [True, True, False]
    assert {"0.634 AP", "0.634 one seed"} <= {cell for row in page.rows for cell in row}
    picture.write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"architecture\.png"):
        Page(tmp_path)


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not on PATH")
@pytest.mark.parametrize("width", [700, 1400])
def test_browser_sorts_and_filters(tmp_path: Path, width: int) -> None:
    for n, score in enumerate((50.0, None, 70.0)):
        write_run(tmp_path, f"table6/0000000{n}", score, drawn=True, seed=n, depth=n, cause="")
    text, path = Page(tmp_path).text, tmp_path / "page.html"
    path.write_text(text.replace("</body>", f"<script>{PROBE.read_text()}</script></body>"))
    quiet = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync",
             "--disable-background-networking", "--disable-component-update"]  # fmt: skip
    command = [str(CHROMIUM), *quiet, f"--user-data-dir={tmp_path}", f"--window-size={width},2000"]
    shown = subprocess.check_output([*command, "--dump-dom", path.as_uri()], text=True, timeout=120)
    assert re.findall(r'<p class="probe">([^$<]*)</p>', shown) == [
        "score down: 2 0 1", "score up: 0 2 1", "filtered: 2", "drawn: 2", "count: 1 of 3 runs",
        "wider than the window: false", "wider than its box: false",
    ]  # fmt: skip
