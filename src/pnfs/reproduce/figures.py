"""The pictures of a table, and the paper's figures, from the records, curves and pictures of runs.

A row of several seeds has a filled marker and a solid line; a single seed, which tells no rows apart, a hollow
marker and a dashed line.
"""

import math
from collections.abc import Callable, Mapping
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from PIL import Image, ImageDraw

from pnfs.reproduce.page import OUR_NAMES, PAPER_NAMES, main_score, score_text
from pnfs.reproduce.results import Results, groups
from pnfs.reproduce.targets import Target
from pnfs.viz.curves import loss_axes, read_metrics
from pnfs.viz.poses import font
from pnfs.viz.style import COLOURS, LABEL, MARKERS, new_figure, plain_axes, save_figure

PAPER, OURS = COLOURS[:2]
LEGEND = (
    "filled: mean ± standard deviation over seeds; hollow: one number, differences may be chance"
)
_SHEET_WIDTH, _CAPTION_HEIGHT = 1600, 44


def draw_table(target: Target, results: Results, path: Path, profile: str) -> None:
    """One panel for the paper's score and one for ours; a line parts rows with different backbones or data."""
    parts = groups(results, target.rows.values())
    labels = [*target.cited, *(label for part in parts.values() for label in part)]
    count = 1 + bool(target.scores)
    figure = new_figure(3.2 + 3.4 * count, 1.9 + 0.42 * len(labels))
    panels = figure.subplots(1, count, squeeze=False, sharey=True)[0]
    if target.scores:
        column, name = next(iter(target.scores.items()))
        published = target.published.reindex(labels)
        spread = pd.DataFrame(
            {"mean": published[column], "std": published.get(f"{column}_std", "")}
        )
        _points(panels[0], name, spread.apply(pd.to_numeric, errors="coerce"), "D", PAPER)
        panels[0].set_xlabel(f"paper: {PAPER_NAMES.get(name, name)}")
    axes, name = panels[-1], main_score(target, results)
    spread = results.spread(name).reindex(labels)
    _points(axes, name, spread, "o", OURS)
    across = axes.get_yaxis_transform()
    for y, label in enumerate(labels):
        if pd.isna(spread["mean"][label]) and label not in target.cited:
            axes.text(
                0.5,
                y,
                "missing",
                transform=across,
                ha="center",
                va="center",
                color="0.5",
                fontsize=8,
            )
    ours = results.finished[results.finished["row"].map(results.spread(name)["count"]) > 1]
    if len(ours):
        axes.plot(ours[name], ours["row"].map(labels.index), ".", color=OURS, alpha=0.4)
    axes.set_xlabel(f"ours ({profile}): {OUR_NAMES.get(name, name)}")
    names = [f"{label} (cited)" if label in target.cited else label for label in labels]
    panels[0].set_yticks(range(len(labels)), names)
    panels[0].set_ylim(len(labels) - 0.4, -0.6)
    for axes in panels:
        for start in filter(None, (labels.index(part[0]) for part in parts.values())):
            axes.axhline(start - 0.5, color="0.6", linewidth=0.8, linestyle=":")
    figure.suptitle(f"{target.title} (profile {profile})\n{LEGEND}", fontsize=8)
    save_figure(figure, path)


def _points(axes: Axes, name: str, spread: pd.DataFrame, marker: str, colour: str) -> None:
    """Filled with a bar where a spread is known; a single number is hollow and has no bar."""
    for y, (mean, std) in enumerate(zip(spread["mean"], spread["std"], strict=True)):
        if pd.isna(mean):
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


