"""Tables that commands print."""

import math
from collections.abc import Mapping

from rich.table import Table


def score_table(title: str, columns: Mapping[str, Mapping[str, float]]) -> Table:
    """Scores by joint group, one row a score and group, one column for each set of scores.

    Args:
        title: Says what was evaluated.
        columns: Column title -> score name ("PCKh@0.5/head", ...) -> value in percent.
    """
    table = Table(title=title)
    table.add_column("score")
    table.add_column("joints")
    for column in columns:
        table.add_column(column, justify="right")
    names = list(dict.fromkeys(name for scores in columns.values() for name in scores))
    for name in names:
        score, _, group = name.partition("/")
        cells = [_number(scores.get(name, math.nan)) for scores in columns.values()]
        style = "bold" if not group else None
        table.add_row(score, group or "all", *cells, style=style)
    return table


def _number(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.1f}"
