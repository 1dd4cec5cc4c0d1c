"""The paper's figures from the records, curves and pictures of runs.

A row of several seeds has a filled marker and a solid line; a single seed, which tells no rows apart, a hollow
marker and a dashed line.
"""

import csv
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.ticker import MaxNLocator
from PIL import Image, ImageDraw, ImageFont

from pnfs.reproduce.results import RowResult, mean_and_deviation, score_names
from pnfs.reproduce.tables import title
from pnfs.reproduce.targets import Kind, Target
from pnfs.viz.curves import read_metrics
from pnfs.viz.style import COLOURS, LABEL, MARKERS, new_figure, plain_axes, save_figure

_SHEET_WIDTH = 1600
_CAPTION_HEIGHT = 44


def draw_trade_off(target: Target, results: Sequence[RowResult], folder: Path) -> Path | None:
    """Figure 5: score against multiply-accumulates, each point with its parameters."""
    shown = [result for result in results if result.finished]
    names = score_names(shown)
    if not shown or not names:
        return None
    figure = new_figure(6.4, 4.6, title=title(target))
    axes = figure.subplots()
    for number, result in enumerate(shown):
        mean, deviation = mean_and_deviation(result.values(names[0]))
        macs, parameters = result.values("macs")[0] / 1e9, result.values("live_parameters")[0] / 1e6
        axes.errorbar(
            [macs], [mean], yerr=[deviation or 0], fmt=MARKERS[number % len(MARKERS)],
            color=COLOURS[number % len(COLOURS)], markersize=9,
            markerfacecolor="white" if deviation is None else None,
            label=f"{result.row.label} ({parameters:.1f} M)",
        )  # fmt: skip
    legend = "network (live parameters); hollow: one seed"
    axes.legend(title=legend, fontsize=LABEL, title_fontsize=LABEL)
    macs_label = "multiply-accumulates of the whole network, G (the paper's GFLOPs)"
    plain_axes(axes, x_label=macs_label, y_label=names[0])
    axes.set_xlim(left=0)
    axes.margins(x=0.1, y=0.15)
    path = folder / "figure.png"
    save_figure(figure, path)
    return path


def draw_loss_curves(target: Target, results: Sequence[RowResult], folder: Path) -> Path | None:
    """Figure 6: losses over the epochs, mean over seeds; writes the values beside it."""
    panels = (("train/loss_epoch", "training"), ("val/loss", "validation"))
    figure = new_figure(9.2, 3.9, title=title(target))
    lines: list[list[object]] = []
    for axes, (metric, label) in zip(figure.subplots(1, 2), panels, strict=True):
        for number, result in enumerate(results):
            epochs, losses = _mean_curve(result, metric)
            if not len(epochs):
                continue
            alone = len(result.finished) == 1
            axes.semilogy(
                epochs, losses, "--" if alone else "-", marker="o" if len(epochs) < 40 else None,
                color=COLOURS[number % len(COLOURS)], markersize=3,
                label=f"{result.row.label}{' (one seed)' if alone else ''}",
            )  # fmt: skip
            lines += [
                [result.row.label, label, int(e), float(v)]
                for e, v in zip(epochs, losses, strict=True)
            ]
        plain_axes(axes, x_label="epoch (from 0)", y_label=f"{label} loss (mean squared error)")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if not lines:
        return None
    figure.axes[0].legend(fontsize=LABEL)
    path = folder / "figure.png"
    save_figure(figure, path)
    with (folder / "curves.csv").open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([["row", "split", "epoch", "loss"], *lines])
    return path


def _mean_curve(result: RowResult, metric: str) -> tuple[np.ndarray, np.ndarray]:
    """Mean over the seeds of the epochs that all of them have."""
    curves = [read_metrics(run.folder / "metrics.csv")[metric].to_dict() for run in result.finished]
    epochs = sorted(set.intersection(*(set(c) for c in curves))) if curves else []
    return np.array(epochs), np.array([np.mean([c[e] for c in curves]) for e in epochs])


def draw_poses(target: Target, results: Sequence[RowResult], folder: Path) -> Path | None:
    """Figures 7 and 8: the poses that the first seed of each row has drawn, one above another."""
    sheets = [
        (result.row.label, picture)
        for result in results
        for run in result.finished[:1]
        for picture in sorted(run.folder.glob("predictions_val.*"))[:1]
    ]
    if not sheets:
        return None
    images = [(label, _scaled(Image.open(path).convert("RGB"))) for label, path in sheets]
    height = sum(image.height + _CAPTION_HEIGHT for _, image in images)
    page = Image.new("RGB", (_SHEET_WIDTH, height), "white")
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(size=24)
    y = 0
    for label, image in images:
        draw.text((12, y + 8), f"{label} (profile {target.profile})", fill="black", font=font)
        page.paste(image, (0, y + _CAPTION_HEIGHT))
        y += image.height + _CAPTION_HEIGHT
    path = folder / "figure.jpg"
    page.save(path, quality=88)
    return path


def _scaled(image: Image.Image) -> Image.Image:
    return image.resize((_SHEET_WIDTH, round(image.height * _SHEET_WIDTH / image.width)))


FIGURES: Mapping[Kind, Callable[[Target, Sequence[RowResult], Path], Path | None]] = {
    "trade_off": draw_trade_off,
    "loss_curves": draw_loss_curves,
    "poses": draw_poses,
}
"""What is drawn for a target beside its table."""
