"""The pictures of a table, and the paper's figures, from the records, curves and pictures of runs.

A row of several seeds has a filled marker and a solid line; a single seed, which tells no rows apart, a hollow
marker and a dashed line.
"""

import math
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

LEGEND = (
    "filled: mean ± standard deviation over seeds; hollow: one number, differences may be chance"
)
_SHEET_WIDTH, _CAPTION_HEIGHT = 1600, 44


def draw_figures(target: Target, results: Results, folder: Path, profile: str) -> list[Path]:
    """Draws the table, and beside it what the target's kind says, where there are runs to show."""
    title = f"{target.title} (profile {profile})"
    draw_table(target, results, folder / "table.png", profile)
    written = [folder / "table.png"]
    kinds = {"trade_off": draw_trade_off, "loss_curves": draw_loss_curves, "poses": draw_poses}
    if target.kind in kinds and (found := kinds[target.kind](target, results, folder, title)):
        written.append(found)
    return written


def draw_table(target: Target, results: Results, path: Path, profile: str) -> None:
    """One panel for the paper's score and one for ours; a line parts rows with different backbones or data."""
    parts = groups(results, target.rows.values())
    labels = [*target.cited, *(label for part in parts.values() for label in part)]
    name = main_score(target, results)
    shown = [("o", f"ours ({profile}): {OUR_NAMES.get(name, name)}", name, results.spread(name))]
    for column, printed in [*target.scores.items()][:1]:
        columns = {"mean": column, "std": f"{column}_std"}
        spread = pd.DataFrame({key: target.published.get(c, "") for key, c in columns.items()})
        spread = spread.apply(pd.to_numeric, errors="coerce")
        shown.insert(0, ("D", f"paper: {PAPER_NAMES.get(printed, printed)}", printed, spread))
    title = f"{target.title} (profile {profile})\n{LEGEND}"
    figure = new_figure(3.2 + 3.4 * len(shown), 1.9 + 0.42 * len(labels), title=title)
    panels = figure.subplots(1, len(shown), squeeze=False, sharey=True)[0]
    for axes, (marker, title, score, spread), colour in zip(panels, shown, COLOURS, strict=False):
        _points(axes, score, spread.reindex(labels), marker, colour)
        axes.set_xlabel(title)
        for start in filter(None, (labels.index(part[0]) for part in parts.values())):
            axes.axhline(start - 0.5, color="0.6", linewidth=0.8, linestyle=":")
    names = [f"{label} (cited)" if label in target.cited else label for label in labels]
    panels[0].set_yticks(range(len(labels)), names)
    panels[0].set_ylim(len(labels) - 0.4, -0.6)
    save_figure(figure, path)


def _points(axes: Axes, name: str, spread: pd.DataFrame, marker: str, colour: str) -> None:
    """Filled with a bar where a spread is known; a single number is hollow and has no bar."""
    look = {"fontsize": 8, "color": colour, "ha": "center"}
    for y, (mean, std) in enumerate(zip(spread["mean"], spread["std"], strict=True)):
        if pd.isna(mean):
            axes.text(0.5, y, "–", transform=axes.get_yaxis_transform(), va="center", **look)
            continue
        if pd.isna(std):
            axes.plot([mean], [y], marker, color=colour, markerfacecolor="white")
        else:
            axes.errorbar([mean], [y], xerr=[std], fmt=marker, color=colour, capsize=3)
        text = score_text(name, mean, std)
        axes.annotate(text, (mean, y), (0, 7), textcoords="offset points", **look)
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
    for axes, split in zip(figure.subplots(1, 2), ("train", "val"), strict=True):
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
        for split in ("train", "val"):
            curve = logged[f"{split}/loss"].rename_axis("epoch").rename("loss").reset_index()
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
        path = Path(str(run.folder)) / "predictions_val.png"
        if path.is_file():
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
