"""Tables of scores that commands print."""

import math
from collections.abc import Mapping
from typing import Any

from rich.table import Table

from pnfs.evaluation.coco_eval import STATISTICS


def score_table(title: str, columns: Mapping[str, Mapping[str, float]]) -> Table:
    """Scores as benchmarks print them: one row a score and set of scores, one column a group of joints.

    Args:
        title: Says what was evaluated.
        columns: Name of a set ("trained", or "") -> score name ("PCKh@0.5/head", ...) -> value: PCK in percent,
            COCO's average precision and recall as fractions.
    """
    names = list(dict.fromkeys(name for scores in columns.values() for name in scores))
    groups = list(dict.fromkeys(name.partition("/")[2] for name in names))
    note = "PCKh@0.11 is what public code prints as @0.1." if "PCKh@0.11" in names else None
    # Narrow, so that all groups of joints fit a terminal of 80 columns.
    table = Table("score", title=title, caption=note, padding=0)
    for group in groups:
        table.add_column(group or "all", justify="right", style=None if group else "bold")
    for score in dict.fromkeys(name.partition("/")[0] for name in names):
        keys = [f"{score}/{group}" if group else score for group in groups]
        for which, scores in columns.items():
            cells = [_number(scores[key], score) if key in scores else "" for key in keys]
            table.add_row(f"{score} {which}".strip(), *cells)
    return table


def _number(value: float | None, score: str) -> str:
    if value is None or math.isnan(value):
        return "–"
    return f"{value:.3f}" if score in STATISTICS else f"{value:.1f}"


def described(choices: Mapping[str, Any]) -> str:
    """Choices in one line: "split: val · flip test: yes · ..."."""
    words = {True: "yes", False: "no"}
    return " · ".join(
        f"{name.replace('_', ' ')}: {words[value] if isinstance(value, bool) else value}"
        for name, value in choices.items()
    )
