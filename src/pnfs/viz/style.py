"""How all drawings look: colours, sizes of type, figures, and how they are saved."""

import colorsys
import itertools
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
from jaxtyping import UInt8
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from PIL import Image

from pnfs.errors import PnfsError

Side = Literal["left", "right", "centre"]

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
"""Okabe and Ito's colours, which stay apart under the common kinds of colour blindness."""
MARKERS = "osD^vPX"
"""One per colour, for whoever sees no colours."""
INK, FAINT, GRID = "#2e3440", "#6b7280", "#e2e2e2"

SIDE_COLOURS: Mapping[Side, tuple[int, int, int]] = {
    "left": (86, 180, 233), "right": (240, 120, 20), "centre": (240, 228, 66),
}  # fmt: skip
"""RGB colours of the person's sides; they stay apart for the colour-blind too."""

_OPERATION_COLOURS = {
    "zero": "#c8c8c8", "skip": "#e69f00", "sep_conv_3x3": "#0072b2", "dil_conv_3x3": "#56b4e9",
    "avg_pool_3x3": "#009e73", "max_pool_3x3": "#cc79a7",
}  # fmt: skip
NEIGHBOUR_COLOURS = {"finer": "#d55e00", "same": "#4d4d4d", "coarser": "#7b3294"}

TITLE, LABEL, SMALL = 10, 9, 7
"""Sizes of type in points."""

# Text of an SVG stays text, and the same picture gives the same file.
RC: dict[Any, Any] = {"font.size": LABEL, "svg.fonttype": "none", "svg.hashsalt": "pnfs"}


def operation_colours(operations: Collection[str]) -> dict[str, str]:
    """Candidate operation -> a colour of its own; that of the paper's operations is always the same."""
    # Hues a golden section apart do not come back.
    hues = ((0.1 + 0.618034 * n) % 1 for n in itertools.count())
    return {
        name: _OPERATION_COLOURS.get(name) or to_hex(colorsys.hsv_to_rgb(next(hues), 0.6, 0.7))
        for name in operations
    }


def new_figure(width: float, height: float, *, title: str | None = None) -> Figure:
    """An empty figure of this size in inches, whose parts make room for each other.

    It is not one of pyplot's: a caller's backend and open figures stay untouched.
    """
    figure = Figure(figsize=(width, height), dpi=150, layout="constrained", facecolor="white")
    if title is not None:
        figure.suptitle(title, fontsize=TITLE)
    return figure


def plain_axes(axes: Axes, *, x_label: str, y_label: str = "") -> None:
    """Labels, a faint grid below the data, and no frame above and right."""
    axes.set_xlabel(x_label, fontsize=LABEL)
    axes.set_ylabel(y_label, fontsize=LABEL)
    axes.tick_params(which="both", labelsize=SMALL + 1)
    axes.grid(color=GRID, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def save_figure(figure: Figure, path: Path | str) -> Path:
    """Writes a figure as PNG or SVG, by the suffix, any other being a `PnfsError`; makes the folders it needs."""
    file = Path(path)
    if file.suffix not in (".png", ".svg"):
        raise PnfsError(f"{path}: a picture is saved as .png or .svg")
    file.parent.mkdir(parents=True, exist_ok=True)
    with mpl.rc_context(RC):
        figure.savefig(file, metadata={"Date": None} if file.suffix == ".svg" else None)
    return file


def save_image(path: Path | str, image: UInt8[np.ndarray, "H W 3"]) -> Path:
    """Writes an RGB image as PNG or JPEG (quality 95), by the suffix; makes the folders it needs."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path, quality=95)
    return Path(path)
