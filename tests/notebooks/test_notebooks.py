"""Every notebook runs from the first cell to the last, and is committed with what it shows (`make notebooks`)."""

import json
import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def pictures(cell) -> list[str]:
    """What a cell shows as a picture: its outputs, or a linked file."""
    links = re.findall(r"!\[.+?\]\((.+?)\)", cell.source) if cell.cell_type == "markdown" else []
    return links + [kind for out in cell.get("outputs", ()) for kind in out.get("data", {}) if "image/" in kind]


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    place = {"metadata": {"path": str(path.parent)}}
    # An error in a cell is raised here, with the cell's source.
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources=place).execute()
    assert any(pictures(cell) for cell in notebook.cells if cell.cell_type == "code")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_is_committed_with_its_pictures(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    assert path.stat().st_size < 400_000
    opening = [name for cell in notebook.cells[:2] for name in pictures(cell)]
    assert opening, "a notebook opens with a picture"
    assert all("image/" in name or (path.parent / name).is_file() for name in opening)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    outputs = json.dumps([cell.outputs for cell in code])
    assert not re.search(r"/(home|root|work|Users)/|Traceback", outputs), "a path of one machine"
