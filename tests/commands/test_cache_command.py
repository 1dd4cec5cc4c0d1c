"""`pnfs cache` from the command line: writes, finds again, verifies, refuses."""

import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

from pnfs.data.cache import About

COMMAND = [sys.executable, "-c", "from pnfs.commands.main import main; main()", "cache"]
DATASET = ["dataset=synthetic", "dataset.train=4", "dataset.val=2", "dataset.image_size=[64,64]"]


def cache(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *DATASET, "size=32", "workers=0", "out=crops", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
    )


def test_a_cache_is_written_verified_and_found_damaged(tmp_path: Path) -> None:
    first = cache(tmp_path, "verify=true")
    assert first.returncode == 0, first.stderr
    assert "about 0 MB (jpeg)" in first.stderr
    assert "all 4 crops are as they were written" in first.stdout
    paths = sorted((tmp_path / "crops").glob("*.sqlite"))
    settings = {path.name.split("-")[0]: About.read(path).settings for path in paths}
    assert len(paths) == 2
    assert {some.input_size for some in settings.values()} == {(32, 32)}
    assert settings["synthetic_train"].rotation == 45.0
    train = paths[0]
    with closing(sqlite3.connect(train)) as connection, connection:
        connection.execute("UPDATE crops SET crc32 = crc32 + 1 WHERE person = 1")
    again = cache(tmp_path, "verify=true")
    assert again.returncode == 1
    assert "1 of 4 crops are damaged" in again.stderr
    assert "Traceback" not in again.stderr
    assert cache(tmp_path, "verify=true", "rebuild=true").returncode == 0
