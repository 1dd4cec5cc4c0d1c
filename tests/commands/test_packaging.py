"""The wheel holds everything a run needs, and works without the repository; the model that comes with it."""

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import pnfs
from pnfs.commands.building import trained_network
from pnfs.files import SHIPPED
from pnfs.models import PoseFabricNetwork
from pnfs.models.architecture import describe_architecture, to_json
from pnfs.training.checkpoints import ARCHITECTURE_KEY, CARD_KEY, CONFIG_KEY, read_checkpoint, without_downloads
from tiny_runs import call

REPOSITORY = Path(__file__).parents[2]


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


@pytest.mark.slow
@pytest.mark.parametrize(
    ("folder", "below", "kind"),
    [("src/pnfs", "pnfs", "*.py"), ("src/pnfs", "pnfs", "viz/page/*"), ("conf", "pnfs/conf", "*.yaml"),
     ("experiments", "pnfs/experiments", "*/paper.csv"), ("experiments", "pnfs/experiments", "**/*.yaml"),
     ("experiments", "pnfs/experiments", "study*/runs/**/*.json")],
)  # fmt: skip
def test_wheel_holds_every_file(installed: Path, folder: str, below: str, kind: str) -> None:
    def files(root: Path) -> set[str]:
        return {str(path.relative_to(root)) for path in root.rglob(kind)}

    assert len(files(REPOSITORY / folder)) >= 3
    assert files(installed / below) == files(REPOSITORY / folder)
    top = {re.sub(r"-.*\.", "-*.", path.name) for path in installed.iterdir()}
    assert top == {"pnfs", "pnfs-*.dist-info"}


@pytest.mark.slow
def test_unpacked_wheel_runs_from_anywhere(installed: Path, tmp_path: Path) -> None:
    # Read as sys.path entries come: the unpacked wheel hides the editable installation.
    program = "import pnfs; print(pnfs.__file__); from pnfs.commands.main import main; main()"
    command = [sys.executable, "-c", program, "cost", "parts=p1", "input_size=[64,64]"]
    environment = {**os.environ, "PYTHONPATH": str(installed), "COLUMNS": "200"}
    shown = subprocess.check_output(command, cwd=tmp_path, env=environment, text=True)
    first, *table = shown.splitlines()
    assert Path(first).is_relative_to(installed)
    assert any(re.search(r"total .*\d,\d{3}", line) for line in table)


def test_it_is_small_and_says_what_it_is() -> None:
    content = read_checkpoint("shipped")
    assert SHIPPED.stat().st_size < 7e6
    assert "Leeds Sports Pose" in content[CARD_KEY]
    assert all(torch.isfinite(value).all() for value in content["state_dict"].values())
    assert "/" not in str(content["pnfs_config"]["dataset"]["root"])
    # The architecture that is drawn is that of the weights.
    network = trained_network(without_downloads(content[CONFIG_KEY]), content, SHIPPED)
    assert isinstance(network, PoseFabricNetwork)
    assert to_json(describe_architecture(network)) == content[ARCHITECTURE_KEY]


def test_it_predicts_without_being_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    cv2.imwrite("my photo.png", np.random.default_rng(0).integers(0, 255, (90, 60, 3), np.uint8))
    call("predict", "input=my photo.png", "device=cpu")
    assert read_checkpoint("shipped", builds=())[CARD_KEY].split()[0] in capsys.readouterr().out
    (found,) = tmp_path.glob("runs/predict/*/keypoints.json")
    assert len(pnfs.load("shipped", device="cpu").skeleton) == 14
    assert '"keypoints"' in found.read_text()
