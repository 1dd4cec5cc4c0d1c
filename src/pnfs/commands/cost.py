"""`pnfs cost`: parameters and MACs of a configuration, or of all in the paper's tables."""

import functools
import json
from pathlib import Path

import torch
from hydra import compose
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from pnfs.commands.configuration import build_network, experiments_folder, plain
from pnfs.models import PoseFabricNetwork, PoseNetwork
from pnfs.models.cost import Cost, measure_cost
from pnfs.reproduce.costs import EXPLANATION, cost_columns, measure_costs
from pnfs.reproduce.page import markdown
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
    costs = measure_costs(targets, build_row)
    text = cost_columns(costs)
    table = Table("table", title="Parameters (M) and MACs (G)", caption=EXPLANATION)
    for name in map(str, text):
        left = name in ("configuration", "why they differ")
        table.add_column(name, justify="left" if left else "right", overflow="fold")
    for label, row in text.iterrows():
        table.add_row(str(label), *row)
    console.print(table)
    out.mkdir(parents=True, exist_ok=True)
    lines = ["# Parameters and MACs of every configuration", "", EXPLANATION, "", *markdown(text)]
    (out / "table.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    console.print(f"written: {out / 'table.md'}", soft_wrap=True)


def build_row(table: str, row: str) -> tuple[PoseNetwork, tuple[int, int]]:
    """A row's network without numbers in it, and its input's (height, width)."""
    config = compose("train", [f"experiment={table}/{row}", "backbone.weights=none"])
    height, width = config.input_size
    return _empty(json.dumps(plain(config.model))), (height, width)


@functools.cache
def _empty(model: str) -> PoseNetwork:
    with torch.device("meta"):
        return build_network(json.loads(model))
