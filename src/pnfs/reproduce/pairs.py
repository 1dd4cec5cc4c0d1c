"""Rows compared by seed: the difference, its interval, and in words whether it is more than chance."""

import math

import pandas as pd
from scipy import stats

from pnfs.reproduce.results import Results, digits, groups
from pnfs.reproduce.targets import Target

CONFIDENCE = 0.95
"""Of the interval of the mean difference (Student's t over the seeds)."""


def compared(target: Target, results: Results) -> pd.DataFrame:
    """Each row against another of the same backbone and data, over the seeds that both have, by the main score.

    The other one is `Target.against`, or else the first row of its backbone and data.

    Returns:
        Label -> text. Empty if no two rows of one backbone have runs.
    """
    columns = ["compared with", "difference", f"{CONFIDENCE:.0%} interval", "says"]
    if not results.scores:
        return pd.DataFrame(columns=columns)
    by_seed = results.finished.pivot_table(index="seed", columns="row", values=results.scores[0])
    labels = [label for label in target.rows.values() if label in by_seed]
    lines = {}
    for members in groups(results, labels).values():
        other = target.rows.get(target.against or "", "")
        other = other if other in members else members[0]
        for label in members:
            if label != other:
                lines[label] = [
                    other,
                    *_difference(by_seed[label] - by_seed[other], digits(results.scores[0])),
                ]
    table = pd.DataFrame.from_dict(lines, orient="index", columns=columns)
    return table.rename(columns={"difference": f"{results.scores[0]}, difference"})


def _difference(differences: pd.Series, places: int) -> list[str]:
    found = differences.dropna()
    if not len(found):
        return ["–", "–", "no seed in common"]
    mean, count = found.mean(), len(found)
    if count == 1:
        return [f"{mean:+.{places}f} (1 seed)", "–", "one seed: it may be chance"]
    half = stats.t.ppf((1 + CONFIDENCE) / 2, count - 1) * found.std() / math.sqrt(count)
    inside = abs(mean) <= half
    return [
        f"{mean:+.{places}f} ± {found.std():.{places}f} ({count} seeds)",
        f"{mean - half:+.{places}f} to {mean + half:+.{places}f}",
        "inside the spread of the seeds" if inside else "more than the spread of the seeds",
    ]
