"""Pictures of scores: by joint and visibility, over thresholds, and errors of persons."""

from pathlib import Path

import numpy as np
from jaxtyping import Float

from pnfs.evaluation.coco_eval import VISIBILITIES
from pnfs.evaluation.errors import Errors
from pnfs.evaluation.person_metric import Criterion
from pnfs.viz.poses import joint_sides
from pnfs.viz.style import COLOURS, INK, SMALL, new_figure, plain_axes, save_figure, side_hex


def plot_joint_rates(
    path: Path | str,
    errors: Errors,
    criterion: Criterion,
    title: str | None = None,
    *,
    by_visibility: bool = False,
) -> None:
    """Draws the share of right joints: a bar a joint, in the colour of the person's side.

    Or two bars a joint: of the visible, and of the occluded.
    """
    skeleton = errors.skeleton
    kinds = VISIBILITIES if by_visibility else {"": None}
    height = 0.8 / len(kinds)
    figure = new_figure(6.4, (0.2 + 0.08 * len(kinds)) * len(skeleton) + 1.4, title=title)
    axes = figure.subplots()
    for n, (kind, flag) in enumerate(kinds.items()):
        rates, counts = errors.rates(criterion.thresholds, flag)
        places = np.arange(len(skeleton)) + (n - (len(kinds) - 1) / 2) * height
        colours = COLOURS[n] if kind else [side_hex(side) for side in joint_sides(skeleton)]
        label = f"{kind} ({counts.sum():,} labels)"
        bars = axes.barh(
            places, np.nan_to_num(rates), height, color=colours, ec=INK, lw=0.4, label=label
        )
        known = zip(rates, counts, strict=True)
        texts = [f"{rate:.1f}  ({count:,})" if count else "no labels" for rate, count in known]
        axes.bar_label(bars, texts, padding=2, fontsize=SMALL)
    axes.set_yticks(np.arange(len(skeleton)), [name.replace("_", " ") for name in skeleton.joints])
    axes.invert_yaxis()
    axes.set_xlim(0, 115)
    axes.set_xticks(range(0, 101, 20))
    plain_axes(axes, x_label=f"right joints in percent ({criterion.label}); (labels)", grid="x")
    if by_visibility:
        figure.legend(loc="outside lower center", ncols=2, fontsize=SMALL + 1, frameon=False)
    save_figure(figure, path)


def plot_error_curve(
    path: Path | str, errors: Errors, criterion: Criterion, title: str | None = None
) -> None:
    """Draws the share of joints whose error is at most x, for each group of joints and for all."""
    curve = errors.curve(criterion)
    figure = new_figure(5.6, 4.2, title=title)
    axes = figure.subplots()
    for colour, (group, rates) in zip(COLOURS, curve.groups.items(), strict=False):
        axes.plot(curve.thresholds, rates, color=colour, label=f"{group} ({rates[-1]:.1f})")
    label = f"all ({curve.mean[-1]:.1f})"
    axes.plot(curve.thresholds, curve.mean, color=INK, linewidth=2.4, label=label)
    axes.set(xlim=(0, float(curve.thresholds[-1])), ylim=(0, 100))
    x_label = f"error / {criterion.reference}"
    plain_axes(axes, x_label=x_label, y_label="joints with at most this error, percent")
    axes.legend(fontsize=SMALL + 1, loc="upper left")
    save_figure(figure, path)


def plot_error_histogram(
    path: Path | str, errors: Float[np.ndarray, " M"], reference: str, title: str | None = None
) -> None:
    """Draws how many persons have which mean error; the last bar holds everything beyond it."""
    figure = new_figure(5.6, 3.4, title=title)
    axes = figure.subplots()
    limit = (float(np.quantile(errors, 0.98)) if len(errors) else 0.0) or 1.0
    axes.hist(np.minimum(errors, limit), bins=40, range=(0, limit), color=COLOURS[0])
    if len(errors):
        median = float(np.median(errors))
        axes.axvline(median, color=COLOURS[1], label=f"median {median:.3f}")
        axes.legend(fontsize=SMALL + 1)
    plain_axes(axes, x_label=f"mean error of a person / {reference}", y_label="persons")
    save_figure(figure, path)
