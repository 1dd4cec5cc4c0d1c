"""The picture of a table: a score of each row, as points."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes

from pnfs.reproduce.page import MISSING, OUR_NAMES, PAPER_NAMES, score_text
from pnfs.reproduce.published import Published
from pnfs.reproduce.results import RowResult, first_scores, groups, mean_and_deviation
from pnfs.reproduce.targets import Target
from pnfs.viz.style import COLOURS, new_figure, plain_axes, save_figure

PAPER, OURS = COLOURS[:2]

LEGEND = (
    "filled: mean ± standard deviation over seeds; hollow: one number, differences may be chance"
)


def draw(target: Target, results: Sequence[RowResult], path: Path) -> None:
    """The first score of each row; the paper's in a panel of its own unless the profile is its.

    A line parts rows with different backbones or data. Published rows without one of ours, which the
    paper cites, are on top.
    """
    printed, recorded = first_scores(results, target.published)
    together = target.profile == "paper" and printed == recorded
    columns = 1 if together or not printed else 2
    parts = groups(results)
    members = [result for _, part in parts for result in part]
    alone = target.published_alone
    labels = [f"{row.method} (cited)" for row in alone] + [r.row.label for r in members]
    figure = new_figure(3.2 + 3.4 * columns, 1.9 + 0.42 * len(labels))
    panels = figure.subplots(1, columns, squeeze=False, sharey=True)[0]
    panels[0].set_yticks(range(len(labels)), labels)
    panels[0].set_ylim(len(labels) - 0.4, -0.6)
    if printed:
        _draw_paper(panels[0], [*alone, *(r.row.paper for r in members)], printed)
    _draw_ours(panels[-1], members, len(alone), recorded, target.profile)
    y = len(alone)
    for _, part in parts:
        for axes in panels if y else []:
            axes.axhline(y - 0.5, color="0.6", linewidth=0.8, linestyle=":")
        y += len(part)
    if together and printed:
        panels[0].legend(fontsize=8)
    figure.suptitle(f"{target.heading}\n{LEGEND}", fontsize=8)
    save_figure(figure, path)


def _draw_paper(axes: Axes, rows: Sequence[Published | None], name: str) -> None:
    label = "paper"
    for y, row in enumerate(rows):
        printed = row.scores.get(name) if row else None
        if printed is not None:
            _point(axes, y, printed.value, printed.deviation, "D", PAPER, label)
            _annotate(axes, y, printed.value, printed.text, PAPER)
            label = ""
    _finish(axes, f"paper: {PAPER_NAMES.get(name, name)}")


def _draw_ours(
    axes: Axes, results: Sequence[RowResult], first: int, name: str | None, profile: str
) -> None:
    label = f"ours ({profile})"
    for y, result in enumerate(results, start=first):
        values = result.values(name) if name else []
        if not values:
            why = "not possible here" if result.row.cannot else MISSING
            axes.text(0.5, y, why, transform=axes.get_yaxis_transform(), ha="center", va="center",
                      color="0.5", style="italic", fontsize=8)  # fmt: skip
            continue
        mean, deviation = mean_and_deviation(values)
        if deviation is not None:
            axes.plot(values, [y] * len(values), ".", color=OURS, alpha=0.4)
        _point(axes, y, mean, deviation, "o", OURS, label)
        _annotate(axes, y, mean, score_text(name or "", mean), OURS)
        label = ""
    _finish(axes, f"ours ({profile}): {OUR_NAMES.get(name or '', name or 'score')}")


def _point(
    axes: Axes, y: int, value: float, deviation: float | None, marker: str, color: str, label: str
) -> None:
    """Filled with a bar where a spread is known; a single number is hollow and has no bar."""
    if deviation is None:
        axes.plot(
            [value], [y], marker, color=color, markerfacecolor="white", label=label or None
        )  # fmt: skip
    else:
        axes.errorbar(
            [value], [y], xerr=[deviation], fmt=marker, color=color, capsize=3, label=label or None
        )  # fmt: skip


def _annotate(axes: Axes, y: int, value: float, text: str, color: str) -> None:
    axes.annotate(text, (value, y), (0, 7), textcoords="offset points", ha="center", fontsize=8,
                  color=color)  # fmt: skip


def _finish(axes: Axes, label: str) -> None:
    plain_axes(axes, x_label=label, grid="x")
    axes.margins(x=0.15)
