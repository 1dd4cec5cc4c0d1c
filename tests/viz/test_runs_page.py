"""The page of runs: parsed, and opened in a real browser where there is one."""

import re
import shutil
import subprocess
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pnfs.data.images import DataError
from pnfs.viz.cards import RunCard
from pnfs.viz.runs_page import runs_page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
NASTY = "<script>alert(1)</script> & \"quoted\" 'text'"


class Page(HTMLParser):
    """Tags with attributes, and the texts of the cells by row."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[list[str]] = []
        self.in_cell = False
        self.feed(text)
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


def page_of(cards: Sequence[RunCard], **given: Any) -> str:
    text, problems = runs_page(cards, **({"title": "runs"} | given))
    assert problems == []
    return text


@pytest.fixture
def metrics(tmp_path: Path) -> Path:
    path = tmp_path / "metrics.csv"
    lines = [f"{e},{e},{1 / (1 + e)},{10 * e}" for e in range(4)]
    path.write_text("\n".join(["epoch,step,train/loss_epoch,val/score", *lines]) + "\n")
    return path


def card(number: int, picture: Path | None = None, **given: Any) -> RunCard:
    known = {
        "run": f"table6/{number:08x}", "state": "finished", "benchmark": "LSPET", "row": str(number),
        "label": f"table6: d={number}", "what": f"LSPET PoseFabricNetwork seed {number}",
        "score": 50.0 + number, "score_name": "PCK@0.2", "parameters": 1_500_000,
        "macs": (number + 1) * 100_000_000, "seconds": 60.0 * (number + 1),
        "pictures": {} if picture is None else {"architecture": picture},
    }  # fmt: skip
    return RunCard(**(known | given))


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "architecture.png"
    Image.fromarray(np.full((900, 3000, 3), 200, np.uint8)).save(path)
    return path


def test_row_says_what_the_run_is(picture: Path) -> None:
    failed = card(1, state="failed", cause="out of memory", score=None, parameters=None, macs=None,
                  seconds=None, differences={"seed": "1"})  # fmt: skip
    page = Page(page_of([card(0, picture), failed]))
    assert [row for row in page.rows if len(row) == 7] == [
        ["table6/00000000", "finished", "50.0 PCK@0.2", "1.50 M", "0.1 G", "60 s",
         "LSPET PoseFabricNetwork seed 0"],
        ["table6/00000001", "failed", *["–"] * 4, "out of memory LSPET PoseFabricNetwork seed 1 seed=1"],
    ]  # fmt: skip
    # The table sorts by numbers, not by their texts.
    values = [cell["data-value"] for cell in page.all("td") if "data-value" in cell]
    assert values == ["50", "1500000", "100000000", "60", "", "", "", ""]


def test_seeds_are_one_row_and_a_single_seed_looks_otherwise(metrics: Path) -> None:
    seeds = [card(n, row="same", label="same", metrics=metrics) for n in range(3)]
    text = page_of([*seeds, card(3, metrics=metrics)])
    several, single = (row for row in Page(text).rows if len(row) == 4)
    assert several[1:3] == ["3", "51.0 ± 1.0"]
    assert single[1:3] == ["1", "53.0 one seed"]
    pieces = text.split('<g class="row" data-row="')[1:]
    drawn = [(piece[0], piece.split("</g>")[0]) for piece in pieces]
    assert {row for row, _ in drawn} == {"0", "1"}
    assert {row for row, shape in drawn if "stroke-dasharray: " in shape} == {"1"}
    assert {row for row, shape in drawn if "fill: #ffffff" in shape} == {"1"}


def test_page_asks_for_nothing_outside_and_runs_no_text_of_a_run(picture: Path) -> None:
    texts = ("run", "row", "label", "what", "cause", "benchmark", "score_name")
    nasty = card(0, picture, **dict.fromkeys(texts, NASTY), differences={NASTY: NASTY})
    text = page_of([nasty, card(1)], title=NASTY, subtitle=NASTY)
    page = Page(text)
    assert len(page.all("script")) == 1
    assert "<script>alert" not in text
    assert NASTY in page.rows[1][0]
    links = [attrs.get(name) or "#" for _, attrs in page.tags for name in ("src", "href", "xlink:href")]
    assert all(link.startswith(("#", "data:image/webp;base64,")) for link in links)
    assert not re.search(r"@import|url\((?!#)|fetch\(|XMLHttpRequest", text)
    (policy,) = [m["content"] for m in page.all("meta") if m.get("http-equiv")]
    assert str(policy).startswith("default-src 'none'")
    names = [attributes["id"] for _, attributes in page.tags if attributes.get("id")]
    assert len(names) == len(set(names))


def test_pictures_are_the_best_runs_of_every_benchmark(picture: Path) -> None:
    coco = {"benchmark": "COCO", "score": 1.0, "score_name": "AP"}
    cards = [*(card(n, picture) for n in range(3)), card(3, picture, **coco)]
    text = page_of(cards, pictured=2)
    page = Page(text)
    # Benchmarks share no axes.
    assert len(page.all("svg")) == 2
    assert all(label in text for label in ("PCK@0.2 (%)", "AP (%)"))
    assert {each["id"] for each in page.all("details")} == {"run-2", "run-3"}
    assert len(page.all("img")) == 2


def test_pictures_are_scaled_down_and_damaged_ones_named(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (1000, 2000, 3), dtype=np.uint8)
    path = tmp_path / "predictions.png"
    Image.fromarray(noise).save(path)
    assert len(page_of([card(0, path)])) < path.stat().st_size / 5
    path.write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"predictions\.png"):
        runs_page([card(0, path)], title="runs")


# Sorts and filters as a reader would, and writes down what is seen then.
PROBE = """
<script>{
const rows = () => [...document.querySelectorAll("#runs tbody tr")];
const seen = what => document.body.insertAdjacentHTML("beforeend", `<p class="probe">${what}</p>`);
const heads = document.querySelectorAll("#runs th button");
const order = () => rows().map(row => row.dataset.row).join(" ");
heads[2].click(); seen("score down: " + order());
heads[2].click(); seen("score up: " + order());
const box = document.getElementById("filter");
box.value = "lspet, Seed 2"; box.dispatchEvent(new Event("input"));
const left = rows().filter(row => row.getClientRects().length).map(row => row.dataset.row);
seen("filtered: " + left.join(" "));
const drawn = [...document.querySelectorAll("svg .row")].filter(g => g.getClientRects().length);
seen("drawn: " + [...new Set(drawn.map(g => g.dataset.row))].join(" "));
seen("count: " + document.getElementById("count").textContent);
const page = document.documentElement, runs_table = document.querySelector(".scroll");
seen("wider than the window: " + (page.scrollWidth > window.innerWidth));
seen("wider than its box: " + (runs_table.scrollWidth > runs_table.clientWidth));
}</script>
"""


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not on PATH")
@pytest.mark.parametrize("width", [700, 1400])
def test_browser_sorts_and_filters(tmp_path: Path, picture: Path, metrics: Path, width: int) -> None:
    cards = [
        card(0, picture, metrics=metrics),
        card(1, score=None, state="running"),
        card(2, score=70.0),
    ]
    path = tmp_path / "page.html"
    path.write_text(page_of(cards).replace("</body>", f"{PROBE}</body>"))
    quiet = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync",
             "--disable-background-networking", "--disable-component-update"]  # fmt: skip
    command = [str(CHROMIUM), *quiet, f"--user-data-dir={tmp_path}", f"--window-size={width},2000"]
    shown = subprocess.check_output([*command, "--dump-dom", path.as_uri()], text=True, timeout=120)
    assert re.findall(r'<p class="probe">([^$<]*)</p>', shown) == [
        "score down: 2 0 1", "score up: 0 2 1", "filtered: 2", "drawn: 2", "count: 1 of 3 runs",
        "wider than the window: false", "wider than its box: false",
    ]  # fmt: skip
