"""metrics.csv over interruptions: Lightning's CSV logger starts an empty file each time."""

from pathlib import Path

import pandas as pd

METRICS = "metrics.csv"
_EARLIER = "metrics_earlier.csv"


def set_aside(folder: Path, finished_epochs: int) -> None:
    """Keeps what earlier starts of a run have logged, before a logger deletes it.

    Rows of epochs that are not finished are dropped; the resumed run logs them again.
    """
    rows = _together(folder)
    if rows is not None:
        _write(folder / _EARLIER, rows[rows["epoch"].astype(float) < finished_epochs])
        (folder / METRICS).unlink(missing_ok=True)


def put_together(folder: Path) -> None:
    """Brings what was set aside back into metrics.csv."""
    rows = _together(folder)
    if rows is not None and (folder / _EARLIER).is_file():
        _write(folder / METRICS, rows)
        (folder / _EARLIER).unlink()


def _together(folder: Path) -> pd.DataFrame | None:
    """All rows as they were written: numbers keep their digits."""
    paths = [folder / name for name in (_EARLIER, METRICS)]
    written = [path for path in paths if path.is_file() and path.stat().st_size]
    tables = [pd.read_csv(path, dtype=str, on_bad_lines="skip") for path in written]
    return pd.concat(tables, ignore_index=True) if tables else None


def _write(path: Path, rows: pd.DataFrame) -> None:
    temporary = path.with_suffix(".tmp")
    rows.to_csv(temporary, index=False)
    temporary.replace(path)
