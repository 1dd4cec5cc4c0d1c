"""The page about a table, in Markdown: ours beside the paper's, every published number in it."""

from collections.abc import Callable, Sequence
from pathlib import Path

from pnfs.reproduce.published import OTHERS, PAPER_GIGA, Published
from pnfs.reproduce.results import RowResult, groups, mean_and_deviation, scale, score_names
from pnfs.reproduce.targets import Target

MISSING = "missing"

PAPER_NAMES = {"PCKh@0.11": '"PCKh@0.1"'}
"""Scores that the paper prints by another name."""
OUR_NAMES = {"PCKh@0.11": 'PCKh@0.11 (the paper\'s "PCKh@0.1")', "PCKh@0.1": "PCKh@0.1 (true 0.10)"}
"""Scores whose name would be taken for another one."""

_MACS_NOTE = (
    "- MACs are in G. Ours are given twice: in units of 10^9, and counted as public pose code does, which the "
    "paper's numbers fit: in units of 2^30, transposed convolutions by their output."
)

Cell = Callable[[RowResult | None, Published | None], str]
"""What stands in a column, of a row of ours, a published one, or both."""
Column = tuple[str, Cell]
"""Title and cells."""


def page(target: Target, results: Sequence[RowResult]) -> str:
    """The whole page: table, scale, sources, notes, what is missing."""
    lines = [f"# {target.heading}", "", target.tests, ""]
    lines += [f"- Paper: {target.source}.", f"- Ours: {target.profile_says}"]
    lines += [f"- Scale of ours: {scale(results)}; mean ± standard deviation over seeds."]
    if any(len(result.finished) == 1 for result in results):
        lines.append("- A score without ± is of one seed: small differences tell no rows apart.")
    lines += [_MACS_NOTE, "", *grids(target, results)]
    notes = [f"- {r.row.label}: {r.row.note}" for r in results if r.row.note]
    missing = [f"- {r.row.label}, {what}" for r in results for what in r.missing]
    missing += [f"- {r.row.label}: {r.row.cannot}" for r in results if r.row.cannot]
    for heading, entries in (("Notes", notes), ("Missing", missing)):
        if entries:
            lines += ["", f"{heading}:", "", *entries]
    command = f"make reproduce-{target.name} PROFILE={target.profile}"
    given = _given_to_all(target, results)
    arguments = f' ARGS="{" ".join(given)} ..."' if given else ""
    return "\n".join(
        [*lines, "", f"Made by `{command}{arguments}` from the records of the runs.", ""]
    )


def grids(target: Target, results: Sequence[RowResult]) -> list[str]:
    """The Markdown lines of the tables: cited methods, then ours, one for each backbone and dataset."""
    lines = []
    if target.published_alone:
        lines += ["Other methods, as cited by the paper:", ""]
        lines += [*grid(target, [], target.published_alone), ""]
    found = groups(results)
    for name, members in found:
        if len(found) > 1:
            lines += [f"{name}:", ""]
        lines += [*grid(target, members), ""]
    return lines[:-1]


def grid(
    target: Target, results: Sequence[RowResult], alone: Sequence[Published] = ()
) -> list[str]:
    """The Markdown lines of one table.

    Args:
        target: What is reproduced.
        results: Rows whose scores may stand in one column.
        alone: Published rows that stand there without a row of ours.
    """
    rows: list[tuple[RowResult | None, Published | None]] = [
        (result, result.row.paper) for result in results
    ]
    rows += [(None, published) for published in alone]
    columns = _columns(target, results, [paper for _, paper in rows if paper])
    lines = [_line(["", *(name for name, _ in columns)])]
    lines.append(_line(["---", *["---:"] * len(columns)]))
    for ours, paper in rows:
        label = ours.row.label if ours else paper.method if paper else ""
        lines.append(_line([label, *(cell(ours, paper) for _, cell in columns)]))
    return lines


def _columns(
    target: Target, results: Sequence[RowResult], papers: Sequence[Published]
) -> list[Column]:
    """The paper's scores with ours beside each, our further ones, costs, times."""
    columns: list[Column] = [("published as", _who)] if papers else []
    names = score_names(results, papers)
    recorded = [name for name in names if any(r.values(name) for r in results)]
    # Without a record it is not known which scores there will be.
    ours = recorded or (["score"] if results else [])
    printed = [name for name in names if any(name in row.scores for row in papers)]
    for name in dict.fromkeys([*printed, *ours]):
        if name in printed:
            columns.append((f"paper: {PAPER_NAMES.get(name, name)}", _paper_column(name)))
        if name in ours:
            title = f"ours ({target.profile}): {OUR_NAMES.get(name, name)}"
            columns.append((title, _our_column(name)))
    others = [column for column in OTHERS if any(column in row.others for row in papers)]
    columns += [(f"paper: {OTHERS[column]}", _other_column(column)) for column in others]
    return columns + _OUR_COSTS if results else columns


