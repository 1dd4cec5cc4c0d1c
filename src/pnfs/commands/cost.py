"""`pnfs cost`: parameters and MACs of a configuration."""

from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from pnfs.commands.configuration import build_network, plain
from pnfs.models import PoseFabricNetwork
from pnfs.models.cost import Cost, measure_cost

console = Console()


def run(config: DictConfig) -> None:
    """Prints the costs."""
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
