"""metrics.csv over interruptions: Lightning's CSV logger starts an empty file each time."""

import csv
from pathlib import Path

METRICS = "metrics.csv"
_EARLIER = "metrics_earlier.csv"


def set_aside(folder: Path, finished_epochs: int) -> None:
    """Keeps what earlier starts of a run have logged, before a logger deletes it.

    Args:
        folder: The run's folder.
        finished_epochs: Rows of later epochs are dropped; the resumed run logs them again.
    """
    rows = [
        row
        for row in _read(folder / _EARLIER) + _read(folder / METRICS)
        if row.get("epoch") and int(row["epoch"]) < finished_epochs
    ]
    _write(folder / _EARLIER, rows)
    (folder / METRICS).unlink(missing_ok=True)


def put_together(folder: Path) -> None:
    """Brings what was set aside back into metrics.csv."""
    if (folder / _EARLIER).is_file():
        _write(folder / METRICS, _read(folder / _EARLIER) + _read(folder / METRICS))
        (folder / _EARLIER).unlink()


def _read(path: Path) -> list[dict[str, str]]:
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def _write(path: Path, rows: list[dict[str, str]]) -> None:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    temporary = path.with_suffix(".tmp")
    with temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, restval="")
        writer.writeheader()
        writer.writerows(rows)
    temporary.replace(path)
