"""The cost table: parameters and MACs of every configuration beside what the paper states.

    python tools/table_costs.py [FOLDER]

Writes table.md into the folder, experiments/costs by default.
"""

import functools
import json
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import pandas as pd
import torch
from hydra import compose, initialize_config_dir
from torch import nn

from pnfs.commands.building import build_network
from pnfs.commands.configuration import packaged_folder, plain, register_resolvers
from pnfs.models.cost import measure_cost
from pnfs.models.network import PoseNetwork
from pnfs.reproduce.page import PAPER_GIGA, markdown
from pnfs.reproduce.results import Target, read_target, target_names

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

Build = Callable[[str, str], tuple[PoseNetwork, tuple[int, int]]]
"""(target, file of a row) -> its network, without numbers in it, and its input's (height, width)."""


def measure_costs(targets: Iterable[Target], build: Build) -> pd.DataFrame:
    """The cost of every row of the tables that say why their counts differ from the paper's.

    Returns:
        One line a row: table, configuration, input, paper_parameters, parameters, live_parameters, paper_macs,
        macs, macs_as_published, reason; in millions and in giga, nan where the paper states none.
    """
    lines, measured = [], functools.cache(measure_cost)  # Tables share networks.
    for target in targets:
        # Figure 5 states the parameters of the backbones alone.
        alone = {"params", "backbone_params"} & set(target.published) == {"backbone_params"}
        column = "backbone_params" if alone else "params"
        for file, label in target.rows.items() if target.counts else ():
            network, (height, width) = build(target.name, file)
            cost = published = measured(network, (height, width))
            if any(isinstance(module, nn.ConvTranspose2d) for module in network.modules()):
                published = measured(network, (height, width), by_output=True)
            part, counted = cost, published
            if alone:
                part, counted = cost.parts["backbone"], published.parts["backbone"]
            stated = target.published.reindex(index=[label], columns=[column, "flops"]).iloc[0]
            stated = pd.to_numeric(stated, errors="coerce")
            lines.append({
                "table": target.name,
                "configuration": label,
                "input": f"{height}×{width}",
                "paper_parameters": stated[column],
                "parameters": part.parameters / 1e6,
                "live_parameters": part.live_parameters / 1e6,
                "paper_macs": stated["flops"],
                "macs": part.macs / 1e9,
                "macs_as_published": counted.macs / PAPER_GIGA,
                "reason": target.counts.get(file, target.counts.get("all", "")),
            })  # fmt: skip
    return pd.DataFrame(lines)


def cost_columns(costs: pd.DataFrame) -> pd.DataFrame:
    """The table as text: "(!)" at what is far from the paper's."""

    def text(column: str, digits: int = 2) -> pd.Series:
        return costs[column].map(lambda x: "–" if pd.isna(x) else f"{x:.{digits}f}")

    def ratio(ours: str, paper: str, tolerance: float, binding: pd.Series | bool) -> pd.Series:
        far = (costs[ours] - costs[paper]).abs() > tolerance * costs[paper] + _ROUNDING
        shown = (costs[ours] / costs[paper]).map(lambda x: "–" if pd.isna(x) else f"{x:.2f}")
        return shown + (far & binding).map({True: " (!)", False: ""})

    bound = ~costs["table"].isin(_DEAD_WEIGHTS)
    return pd.DataFrame(
        {
            "configuration": costs["configuration"],
            "input": costs["input"],
            "params paper": text("paper_parameters", 1),
            "live": text("live_parameters"),
            "total": text("parameters"),
            "ratio live": ratio("live_parameters", "paper_parameters", PARAMETERS_TOLERANCE, bound),
            "MACs paper": text("paper_macs", 1),
            "MACs": text("macs"),
            "as published": text("macs_as_published"),
            "ratio MACs": ratio("macs_as_published", "paper_macs", MACS_TOLERANCE, True),
            "why they differ": costs["reason"],
        }
    ).set_index(costs["table"])


def build_row(table: str, row: str) -> tuple[PoseNetwork, tuple[int, int]]:
    """A row's network without numbers in it, and its input's (height, width)."""
    config = compose("train", [f"experiment={table}/{row}", "backbone.weights=none"])
    height, width = config.input_size
    return _empty(json.dumps(plain(config.model))), (height, width)


@functools.cache
def _empty(model: str) -> PoseNetwork:
    with torch.device("meta"):
        return build_network(json.loads(model))


def main(folder: Path) -> None:
    register_resolvers()
    root = packaged_folder("experiments")
    with initialize_config_dir(version_base="1.3", config_dir=str(packaged_folder("conf"))):
        targets = [read_target(root, name) for name in target_names(root)]
        text = cost_columns(measure_costs(targets, build_row))
    folder.mkdir(parents=True, exist_ok=True)
    lines = ["# Parameters and MACs of every configuration", "", EXPLANATION, "", *markdown(text)]
    (folder / "table.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(*markdown(text), f"written: {folder / 'table.md'}", sep="\n")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "experiments/costs"))
