"""What the examples share: a folder of the user's, and the `pnfs` command in it."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pnfs.commands.launch import start
from pnfs.data.synthetic import Synthetic
from pnfs.viz.style import save_image


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Each example trains, scores, derives, exports and predicts."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.slow)


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, str], None]:
    """Writes a file of the user's folder."""

    def write(name: str, text: str) -> None:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    return write


@pytest.fixture
def people(tmp_path: Path) -> None:
    """Pictures data/{train,val}/0.png, ... of one person each, and data/{train,val}.npy: joints in pixels."""
    drawn = Synthetic(train=16, val=8, image_size=(64, 64), unlabelled=0, truncated=0, turned_away=0)
    for split in ("train", "val"):
        persons = drawn.persons(split)
        for row in range(len(persons.ids)):
            save_image(tmp_path / f"data/{split}/{row}.png", persons.images.read(row))
        np.save(tmp_path / f"data/{split}.npy", persons.joints)


class Pnfs:
    """`PYTHONPATH=. pnfs COMMAND --config-dir conf ARGUMENTS` in the user's folder."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.monkeypatch = folder, monkeypatch

    def __call__(self, command: str, *arguments: str) -> Path:
        """Runs a command; returns the folder of the run, which after a training is the only one."""
        self.monkeypatch.setattr(sys, "argv", [command, "--config-dir", "conf", *arguments])
        start(command)
        return next(path.parent for path in self.folder.glob("runs/*/*/result.json"))

    def predicts_alike(self, exported: str, *arguments: str) -> bool:
        """Whether an exported file gives the joints of a picture the scores that its checkpoint gives."""
        return np.allclose(self.scores(f"checkpoint={exported}"), self.scores(*arguments), atol=1e-3)

    def scores(self, *arguments: str) -> list[float]:
        """Scores of the joints that `pnfs predict` finds in a picture."""
        save_image(self.folder / "person.png", Synthetic(val=1).persons("val").images.read(0))
        self("predict", *arguments, "input=person.png", "out=poses")
        (person,) = json.loads((self.folder / "poses/keypoints.json").read_text())["annotations"]
        return person["keypoint_scores"]


@pytest.fixture
def pnfs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pnfs:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return Pnfs(tmp_path, monkeypatch)
