"""The cost table: parameters and MACs of every configuration beside what the paper states."""

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml
from torch import nn

from pnfs.models.cost import Cost, measure_cost
from pnfs.models.network import PoseNetwork
from pnfs.reproduce.published import PAPER_GIGA
from pnfs.reproduce.targets import Row, Target, TargetError, read_target

REASONS = Path("costs") / "reasons.yaml"
"""Below `experiments/`."""

MACS_TOLERANCE = 0.10
PARAMETERS_TOLERANCE = 0.15
_ROUNDING = 0.05
"""Half of the last digit that the paper prints, in millions of parameters and giga-MACs."""

Describe = Callable[[Sequence[str], str], tuple[Mapping[str, Any], tuple[int, int]]]
"""(overrides, skeleton) -> plain description of the network, (height, width) of its input."""

Build = Callable[[Mapping[str, Any]], PoseNetwork]
"""Makes a network from its description."""


@dataclass(frozen=True)
class CostRow:
    """One configuration. Parameters are numbers, MACs multiplications; None where the paper states none."""

    table: str
    label: str
    size: tuple[int, int]
    paper_parameters: float | None
    parameters: int
    live_parameters: int
    paper_macs: float | None
    """As printed, times 10^9."""
    macs: int
    macs_as_published: float
    """In the paper's giga (2^30) times 10^9, transposed convolutions by their output."""
    reason: str
    binding: bool = True
    """Whether the parameters must come near the paper's (Table IV's hold dead weights)."""

    @property
    def parameters_ratio(self) -> float | None:
        return (
            None if self.paper_parameters is None else self.live_parameters / self.paper_parameters
        )

    @property
    def macs_ratio(self) -> float | None:
        return None if self.paper_macs is None else self.macs_as_published / self.paper_macs

    @property
    def problems(self) -> tuple[str, ...]:
        """What is further from the paper than its rounding and the tolerance allow."""
        found = []
        if self.binding and not _near(
            self.live_parameters / 1e6, self.paper_parameters, 1e6, PARAMETERS_TOLERANCE
        ):
            found.append("parameters")
        if not _near(self.macs_as_published / 1e9, self.paper_macs, 1e9, MACS_TOLERANCE):
            found.append("MACs")
        return tuple(found)


def _near(ours: float, paper: float | None, unit: float, tolerance: float) -> bool:
    if paper is None:
        return True
    return abs(ours - paper / unit) <= tolerance * paper / unit + _ROUNDING


def measure_costs(
    root: Path, describe: Describe, build: Build, progress: Callable[[str], None] = lambda _: None
) -> list[CostRow]:
    """The cost of every row of every table that `costs/reasons.yaml` names.

    Args:
        root: `experiments/`.
        describe: Says what a row's network is.
        build: Makes it; networks without numbers, on the meta device, will do.
        progress: Told the name of each row before it is measured.

    Raises:
        TargetError: A description is missing or not as it should be.
    """
    found = []
    # Tables share configurations.
    measured: dict[str, tuple[Cost, Cost]] = {}
    for name, notes in _read_reasons(root / REASONS).items():
        target = read_target(root, name, "paper")
        for row in target.rows:
            progress(f"{name}: {row.label}")
            model, size = describe((*target.overrides, *row.overrides), notes["skeleton"])
            key = json.dumps([model, size], sort_keys=True)
            if key not in measured:
                measured[key] = _measure(build(model), size)
            found.append(_cost_row(target, row, notes, size, *measured[key]))
    return found


def _measure(network: PoseNetwork, size: tuple[int, int]) -> tuple[Cost, Cost]:
    """What the network costs, and what it costs as the public code counts."""
    cost = measure_cost(network, size)
    if not any(isinstance(module, nn.ConvTranspose2d) for module in network.modules()):
        return cost, cost
    return cost, measure_cost(network, size, deconvolution="output")


def _cost_row(
    target: Target,
    row: Row,
    notes: Mapping[str, Any],
    size: tuple[int, int],
    cost: Cost,
    published: Cost,
) -> CostRow:
    backbone = notes.get("compare", "whole") == "backbone"
    part = cost.parts["backbone"] if backbone else cost
    macs = published.parts["backbone"].macs if backbone else published.macs
    return CostRow(
        table=target.name,
        label=f"{row.label}, backbone alone" if backbone else row.label,
        size=size,
        paper_parameters=_stated(row, "backbone_params" if backbone else "params", 1e6),
        parameters=part.parameters,
        live_parameters=part.live_parameters,
        paper_macs=None if backbone else _stated(row, "flops", 1e9),
        macs=part.macs,
        macs_as_published=macs / PAPER_GIGA * 1e9,
        reason=notes.get("rows", {}).get(row.label, notes["reason"]),
        binding=target.name != "table4",
    )


