"""The picture of a table: the main score of each row, as points."""

from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes

from pnfs.reproduce.page import OUR_NAMES, PAPER_NAMES, main_score, score_text
from pnfs.reproduce.results import Results, groups
from pnfs.reproduce.targets import Target
from pnfs.viz.style import COLOURS, new_figure, plain_axes, save_figure

PAPER, OURS = COLOURS[:2]

LEGEND = (
    "filled: mean ± standard deviation over seeds; hollow: one number, differences may be chance"
)


def draw_table(target: Target, results: Results, path: Path, profile: str) -> None:
    """One panel for the paper's score and one for ours; a line parts rows with different backbones or data."""
    parts = groups(results, target.rows.values())
    labels = [*target.cited, *(label for part in parts.values() for label in part)]
    figure = new_figure(3.2 + 3.4 * (1 + bool(target.scores)), 1.9 + 0.42 * len(labels))
    panels = figure.subplots(1, 1 + bool(target.scores), squeeze=False, sharey=True)[0]
    if target.scores:
        column, name = next(iter(target.scores.items()))
        published = target.published.reindex(labels)
        spread = pd.DataFrame(
            {"mean": published[column], "std": published.get(f"{column}_std", "")}
        )
        spread = spread.apply(pd.to_numeric, errors="coerce")
        _points(panels[0], name, spread, "D", PAPER, "")
        panels[0].set_xlabel(f"paper: {PAPER_NAMES.get(name, name)}")
    name = main_score(target, results)
    _points(panels[-1], name, results.spread(name).reindex(labels), "o", OURS, "missing")
    for label in target.cited:
        panels[-1].texts[labels.index(label)].set_text("")
    ours = results.finished[results.finished["row"].map(results.spread(name)["count"]) > 1]
    if len(ours):
        y = ours["row"].map(labels.index)
        panels[-1].plot(ours[name], y, ".", color=OURS, alpha=0.4)
    panels[-1].set_xlabel(f"ours ({profile}): {OUR_NAMES.get(name, name)}")
    panels[0].set_yticks(
        range(len(labels)), [f"{n} (cited)" if n in target.cited else n for n in labels]
    )
    panels[0].set_ylim(len(labels) - 0.4, -0.6)
    starts = [labels.index(part[0]) for part in parts.values()]
    for axes in panels:
        for start in starts:
            if start:
                axes.axhline(start - 0.5, color="0.6", linewidth=0.8, linestyle=":")
    figure.suptitle(f"{target.title} (profile {profile})\n{LEGEND}", fontsize=8)
    save_figure(figure, path)


def _points(
    axes: Axes, name: str, spread: pd.DataFrame, marker: str, colour: str, absent: str
) -> None:
    """Filled with a bar where a spread is known; a single number is hollow and has no bar."""
    across = axes.get_yaxis_transform()
    for y, (mean, std) in enumerate(zip(spread["mean"], spread["std"], strict=True)):
        if pd.isna(mean):
            axes.text(
                0.5, y, absent, transform=across, ha="center", va="center", color="0.5", fontsize=8
            )
            continue
        if pd.isna(std):
            axes.plot([mean], [y], marker, color=colour, markerfacecolor="white")
        else:
            axes.errorbar([mean], [y], xerr=[std], fmt=marker, color=colour, capsize=3)
        axes.annotate(
            score_text(name, mean, std), (mean, y), (0, 7), textcoords="offset points", ha="center",
            fontsize=8, color=colour,
        )  # fmt: skip
    plain_axes(axes, grid="x")
    axes.margins(x=0.15)
