"""Runs that take no training: a configuration as a command composes it, and a folder with an untrained network."""

import json
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from pnfs.commands.building import build_network
from pnfs.commands.configuration import packaged_folder, plain
from pnfs.commands.launch import run
from pnfs.training.checkpoints import CONFIG_KEY

PEOPLE = ("dataset=synthetic", "dataset.train=8", "dataset.val=6", "dataset.image_size=[64,64]")
"""A few drawn people."""

TINY = (
    "backbone=fabric", "backbone.fabrics.first_layers=3", "backbone.fabrics.channels=2",
    "model.fabrics.channels=2",
    "model.fabrics.last_layers=2", "parts=p1", "input_size=[64,64]", "trainer=cpu",
)  # fmt: skip
"""The smallest network that has all kinds of layers."""


def composed(command: str, *overrides: str) -> DictConfig:
    """A command's configuration."""
    with initialize_config_dir(version_base="1.3", config_dir=str(packaged_folder("conf"))):
        return compose(command, list(overrides))


def call(command: str, *overrides: str) -> Any:
    """A command in this process, its configuration checked."""
    return run(command, composed(command, *overrides))


def untrained_run(folder: Path, *overrides: str) -> Path:
    """`folder`, with checkpoints/best.ckpt of an untrained network."""
    settings = plain(composed("train", *PEOPLE, *TINY, *overrides))
    torch.manual_seed(0)
    network = build_network(settings["model"])
    network.calibrate(torch.randn(4, 3, 64, 64))
    state = {f"network.{name}": value for name, value in network.state_dict().items()}
    (folder / "checkpoints").mkdir(parents=True)
    torch.save({"state_dict": state, "epoch": 0, CONFIG_KEY: settings}, folder / "checkpoints" / "best.ckpt")
    return folder


WATCH = """
import os, sys
def watch(event, args):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"):
        with open(os.environ["SEEN"], "a") as seen:
            seen.write(f"{event} {args[1:]}\\n")
        raise OSError("no network in this test")
sys.addaudithook(watch)
"""
"""A program's beginning: what asks for an address or a connection, is noted in $SEEN and stopped."""


def record_of(folder: Path) -> dict[str, Any]:
    """The record of a run or of an evaluation."""
    return json.loads((folder / "result.json").read_text())


def only_run(root: Path) -> Path:
    """The folder of the one run below a run_root."""
    (folder,) = root.glob("*/*")
    return folder
