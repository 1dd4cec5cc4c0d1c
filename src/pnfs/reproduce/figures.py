"""The paper's figures from the records, curves and pictures of runs."""

import csv
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image, ImageDraw, ImageFont

from pnfs.reproduce.results import RowResult, mean_and_deviation, score_names
from pnfs.reproduce.tables import title
from pnfs.reproduce.targets import Kind, Target
from pnfs.viz.curves import read_metrics

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""Okabe and Ito's colours, which stay apart under the common kinds of colour blindness."""
MARKERS = "osD^vP"

_SHEET_WIDTH = 1600
_CAPTION_HEIGHT = 44


def draw_trade_off(target: Target, results: Sequence[RowResult], folder: Path) -> Path | None:
    """Figure 5: score against multiply-accumulates, each point with its parameters."""
    shown = [result for result in results if result.finished]
    names = score_names(shown)
    if not shown or not names:
        return None
    figure = Figure(figsize=(6.4, 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for number, result in enumerate(shown):
        mean, deviation = mean_and_deviation(result.values(names[0]))
        macs, parameters = result.values("macs")[0] / 1e9, result.values("live_parameters")[0] / 1e6
        axes.errorbar(
            [macs], [mean], yerr=[deviation or 0], fmt=MARKERS[number % len(MARKERS)],
            color=COLOURS[number % len(COLOURS)], markersize=9, alpha=0.85,
            label=f"{result.row.label} ({parameters:.1f} M)",
        )  # fmt: skip
    axes.legend(title="network (live parameters)", fontsize=9, title_fontsize=9)
    axes.set_xlabel("multiply-accumulates of the whole network, G (the paper's GFLOPs)")
    axes.set_ylabel(names[0])
    axes.set_xlim(left=0)
    axes.margins(x=0.1, y=0.15)
    axes.grid(alpha=0.3)
    axes.set_title(title(target), fontsize=10)
    path = folder / "figure.png"
    figure.savefig(path, dpi=150)
    return path


def draw_loss_curves(target: Target, results: Sequence[RowResult], folder: Path) -> Path | None:
    """Figure 6: losses over the epochs, mean over seeds; writes the values beside it."""
    panels = (("train/loss_epoch", "training"), ("val/loss", "validation"))
    figure = Figure(figsize=(9.2, 3.9), layout="constrained")
    FigureCanvasAgg(figure)
    lines: list[list[object]] = []
    for axes, (metric, label) in zip(figure.subplots(1, 2), panels, strict=True):
        for number, result in enumerate(results):
            epochs, losses = _mean_curve(result, metric)
            if not len(epochs):
                continue
            axes.semilogy(epochs, losses, "o-" if len(epochs) < 40 else "-",
                          color=COLOURS[number % len(COLOURS)], markersize=3,
                          label=result.row.label)  # fmt: skip
            lines += [
                [result.row.label, label, int(e), float(v)]
                for e, v in zip(epochs, losses, strict=True)
            ]
        axes.set_xlabel("epoch (from 0)")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_ylabel(f"{label} loss (mean squared error)")
        axes.grid(alpha=0.3, which="both")
    if not lines:
        return None
    figure.axes[0].legend(fontsize=9)
    figure.suptitle(title(target), fontsize=10)
    path = folder / "figure.png"
    figure.savefig(path, dpi=150)
    with (folder / "curves.csv").open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([["row", "split", "epoch", "loss"], *lines])
    return path


def _mean_curve(result: RowResult, metric: str) -> tuple[np.ndarray, np.ndarray]:
    """Mean over the seeds of the epochs that all of them have."""
    curves = [
        dict(zip(*read_metrics(run.folder / "metrics.csv")[metric], strict=True))
        for run in result.finished
    ]
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
