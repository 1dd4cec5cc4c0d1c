"""The paper's tables and figures, `experiments/<name>/`, and what came out, from the records of runs only."""

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import yaml
from pydantic import BaseModel, ConfigDict, model_validator
from scipy import stats

from pnfs.errors import PnfsError
from pnfs.runs.identity import PERSONS, devices_of, run_identity
from pnfs.runs.state import Run, find_runs
from pnfs.scores import digits

OTHERS = {
    "backbone": "backbone", "backbone_params": "backbone parameters (M)", "head": "head",
    "head_params": "head parameters (M)", "params": "parameters (M)", "flops": "MACs (G)",
    "gpu_days": "search time (GPU-days)",
}  # fmt: skip
"""Columns of paper.csv that are not scores -> their title."""
COSTS = ("parameters", "live_parameters", "macs", "macs_by_output")
"""What records hold about a network's cost; macs_by_output counts transposed convolutions by their output."""
_ABOUT = ["row", "seed", "state", "folder", "device", "days", "revision", *COSTS]


class Target(BaseModel):
    """A table or figure of the paper."""

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True)

    name: str  # Its folder in `experiments/`, and that of its rows in `conf/experiment/`.
    title: str  # As the paper names it.
    tests: str  # The question it answers, one sentence.
    source: str  # Where the paper's numbers stand, and what they were measured on.
    kind: Literal["table", "trade_off", "loss_curves", "poses"]  # What is drawn beside the table.
    scores: dict[str, str] = {}  # Column of paper.csv -> the score of our records beside it.
    rows: dict[str, str]  # File in `conf/experiment/<name>/` -> label, as in paper.csv.
    # Row (file) to compare the others with, whatever their backbone; None: the first with runs of the same one.
    against: str | None = None
    questions: dict[str, str] = {}  # Row (file) -> the question that its comparison answers.
    notes: dict[str, str] = {}  # Profile -> what to know about its numbers.
    counts: dict[str, str] = {}  # Row, or "all" -> why our parameters and MACs differ.
    published: pd.DataFrame  # paper.csv as printed: labels -> text, "" where nothing is printed.

    @model_validator(mode="after")
    def _rows_exist(self) -> "Target":
        unknown = {*self.questions, *([self.against] if self.against else [])} - self.rows.keys()
        if unknown:
            raise ValueError(f"no row of its own is {', '.join(sorted(unknown))}")
        return self

    @property
    def cited(self) -> list[str]:
        """Published rows that no row of ours stands beside: other methods, cited by the paper."""
        return [method for method in self.published.index if method not in self.rows.values()]


def target_names(root: Path) -> list[str]:
    """Names of all targets below `experiments/`; a `PnfsError` if there are none."""
    names = sorted(path.parent.name for path in root.glob("*/target.yaml"))
    if not names:
        raise PnfsError(f"{root.resolve()}: no table or figure here; set experiments=<folder>")
    return names


def read_target(root: Path, name: str) -> Target:
    """A table or figure with the paper's numbers; a `PnfsError` if there is none, or a file is wrong."""
    if name not in (names := target_names(root)):
        raise PnfsError(f"no target {name!r}; there are {', '.join(names)}, all")
    path = root / name / "target.yaml"
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        published = read_published(path.parent, content.get("scores", {}))
        return Target(name=name, **content, published=published)
    except (OSError, ValueError, yaml.YAMLError, TypeError, AttributeError) as error:
        file = "" if isinstance(error, PnfsError) else f"{path}: cannot be read: "
        raise PnfsError(f"{file}{' '.join(str(error).split())}") from None


