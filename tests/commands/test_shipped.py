"""The model that comes with the package."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import pnfs
from pnfs.training.checkpoints import CARD_KEY, SHIPPED, read_checkpoint
from tiny_runs import call


def test_it_is_small_and_says_what_it_is() -> None:
    content = read_checkpoint("shipped")
    assert SHIPPED.stat().st_size < 7e6
    assert "Leeds Sports Pose" in content[CARD_KEY]
    assert all(torch.isfinite(value).all() for value in content["state_dict"].values())
    assert "/" not in str(content["pnfs_config"]["dataset"]["root"])


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
