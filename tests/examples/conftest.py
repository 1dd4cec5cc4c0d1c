"""What the examples share: a folder of the user's, and the `pnfs` command in it."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pnfs.commands.launch import start

Pnfs = Callable[..., None]


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, str], None]:
    """Writes a file of the user's folder."""

    def write(name: str, text: str) -> None:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    return write


@pytest.fixture
def pnfs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pnfs:
    """`PYTHONPATH=. pnfs COMMAND --config-dir conf ARGUMENTS` in the user's folder, in this process."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))

    def run(command: str, *arguments: str) -> None:
        monkeypatch.setattr(sys, "argv", [command, "--config-dir", "conf", *arguments])
        start(command)

    return run
