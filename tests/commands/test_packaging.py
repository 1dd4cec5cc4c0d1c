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
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what a wheel of this tree holds."""
    folder = tmp_path_factory.mktemp("installed")
    # Without isolation nothing is fetched.
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder)]
    done = subprocess.run([*command, str(REPOSITORY)], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = folder.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


@pytest.mark.parametrize(
    ("folder", "below", "kind"),
    [("src/pnfs", "pnfs", "*.py"), ("src/pnfs", "pnfs", "viz/page/*"), ("conf", "pnfs/conf", "*.yaml"),
     ("experiments", "pnfs/experiments", "*/paper.csv"), ("experiments", "pnfs/experiments", "**/*.yaml")],
)  # fmt: skip
def test_wheel_holds_every_file(installed: Path, folder: str, below: str, kind: str) -> None:
    def files(root: Path) -> set[str]:
        return {str(path.relative_to(root)) for path in root.rglob(kind)}

    assert len(files(REPOSITORY / folder)) >= 3
    assert files(installed / below) == files(REPOSITORY / folder)
    top = {re.sub(r"-.*\.", "-*.", path.name) for path in installed.iterdir()}
    assert top == {"pnfs", "pnfs-*.dist-info"}


def test_unpacked_wheel_runs_from_anywhere(installed: Path, tmp_path: Path) -> None:
    # Read as sys.path entries come: the unpacked wheel hides the editable installation.
    program = "import pnfs; print(pnfs.__file__); from pnfs.commands.main import main; main()"
    command = [sys.executable, "-c", program, "cost", "parts=p1", "input_size=[64,64]"]
    environment = {**os.environ, "PYTHONPATH": str(installed), "COLUMNS": "200"}
    shown = subprocess.check_output(command, cwd=tmp_path, env=environment, text=True)
    first, *table = shown.splitlines()
    assert Path(first).is_relative_to(installed)
    assert any(re.search(r"total .*\d,\d{3}", line) for line in table)
