"""Wrong values of keys, and every choice of every group: a run, or one sentence that names the key."""

import random
from pathlib import Path
from typing import Any

import pytest

from conftest import FEW, Tally
from pnfs.commands.configuration import packaged_folder, plain
from tiny_runs import composed
from train_server import TrainServer

WRONG = ["text", "-1", "null", "[1,2]", "{a:1}", "1e400", "0", "true", '""', "1.5"]
DRY = [*FEW, "+trainer.fast_dev_run=true"]


def leaves(tree: Any, above: str = "") -> list[str]:
    if isinstance(tree, dict) and tree:
        return [leaf for key, value in tree.items() for leaf in leaves(value, f"{above}.{key}".strip("."))]
    return [above]


def complaint(server: TrainServer, folder: Path, *arguments: str) -> str | None:
    """What is wrong with how a command ended: neither well nor with a sentence of one or two lines."""
    done = server.run(folder, *arguments)
    said = (done.stdout + done.stderr).strip()
    if done.returncode == 0:
        return None
    good = done.returncode == 1 and "Traceback" not in said and "pnfs train: " in said
    return None if good else f"{' '.join(arguments[-1:])}: {done.returncode}: {said[-300:]}"


@pytest.mark.slow
@pytest.mark.parametrize("part", range(4))
def test_wrong_values(server: TrainServer, tmp_path: Path, tally: Tally, part: int) -> None:
    keys = [key for key in leaves(plain(composed("train", *FEW))) if "_target_" not in key]
    draw, wrong = random.Random(0), []
    tried = [(key, value) for key in keys for value in draw.sample(WRONG, 2)][part::4]
    for key, value in tried:
        wrong.append(complaint(server, tmp_path, "train", *DRY, f"{key}={value}"))
    found = [w for w in wrong if w is not None]
    assert not found, "\n".join(found)
    tally("wrong values of keys", len(tried), "the key, its value, and what it may hold")


CHOICES = [
    (path.parent.name, path.stem)
    for path in sorted(packaged_folder("conf").glob("*/*.yaml"))
    if path.parent.name not in ("dataset", "experiment", "profile", "hydra", "trainer", "debug")
]


@pytest.mark.slow
@pytest.mark.timeout(1800)  # Of the accelerations some compile.
@pytest.mark.parametrize("group", sorted({group for group, _ in CHOICES}))
def test_every_choice_is_built(server: TrainServer, tmp_path: Path, tally: Tally, group: str) -> None:
    chosen = [choice for name, choice in CHOICES if name == group]
    small = [argument for argument in DRY if not argument.startswith(group)]
    weights = [f"pretrained.{kind}=none" for kind in ("mobilenet_v2", "resnet", "hrnet")]
    if group == "backbone":
        small = [argument for argument in small if not argument.startswith("backbone.")]
    if group == "model":
        small = [a for a in small if not a.startswith(("model.", "backbone", "parts"))]
    wrong = []
    for choice in chosen:
        value = f"[default,{choice}]" if group == "callbacks" else choice
        wrong.append(complaint(server, tmp_path, "train", *small, *weights, f"{group}={value}"))
    found = [w for w in wrong if w is not None]
    assert not found, "\n".join(found)
    tally("every choice of every group, trained for a step", len(chosen), "a run")
