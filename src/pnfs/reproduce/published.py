"""The paper's tables as data: `experiments/<table>/paper.csv`, every number as it is printed."""

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pnfs.errors import PnfsError

FILE = "paper.csv"

CITED, OWN = "cited", "ours"
"""Column `who`: another method's numbers, quoted by the paper, or the paper's own."""

OTHERS = {
    "backbone": "backbone",
    "backbone_params": "backbone parameters (M)",
    "head": "head",
    "head_params": "head parameters (M)",
    "params": "parameters (M)",
    "flops": "MACs (G)",
    "gpu_days": "search time (GPU-days)",
}
"""Columns that are not scores -> their title."""

PAPER_GIGA = 2**30
"""The summary in the public pose code divides by 1024^3, and the paper's counts of baselines fit that."""

_WORDS = ("backbone", "head")
"""Columns that hold words in place of numbers."""
_DEVIATION = "_std"
"""Ends the name of a column with the standard deviation of another."""


class PublishedError(PnfsError):
    """A file of published numbers that is not as it should be; the message names it."""


@dataclass(frozen=True)
class Printed:
    """A score as it is printed, with its standard deviation where one is printed."""

    text: str
    deviation_text: str = ""

    def __str__(self) -> str:
        return f"{self.text} ± {self.deviation_text}" if self.deviation_text else self.text

    @property
    def value(self) -> float:
        return float(self.text)

    @property
    def deviation(self) -> float | None:
        return float(self.deviation_text) if self.deviation_text else None


@dataclass(frozen=True)
class Published:
    """One row of a table of the paper; what is not printed is not in it."""

    method: str
    cited: bool
    scores: Mapping[str, Printed]
    """Score name (as in the records) -> what is printed."""
    others: Mapping[str, str]
    """Column of `OTHERS` -> what is printed."""

    def number(self, column: str) -> float | None:
        """The number in a column of `OTHERS`; None if it is not printed."""
        text = self.others.get(column)
        return None if text is None else float(text)


def read_published(path: Path, scores: Mapping[str, str]) -> tuple[Published, ...]:
    """The rows of a published table, in its order.

    Args:
        path: A CSV file whose first column names the method; further ones are `who`, those of `scores`
            (and `<column>_std`) and any of `OTHERS`. Lines at its top that start with # name the source.
        scores: Column -> name of the score in our records that stands beside it.

    Raises:
        PublishedError: The file cannot be read, has a column that is not known or lacks one, or a
            cell is not a number; the message names file and row.
    """
    header, lines = _read(path)
    deviations = {column + _DEVIATION for column in scores}
    missing = {"who", *scores} - set(header[1:])
    unknown = set(header[1:]) - {"who", *scores, *deviations, *OTHERS}
    for what, names in (("lacks", missing), ("has an unknown", unknown)):
        if names:
            raise PublishedError(f"{path}: {what} column {', '.join(sorted(names))}")
    rows = tuple(
        _row(path, line[0], dict(zip(header[1:], line[1:], strict=True)), scores) for line in lines
    )
    if len({row.method for row in rows}) < len(rows):
        raise PublishedError(f"{path}: two rows have the same method")
    return rows


def _read(path: Path) -> tuple[list[str], list[list[str]]]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise PublishedError(f"{path}: cannot be read: {error}") from error
    content = [line for line in text.splitlines() if line and not line.startswith("#")]
    try:
        header, *lines = list(csv.reader(content, strict=True)) or [[]]
    except csv.Error as error:
        raise PublishedError(f"{path}: is not a CSV file ({error})") from error
    for line in lines:
        if len(line) != len(header):
            raise PublishedError(
                f"{path}: row {line[0]!r} has {len(line)} cells, the header {len(header)}"
            )
    return header, lines


def _row(path: Path, method: str, cells: Mapping[str, str], scores: Mapping[str, str]) -> Published:
    where = f"{path}: row {method!r}"
    if cells["who"] not in (CITED, OWN):
        raise PublishedError(f"{where}: who is {cells['who']!r}, not {OWN} or {CITED}")
    for column, text in cells.items():
        words = column == "who" or (column in _WORDS and column not in scores)
        if text and not words and not _is_number(text):
            raise PublishedError(f"{where}: {column} is {text!r}, not a number")
    return Published(
        method=method,
        cited=cells["who"] == CITED,
        scores={
            name: Printed(cells[column], cells.get(column + _DEVIATION, ""))
            for column, name in scores.items()
            if cells[column]
        },
        others={name: text for name, text in cells.items() if _is_other(name, scores) and text},
    )


def _is_other(column: str, scores: Mapping[str, str]) -> bool:
    return column in OTHERS and column not in scores


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def not_named(rows: Sequence[Published], named: Sequence[str]) -> tuple[Published, ...]:
    """The published rows that no row of ours stands beside."""
    return tuple(row for row in rows if row.method not in named)