def read_published(folder: Path, scores: dict[str, str]) -> pd.DataFrame:
    """The paper's numbers in a folder, as text; empty if there is no paper.csv.

    The first column of the file names the method; further ones are `who` (ours, or cited: another method's), those
    of `scores` (see `Target`; and `<column>_std`) and any of `OTHERS`. A `PnfsError` says what is wrong in it.
    """
    path = folder / "paper.csv"
    if not path.exists() and not scores:
        return pd.DataFrame(columns=["who"], dtype=str)
    known = {"who", *scores, *(f"{column}_std" for column in scores), *OTHERS}
    try:
        table = pd.read_csv(path, comment="#", dtype=str, keep_default_na=False, index_col=0)
        there = set(map(str, table))
        if wrong := ({"who", *scores} - there) | (there - known):
            raise ValueError(f"lacks, or has wrongly, column {', '.join(sorted(wrong))}")
        if not table.index.is_unique or not set(table["who"]) <= {"ours", "cited"}:
            raise ValueError("two rows have the same method, or `who` is neither ours nor cited")
        # These hold words, unless they are scores of body parts.
        for column in there - ({"who", "backbone", "head"} - set(scores)):
            pd.to_numeric(table[column].replace("", "0"))
    except (OSError, ValueError) as error:  # pandas' own errors are ValueErrors.
        raise PnfsError(f"{path}: cannot be read: {error}") from None
    return table


# --- what came out


@dataclass(frozen=True)
class Results:
    """The runs of a target."""

    runs: pd.DataFrame
    """One line per row and seed: row (label), seed, state ("finished", or what there is instead), folder, device,
    days (of one device), revision of the code, `COSTS`, and a column per score."""
    settings: dict[str, Mapping[str, Any]]
    """Label -> the configuration of one of the row's runs."""

    @property
    def finished(self) -> pd.DataFrame:
        """The lines that have scores."""
        return self.runs[self.runs["state"] == "finished"]

    @property
    def scores(self) -> list[str]:
        """Names of the recorded scores, the main one first."""
        return [name for name in self.runs.columns if name not in _ABOUT]

    def spread(self, name: str) -> pd.DataFrame:
        """Label -> mean, sample standard deviation (nan for one seed) and count of a column over the seeds."""
        if name not in self.runs:
            return pd.DataFrame(columns=["mean", "std", "count"])
        found = self.finished.dropna(subset=[name])
        return found.groupby("row", sort=False)[name].agg(["mean", "std", "count"])


def find_results(target: Target, compose: Callable[[str, int], Mapping[str, Any]], runs: Sequence[Run]) -> Results:
    """The runs whose configuration is that of the target's rows, with every seed that any row was run with.

    `compose` goes from a row's file and a seed to the configuration that `pnfs train` resolves, or raises a
    `PnfsError`. The dataset need not be at hand: of runs that differ in their data alone none is taken.
    """

    def key(identity: Mapping[str, Any]) -> str:  # Whatever the data.
        return json.dumps(dict(identity) | {PERSONS: None}, sort_keys=True)

    found: dict[str, list[Run]] = {}
    for run in runs:
        if run.identity is not None:
            found.setdefault(key(run.identity), []).append(run)
    lines, settings = {}, {}
    for seed in sorted({run.config.get("seed", 0) for run in runs}) or [0]:
        for file, label in target.rows.items():
            try:
                settings[label] = compose(file, seed)
            except PnfsError as error:
                lines[label, seed] = {"state": str(error)}
                continue
            same = found.get(key(run_identity(settings[label], {})), [])
            folders = ", ".join(str(run.folder) for run in same)
            doubt = f"{folders} are runs of one configuration on different data: move all but one away"
            if same:
                lines[label, seed] = _line(same[0]) if len(same) == 1 else {"state": doubt}
    return Results(_frame(target, lines), settings)


def kept_results(target: Target, folder: Path) -> Results:
    """Records that are kept with the target, as they are: `<folder>/<row>/<anything>/result.json`; two of one row
    and seed are a `PnfsError`."""
    lines, settings = {}, {}
    for file, label in target.rows.items():
        for run in find_runs(folder / file):
            seed = run.config["seed"]
            if (label, seed) in lines:
                raise PnfsError(f"{run.folder}: another record of {label!r} has seed {seed} too")
            settings[label], lines[label, seed] = run.config, _line(run)
    return Results(_frame(target, lines), settings)


def _frame(target: Target, lines: Mapping[tuple[str, int], Mapping[str, Any]]) -> pd.DataFrame:
    """A line for every row and every seed that any row was run with, seed 0 if there is none."""
    seeds, nothing = sorted({seed for _, seed in lines}) or [0], {"state": "not run"}
    rows = [
        {"row": label, "seed": seed, **lines.get((label, seed), nothing)}
        for label in target.rows.values()
        for seed in seeds
    ]
    return pd.DataFrame(rows, columns=list(dict.fromkeys([*_ABOUT, *(name for row in rows for name in row)])))


