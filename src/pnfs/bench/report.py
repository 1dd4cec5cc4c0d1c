"""Measurements as Markdown, JSON and a picture."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt

from pnfs.runs.plain import json_ready


@dataclass(frozen=True)
class Section:
    """One table of measurements.

    Args:
        title: What was measured, and of what size.
        rows: Column title -> value, the same columns in every row.
        note: What a reader must know to judge the numbers.
        bars: Titles of the columns that name and measure a bar of the picture; None for no picture.
    """

    title: str
    rows: Sequence[Mapping[str, Any]]
    note: str = ""
    bars: tuple[str, str] | None = field(default=None)


def write_report(
    folder: Path, sections: Mapping[str, Section], machine: Mapping[str, Any]
) -> dict[str, Path]:
    """Writes `bench.json`, `bench.md` and `bench.png`; sections measured earlier and not now are kept.

    Args:
        folder: Made where it is missing.
        sections: Short name -> measurements.
        machine: Device, versions, threads: what the numbers hold for.

    Raises:
        ValueError: `bench.json` is there and is not a report.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = {name: folder / f"bench.{name}" for name in ("json", "md", "png")}
    entries = _earlier(files["json"])
    for name, section in sections.items():
        entries[name] = asdict(section) | {"machine": dict(machine)}
    files["json"].write_text(json.dumps(json_ready(entries), indent=1, allow_nan=False) + "\n")
    files["md"].write_text(_markdown(entries))
    _draw(entries, files["png"])
    return files


def _earlier(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        entries = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: not a readable report ({error}); delete it") from error
    if not isinstance(entries, dict):
        raise ValueError(f"{path}: not a report of measurements; delete it")
    return entries


def _markdown(entries: Mapping[str, Any]) -> str:
    lines = [
        "# Measurements",
        "",
        "Written by `pnfs bench`. Ratios compare alternatives timed in turns in one run;",
    ]
    lines += ["absolute times belong to the machine named under each table.", ""]
    for entry in entries.values():
        lines += [f"## {entry['title']}", ""]
        lines += markdown_table(entry["rows"])
        machine = ", ".join(f"{k} {v}" for k, v in entry["machine"].items())
        lines += ["", *([entry["note"], ""] if entry["note"] else []), f"*{machine}*", ""]
    return "\n".join(lines)


def markdown_table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Lines of a Markdown table; numbers with three or four significant digits."""
    columns = list(rows[0])
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    for row in rows:
        lines.append("| " + " | ".join(formatted(row[c]) for c in columns) + " |")
    return lines


def formatted(value: Any) -> str:
    """A cell of a table."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return "–" if value is None else str(value)
    return (
        f"{value:,}"
        if isinstance(value, int)
        else f"{value:,.4g}"
        if value < 1e4
        else f"{value:,.0f}"
    )


def _draw(entries: Mapping[str, Any], path: Path) -> None:
    drawn = [entry for entry in entries.values() if entry["bars"]]
    if not drawn:
        return
    heights = [0.8 + 0.28 * len(entry["rows"]) for entry in drawn]
    figure, axes = plt.subplots(
        len(drawn), 1, figsize=(8, sum(heights)), height_ratios=heights, squeeze=False,
        layout="constrained",
    )  # fmt: skip
    for axis, entry in zip(axes[:, 0], drawn, strict=True):
        name, value = entry["bars"]
        labels = [str(row[name]) for row in entry["rows"]]
        values = [row[value] for row in entry["rows"]]
        bars = axis.barh(range(len(labels)), values, color="#4477aa")
        axis.bar_label(bars, [formatted(v) for v in values], padding=3, fontsize=8)
        axis.set_yticks(range(len(labels)), labels, fontsize=8)
        axis.invert_yaxis()
        axis.margins(x=0.12)
        axis.set_title(f"{entry['title']}\n{value}", fontsize=9, loc="left")
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=130)
    plt.close(figure)
