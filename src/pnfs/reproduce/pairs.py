"""Rows compared by seed: the difference, its interval, and in words whether it is more than chance."""

import math

import pandas as pd
from scipy import stats

from pnfs.reproduce.results import Results
from pnfs.reproduce.targets import Target


def compared(target: Target, results: Results, confidence: float = 0.95) -> pd.DataFrame:
    """Each row against one of them (`Target.against`), over the seeds that both have, by the main score.

    Args:
        target: What is reproduced.
        results: Its runs.
        confidence: Of the interval of the mean difference (Student's t over the seeds).

    Returns:
        Label -> text. Empty if fewer than two rows have runs.
    """
    names = results.scores
    if not names:
        return pd.DataFrame()
    by_seed = results.finished.pivot_table(index="seed", columns="row", values=names[0])
    labels = [label for label in target.rows.values() if label in by_seed]
    other = target.rows[target.against] if target.against else labels[0]
    if other not in labels or len(labels) < 2:
        return pd.DataFrame()
    lines = {
        label: _line(by_seed[label] - by_seed[other], confidence)
        for label in labels
        if label != other
    }
    columns = [f"{names[0]}, difference to {other}", f"{confidence:.0%} interval", "says"]
    return pd.DataFrame.from_dict(lines, orient="index", columns=columns)


def _line(differences: pd.Series, confidence: float) -> list[str]:
    found = differences.dropna()
    if not len(found):
        return ["–", "–", "no seed in common"]
    mean, count = found.mean(), len(found)
    if count == 1:
        return [f"{mean:+.1f} (1 seed)", "–", "one seed: it may be chance"]
    half = stats.t.ppf((1 + confidence) / 2, count - 1) * found.std() / math.sqrt(count)
    inside = abs(mean) <= half
    return [
        f"{mean:+.1f} ± {found.std():.1f} ({count} seeds)",
        f"{mean - half:+.1f} to {mean + half:+.1f}",
        "inside the spread of the seeds" if inside else "more than the spread of the seeds",
    ]