def draw_trade_off(target: Target, results: Results, folder: Path, title: str) -> Path | None:
    """Figure 5: score against multiply-accumulates, each point with its parameters."""
    name = main_score(target, results)
    spread = results.spread(name)
    if not len(spread):
        return None
    figure = new_figure(6.4, 4.6, title=title)
    axes = figure.subplots()
    macs, parameters = results.spread("macs")["mean"], results.spread("live_parameters")["mean"]
    for number, (label, mean, std, _) in enumerate(spread.itertuples()):
        alone = math.isnan(std)
        axes.errorbar(
            [macs[label] / 1e9], [mean], yerr=[0 if alone else std],
            fmt=MARKERS[number % len(MARKERS)], color=COLOURS[number % len(COLOURS)], markersize=9,
            markerfacecolor="white" if alone else None,
            label=f"{label} ({parameters[label] / 1e6:.1f} M)",
        )  # fmt: skip
    legend = "network (live parameters); hollow: one seed"
    axes.legend(title=legend, fontsize=LABEL, title_fontsize=LABEL)
    macs_label = "multiply-accumulates of the whole network, G (the paper's GFLOPs)"
    plain_axes(axes, x_label=macs_label, y_label=name)
    axes.set_xlim(left=0)
    axes.margins(x=0.1, y=0.15)
    save_figure(figure, folder / "figure.png")
    return folder / "figure.png"


def draw_loss_curves(target: Target, results: Results, folder: Path, title: str) -> Path | None:
    """Figure 6: losses over the epochs, mean over seeds."""
    curves = loss_curves(results)
    if not len(curves):
        return None
    figure = new_figure(9.2, 3.9, title=title)
    for axes, split in zip(figure.subplots(1, 2), ("training", "validation"), strict=True):
        for number, label in enumerate(target.rows.values()):
            curve = curves[(curves["row"] == label) & (curves["split"] == split)]
            alone = curve["seeds"].max() == 1
            if len(curve):
                axes.plot(
                    curve["epoch"], curve["loss"], "--" if alone else "-", markersize=3,
                    marker="o" if len(curve) < 40 else None, color=COLOURS[number % len(COLOURS)],
                    label=f"{label}{' (one seed)' if alone else ''}",
                )  # fmt: skip
        loss_axes(axes, [curves["loss"]], "loss")
        plain_axes(axes, x_label="epoch (from 0)", y_label=f"{split} loss (mean squared error)")
    figure.axes[0].legend(fontsize=LABEL)
    save_figure(figure, folder / "figure.png")
    return folder / "figure.png"


def loss_curves(results: Results) -> pd.DataFrame:
    """row, split, epoch, mean loss over the seeds, for the epochs that all seeds have."""
    parts = []
    for run in results.finished.itertuples():
        logged = read_metrics(Path(str(run.folder)) / "metrics.csv")
        for metric, split in {"train/loss": "training", "val/loss": "validation"}.items():
            curve = logged[metric].rename_axis("epoch").rename("loss").reset_index()
            parts.append(curve.assign(row=str(run.row), split=split))
    if not parts:
        return pd.DataFrame()
    grouped = pd.concat(parts).groupby(["row", "split", "epoch"], sort=False)
    found = grouped["loss"].agg(loss="mean", seeds="count").reset_index()
    return found[found["seeds"] == found.groupby(["row", "split"])["seeds"].transform("max")]


def draw_poses(target: Target, results: Results, folder: Path, title: str) -> Path | None:
    """Figures 7 and 8: the poses that the first seed of each row has drawn, one above another."""
    images = []
    for run in results.finished.drop_duplicates("row").itertuples():
        for path in sorted(Path(str(run.folder)).glob("predictions_val.*"))[:1]:
            image = Image.open(path).convert("RGB")
            size = (_SHEET_WIDTH, round(image.height * _SHEET_WIDTH / image.width))
            images.append((run.row, image.resize(size)))
    if not images:
        return None
    height = sum(image.height + _CAPTION_HEIGHT for _, image in images)
    sheet = Image.new("RGB", (_SHEET_WIDTH, height), "white")
    drawing, top = ImageDraw.Draw(sheet), 0
    for label, image in images:
        drawing.text((8, top + 8), f"{title}: {label}", fill="black", font=font(24))
        sheet.paste(image, (0, top + _CAPTION_HEIGHT))
        top += image.height + _CAPTION_HEIGHT
    sheet.save(folder / "figure.jpg", quality=88)
    return folder / "figure.jpg"


FIGURES: Mapping[str, Callable[[Target, Results, Path, str], Path | None]] = {
    "trade_off": draw_trade_off,
    "loss_curves": draw_loss_curves,
    "poses": draw_poses,
}
"""What is drawn for a target beside its table."""
