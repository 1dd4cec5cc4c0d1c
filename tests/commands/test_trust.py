"""Checkpoints that name classes of a user's: every command asks for trust before it imports one."""

import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from omegaconf.errors import InterpolationResolutionError

import pnfs
from pnfs.commands.building import build_network, save_network
from pnfs.commands.configuration import plain
from pnfs.models.architecture import describe_architecture
from pnfs.training.checkpoints import CheckpointError, without_downloads
from tiny_runs import PEOPLE, TINY, call, composed

GATE = """
from pathlib import Path
from pnfs.models.operations import Operation

Path(__file__).with_name("imported").touch()

class Gate(Operation):
    def __init__(self, parts, channels):
        super().__init__()

    def forward(self, x, weight):
        return x.sigmoid() * weight.repeat_interleave(x.shape[1] // len(weight))[:, None, None]
"""
GATES = "+operations.gate={_target_: gate_of_a_user.Gate, _partial_: true}"


@pytest.fixture
def checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of an untrained network with an operation of the user's, whose module nobody has imported yet."""
    sys.modules.pop("gate_of_a_user", None)
    (tmp_path / "gate_of_a_user.py").write_text(GATE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    settings = plain(composed("train", *PEOPLE, *TINY, GATES))
    network = build_network(settings["model"])
    path = save_network(tmp_path / "run", network, settings, describe_architecture(network))
    sys.modules.pop("gate_of_a_user")
    (tmp_path / "imported").unlink()
    cv2.imwrite("person.png", np.full((64, 64, 3), 128, np.uint8))
    return path


OPTIONS = {"evaluate": ("workers=0", "out=e"), "predict": ("input=person.png", "out=p"), "derive": ("out=d",),
           "export": ("out=m.onnx",)}  # fmt: skip


def started(command: str, path: Path, trust: bool) -> None:
    if command == "load":
        pnfs.load(path, "cpu", trust=trust)
    elif command == "initial":
        given = composed("train", "experiment=finetune", f"initial={path}", f"trust={trust}")
        build_network(plain(given)["model"])
    else:
        call(command, f"checkpoint={path}", f"trust={trust}", *OPTIONS[command])


@pytest.mark.parametrize("command", [*OPTIONS, "load", "initial"])
def test_without_trust_the_class_is_named_and_not_imported(checkpoint: Path, command: str) -> None:
    with pytest.raises(
        (CheckpointError, InterpolationResolutionError),
        match=r"gate_of_a_user\.Gate.*operations\.gate.*trust=true",
    ):
        started(command, checkpoint, False)
    assert not Path("imported").exists()


@pytest.mark.parametrize("command", ["predict", "derive", "load", "initial"])
def test_with_trust_the_class_is_built(checkpoint: Path, command: str) -> None:
    started(command, checkpoint, True)
    assert Path("imported").exists()


def test_a_picture_needs_no_trust(checkpoint: Path) -> None:
    call("show", f"checkpoint={checkpoint}", "format=svg", "out=s")
    assert "gate" in Path("s/architecture.svg").read_text()
    assert not Path("imported").exists()


def test_no_part_of_a_model_downloads_its_weights(checkpoint: Path) -> None:
    home = "pnfs.models.backbones"
    model: dict[str, Any] = {
        "_target_": "pnfs.models.baselines.HRNetPose", "weights": "somebody.pth",
        "backbone": {"_target_": f"{home}.MobileNetV2"},
        "more": [{"_target_": f"{home}.ResNet", "depth": 50, "weights": "imagenet"}],
        "operations": {"gate": {"_target_": "gate_of_a_user.Gate", "_partial_": True}},
    }  # fmt: skip
    found = without_downloads({"model": model, "seed": 3})
    without = model | {
        "weights": "none", "backbone": model["backbone"] | {"weights": "none"},
        "more": [model["more"][0] | {"weights": "none"}],
    }  # fmt: skip
    # A class that knows no weights is not given any.
    assert found == {"model": without, "seed": 3}
