"""Pictures of scores: by joint and visibility, over thresholds, and the worst and best persons."""

from pathlib import Path

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes

from pnfs.evaluation.coco_eval import VISIBILITIES
from pnfs.evaluation.errors import Errors
from pnfs.evaluation.person_metric import Criterion
from pnfs.viz.poses import joint_sides
from pnfs.viz.style import COLOURS, INK, SMALL, new_figure, plain_axes, save_figure, side_hex


def plot_joint_rates(
    path: Path | str, errors: Errors, criterion: Criterion, title: str | None = None
) -> None:
    """Draws the share of right joints, one bar a joint, coloured by the person's side."""
    skeleton = errors.skeleton
    rates, counts = errors.rates(criterion.thresholds)
    colours = [side_hex(side) for side in joint_sides(skeleton)]
    figure = new_figure(6.4, 0.28 * len(skeleton) + 1.2, title=title)
    axes = figure.subplots()
    places = np.arange(len(skeleton), dtype=float)
    axes.barh(places, np.nan_to_num(rates), color=colours, edgecolor=INK, linewidth=0.4)
    for place, rate, count in zip(places, rates, counts, strict=True):
        text = f"{rate:.1f}  ({count:,})" if count else "no labels"
        axes.text(np.nan_to_num(rate) + 1, place, text, va="center", fontsize=SMALL + 1)
    _joint_axis(axes, skeleton.joints, f"right joints in percent ({criterion.label}); (labels)")
    save_figure(figure, path)


def plot_visibility_rates(
    path: Path | str, errors: Errors, criterion: Criterion, title: str | None = None
) -> None:
    """Draws the share of right joints among the visible and among the occluded, side by side."""
    joints = errors.skeleton.joints
    figure = new_figure(6.4, 0.36 * len(joints) + 1.4, title=title)
    axes = figure.subplots()
    places = np.arange(len(joints), dtype=float)
    height = 0.8 / len(VISIBILITIES)
    for n, (kind, flag) in enumerate(VISIBILITIES.items()):
        rates, counts = errors.rates(criterion.thresholds, flag)
        offset = places + (n - (len(VISIBILITIES) - 1) / 2) * height
        label = f"{kind} ({counts.sum():,} labels)"
        axes.barh(offset, np.nan_to_num(rates), height, color=COLOURS[n], label=label)
        for place, rate, count in zip(offset, rates, counts, strict=True):
            if count:
                axes.text(rate + 1, place, f"{rate:.1f}", va="center", fontsize=SMALL)
    _joint_axis(axes, joints, f"right joints in percent ({criterion.label})")
    axes.legend(
        loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, fontsize=SMALL + 1, frameon=False
    )
    save_figure(figure, path)


def plot_error_curve(
    path: Path | str, errors: Errors, criterion: Criterion, title: str | None = None
) -> None:
    """Draws the share of joints whose error is at most x, for each group of joints and for all."""
    curve = errors.curve(criterion)
    limit = float(curve.thresholds[-1])
    figure = new_figure(5.6, 4.2, title=title)
    axes = figure.subplots()
    for colour, (group, rates) in zip(COLOURS, curve.groups.items(), strict=False):
        axes.plot(curve.thresholds, rates, color=colour, label=f"{group} ({rates[-1]:.1f})")
    label = f"all ({curve.mean[-1]:.1f})"
    axes.plot(curve.thresholds, curve.mean, color=INK, linewidth=2.4, label=label)
    axes.set_xlim(0, limit)
    axes.set_ylim(0, 100)
    plain_axes(
        axes,
        x_label=f"error / {criterion.reference}",
        y_label="joints with at most this error, percent",
    )
    axes.legend(fontsize=SMALL + 1, loc="upper left")
    save_figure(figure, path)


def plot_error_histogram(
    path: Path | str, errors: Float[np.ndarray, " M"], reference: str, title: str | None = None
) -> None:
    """Draws how many persons have which mean error; the last bar holds everything beyond it."""
    figure = new_figure(5.6, 3.4, title=title)
    axes = figure.subplots()
    limit = float(np.quantile(errors, 0.98)) if len(errors) else 1.0
    limit = limit if limit > 0 else 1.0
    axes.hist(np.minimum(errors, limit), bins=40, range=(0, limit), color=COLOURS[0])
    if len(errors):
        median = float(np.median(errors))
        axes.axvline(median, color=COLOURS[1], label=f"median {median:.3f}")
        axes.legend(fontsize=SMALL + 1)
    plain_axes(axes, x_label=f"mean error of a person / {reference}", y_label="persons")
    save_figure(figure, path)


def _joint_axis(axes: Axes, joints: tuple[str, ...], label: str) -> None:
    axes.set_yticks(np.arange(len(joints)), [joint.replace("_", " ") for joint in joints])
    axes.invert_yaxis()
    axes.set_xlim(0, 115)
    axes.set_xticks(range(0, 101, 20))
    plain_axes(axes, x_label=label, grid="x")
