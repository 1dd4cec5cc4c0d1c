"""The paper's figures from the records, curves and pictures of runs.

A row of several seeds has a filled marker and a solid line; a single seed, which tells no rows apart, a hollow
marker and a dashed line.
"""

import math
from collections.abc import Callable, Mapping
from pathlib import Path

import pandas as pd
from matplotlib.ticker import MaxNLocator
from PIL import Image, ImageDraw, ImageFont

from pnfs.reproduce.page import main_score
from pnfs.reproduce.results import Results
from pnfs.reproduce.targets import Target
from pnfs.viz.curves import read_metrics
from pnfs.viz.style import COLOURS, LABEL, MARKERS, new_figure, plain_axes, save_figure

_SHEET_WIDTH = 1600
_CAPTION_HEIGHT = 44


def draw_trade_off(target: Target, results: Results, folder: Path, title: str) -> Path | None:
    """Figure 5: score against multiply-accumulates, each point with its parameters."""
    name = main_score(target, results)
    spread = results.spread(name)
    if not len(spread):
        return None
    figure = new_figure(6.4, 4.6, title=title)
    axes = figure.subplots()
    macs, parameters = results.spread("macs")["mean"], results.spread("live_parameters")["mean"]
    for number, label in enumerate(map(str, spread.index)):
        mean, std = float(spread["mean"][label]), float(spread["std"][label])
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
    """Figure 6: losses over the epochs, mean over seeds; writes the values beside it."""
    curves = loss_curves(results)
    if not len(curves):
        return None
    figure = new_figure(9.2, 3.9, title=title)
    for axes, split in zip(figure.subplots(1, 2), ("training", "validation"), strict=True):
        for number, label in enumerate(target.rows.values()):
            curve = curves[(curves["row"] == label) & (curves["split"] == split)]
            if not len(curve):
                continue
            alone = curve["seeds"].max() == 1
            axes.semilogy(
                curve["epoch"], curve["loss"], "--" if alone else "-", markersize=3,
                marker="o" if len(curve) < 40 else None, color=COLOURS[number % len(COLOURS)],
                label=f"{label}{' (one seed)' if alone else ''}",
            )  # fmt: skip
        plain_axes(axes, x_label="epoch (from 0)", y_label=f"{split} loss (mean squared error)")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.axes[0].legend(fontsize=LABEL)
    save_figure(figure, folder / "figure.png")
    curves.to_csv(folder / "curves.csv", index=False)
    return folder / "figure.png"


def loss_curves(results: Results) -> pd.DataFrame:
    """row, split, epoch, mean loss over the seeds, for the epochs that all seeds have."""
    series = {"train/loss_epoch": "training", "val/loss": "validation"}
    parts = []
    for run in results.finished.itertuples():
        logged = read_metrics(Path(str(run.folder)) / "metrics.csv")
        for metric, split in series.items():
            curve = logged[metric].rename_axis("epoch").rename("loss").reset_index()
            parts.append(curve.assign(row=str(run.row), split=split))
    if not parts:
        return pd.DataFrame()
    grouped = pd.concat(parts).astype({"epoch": int}).groupby(["row", "split", "epoch"], sort=False)
    found = grouped["loss"].agg(loss="mean", seeds="count").reset_index()
    return found[found["seeds"] == found.groupby(["row", "split"])["seeds"].transform("max")]


def draw_poses(target: Target, results: Results, folder: Path, title: str) -> Path | None:
    """Figures 7 and 8: the poses that the first seed of each row has drawn, one above another."""
    sheets = [
        (run.row, picture)
        for run in results.finished.drop_duplicates("row").itertuples()
        for picture in sorted(Path(str(run.folder)).glob("predictions_val.*"))[:1]
    ]
    if not sheets:
        return None
    images = [(label, _scaled(Image.open(path).convert("RGB"))) for label, path in sheets]
    height = sum(image.height + _CAPTION_HEIGHT for _, image in images)
    sheet = Image.new("RGB", (_SHEET_WIDTH, height), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=24)
    y = 0
    for label, image in images:
        draw.text((12, y + 8), f"{title}: {label}", fill="black", font=font)
        sheet.paste(image, (0, y + _CAPTION_HEIGHT))
        y += image.height + _CAPTION_HEIGHT
    sheet.save(folder / "figure.jpg", quality=88)
    return folder / "figure.jpg"


def _scaled(image: Image.Image) -> Image.Image:
    return image.resize((_SHEET_WIDTH, round(image.height * _SHEET_WIDTH / image.width)))


FIGURES: Mapping[str, Callable[[Target, Results, Path, str], Path | None]] = {
    "trade_off": draw_trade_off,
    "loss_curves": draw_loss_curves,
    "poses": draw_poses,
}
"""What is drawn for a target beside its table."""
