"""What an inspection finds."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from pnfs.data.persons import DataError

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")


@dataclass(frozen=True)
class Finding:
    """One thing that somebody should know before hours are spent."""

    severity: Severity
    """error: results would be wrong or a run would stop; warning: look at it; note: for information."""
    check: str
    """Which check found it, such as "joint order"."""
    where: str
    """The file, folder, split or device concerned."""
    problem: str
    """What is wrong, with figures."""
    advice: str
    """What to do."""
    records: tuple[str, ...] = ()
    """Every record or file concerned, where they can be told."""


def finding_of_error(error: DataError, check: str, where: str) -> Finding:
    """A loader's refusal as a finding; what follows its first line says what to do."""
    problem, _, rest = str(error).partition("\n")
    advice = rest or "Repair or replace what the message names, then inspect again."
    return Finding("error", check, where, problem, advice)


def some(names: Sequence[str], most: int = 3) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def worst_first(findings: Iterable[Finding]) -> list[Finding]:
    """Errors, then warnings, then notes; otherwise in the order found."""
    return sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity))
