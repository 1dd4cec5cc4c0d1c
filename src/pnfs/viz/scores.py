"""Pictures of scores: by joint and visibility, over thresholds, and the worst and best persons."""

from pathlib import Path

import numpy as np
from jaxtyping import Float
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from pnfs.evaluation.breakdown import VISIBILITIES, Breakdown, Criterion

_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f")
"""Okabe and Ito's colours, which stay apart under the common kinds of colour blindness."""
_SIDES = {"left": "#56b4e9", "right": "#d55e00", "centre": "#e69f00"}


def plot_joint_rates(
    path: Path | str, breakdown: Breakdown, criterion: Criterion, title: str | None = None
) -> None:
    """Draws the share of right joints, one bar a joint, coloured by the person's side."""
    skeleton = breakdown.matches.labels.skeleton
    rates, counts = breakdown.rates(criterion.thresholds)
    colours = [_SIDES[_side(joint)] for joint in skeleton.joints]
    figure, axes = _figure(width=6.4, height=0.28 * len(skeleton) + 1.2)
    places = np.arange(len(skeleton), dtype=float)
    axes.barh(places, np.nan_to_num(rates), color=colours)
    for place, rate, count in zip(places, rates, counts, strict=True):
        text = f"{rate:.1f}  ({count:,})" if count else "no labels"
        axes.text(np.nan_to_num(rate) + 1, place, text, va="center", fontsize=8)
    _joint_axis(axes, skeleton.joints, f"right joints in percent ({criterion.label}); (labels)")
    _save(figure, path, title)


def plot_visibility_rates(
    path: Path | str, breakdown: Breakdown, criterion: Criterion, title: str | None = None
) -> None:
    """Draws the share of right joints among the visible and among the occluded, side by side."""
    joints = breakdown.matches.labels.skeleton.joints
    figure, axes = _figure(width=6.4, height=0.36 * len(joints) + 1.4)
    places = np.arange(len(joints), dtype=float)
    height = 0.8 / len(VISIBILITIES)
    for n, (kind, flag) in enumerate(VISIBILITIES.items()):
        rates, counts = breakdown.rates(criterion.thresholds, flag)
        offset = places + (n - (len(VISIBILITIES) - 1) / 2) * height
        label = f"{kind} ({counts.sum():,} labels)"
        axes.barh(offset, np.nan_to_num(rates), height, color=_COLOURS[n], label=label)
        for place, rate, count in zip(offset, rates, counts, strict=True):
            if count:
                axes.text(rate + 1, place, f"{rate:.1f}", va="center", fontsize=7)
    _joint_axis(axes, joints, f"right joints in percent ({criterion.label})")
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, fontsize=8, frameon=False)
    _save(figure, path, title)


def plot_error_curve(
    path: Path | str, breakdown: Breakdown, criterion: Criterion, title: str | None = None
) -> None:
    """Draws the share of joints whose error is at most x, for each group of joints and for all."""
    curve = breakdown.curve(criterion)
    limit = float(curve.thresholds[-1])
    figure, axes = _figure(width=5.6, height=4.2)
    for colour, (group, rates) in zip(_COLOURS, curve.groups.items(), strict=False):
        axes.plot(curve.thresholds, rates, color=colour, label=f"{group} ({rates[-1]:.1f})")
    label = f"all ({curve.mean[-1]:.1f})"
    axes.plot(curve.thresholds, curve.mean, color="black", linewidth=2.4, label=label)
    axes.set_xlim(0, limit)
    axes.set_ylim(0, 100)
    axes.set_xlabel(f"error / {criterion.reference}")
    axes.set_ylabel("joints with at most this error, percent")
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.legend(fontsize=8, loc="upper left")
    _save(figure, path, title)


def plot_error_histogram(
    path: Path | str, errors: Float[np.ndarray, " M"], reference: str, title: str | None = None
) -> None:
    """Draws how many persons have which mean error; the last bar holds everything beyond it."""
    figure, axes = _figure(width=5.6, height=3.4)
    limit = float(np.quantile(errors, 0.98)) if len(errors) else 1.0
    limit = limit if limit > 0 else 1.0
    axes.hist(np.minimum(errors, limit), bins=40, range=(0, limit), color=_COLOURS[0])
    if len(errors):
        median = float(np.median(errors))
        axes.axvline(median, color=_COLOURS[1], label=f"median {median:.3f}")
        axes.legend(fontsize=8)
    axes.set_xlabel(f"mean error of a person / {reference}")
    axes.set_ylabel("persons")
    _save(figure, path, title)


def _side(joint: str) -> str:
    side = joint.partition("_")[0]
    return side if side in ("left", "right") else "centre"


def _figure(width: float, height: float):
    figure = Figure(figsize=(width, height), layout="constrained")
    # The figure's own canvas, not pyplot's: a caller's backend and open figures stay untouched.
    FigureCanvasAgg(figure)
    return figure, figure.subplots()


def _joint_axis(axes, joints: tuple[str, ...], label: str) -> None:
    axes.set_yticks(np.arange(len(joints)), [joint.replace("_", " ") for joint in joints])
    axes.invert_yaxis()
    axes.set_xlim(0, 115)
    axes.set_xticks(range(0, 101, 20))
    axes.set_xlabel(label)
    axes.grid(axis="x", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)


def _save(figure: Figure, path: Path | str, title: str | None) -> None:
    path = Path(path)
    if title is not None:
        figure.suptitle(title, fontsize=10)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
