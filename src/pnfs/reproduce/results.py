"""What came out: one line for each run of a target's rows, read from the records of the runs only."""

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from scipy import stats

from pnfs.errors import PnfsError
from pnfs.reproduce.targets import Target, TargetError
from pnfs.runs.identity import PERSONS, run_identity
from pnfs.runs.state import Run, find_runs

COSTS = ("parameters", "live_parameters", "macs", "macs_by_output")
"""What records hold about a network's cost; macs_by_output counts transposed convolutions by their output."""
_ABOUT = ["row", "seed", "state", "folder", "device", "days", "revision", *COSTS]


class RowError(PnfsError):
    """A row that cannot be composed with the overrides for all rows; the message says why."""


Compose = Callable[[str, int], Mapping[str, Any]]
"""(file of a row, seed) -> the configuration that `pnfs train` resolves for it, or a `RowError`."""


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


def find_results(target: Target, compose: Compose, runs: Sequence[Run]) -> Results:
    """The runs whose configuration is that of the target's rows, with every seed that any row was run with.

    The dataset need not be at hand: where runs of one configuration differ in their data, none is taken.
    """
    found: dict[str, list[Run]] = {}
    for run in runs:
        if run.identity is not None:
            found.setdefault(_key(run.identity), []).append(run)
    lines, settings = [], {}
    for seed in sorted({run.config.get("seed", 0) for run in runs}) or [0]:
        for file, label in target.rows.items():
            try:
                settings[label] = compose(file, seed)
                same = found.get(_key(run_identity(settings[label], {})), [])
            except RowError as error:
                line = {"state": str(error)}
            else:
                line = _line(same[0]) if same else {"state": "not run"}
                if len(same) > 1:
                    folders = ", ".join(str(run.folder) for run in same)
                    state = "are runs of one configuration on different data: move all but one away"
                    line = {"state": f"{folders} {state}"}
            lines.append({"row": label, "seed": seed} | line)
    return Results(_frame(target, lines), settings)


def kept_results(target: Target, folder: Path) -> Results:
    """Records that are kept with the target, as they are: `<folder>/<row>/<anything>/result.json`; two of one row
    and seed are a `TargetError`."""
    lines, settings = {}, {}
    for file, label in target.rows.items():
        for run in find_runs(folder / file):
            seed = run.config["seed"]
            if (label, seed) in lines:
                raise TargetError(f"{run.folder}: another record of {label!r} has seed {seed} too")
            settings[label] = run.config
            lines[label, seed] = {"row": label, "seed": seed} | _line(run)
    return Results(_frame(target, list(lines.values())), settings)


def _frame(target: Target, lines: list[dict[str, Any]]) -> pd.DataFrame:
    """A line for every row and every seed that any row was run with, seed 0 if there is none."""
    columns = list(dict.fromkeys([*_ABOUT, *(name for line in lines for name in line)]))
    frame = pd.DataFrame(lines, columns=columns).set_index(["row", "seed"])
    seeds = sorted(set(frame.index.get_level_values("seed"))) or [0]
    every = pd.MultiIndex.from_product([target.rows.values(), seeds], names=["row", "seed"])
    frame = frame.reindex(every).reset_index()
    return frame.assign(state=frame["state"].fillna("not run"))


def _key(identity: Mapping[str, Any]) -> str:
    """Stands for an identity, whatever the data."""
    return json.dumps(dict(identity) | {PERSONS: None}, sort_keys=True)


def _line(run: Run) -> dict[str, Any]:
    record = run.record
    if record is None:
        cause = f" ({run.cause})" if run.cause else ""
        return {"state": run.status + cause, "folder": run.folder}
    devices = record["config"]["trainer"].get("devices", 1)
    devices = len(devices) if isinstance(devices, (list, tuple)) else devices
    devices = devices if isinstance(devices, int) and devices > 0 else 1
    return {
        "state": run.status,
        "folder": run.folder,
        "device": record["device"],
        "days": record["seconds"] * devices / 86_400,
        "revision": record.get("git_revision"),
        **{name: record.get("cost", {}).get(name) for name in COSTS},
        **record["scores"],
    }


def digits(score: str) -> int:
    """Decimals that papers print: COCO's scores are fractions, the others percent."""
    return 3 if score.startswith(("AP", "AR")) else 1


# --- what may be compared


def conditions(settings: Mapping[str, Any]) -> tuple[str, str]:
    """Backbone and data of a run in words, such as "ResNet (depth 50, pretrained)" and "MPII"."""
    backbone, dataset = settings["model"].get("backbone") or {}, settings["dataset"]
    sizes = {**backbone, **backbone.get("fabrics", {})}
    known = ("depth", "width", "first_layers", "channels", "nodes")
    about = [f"{name} {sizes[name]}" for name in known if sizes.get(name) is not None]
    about += ["pretrained"] if backbone.get("weights", "none") != "none" else []
    names = [str(node.get("_target_", "")).rsplit(".", 1)[-1] for node in (backbone, dataset)]
    details = ", ".join(about), dataset.get("skeleton")
    first, second = (f"{n} ({d})" if d else n for n, d in zip(names, details, strict=True))
    return first, second


def groups(results: Results, labels: Iterable[str]) -> dict[str, list[str]]:
    """Rows whose scores may stand in one column, those with the same data and the same backbone: what tells the
    group apart -> labels. Rows of which neither is known go with the first group."""
    known = {label: conditions(settings) for label, settings in results.settings.items()}
    first = next(iter(known.values()), ("", ""))
    keys = {label: known.get(label, first) for label in labels}
    differing = [n for n in (0, 1) if len({key[n] for key in keys.values()}) > 1]
    found: dict[str, list[str]] = {}
    for label, key in keys.items():
        found.setdefault(", ".join(key[n] for n in differing), []).append(label)
    return found


def compared(target: Target, results: Results) -> pd.DataFrame:
    """Each row against another of the same backbone and data, over the seeds that both have, by the main score.

    The other one is `Target.against`, or else the first row of its backbone and data. Label -> text: the
    difference, its 95 % interval (Student's t over the seeds), and in words whether it is more than chance.
    """
    lines, score = {}, next(iter(results.scores), "")
    if score:
        by_seed = results.finished.pivot_table(index="seed", columns="row", values=score)
        labels = [label for label in target.rows.values() if label in by_seed]
        for members in groups(results, labels).values():
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
    if count == 0:
        return ["–", "–", "no seed in common"]
    if count == 1:
        return [f"{mean:+.{places}f} (1 seed)", "–", "one seed: it may be chance"]
    half = stats.t.ppf(0.975, count - 1) * found.std() / math.sqrt(count)
    says = "inside" if abs(mean) <= half else "more than"
    return [
        f"{mean:+.{places}f} ± {found.std():.{places}f} ({count} seeds)",
        f"{mean - half:+.{places}f} to {mean + half:+.{places}f}",
        f"{says} the spread of the seeds",
    ]
