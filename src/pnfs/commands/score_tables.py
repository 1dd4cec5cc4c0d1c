"""Tables that commands print."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

from rich.table import Table

from pnfs.evaluation.coco_eval import STATISTICS

_NOTES = {"PCKh@0.11": "PCKh@0.11 is what public code prints as @0.1."}
"""Scores that go by another name elsewhere."""


def score_table(title: str, columns: Mapping[str, Mapping[str, float]]) -> Table:
    """Scores as benchmarks print them: one row a score and set of scores, one column a group of joints.

    Args:
        title: Says what was evaluated.
        columns: Name of a set ("trained", or "") -> score name ("PCKh@0.5/head", ...) -> value: PCK in percent,
            COCO's average precision and recall as fractions.
    """
    names = list(dict.fromkeys(name for scores in columns.values() for name in scores))
    groups = list(dict.fromkeys(name.partition("/")[2] for name in names))
    # Narrow, so that all groups of joints fit a terminal of 80 columns.
    table = Table(title=title, caption=_notes(names), padding=0)
    table.add_column("score")
    for group in groups:
        table.add_column(group or "all", justify="right", style=None if group else "bold")
    for score in dict.fromkeys(name.partition("/")[0] for name in names):
        keys = [f"{score}/{group}" if group else score for group in groups]
        for which, scores in columns.items():
            cells = [_number(scores[key], score) if key in scores else "" for key in keys]
            table.add_row(f"{score} {which}".strip(), *cells)
    return table


def joint_table(record: Mapping[str, Any]) -> Table:
    """Right joints in percent, one row a joint, by visibility where that is labelled.

    Args:
        record: See `pnfs.evaluation.errors.Errors.record`.
    """
    joints: Mapping[str, Mapping[str, Any]] = record["joints"]
    kinds = ["all"]
    if any(columns["occluded"]["labels"] for columns in joints.values()):
        kinds += ["visible", "occluded"]
    title = f"{record['criterion']} by joint, in percent of the labels"
    missed = record["missed_persons"]
    table = Table(title=title, caption=f"{missed} persons without prediction" if missed else None)
    table.add_column("joint")
    for kind in kinds:
        table.add_column(kind, justify="right")
        table.add_column("labels", justify="right", style="dim")
    for joint, columns in joints.items():
        cells = []
        for kind in kinds:
            percent = columns[kind]["percent"]
            cells += ["–" if percent is None else f"{percent:.1f}", f"{columns[kind]['labels']:,}"]
        table.add_row(joint.replace("_", " "), *cells)
    return table


def described(choices: Mapping[str, Any]) -> str:
    """Choices in one line: "split: val · flip test: yes · ..."."""
    words = {True: "yes", False: "no"}
    return " · ".join(
        f"{name.replace('_', ' ')}: {words[value] if isinstance(value, bool) else value}"
        for name, value in choices.items()
    )


def _notes(names: Iterable[str]) -> str | None:
    return " ".join(note for name, note in _NOTES.items() if name in set(names)) or None


def _number(value: float | None, score: str) -> str:
    if value is None or math.isnan(value):
        return "–"
    return f"{value:.3f}" if score in STATISTICS else f"{value:.1f}"
