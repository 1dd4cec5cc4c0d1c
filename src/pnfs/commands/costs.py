"""`pnfs costs`: parameters and MACs of every configuration beside the paper's."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from hydra import compose
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from pnfs.commands.configuration import build_network, plain
from pnfs.models import PoseNetwork
from pnfs.reproduce.costs import (
    EXPLANATION,
    CostRow,
    cost_columns,
    measure_costs,
    write_costs,
)

console = Console()


def run(config: DictConfig) -> None:
    settings = plain(config)
    root = Path(settings["experiments"]).expanduser()
    with console.status("") as status:
        rows = measure_costs(root, describe_row, build_empty, status.update)
    console.print(costs_table(rows))
    folder = Path(settings["out"]) if settings["out"] else root / "costs"
    for what, path in write_costs(rows, folder).items():
        console.print(f"{what}: {path}", soft_wrap=True)


def describe_row(overrides: Sequence[str], skeleton: str) -> tuple[dict[str, Any], tuple[int, int]]:
    """The model's configuration and the input's size that the overrides of a training run mean."""
    # Data and strategy change no cost, and the dataset may have no folder here.
    kept = [o for o in overrides if not o.lstrip("+~").startswith("dataset")]
    config = compose("train", [*kept, "backbone.weights=none", f"skeleton={skeleton}"])
    height, width = config.input_size
    return plain(config.model), (height, width)


def build_empty(model: Mapping[str, Any]) -> PoseNetwork:
    """The network without numbers in it."""
    with torch.device("meta"):
        return build_network(model)


def costs_table(rows: Sequence[CostRow]) -> Table:
    """All rows, a rule between the paper's tables."""
    table = Table(title="Parameters (M) and MACs (G)", caption=EXPLANATION)
    columns = [cost_columns(row) for row in rows]
    for name in columns[0]:
        text = name in ("table", "configuration", "why they differ")
        table.add_column(name, justify="left" if text else "right", overflow="fold")
    for index, line in enumerate(columns):
        last = index + 1 == len(rows) or rows[index + 1].table != rows[index].table
        table.add_row(*line.values(), end_section=last)
    return table
