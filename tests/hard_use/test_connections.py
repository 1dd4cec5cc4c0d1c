"""No command contacts the outside unasked: connections are refused and noted, and nothing is missed."""

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from conftest import FEW, Tally, only
from train_server import TrainServer

RUN, MODEL = "checkpoint={run}", "checkpoint={folder}/model.onnx"
COMMANDS = [
    ["train", *FEW, "seed=1", "epochs=1"],
    ["train", *FEW, "seed=2", "epochs=1", "logger=[csv,wandb]", "logger.wandb.project=p"],
    ["train", *FEW, "seed=3", "epochs=1", "logger=[csv,tensorboard]"],
    ["train", *FEW, "seed=4", "epochs=1", "callbacks=[default,ema,pictures]"],
    ["train", *FEW, "seed=5", "epochs=1", "initial={run}"],
    ["train", *FEW, "seed=6,7", "epochs=1", "--multirun"],
    ["evaluate", RUN, "workers=0", "trainer=cpu", "out=evaluated"], ["export", RUN, "out=model.onnx"],
    ["predict", RUN, "input=person.png", "device=cpu"],
    ["predict", MODEL, "input=person.png", "runtime=onnx", "out=p1"],
    ["predict", MODEL, "input=person.png", "runtime=openvino", "out=p2"],
    ["derive", RUN, "method=exact", "out=d1"], ["derive", RUN, "method=prune", "out=d2"],
    ["derive", RUN, "method=argmax", "out=d3"], ["show", RUN, "out=a.png"], ["cost", *FEW],
    ["tables", "target=table3", "profile=smoke", "out=tables"], ["runs", "run_root=runs"],
    ["runs", "run_root=runs", "html=page.html"],
    ["data", "dataset=synthetic", "dataset.train=4", "dataset.val=4"],
    ["data", "dataset=synthetic", "dataset.train=4", "dataset.val=4", "out=b"],
]  # fmt: skip


@pytest.mark.slow
def test_commands_without_a_network(
    server: TrainServer, runs: dict[str, Path], tmp_path: Path, tally: Tally
) -> None:
    cv2.imwrite(str(tmp_path / "person.png"), np.full((64, 64, 3), 128, np.uint8))
    shutil.copytree(only(runs["whole"]), tmp_path / "run")
    log, ended = tmp_path / "connections.txt", {}
    for command in COMMANDS:
        words = [word.replace("{run}", "run").replace("{folder}", ".") for word in command]
        done = server.run(tmp_path, *words, blocked=log)
        if done.returncode:
            ended[" ".join(words)] = (done.stdout + done.stderr)[-400:]
    assert ended == {}
    assert not log.exists(), log.read_text()
    tally("commands with connections blocked", len(COMMANDS), "what they print with a network")
