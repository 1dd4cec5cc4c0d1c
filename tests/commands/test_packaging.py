"""The wheel holds everything a run needs, and works without the repository."""

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    # Without isolation nothing is fetched.
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder)]
    done = subprocess.run(
        [*command, str(REPOSITORY)], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("installed")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


@pytest.mark.parametrize(
    ("folder", "below", "kind"),
    [
        ("src/pnfs", "pnfs", "*.py"),
        ("conf", "pnfs/conf", "*.yaml"),
        ("experiments", "pnfs/experiments", "*/paper.csv"),
        ("experiments", "pnfs/experiments", "**/*.yaml"),
    ],
)
def test_wheel_holds_every_file(installed: Path, folder: str, below: str, kind: str) -> None:
    def files(root: Path) -> set[str]:
        return {str(path.relative_to(root)) for path in root.rglob(kind)}

    assert len(files(REPOSITORY / folder)) >= 7
    assert files(installed / below) == files(REPOSITORY / folder)


def test_wheel_holds_nothing_else(installed: Path) -> None:
    top = {path.name for path in installed.iterdir()}
    assert {re.sub(r"-.*\.", "-*.", name) for name in top} == {"pnfs", "pnfs-*.dist-info"}
    (metadata,) = installed.glob("*.dist-info")
    assert "pnfs = pnfs.commands.main:main" in (metadata / "entry_points.txt").read_text()


def test_unpacked_wheel_runs_from_anywhere(installed: Path, tmp_path: Path) -> None:
    # Read as sys.path entries come: the unpacked wheel hides the editable installation.
    program = "import pnfs; print(pnfs.__file__); from pnfs.commands.main import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", program, "cost", "parts=p1", "input_size=[64,64]"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(installed), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    first, *table = done.stdout.splitlines()
    assert Path(first).is_relative_to(installed)
    assert any(re.search(r"total .*\d,\d{3}", line) for line in table)
