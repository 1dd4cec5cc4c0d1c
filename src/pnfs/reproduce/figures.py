"""The paper's figures from the records, curves and pictures of runs; a single seed is hollow, or dashed."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from pnfs.errors import PnfsError
from pnfs.reproduce.page import main_score
from pnfs.reproduce.results import Results, groups
from pnfs.reproduce.targets import Target
from pnfs.viz.curves import loss_axes, plot_mean, plot_seeds, read_metrics
from pnfs.viz.sheets import contact_sheet
from pnfs.viz.style import COLOURS, LABEL, MARKERS, new_figure, plain_axes, save_figure, save_image


def draw_figures(target: Target, results: Results, folder: Path, title: str) -> list[Path]:
    """Draws the table, and beside it what the target's kind says, into the folder; nothing without runs."""
    if not len(results.finished):
        return []
    draws = {"trade_off": draw_trade_off, "loss_curves": draw_loss_curves, "poses": draw_poses}
    kinds = [draw_table, *(draw for kind, draw in draws.items() if kind == target.kind)]
    return [draw(target, results, folder, title) for draw in kinds]


def draw_table(target: Target, results: Results, folder: Path, title: str) -> Path:
    """The main score of the rows that have runs: mean and deviation, a dot a seed, and the paper's score."""
    name, (ours, paper) = main_score(target, results), COLOURS[:2]
    parts = groups(results, results.spread(name).index).values()
    labels = [label for members in parts for label in members]
    spread = results.spread(name).loc[labels]
    figure = new_figure(6.4, 1.5 + 0.4 * len(labels), title=title)
    axes = figure.subplots()
    places = results.finished["row"].map(labels.index)
    axes.plot(results.finished[name], places, ".", color=ours, alpha=0.4)
    for y, (mean, std) in enumerate(zip(spread["mean"], spread["std"], strict=True)):
        xerr = None if math.isnan(std) else std
        plot_mean(axes, mean, y, (ours, "o"), std={"xerr": xerr}, capsize=3)
    for column in [column for column, score in target.scores.items() if score == name]:
        published = pd.to_numeric(target.published[column].reindex(labels), errors="coerce")
        axes.plot(published, range(len(labels)), "D", color=paper, mfc="white", label="the paper's")
        axes.legend(fontsize=LABEL)
    for members in parts:  # A line parts rows with different backbones or data.
        axes.axhline(labels.index(members[0]) - 0.5, color="0.6", lw=0.8, ls=":")
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.5, -0.5)
    plain_axes(axes, x_label=f"{name}; mean ± standard deviation over seeds, hollow: one seed")
    axes.margins(x=0.1)
    save_figure(figure, folder / "table.png")
    return folder / "table.png"


def draw_trade_off(target: Target, results: Results, folder: Path, title: str) -> Path:
    """Figure 5: score against multiply-accumulates, each point with its parameters."""
    name = main_score(target, results)
    figure = new_figure(6.4, 4.6, title=title)
    axes = figure.subplots()
    macs, parameters = results.spread("macs")["mean"], results.spread("live_parameters")["mean"]
    looks = zip(COLOURS, MARKERS, strict=True)
    for (label, mean, std, _), look in zip(results.spread(name).itertuples(), looks, strict=False):
        text = f"{label} ({parameters[label] / 1e6:.1f} M)"
        yerr = None if math.isnan(std) else std
        plot_mean(axes, macs[label] / 1e9, mean, look, std={"yerr": yerr}, label=text)
    legend = "network (live parameters); hollow: one seed"
    axes.legend(title=legend, fontsize=LABEL, title_fontsize=LABEL)
    macs_label = "multiply-accumulates of the whole network, G (the paper's GFLOPs)"
    plain_axes(axes, x_label=macs_label, y_label=name)
    axes.set_xlim(left=0)
    axes.margins(x=0.1, y=0.15)
    save_figure(figure, folder / "figure.png")
    return folder / "figure.png"


def draw_loss_curves(target: Target, results: Results, folder: Path, title: str) -> Path:
    """Figure 6: losses over the epochs that all seeds have, mean over seeds."""
    runs = results.finished
    logged = {path: read_metrics(Path(path) / "metrics.csv") for path in runs["folder"]}
    figure = new_figure(9.2, 3.9, title=title)
    for axes, split in zip(figure.subplots(1, 2), ("train", "val"), strict=True):
        means = []
        for (label, row), colour in zip(runs.groupby("row", sort=False), COLOURS, strict=False):
            curves = [logged[path][f"{split}/loss"] for path in row["folder"]]
            means.append(plot_seeds(axes, curves, colour, label=str(label)))
        loss_axes(axes, means, "loss")
        plain_axes(axes, x_label="epoch (from 0)", y_label=f"{split} loss (mean squared error)")
    figure.axes[0].legend(fontsize=LABEL)
    save_figure(figure, folder / "figure.png")
    return folder / "figure.png"


def draw_poses(target: Target, results: Results, folder: Path, title: str) -> Path:
    """Figures 7 and 8: the poses that the first seed of each row has drawn, one above another."""
    runs = results.finished.drop_duplicates("row")
    paths = [Path(path) / "predictions_val.png" for path in runs["folder"]]
    images = [np.asarray(Image.open(path).convert("RGB")) for path in paths if path.is_file()]
    labels = [str(row) for row, path in zip(runs["row"], paths, strict=True) if path.is_file()]
    if not images:
        raise PnfsError(f"{paths[0]}: no run of {target.name} has drawn its poses; train it again")
    height = round(1600 * max(len(image) / image.shape[1] for image in images))
    captions = [f"{title}: {label}" for label in labels]
    sheet = contact_sheet(images, captions=captions, columns=1, cell=(height, 1600))
    save_image(folder / "figure.jpg", sheet)
    return folder / "figure.jpg"
