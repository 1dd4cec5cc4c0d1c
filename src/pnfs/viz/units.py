"""How lists, pages and drawings write durations, counts and scores."""

import math


def known(value: float | None) -> bool:
    """Whether there is a number."""
    return value is not None and math.isfinite(value)


def duration(seconds: float | None) -> str:
    """Hours and minutes, or seconds of a short run; "–" for None, as the other functions here."""
    if seconds is None or not math.isfinite(seconds):
        return "–"
    if seconds < 120:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min"


def millions(count: float | None) -> str:
    """A count of parameters."""
    return f"{count / 1e6:.2f} M" if count is not None else "–"


def giga(count: float | None) -> str:
    """A count of multiply-accumulates."""
    return f"{count / 1e9:.3g} G" if count is not None else "–"


def percent(score: float | None) -> str:
    """A score that is in percent already."""
    return f"{score:.1f}" if score is not None and math.isfinite(score) else "–"
