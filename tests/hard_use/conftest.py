"""The table of what was tried, by class: experiments/hard_use/table.md, made by `make hard-use`."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from train_server import TrainServer

ROWS: list[tuple[str, int, str]] = []

Tally = Callable[[str, int, str], None]


@pytest.fixture
def tally() -> Tally:
    """Called at the end of a test, when all has survived: class, how many were tried, what the user sees."""

    def tally(kind: str, tried: int, seen: str) -> None:
        ROWS.append((kind, tried, seen))

    return tally


@pytest.fixture(scope="module")
def server() -> Iterator[TrainServer]:
    server = TrainServer()
    yield server
    server.close()


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Writes the table where PNFS_HARD_USE names a file; a failed test is a row of its own."""
    path = os.environ.get("PNFS_HARD_USE")
    if path is None:
        return
    reports = session.config.pluginmanager.get_plugin("terminalreporter").stats  # type: ignore[union-attr]
    kinds: dict[str, tuple[int, str]] = {}
    for kind, tried, seen in ROWS:
        before, said = kinds.get(kind, (0, seen))
        kinds[kind] = before + tried, said
    lines = [
        "# Hard use: what was broken on purpose",
        "",
        "Written by `make hard-use` (tests/hard_use). Survived: the result is the one that nothing disturbed, or",
        "one sentence says which file or key is wrong; no traceback from inside, nothing hangs, nothing is lost.",
        "",
        "| class | tried | survived | what the user sees |",
        "|---|---:|---:|---|",
        *(f"| {kind} | {tried:,} | {tried:,} | {seen} |" for kind, (tried, seen) in kinds.items()),
        "",
    ]
    lines += [f"- FAILED: `{report.nodeid}`" for report in reports.get("failed", [])]
    lines += [f"- not tried: `{report.nodeid}`" for report in reports.get("skipped", [])]
    Path(path).write_text("\n".join(lines).rstrip() + "\n")
