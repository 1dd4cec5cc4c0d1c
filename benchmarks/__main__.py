"""Measures sections; prints each table, and writes it as <out>/<section>.md and .png.

python -m benchmarks training inference data evaluation --out experiments/bench/cpu
"""

import argparse
import importlib
from pathlib import Path

import torch

from benchmarks.timing import Section
from pnfs.viz.style import COLOURS, LABEL, SMALL, new_figure, plain_axes, save_figure

SECTIONS = ("training", "inference", "data", "evaluation")


def main() -> None:
    parser = argparse.ArgumentParser("benchmarks", description=__doc__)
    add = parser.add_argument
    add("sections", nargs="+", choices=SECTIONS)
    add("--out", type=Path, default=Path("runs/bench"), help="folder for the tables")
    add("--device", choices=("cpu", "cuda"), default="cpu", help="of training steps")
    add(
        "--eager",
        action="store_true",
        help="training steps on cuda: without the compiled one, which takes minutes",
    )
    add("--parts", type=int, nargs="+", default=[1, 3, 5, 8], help="numbers of parts P")
    add("--batch", type=int, default=8, help="persons in a training step")
    add("--size", type=int, default=256, help="side of the crops")
    add("--rounds", type=int, default=5, help="of which the median counts")
    add("--threads", type=int, default=torch.get_num_threads())
    add("--files", type=Path, nargs="+", default=[], help="inference: exported files")
    arguments = parser.parse_args()
    gpu = torch.cuda.get_device_name() if arguments.device == "cuda" else "CPU"
    machine = f"{gpu}, {arguments.threads} threads, torch {torch.__version__}"
    for name in arguments.sections:
        found: list[Section] = []
        for section in importlib.import_module(f"benchmarks.{name}").sections(**vars(arguments)):
            print(f"\n{section.title}\n{section.table.map(number).to_string()}", flush=True)
            found.append(section)
            # After each, so that what was measured is not lost if the next one fails.
            write(arguments.out / name, found, machine)


def write(path: Path, sections: list[Section], machine: str) -> None:
    lines = ["Ratios compare alternatives timed in turns in one run; absolute times belong to the machine:",
             f"{machine}. Written by `python -m benchmarks {path.name}`.", ""]  # fmt: skip
    for section in sections:
        table = section.table.map(number).reset_index()
        cells = [list(table), ["---"] * len(table.columns), *table.to_numpy().tolist()]
        lines += [f"## {section.title}", "", *(f"| {' | '.join(map(str, row))} |" for row in cells), ""]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".md").write_text("\n".join([f"# Measured: {path.name}", "", *lines]))
    heights = [0.9 + 0.3 * len(section.table) for section in sections]
    figure = new_figure(8, sum(heights))
    panels = figure.subplots(len(sections), 1, height_ratios=heights, squeeze=False)[:, 0]
    for axes, section in zip(panels, sections, strict=True):
        values = section.table[section.bars]
        bars = axes.barh(values.index, values, color=COLOURS[0])
        axes.bar_label(bars, [number(value) for value in values], padding=3, fontsize=SMALL + 1)
        axes.set_title(section.title, fontsize=LABEL, loc="left")
        axes.axvline(1, color="0.4", lw=0.8, ls=":")
        axes.invert_yaxis()
        plain_axes(axes, x_label=section.bars)
        axes.grid(visible=False, axis="y")
        axes.margins(x=0.1)
    save_figure(figure, path.with_suffix(".png"))


def number(value: float) -> str:
    """Three significant digits, whole above 100."""
    return f"{value:.3g}" if value < 100 else f"{value:,.0f}"


if __name__ == "__main__":
    main()