def _stated(row: Row, column: str, unit: float) -> float | None:
    """What the paper prints, as a count; None if it prints nothing."""
    number = row.paper.number(column) if row.paper else None
    return None if number is None else float(round(number * unit))


def _read_reasons(path: Path) -> dict[str, dict[str, Any]]:
    try:
        content = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise TargetError(f"{path}: cannot be read: {error}") from error
    known = {"skeleton", "reason", "rows", "compare"}
    if not isinstance(content, dict) or not all(isinstance(v, dict) for v in content.values()):
        raise TargetError(f"{path}: is not a mapping of tables")
    for name, notes in content.items():
        wrong = ({"skeleton", "reason"} - set(notes)) | (set(notes) - known)
        if wrong:
            raise TargetError(f"{path}: {name} lacks, or has wrongly, {', '.join(sorted(wrong))}")
    return content


Column = Literal[
    "table", "configuration", "input", "params paper", "live", "total", "ratio live",
    "MACs paper", "MACs", "as published", "ratio MACs", "why they differ",
]  # fmt: skip


def cost_columns(row: CostRow) -> dict[Column, str]:
    """A row of the table as text: parameters in millions, MACs in units of 10^9."""
    return {
        "table": row.table,
        "configuration": row.label,
        "input": f"{row.size[0]}×{row.size[1]}",
        "params paper": _scaled(row.paper_parameters, 1e6, 1),
        "live": _scaled(row.live_parameters, 1e6, 2),
        "total": _scaled(row.parameters, 1e6, 2),
        "ratio live": _ratio(row.parameters_ratio, "parameters" in row.problems),
        "MACs paper": _scaled(row.paper_macs, 1e9, 1),
        "MACs": _scaled(row.macs, 1e9, 2),
        "as published": _scaled(row.macs_as_published, 1e9, 2),
        "ratio MACs": _ratio(row.macs_ratio, "MACs" in row.problems),
        "why they differ": row.reason,
    }


def _scaled(number: float | None, unit: float, digits: int) -> str:
    return "–" if number is None else f"{number / unit:.{digits}f}"


def _ratio(number: float | None, problem: bool) -> str:
    return "–" if number is None else f"{number:.2f}{' (!)' if problem else ''}"


EXPLANATION = (
    "Parameters in millions: those that the output depends on (live) and all that are built (total). "
    "MACs in units of 10^9, and as the public pose code counts them, which the paper's numbers fit: "
    "in units of 2^30, transposed convolutions by their output. The ratios are live parameters and MACs "
    "as published over the paper's; – is not stated. (!) is further than 15 % (parameters, Table IV "
    "apart) or 10 % (MACs) from the paper after its rounding."
)


def write_costs(rows: Sequence[CostRow], folder: Path) -> dict[str, Path]:
    """Writes `table.md` and `table.csv`; name -> file."""
    folder.mkdir(parents=True, exist_ok=True)
    table = [cost_columns(row) for row in rows]
    head = list(table[0])
    lines = [head, ["---"] * len(head), *(list(line.values()) for line in table)]
    body = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    files = {"table": folder / "table.md", "data": folder / "table.csv"}
    title = "# Parameters and MACs of every configuration"
    files["table"].write_text(f"{title}\n\n{EXPLANATION}\n\n{body}\n")
    files["data"].write_text(_as_csv(rows))
    return files


def _as_csv(rows: Sequence[CostRow]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(
        ["table", "configuration", "height", "width", "paper_parameters", "parameters",
         "live_parameters", "paper_macs", "macs", "macs_as_published", "reason"]
    )  # fmt: skip
    for row in rows:
        writer.writerow(
            [row.table, row.label, *row.size, row.paper_parameters, row.parameters,
             row.live_parameters, row.paper_macs, row.macs, round(row.macs_as_published), row.reason]
        )  # fmt: skip
    return out.getvalue()