def _who(ours: RowResult | None, paper: Published | None) -> str:
    return "–" if paper is None else "cited" if paper.cited else "the paper's own"


def _paper_column(name: str) -> Cell:
    return lambda ours, paper: str(paper.scores.get(name, "–")) if paper else "–"


def _other_column(column: str) -> Cell:
    return lambda ours, paper: paper.others.get(column, "–") if paper else "–"


def _our_column(name: str) -> Cell:
    return lambda ours, paper: our_score(ours, name) if ours else "–"


def _cost_column(name: str, unit: float, digits: int) -> Cell:
    return lambda ours, paper: _cost(ours, name, unit, digits) if ours else "–"


def _cost(result: RowResult, name: str, unit: float, digits: int) -> str:
    values = result.values(name)
    return f"{values[0] / unit:.{digits}f}" if values else "–"


def search_time(result: RowResult) -> str:
    """Mean over the seeds, in days of the device that it is."""
    if not result.finished:
        return "–"
    days, _ = mean_and_deviation(result.values("days"))
    unit = "CPU-days" if result.devices.startswith("CPU") else "GPU-days"
    return f"{days:.2g} {unit} ({result.devices})"


def seeds(result: RowResult) -> str:
    """How many of the planned runs are finished."""
    return f"{len(result.finished)} of {len(result.planned)}"


_OUR_COSTS: list[Column] = [
    ("ours: live parameters (M)", _cost_column("live_parameters", 1e6, 2)),
    ("ours: all parameters (M)", _cost_column("parameters", 1e6, 2)),
    ("ours: MACs (G, 10^9)", _cost_column("macs", 1e9, 3)),
    ("ours: MACs (G, counted as the paper's)", _cost_column("macs_by_output", PAPER_GIGA, 3)),
    ("ours: search time", lambda ours, paper: search_time(ours) if ours else "–"),
    ("seeds", lambda ours, paper: seeds(ours) if ours else "–"),
]


def live_cost(result: RowResult) -> str:
    """Live parameters and MACs in one cell."""
    if not result.finished:
        return "–"
    return f"{_cost(result, 'live_parameters', 1e6, 2)} M, {_cost(result, 'macs', 1e9, 3)} G"


def paper_score(result: RowResult, name: str) -> str:
    """A score as the paper prints it."""
    return str(result.row.paper.scores.get(name, "–")) if result.row.paper else "–"


def our_score(result: RowResult, name: str) -> str:
    """The mean over the seeds and, of two or more, the standard deviation."""
    values = result.values(name)
    if not values:
        return "not possible here" if result.row.cannot else MISSING
    return score_text(name, *mean_and_deviation(values))


def score_text(name: str, value: float, deviation: float | None = None) -> str:
    """A score with the digits that papers print: COCO's are fractions, the others percent."""
    digits = 3 if name.startswith(("AP", "AR")) else 1
    text = f"{value:.{digits}f}"
    return text if deviation is None else f"{text} ± {deviation:.{digits}f}"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _given_to_all(target: Target, results: Sequence[RowResult]) -> list[str]:
    """What the user asked of every row, beyond the profile and the description of the target."""
    own = {f"profile={target.profile}", *target.overrides}
    for result in results:
        own |= {*result.row.overrides, *(f"seed={plan.seed}" for plan in result.planned)}
    plans = [plan.overrides for result in results for plan in result.planned]
    first = plans[0] if plans else ()
    common = [o for o in first if o not in own and all(o in others for others in plans)]
    return without_places(common)


def without_places(overrides: Sequence[str]) -> list[str]:
    """Overrides as others can read them: where data, runs and weights lie differs between machines."""
    shown = []
    for override in overrides:
        name, equals, value = override.partition("=")
        if name.endswith("root"):
            continue
        if value.startswith(("/", "~")):
            value = f"…/{Path(value).name}"
        shown.append(f"{name}{equals}{value}")
    return shown
