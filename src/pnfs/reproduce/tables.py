"""A table as Markdown, CSV and a picture: ours beside the paper's."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from pnfs.reproduce.results import RowResult, mean_and_deviation, scale, score_names
from pnfs.reproduce.targets import Number, Target
from pnfs.training.plain import json_ready

MISSING = "missing"
OURS = "#d55e00"
PAPER = "#0072b2"


def title(target: Target) -> str:
    """Names the profile: numbers of different profiles do not compare."""
    return f"{target.title} (profile {target.profile})"


def write_table(target: Target, results: Sequence[RowResult], folder: Path) -> dict[str, Path]:
    """Writes table.md, table.csv, table.png and records.json.

    Args:
        target: What is reproduced.
        results: Its rows.
        folder: Where the files go; made as needed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = {name: folder / f"table.{name}" for name in ("md", "csv", "png")}
    written["md"].write_text(markdown(target, results))
    written["csv"].write_text(to_csv(target, results))
    draw(target, results, written["png"])
    written["records"] = folder / "records.json"
    written["records"].write_text(
        json.dumps(json_ready(summaries(results)), indent=2, allow_nan=False) + "\n"
    )
    return written


def markdown(target: Target, results: Sequence[RowResult]) -> str:
    """The whole page: table, scale, sources, notes, what is missing."""
    lines = [f"# {title(target)}", "", target.tests, ""]
    lines += [f"- Paper: {target.source}.", f"- Ours: {target.profile_says}"]
    lines += [f"- Scale of ours: {scale(results)}; mean ± standard deviation over seeds.", ""]
    lines += grid(target, results)
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


def _given_to_all(target: Target, results: Sequence[RowResult]) -> list[str]:
    """What the user asked of every row, beyond the profile and the description of the target."""
    own = {f"profile={target.profile}", *target.overrides}
    for result in results:
        own |= {*result.row.overrides, *(f"seed={plan.seed}" for plan in result.planned)}
    plans = [plan.overrides for result in results for plan in result.planned]
    first = plans[0] if plans else ()
    common = [o for o in first if o not in own and all(o in others for others in plans)]
    return _without_places(common)


def _without_places(overrides: Sequence[str]) -> list[str]:
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


def grid(target: Target, results: Sequence[RowResult]) -> list[str]:
    """The Markdown lines of the table alone."""
    scores = score_names(results)
    printed = {name for result in results for name in result.row.paper}
    header = ["", *(f"paper: {name}" for name in scores if name in printed)]
    recorded = [name for name in scores if any(r.values(name) for r in results)]
    # Without a record it is not known which scores there will be.
    ours = recorded or ["score"]
    header += [f"ours ({target.profile}): {name}" for name in ours]
    header += ["paper: parameters, MACs", "ours: parameters (live), MACs", "search time", "seeds"]
    lines = [_line(header), _line(["---", *["---:"] * (len(header) - 1)])]
    for result in results:
        paper = result.row.paper
        cells = [result.row.label, *(_paper(n, paper.get(n)) for n in scores if n in printed)]
        cells += [_ours(result, name) for name in ours]
        cells += [_paper_cost(paper), _our_cost(result), _time(result), _seeds(result)]
        lines.append(_line(cells))
    return lines


def summary(target: Target, results: Sequence[RowResult]) -> tuple[list[str], list[list[str]]]:
    """Header and cells of a table that fits a terminal: the first score alone."""
    printed, recorded = _first_scores(results)
    name = recorded or "score"
    header = ["", "paper", f"ours ({target.profile})", "parameters (live), MACs", "seeds"]
    header[1] += f" {printed}" if printed else ""
    header[2] += f" {name}"
    rows = [
        [
            r.row.label, _paper(printed or "", r.row.paper.get(printed or "")), _ours(r, name),
            _our_cost(r), _seeds(r),
        ]
        for r in results
    ]  # fmt: skip
    return header, rows


def _first_scores(results: Sequence[RowResult]) -> tuple[str | None, str | None]:
    """The score that counts: as the paper prints it, and as the records hold it."""
    names = score_names(results)
    printed = [name for name in names if any(name in r.row.paper for r in results)]
    recorded = [name for name in names if any(r.values(name) for r in results)]
    return next(iter(printed), None), next(iter(recorded), None)


