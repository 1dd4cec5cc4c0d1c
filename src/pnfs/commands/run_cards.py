"""What is said about runs: which are meant, what each is, and in what the runs of an experiment differ."""

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pnfs.commands.configuration import UsageError
from pnfs.runs.finding import Run
from pnfs.runs.identity import defining_part
from pnfs.viz.cards import RunCard

PICTURES = {"architecture": "architecture.png", "predictions": "predictions_val.png"}
_MOST_DIFFERENCES = 8
_LONGEST_VALUE = 60
ABSENT = "absent"


def filtered(runs: Sequence[Run], conditions: Mapping[str, Any]) -> list[Run]:
    """The runs whose configuration has all these values; "state" is the run's own.

    Raises:
        UsageError: No run has such a key, or these are no keys with values.
    """
    if not conditions:
        return list(runs)
    if not isinstance(conditions, Mapping):
        # What a shell makes of braces that are not quoted.
        raise UsageError(f"filter={conditions}: quote it: 'filter={{key:value,key:value}}'")
    values = [flat(run.config) | {"state": run.status} for run in runs]
    for key in conditions:
        if runs and not any(key in each for each in values):
            raise UsageError(f"filter: no run has the key {key}")
    return [
        run
        for run, each in zip(runs, values, strict=True)
        if all(each.get(key, ABSENT) == wanted for key, wanted in conditions.items())
    ]


def flat(tree: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Dotted key -> value; lists are values."""
    found: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            found.update(flat(value, f"{above}{key}."))
        else:
            found[f"{above}{key}"] = value
    return found


def card_of(run: Run, root: Path) -> RunCard:
    """What its record, or in want of one its state, says about a run."""
    record = run.record or {}
    cost, scores = record.get("cost", {}), record.get("scores", {})
    return RunCard(
        run=run.folder.relative_to(root).as_posix(),
        state=run.status,
        score=_number(record.get("score")),
        score_name=record.get("primary") or next(iter(scores), ""),
        scores={name: _number(score) for name, score in scores.items()},
        parameters=cost.get("parameters"),
        live_parameters=cost.get("live_parameters"),
        macs=cost.get("macs"),
        seconds=record.get("seconds"),
        seed=run.config.get("seed"),
        what=_summary(run.config),
        cause=run.cause,
    )


def page_cards(runs: Sequence[Run], root: Path) -> list[RunCard]:
    """What the page says about each run: also its row, and what it draws."""
    # Here and not above: a list need not wait for pandas.
    from pnfs.runs.metrics_file import METRICS

    cards = []
    for run, differing in zip(runs, _differences(runs), strict=True):
        name = str(run.config.get("name", ""))
        # Data and strategies draw by the run's seed too, unless one is set for them.
        seed = str(run.config.get("seed"))
        row = {
            key: value
            for key, value in differing.items()
            if key.split(".")[-1] != "seed" or value != seed
        }
        shown = ", ".join(f"{key}={value}" for key, value in _shortened(row).items())
        dataset, metrics = run.config.get("dataset", {}), run.folder / METRICS
        pictures = {what: run.folder / file for what, file in PICTURES.items()}
        cards.append(
            replace(
                card_of(run, root),
                # Scores of one dataset and skeleton may stand on one axis.
                benchmark=", ".join(filter(None, (_class(dataset), dataset.get("skeleton")))),
                row=json.dumps([name, row]),
                label=f"{name}: {shown}" if shown else name,
                differences=_shortened(differing),
                # An empty one is of a run that stopped before the first epoch was over.
                metrics=metrics if metrics.is_file() and metrics.stat().st_size else None,
                pictures={what: path for what, path in pictures.items() if path.is_file()},
            )
        )
    return cards


def _differences(runs: Sequence[Run]) -> list[dict[str, str]]:
    """For each run, the defining values by which the runs of its experiment differ.

    Where they differ in much, only those that are not the experiment's most common ones.
    """
    experiments: dict[Any, list[int]] = {}
    for n, run in enumerate(runs):
        experiments.setdefault(run.config.get("name"), []).append(n)
    found: list[dict[str, str]] = [{} for _ in runs]
    for members in experiments.values():
        values = [_defining_values(runs[n]) for n in members]
        keys = dict.fromkeys(key for each in values for key in each)
        counts = {key: Counter(each.get(key, ABSENT) for each in values) for key in keys}
        differing = [key for key in keys if len(counts[key]) > 1]
        usual = {}
        if len(differing) > _MOST_DIFFERENCES:
            usual = {key: counts[key].most_common(1)[0][0] for key in differing}
        for n, each in zip(members, values, strict=True):
            own = {key: each.get(key, ABSENT) for key in differing}
            found[n] = {key: value for key, value in own.items() if value != usual.get(key)}
    return found


def _defining_values(run: Run) -> dict[str, str]:
    """Dotted key -> text of what makes the run the run it is; parts and operations by their names."""
    defining = defining_part(run.config) if run.identity is None else run.identity
    # A few digits of the digests of persons tell them apart.
    return {
        key: str(value)[:8] if key.startswith("persons.") else str(value)
        for key, value in flat(_named(defining)).items()
    }


def _named(tree: Any) -> Any:
    if not isinstance(tree, dict):
        return tree
    return {
        key: ", ".join(value)
        if key in ("parts", "operations") and isinstance(value, dict)
        else _named(value)
        for key, value in tree.items()
    }


def _shortened(values: Mapping[str, str]) -> dict[str, str]:
    shown = {
        key: text if len(text) <= _LONGEST_VALUE else f"{text[: _LONGEST_VALUE - 1]}…"
        for key, text in list(values.items())[:_MOST_DIFFERENCES]
    }
    further = len(values) - len(shown)
    return shown | ({"further keys": str(further)} if further else {})


def _summary(config: Mapping[str, Any]) -> str:
    """What one wants to know first about a configuration."""
    model, dataset = config.get("model", {}), config.get("dataset", {})
    words = [_class(dataset), _class(model), _class(model.get("backbone"))]
    words += [f"P={len(model['parts'])}"] if model.get("parts") else []
    words += [f"d={model['vector_dim']}"] if "vector_dim" in model else []
    words += [_class(config.get("strategy")), f"seed {config.get('seed')}"]
    return " ".join(word for word in words if word)


def _class(node: Any) -> str:
    target = node.get("_target_") if isinstance(node, dict) else None
    return str(target).rsplit(".", 1)[-1] if target else ""


def _number(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
