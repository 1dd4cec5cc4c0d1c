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
            reason = target.counts.get(file, target.counts.get("all", ""))
            about = {
                "table": target.name,
                "configuration": label,
                "height": size[0],
                "width": size[1],
            }
            lines.append(about | _counts(target, label, *measured[key]) | {"reason": reason})
    return pd.DataFrame(lines)


def _measure(network: PoseNetwork, size: tuple[int, int]) -> tuple[Cost, Cost]:
    """What the network costs, and what it costs as the public code counts."""
    cost = measure_cost(network, size)
    if not any(isinstance(module, nn.ConvTranspose2d) for module in network.modules()):
        return cost, cost
    return cost, measure_cost(network, size, deconvolution="output")


def _counts(target: Target, label: str, cost: Cost, published: Cost) -> dict[str, float]:
    # Figure 5 states the parameters of the backbones alone.
    backbone = "params" not in target.published and "backbone_params" in target.published
    part, counted = (c.parts["backbone"] if backbone else c for c in (cost, published))
    column = "backbone_params" if backbone else "params"
    return {
        "paper_parameters": _stated(target, label, column) * 1e6,
        "parameters": part.parameters,
        "live_parameters": part.live_parameters,
        "paper_macs": _stated(target, label, "flops") * 1e9,
        "macs": part.macs,
        "macs_as_published": round(counted.macs / PAPER_GIGA * 1e9),
    }


def _stated(target: Target, label: str, column: str) -> float:
    """What the paper prints; nan if it prints nothing."""
    text = target.published[column].get(label, "") if column in target.published else ""
    return float(text or "nan")


def is_far(ours: pd.Series, paper: pd.Series, unit: float, tolerance: float) -> pd.Series:
    """Which counts are further from the paper's than its rounding and the tolerance allow."""
    return (ours - paper).abs() > tolerance * paper + _ROUNDING * unit


def cost_columns(costs: pd.DataFrame) -> pd.DataFrame:
    """The table as text: parameters in millions, MACs in units of 10^9."""
    far_parameters = is_far(
        costs["live_parameters"], costs["paper_parameters"], 1e6, PARAMETERS_TOLERANCE
    ) & ~costs["table"].isin(_DEAD_WEIGHTS)
    far_macs = is_far(costs["macs_as_published"], costs["paper_macs"], 1e9, MACS_TOLERANCE)
    ratio_parameters = costs["live_parameters"] / costs["paper_parameters"]
    ratio_macs = costs["macs_as_published"] / costs["paper_macs"]
    return pd.DataFrame(
        {
            "configuration": costs["configuration"],
            "input": costs["height"].astype(str) + "×" + costs["width"].astype(str),
            "params paper": _text(costs["paper_parameters"] / 1e6, 1),
            "live": _text(costs["live_parameters"] / 1e6, 2),
            "total": _text(costs["parameters"] / 1e6, 2),
            "ratio live": _text(ratio_parameters, 2)
            + far_parameters.map({True: " (!)", False: ""}),
            "MACs paper": _text(costs["paper_macs"] / 1e9, 1),
            "MACs": _text(costs["macs"] / 1e9, 2),
            "as published": _text(costs["macs_as_published"] / 1e9, 2),
            "ratio MACs": _text(ratio_macs, 2) + far_macs.map({True: " (!)", False: ""}),
            "why they differ": costs["reason"],
        }
    ).set_index(costs["table"])


def _text(numbers: pd.Series, digits: int) -> pd.Series:
    return numbers.map(lambda number: "–" if pd.isna(number) else f"{number:.{digits}f}")


def write_costs(costs: pd.DataFrame, folder: Path) -> dict[str, Path]:
    """Writes `table.md` and `table.csv`; name -> file."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {"table": folder / "table.md", "data": folder / "table.csv"}
    body = "\n".join(markdown(cost_columns(costs)))
    title = "# Parameters and MACs of every configuration"
    files["table"].write_text(f"{title}\n\n{EXPLANATION}\n\n{body}\n", encoding="utf-8")
    costs.to_csv(files["data"], index=False)
    return files