def to_csv(target: Target, results: Sequence[RowResult]) -> str:
    """One line a row; means and standard deviations in columns of their own, in full precision."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    scores = score_names(results)
    header = ["target", "profile", "row", "seeds_finished", "seeds_planned"]
    for name in scores:
        header += [f"paper {name}", f"paper {name} sd", f"ours {name}", f"ours {name} sd"]
    header += ["paper parameters", "paper macs", "parameters", "live_parameters", "macs"]
    writer.writerow([*header, "search_device_days", "device", "missing"])
    for result in results:
        line: list[Any] = [target.name, target.profile, result.row.label]
        line += [len(result.finished), len(result.planned)]
        for name in scores:
            line += [*_pair(result.row.paper.get(name)), *_our_pair(result.values(name))]
        line += [result.row.paper.get(name, "") for name in ("parameters", "macs")]
        costs = ("parameters", "live_parameters", "macs")
        line += [int(v[0]) if (v := result.values(name)) else "" for name in costs]
        line += [_our_pair(result.values("days"))[0], result.devices]
        writer.writerow([*line, "; ".join([*result.missing, result.row.cannot]).strip("; ")])
    return text.getvalue()


def summaries(results: Sequence[RowResult]) -> list[dict[str, Any]]:
    """What stands behind the table: for each run the record without the resolved configuration."""
    kept = (
        "score", "scores", "evaluated_with", "cost", "seconds", "device", "versions",
        "git_revision", "finished",
    )  # fmt: skip
    entries = []
    for result in results:
        records = {run.folder: run.record for run in result.finished}
        for plan in result.planned:
            record = records.get(plan.folder) if plan.folder else None
            entry: dict[str, Any] = {
                "row": result.row.label,
                "seed": plan.seed,
                "run": f"{plan.folder.parent.name}/{plan.folder.name}" if plan.folder else None,
                "overrides": _without_places(plan.overrides),
            }
            values = {name: record[name] for name in kept if name in record} if record else {}
            entries.append(entry | (values if record else {"missing": True}))
    return entries


def draw(target: Target, results: Sequence[RowResult], path: Path) -> None:
    """The first score of each row; the paper's in a panel of its own unless the profile is its."""
    printed, recorded = _first_scores(results)
    together = target.profile == "paper" and printed == recorded
    columns = 1 if together or not printed else 2
    height = 1.6 + 0.42 * len(results)
    figure = Figure(figsize=(3.2 + 3.4 * columns, height), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, columns, squeeze=False, sharey=True)[0]
    panels[0].set_yticks(range(len(results)), [r.row.label for r in results])
    panels[0].set_ylim(len(results) - 0.4, -0.6)
    if printed:
        _draw_paper(panels[0], results, printed)
    _draw_ours(panels[-1], results, recorded, target.profile)
    if together and printed:
        panels[0].legend(fontsize=8)
    figure.suptitle(title(target), fontsize=10)
    figure.savefig(path, dpi=150)


def _draw_paper(axes: Axes, results: Sequence[RowResult], name: str) -> None:
    for y, result in enumerate(results):
        value, deviation = _pair(result.row.paper.get(name))
        if value != "":
            axes.errorbar(
                [value], [y], xerr=[deviation or 0], fmt="D", color=PAPER, capsize=3,
                label="paper" if not y else None,
            )  # fmt: skip
            axes.annotate(_score(name, value, None), (value, y), (0, 7), textcoords="offset points",
                          ha="center", fontsize=8, color=PAPER)  # fmt: skip
    _finish(axes, f"paper: {name}")


def _draw_ours(axes: Axes, results: Sequence[RowResult], name: str | None, profile: str) -> None:
    for y, result in enumerate(results):
        values = result.values(name) if name else []
        if not values:
            why = "not possible here" if result.row.cannot else MISSING
            axes.text(0.5, y, why, transform=axes.get_yaxis_transform(), ha="center", va="center",
                      color="0.5", style="italic", fontsize=8)  # fmt: skip
            continue
        mean, deviation = mean_and_deviation(values)
        axes.plot(values, [y] * len(values), ".", color=OURS, alpha=0.4)
        axes.errorbar(
            [mean], [y], xerr=[deviation or 0], fmt="o", color=OURS, capsize=3,
            label=f"ours ({profile})" if not y else None,
        )  # fmt: skip
        axes.annotate(_score(name or "", mean, None), (mean, y), (0, 7), textcoords="offset points",
                      ha="center", fontsize=8, color=OURS)  # fmt: skip
    _finish(axes, f"ours ({profile}): {name or 'score'}")


def _finish(axes: Axes, label: str) -> None:
    axes.set_xlabel(label)
    axes.grid(axis="x", alpha=0.3)
    axes.margins(x=0.15)
    axes.spines[["top", "right"]].set_visible(False)


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _pair(number: Number | None) -> tuple[Any, Any]:
    if number is None:
        return "", ""
    return number if isinstance(number, tuple) else (number, "")


def _our_pair(values: Sequence[float]) -> tuple[Any, Any]:
    if not values:
        return "", ""
    mean, deviation = mean_and_deviation(values)
    return mean, "" if deviation is None else deviation


def _paper(name: str, number: Number | None) -> str:
    value, deviation = _pair(number)
    return "–" if value == "" else _score(name, value, deviation)


def _score(name: str, value: float, deviation: Any) -> str:
    # COCO's scores are fractions, the others percent.
    digits = 3 if name.startswith(("AP", "AR")) else 1
    text = f"{value:.{digits}f}"
    return text if deviation in ("", None) else f"{text} ± {deviation:.{digits}f}"


def _ours(result: RowResult, name: str) -> str:
    values = result.values(name)
    if not values:
        return "not possible here" if result.row.cannot else MISSING
    return _score(name, *mean_and_deviation(values))


def _paper_cost(paper: Mapping[str, Number]) -> str:
    parameters, macs = paper.get("parameters"), paper.get("macs")
    texts = [f"{parameters / 1e6:.1f} M"] if isinstance(parameters, float) else []
    texts += [f"{macs / 1e9:.1f} G"] if isinstance(macs, float) else []
    return ", ".join(texts) or "–"


def _our_cost(result: RowResult) -> str:
    if not result.finished:
        return "–"
    total, live, macs = (result.values(n)[0] for n in ("parameters", "live_parameters", "macs"))
    return f"{total / 1e6:.2f} M ({live / 1e6:.2f} M), {macs / 1e9:.2g} G"


def _time(result: RowResult) -> str:
    if not result.finished:
        return "–"
    days, _ = mean_and_deviation(result.values("days"))
    unit = "CPU-days" if result.devices.startswith("CPU") else "GPU-days"
    return f"{days:.2g} {unit} ({result.devices})"


def _seeds(result: RowResult) -> str:
    return f"{len(result.finished)} of {len(result.planned)}"