def _line(run: Run) -> dict[str, Any]:
    record = run.record
    if record is None:
        return {"state": f"{run.status} ({run.cause})" if run.cause else run.status, "folder": run.folder}
    # As the identity has it, where "all" is a number.
    devices = devices_of((run.identity or record["config"])["trainer"])
    devices = len(devices) if isinstance(devices, (list, tuple)) else int(devices)
    return {
        "state": run.status, "folder": run.folder, "device": record["device"],
        "days": record["seconds"] * devices / 86_400, "revision": record.get("git_revision"),
        **{name: record.get("cost", {}).get(name) for name in COSTS}, **record["scores"],
    }  # fmt: skip


# --- what may be compared


def conditions(settings: Mapping[str, Any]) -> tuple[str, ...]:
    """Backbone and data of a run in words, such as "ResNet (depth 50, pretrained)" and "MPII"."""
    backbone, dataset = settings["model"].get("backbone") or {}, settings["dataset"]
    sizes = {**backbone, **backbone.get("fabrics", {})}
    known = ("depth", "width", "first_layers", "channels", "nodes")
    about = [f"{name} {sizes[name]}" for name in known if sizes.get(name) is not None]
    about += ["pretrained"] if backbone.get("weights", "none") != "none" else []
    names = [str(node.get("_target_", "")).rsplit(".", 1)[-1] for node in (backbone, dataset)]
    details = ", ".join(about), dataset.get("skeleton")
    return tuple(f"{name} ({text})" if text else name for name, text in zip(names, details, strict=True))


def groups(target: Target, results: Results, labels: Iterable[str]) -> dict[str, list[str]]:
    """Rows whose scores may stand in one column, those with the same data and, unless the target names a row to
    compare with, the same backbone: what tells the group apart -> labels. Rows of which neither is known go with
    the first group."""
    known = {label: conditions(settings) for label, settings in results.settings.items()}
    first = next(iter(known.values()), ("", ""))
    keys = {label: known.get(label, first) for label in labels}
    telling = (1,) if target.against else (0, 1)
    differing = [n for n in telling if len({key[n] for key in keys.values()}) > 1]
    found: dict[str, list[str]] = {}
    for label, key in keys.items():
        found.setdefault(", ".join(key[n] for n in differing), []).append(label)
    return found


def compared(target: Target, results: Results) -> pd.DataFrame:
    """Each row against another of its group (see `groups`), over the seeds that both have, by the main score.

    The other one is `Target.against` (while it has no runs, nothing is compared), or else the first row of its
    group. Label -> text: the difference, its 95 % interval (Student's t over the seeds), and in words
    whether it is more than chance.
    """
    lines, score = {}, next(iter(results.scores), "")
    if score:
        by_seed = results.finished.pivot_table(index="seed", columns="row", values=score)
        labels = [label for label in target.rows.values() if label in by_seed]
        if target.against and target.rows[target.against] not in labels:
            labels = []  # Another row in its place would answer other questions.
        for members in groups(target, results, labels).values():
            other = target.rows.get(target.against or "", "")
            other = other if other in members else members[0]
            for label in members:
                if label != other:
                    difference = (by_seed[label] - by_seed[other]).dropna()
                    lines[label] = [other, *_difference(difference, digits(score))]
    columns = ["compared with", f"{score}, difference", "95% interval", "says"]
    return pd.DataFrame.from_dict(lines, orient="index", columns=columns)


def _difference(found: pd.Series, places: int) -> list[str]:
    mean, count = found.mean(), len(found)
    if count < 2:
        one = [f"{mean:+.{places}f} (1 seed)", "–", "one seed: it may be chance"]
        return one if count else ["–", "–", "no seed in common"]
    half, std = stats.t.ppf(0.975, count - 1) * found.std() / math.sqrt(count), found.std()
    says = "inside the spread of the seeds"
    if abs(mean) > half:
        # Two differences may be close to each other by chance, and their interval too narrow.
        says = "two seeds: it may be chance" if count == 2 else "more than the spread of the seeds"
    interval = f"{mean - half:+.{places}f} to {mean + half:+.{places}f}"
    return [f"{mean:+.{places}f} ± {std:.{places}f} ({count} seeds)", interval, says]
