"""The cost table: parameters and MACs of every configuration beside what the paper states."""

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from torch import nn

from pnfs.models.cost import Cost, measure_cost
from pnfs.models.network import PoseNetwork
from pnfs.reproduce.page import markdown
from pnfs.reproduce.targets import PAPER_GIGA, Target

MACS_TOLERANCE = 0.10
PARAMETERS_TOLERANCE = 0.15
_ROUNDING = 0.05
"""Half of the last digit that the paper prints, in millions of parameters and giga-MACs."""

_DEAD_WEIGHTS = ("table4",)
"""Tables whose printed parameters hold weights that no output depends on; they bind nobody."""

EXPLANATION = (
    "Parameters in millions: those that the output depends on (live) and all that are built (total). "
    "MACs in units of 10^9, and as the public pose code counts them, which the paper's numbers fit: "
    "in units of 2^30, transposed convolutions by their output. The ratios are live parameters and MACs "
    "as published over the paper's; – is not stated. (!) is further than 15 % (parameters, Table IV "
    "apart) or 10 % (MACs) from the paper after its rounding."
)

Describe = Callable[[str, str], tuple[Mapping[str, Any], tuple[int, int]]]
"""(target, file of a row) -> plain description of the network, (height, width) of its input."""

Build = Callable[[Mapping[str, Any]], PoseNetwork]
"""Makes a network from its description; one without numbers, on the meta device, will do."""


def measure_costs(targets: Iterable[Target], describe: Describe, build: Build) -> pd.DataFrame:
    """The cost of every row of the tables that say why their counts differ from the paper's.

    Returns:
        One line a row: table, configuration, height, width, paper_parameters, parameters, live_parameters,
        paper_macs, macs, macs_as_published (the paper's giga, 2^30, times 10^9), reason. Parameters are numbers,
        MACs multiplications; nan where the paper states none.
    """
    lines = []
    measured: dict[str, tuple[Cost, Cost]] = {}  # Tables share configurations.
    for target in targets:
        for file, label in target.rows.items() if target.counts else ():
            model, size = describe(target.name, file)
            key = json.dumps([model, size], sort_keys=True)
            if key not in measured:
                measured[key] = _measure(build(model), size)
            about = {
                "table": target.name,
                "configuration": label,
                "height": size[0],
                "width": size[1],
            }
            reason = target.counts.get(file, target.counts.get("all", ""))
            lines.append(about | _counts(target, label, *measured[key]) | {"reason": reason})
    return pd.DataFrame(lines)


def _measure(network: PoseNetwork, size: tuple[int, int]) -> tuple[Cost, Cost]:
    """What the network costs, and what it costs as the public code counts."""
    cost = measure_cost(network, size)
    if not any(isinstance(module, nn.ConvTranspose2d) for module in network.modules()):
        return cost, cost
    return cost, measure_cost(network, size, deconvolution="output")


def _counts(target: Target, label: str, cost: Cost, published: Cost) -> dict[str, float]:
    def stated(column: str) -> float:
        text = target.published[column].get(label, "") if column in target.published else ""
        return float(text or "nan")

    # Figure 5 states the parameters of the backbones alone.
    backbone = "params" not in target.published and "backbone_params" in target.published
    part, counted = (c.parts["backbone"] if backbone else c for c in (cost, published))
    return {
        "paper_parameters": stated("backbone_params" if backbone else "params") * 1e6,
        "parameters": part.parameters,
        "live_parameters": part.live_parameters,
        "paper_macs": stated("flops") * 1e9,
        "macs": part.macs,
        "macs_as_published": round(counted.macs / PAPER_GIGA * 1e9),
    }


def cost_columns(costs: pd.DataFrame) -> pd.DataFrame:
    """The table as text: parameters in millions, MACs in units of 10^9, "(!)" at what is far from the paper's."""

    def text(column: str, unit: float | pd.Series, digits: int = 2) -> pd.Series:
        return (costs[column] / unit).map(lambda x: "–" if pd.isna(x) else f"{x:.{digits}f}")

    def ratio(
        ours: str, paper: str, unit: float, tolerance: float, binding: pd.Series
    ) -> pd.Series:
        slack = tolerance * costs[paper] + _ROUNDING * unit
        far = ((costs[ours] - costs[paper]).abs() > slack) & binding
        return text(ours, costs[paper]) + far.map({True: " (!)", False: ""})

    bound, every = ~costs["table"].isin(_DEAD_WEIGHTS), costs["table"].notna()
    return pd.DataFrame(
        {
            "configuration": costs["configuration"],
            "input": costs["height"].astype(str) + "×" + costs["width"].astype(str),
            "params paper": text("paper_parameters", 1e6, 1),
            "live": text("live_parameters", 1e6),
            "total": text("parameters", 1e6),
            "ratio live": ratio(
                "live_parameters", "paper_parameters", 1e6, PARAMETERS_TOLERANCE, bound
            ),
            "MACs paper": text("paper_macs", 1e9, 1),
            "MACs": text("macs", 1e9),
            "as published": text("macs_as_published", 1e9),
            "ratio MACs": ratio("macs_as_published", "paper_macs", 1e9, MACS_TOLERANCE, every),
            "why they differ": costs["reason"],
        }
    ).set_index(costs["table"])


def write_costs(costs: pd.DataFrame, folder: Path) -> dict[str, Path]:
    """Writes `table.md` and `table.csv`; name -> file."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {"table": folder / "table.md", "data": folder / "table.csv"}
    body = "\n".join(markdown(cost_columns(costs)))
    title = "# Parameters and MACs of every configuration"
    files["table"].write_text(f"{title}\n\n{EXPLANATION}\n\n{body}\n", encoding="utf-8")
    costs.to_csv(files["data"], index=False)
    return files
