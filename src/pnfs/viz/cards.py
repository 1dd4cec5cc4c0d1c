"""What lists and pages say about a run, and how they write durations, counts and scores.

Loads nothing that draws: a list of runs need not wait for matplotlib.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class RunCard:
    """What is said about one run; None for what is not known, and never nan."""

    run: str
    state: str
    score: float | None = None  # The main one, named `score_name`; in percent, as are all `scores`.
    score_name: str = ""
    scores: Mapping[str, float | None] = field(default_factory=dict)
    parameters: int | None = None
    live_parameters: int | None = None
    macs: int | None = None  # Multiply-accumulates of one image.
    seconds: float | None = None
    seed: int | None = None
    what: str = ""
    cause: str | None = None
    benchmark: str = ""  # Runs of one benchmark share axes.
    row: str = ""  # The same for runs that differ in nothing but the seed; `label` names it.
    label: str = ""
    differences: Mapping[str, str] = field(default_factory=dict)  # Key -> value, within the experiment.
    metrics: Path | None = None
    pictures: Mapping[str, Path] = field(default_factory=dict)  # Title -> PNG file.


def duration(seconds: float | None) -> str:
    """Hours and minutes, or seconds of a short run; "–" for None, as below."""
    if seconds is None:
        return "–"
    if seconds < 120:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min"


def millions(count: float | None) -> str:
    """A count of parameters."""
    return "–" if count is None else f"{count / 1e6:.2f} M"


def giga(count: float | None) -> str:
    """A count of multiply-accumulates."""
    return "–" if count is None else f"{count / 1e9:.3g} G"


def percent(score: float | None) -> str:
    """A score that is in percent already."""
    return "–" if score is None else f"{score:.1f}"
