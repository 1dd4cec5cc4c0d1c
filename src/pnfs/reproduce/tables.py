"""A table as Markdown, CSV and a picture: ours beside the paper's."""

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pnfs.reproduce.drawing import draw
from pnfs.reproduce.page import live_cost, our_score, page, paper_score, seeds, without_places
from pnfs.reproduce.published import OTHERS, PAPER_GIGA, Published
from pnfs.reproduce.results import (
    RowResult,
    conditions,
    first_scores,
    groups,
    mean_and_deviation,
    score_names,
)
from pnfs.reproduce.targets import Target
from pnfs.runs.plain import json_ready


def title(target: Target) -> str:
    """Names the profile: numbers of different profiles do not compare."""
    return target.heading


def write_table(target: Target, results: Sequence[RowResult], folder: Path) -> dict[str, Path]:
    """Writes table.md, table.csv, table.png and records.json.

    Args:
        target: What is reproduced.
        results: Its rows.
        folder: Where the files go; made as needed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = {name: folder / f"table.{name}" for name in ("md", "csv", "png")}
    written["md"].write_text(page(target, results))
    written["csv"].write_text(to_csv(target, results))
    draw(target, results, written["png"])
    written["records"] = folder / "records.json"
    written["records"].write_text(
        json.dumps(json_ready(summaries(results)), indent=2, allow_nan=False) + "\n"
    )
    return written


def summary(target: Target, results: Sequence[RowResult]) -> tuple[list[str], list[list[str]]]:
    """Header and cells of a table that fits a terminal: the first score alone."""
    printed, recorded = first_scores(results)
    name = recorded or "score"
    header = ["", "paper", f"ours ({target.profile})", "live parameters, MACs", "seeds"]
    header[1] += f" {printed}" if printed else ""
    header[2] += f" {name}"
    several = len(groups(results)) > 1
    rows = []
    for group, members in groups(results):
        for r in members:
            cells = [r.row.label, paper_score(r, printed or ""), our_score(r, name)]
            # Scores under several backbones or datasets do not compare: each row says its own.
            rows.append([*cells, *([group] if several else []), live_cost(r), seeds(r)])
    if several:
        header.insert(3, "backbone or data")
    return header, rows


def to_csv(target: Target, results: Sequence[RowResult]) -> str:
    """One line a row; means and standard deviations in columns of their own, in full precision.

    Published rows that no row of ours stands beside come last, with `published` = cited.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = score_names(results, target.published)
    others = [c for c in OTHERS if any(c in row.others for row in target.published)]
    header = ["target", "profile", "row", "published", "backbone", "data"]
    header += ["seeds_finished", "seeds_planned"]
    for name in names:
        header += [f"paper {name}", f"paper {name} sd", f"ours {name}", f"ours {name} sd"]
    header += [f"paper {OTHERS[column]}" for column in others]
    header += ["parameters", "live_parameters", "macs", "macs_as_published"]
    writer.writerow([*header, "search_device_days", "device", "missing"])
    for result in results:
        paper = result.row.paper
        run = next((run for run in result.planned if run.settings), None)
        line: list[Any] = [target.name, target.profile, result.row.label, _published_by(paper)]
        line += conditions(run.settings) if run else ("", "")
        line += [len(result.finished), len(result.planned)]
        for name in names:
            line += [*_paper_pair(paper, name), *_our_pair(result.values(name))]
        line += [paper.others.get(column, "") if paper else "" for column in others]
        costs = ("parameters", "live_parameters", "macs")
        line += [int(v[0]) if (v := result.values(name)) else "" for name in costs]
        published = [value / PAPER_GIGA * 1e9 for value in result.values("macs_by_output")]
        line += [round(published[0]) if published else "", _our_pair(result.values("days"))[0]]
        missing = "; ".join([*result.missing, result.row.cannot]).strip("; ")
        writer.writerow([*line, result.devices, missing])
    for row in target.published_alone:
        line = [target.name, target.profile, row.method, _published_by(row), *[""] * 4]
        for name in names:
            line += [*_paper_pair(row, name), "", ""]
        writer.writerow([*line, *(row.others.get(column, "") for column in others), *[""] * 7])
    return text.getvalue()


def _published_by(row: Published | None) -> str:
    return "" if row is None else "cited" if row.cited else "own"


def _paper_pair(row: Published | None, name: str) -> tuple[str, str]:
    printed = row.scores.get(name) if row else None
    return (printed.text, printed.deviation_text) if printed else ("", "")


def _our_pair(values: Sequence[float]) -> tuple[Any, Any]:
    if not values:
        return "", ""
    mean, deviation = mean_and_deviation(values)
    return mean, "" if deviation is None else deviation


def summaries(results: Sequence[RowResult]) -> list[dict[str, Any]]:
    """What stands behind the table: for each run the record without the resolved configuration."""
    kept = (
        "score", "scores", "evaluated_with", "cost", "seconds", "device", "versions",
        "git_revision", "finished",
    )  # fmt: skip
    entries = []
    for result in results:
        records = {run.folder: run.record for run in result.finished}
        for plan in result.planned:
            record = records.get(plan.folder) if plan.folder else None
            entry: dict[str, Any] = {
                "row": result.row.label,
                "seed": plan.seed,
                "run": f"{plan.folder.parent.name}/{plan.folder.name}" if plan.folder else None,
                "overrides": without_places(plan.overrides),
            }
            values = {name: record[name] for name in kept if name in record} if record else {}
            entries.append(entry | (values if record else {"missing": True}))
    return entries
