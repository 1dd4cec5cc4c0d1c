"""`pnfs cost`: parameters and MACs of a configuration, or of all in the paper's tables."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from hydra import compose
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from pnfs.commands.configuration import build_network, experiments_folder, plain
from pnfs.models import PoseFabricNetwork, PoseNetwork
from pnfs.models.cost import Cost, measure_cost
from pnfs.reproduce.costs import EXPLANATION, cost_columns, measure_costs, write_costs
from pnfs.reproduce.targets import read_target, target_names

console = Console()


def run(config: DictConfig) -> None:
    """Prints the costs; those of the tables are also written."""
    if config.tables:
        _tables(experiments_folder(config.experiments), Path(config.out).expanduser())
        return
    network = build_network(plain(config.model))
    height, width = config.input_size
    fabrics = isinstance(network, PoseFabricNetwork)
    what = f"{len(network.parts)} parts" if fabrics else type(network).__name__
    cost = measure_cost(network, (height, width))
    console.print(cost_table(cost, f"{what}, {height}x{width}, batch 1"))


def cost_table(cost: Cost, title: str) -> Table:
    """One row a part of the model."""
    table = Table("part", title=title, caption="live: parameters that the output depends on")
    for column in ("parameters", "live", "MACs"):
        table.add_column(column, justify="right")
    for name, part in cost.parts.items():
        table.add_row(name, *(f"{n:,}" for n in (part.parameters, part.live_parameters, part.macs)))
    table.add_section()
    totals = (cost.parameters, cost.live_parameters, cost.macs)
    table.add_row("total", *(f"{n:,}" for n in totals), style="bold")
    architecture = f"{cost.architecture_parameters:,}"
    table.add_row("of which alpha, beta", architecture, architecture, "")
    return table


def _tables(experiments: Path, out: Path) -> None:
    """All rows of the paper's tables beside what it states."""
    targets = [read_target(experiments, name) for name in target_names(experiments)]
    costs = measure_costs(targets, describe_row, build_empty)
    text = cost_columns(costs)
    table = Table("table", title="Parameters (M) and MACs (G)", caption=EXPLANATION)
    for name in map(str, text):
        left = name in ("configuration", "why they differ")
        table.add_column(name, justify="left" if left else "right", overflow="fold")
    for label, row in text.iterrows():
        table.add_row(str(label), *row)
    console.print(table)
    for what, path in write_costs(costs, out).items():
        console.print(f"{what}: {path}", soft_wrap=True)


def describe_row(table: str, row: str) -> tuple[dict[str, Any], tuple[int, int]]:
    """A row's model, as the configuration describes it, and its input's (height, width)."""
    config = compose("train", [f"experiment={table}/{row}", "backbone.weights=none"])
    height, width = config.input_size
    return plain(config.model), (height, width)


def build_empty(model: Mapping[str, Any]) -> PoseNetwork:
    """The network without numbers in it."""
    with torch.device("meta"):
        return build_network(model)
