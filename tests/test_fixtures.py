"""PNFS_FIXTURES may name a folder that lacks some of the recorded fixtures; our own lacks none."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize(("variable", "code"), [("PNFS_FIXTURES", 0), ("", 2)])
def test_absent_fixtures_are_skipped_in_another_folder_alone(tmp_path: Path, variable: str, code: int) -> None:
    tests, copy = Path(__file__).parent, tmp_path / "tests"
    (copy / "fixtures").mkdir(parents=True)
    for name in ("conftest.py", "train_server.py", "tiny_runs.py"):
        (copy / name).write_text((tests / name).read_text())
    (copy / "test_codec.py").write_text((tests / "codec" / "test_codec.py").read_text())
    environment = {key: value for key, value in os.environ.items() if key != "PNFS_FIXTURES"}
    environment |= {"PYTHONPATH": str(tests)} | ({variable: str(copy / "fixtures")} if variable else {})
    options = ["-q", "-rs", "-m", "fixtures", "-c", str(tests.parent / "pyproject.toml"), str(copy)]
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *options]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == code, done.stdout + done.stderr
    assert ("PNFS_FIXTURES has no decode_*.npz" in done.stdout) == (code == 0)
    assert ("Empty parameter set" in done.stdout) == (code == 2)
