"""The table of what was tried, by class: experiments/hard_use/table.md, made by `make hard-use`."""

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from train_server import TrainServer

RUN = [
    "backbone=fabric", "backbone.fabrics.first_layers=3", "backbone.fabrics.channels=2",
    "model.fabrics.channels=2", "parts=p1", "input_size=[32,32]", "batch_size=4", "eval_batch_size=8",
    "augmentation=paper", "optimizer.lr=0.01", "workers=2", "trainer=cpu", "name=tiny", "dataset.train=24",
    "dataset.val=8", "dataset.image_size=[48,48]",
]  # fmt: skip
"""A training of seconds on a few drawn people."""

FEW = [*RUN, "dataset.train=8", "dataset.val=4", "workers=0", "epochs=4"]

ROWS: list[tuple[str, int, str]] = []

Tally = Callable[[str, int, str], None]


@pytest.fixture
def tally() -> Tally:
    """Called at the end of a test, when all has survived: class, how many were tried, what the user sees."""

    def tally(kind: str, tried: int, seen: str) -> None:
        ROWS.append((kind, tried, seen))

    return tally


@pytest.fixture(scope="session")
def runs(server: TrainServer, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folder of a run that has ended, and of the same one stopped after its third epoch of four."""
    root = tmp_path_factory.mktemp("runs")
    server.train([*FEW, f"run_root={root / 'whole'}"], root / "log.txt")
    end_of_third = ("pnfs.training.keeping:KeepLast.on_train_epoch_end", 3, True)
    server.start([*FEW, f"run_root={root / 'stopped'}"], root / "log.txt", end_of_third)
    assert server.wait() == -signal.SIGKILL
    return {name: root / name for name in ("whole", "stopped")}


def only(root: Path) -> Path:
    """The folder of the only run below a root."""
    (folder,) = root.glob("*/*")
    return folder


def refused(done: "subprocess.CompletedProcess[str]", *names: str) -> None:
    """The command ended with 1 and a sentence that names the file; no traceback."""
    said = done.stdout + done.stderr
    assert done.returncode == 1, said
    assert "Traceback" not in said, said
    assert [name for name in names if name not in done.stderr] == [], said


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
