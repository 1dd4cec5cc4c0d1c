"""`pnfs cache` from the command line: writes, finds again, verifies, refuses."""

import subprocess
import sys
from pathlib import Path

from pnfs.data.cache import read_manifest, settings_of

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
    folders = sorted(path.parent for path in (tmp_path / "crops").glob("*/manifest.json"))
    rooms = {(s := settings_of(read_manifest(f))).input_size: s.rotation for f in folders}
    assert len(folders) == 2
    assert set(rooms) == {(32, 32)}
    train = next(folder for folder in folders if "train" in folder.name)
    assert settings_of(read_manifest(train)).rotation == 45.0
    content = bytearray((train / "crops.bin").read_bytes())
    content[100] ^= 1
    (train / "crops.bin").write_bytes(content)
    again = cache(tmp_path, "verify=true")
    assert again.returncode == 1
    assert "1 of 4 crops are damaged" in again.stderr
    assert "Traceback" not in again.stderr
    assert cache(tmp_path, "verify=true", "rebuild=true").returncode == 0
