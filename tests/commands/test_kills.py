"""Trainings with loader processes, killed at random moments, end bit for bit like uninterrupted ones."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from train_server import TrainServer, assert_same_training

pytestmark = pytest.mark.slow

KILLS = 5
RUN = [
    "backbone=fabric",
    "backbone.fabrics.first_layers=3",
    "backbone.fabrics.channels=2",
    "model.fabrics.channels=2",
    "parts=p1",
    "input_size=[32,32]",
    "batch_size=4",
    "eval_batch_size=8",
    "augmentation=paper",
    "optimizer.lr=0.01",
    "workers=2",
    "trainer=cpu",
    "name=tiny",
    "dataset.train=24",
    "dataset.val=8",
    "dataset.image_size=[48,48]",
    f"epochs={2 * KILLS + 2}",
]
CASES = {
    "synchronous": ["strategy=synchronous"],
    "random": ["strategy=random"],
    "first_order": ["strategy=first_order"],
    "second_order": ["strategy=second_order"],
    "gumbel": ["strategy=gumbel"],
    "frozen": ["strategy=frozen"],
    "accumulated gradients": ["+trainer.accumulate_grad_batches=4"],
    "accumulated gradients, first order": [
        "strategy=first_order",
        "+trainer.accumulate_grad_batches=2",
    ],
    "one-cycle schedule": ["schedule=one_cycle", "strategy.warmup_epochs=2"],
    "without loader processes": ["workers=0"],
}


@pytest.fixture(scope="module")
def server() -> Iterator[TrainServer]:
    server = TrainServer()
    yield server
    server.close()


@pytest.mark.parametrize("case", CASES)
def test_killed_training_ends_like_the_uninterrupted(
    server: TrainServer, tmp_path: Path, case: str
) -> None:
    overrides, log = [*RUN, *CASES[case]], tmp_path / "log.txt"
    server.train([*overrides, f"run_root={tmp_path / 'whole'}"], log)
    (whole,) = (tmp_path / "whole").glob("*/*")
    killed = server.train_with_kills(overrides, tmp_path / "killed", log, kills=KILLS, seed=1)
    assert_same_training(whole, killed)


@pytest.mark.parametrize("patience", [3, 5])
def test_killed_training_stops_early_where_the_uninterrupted_does(
    server: TrainServer, tmp_path: Path, patience: int
) -> None:
    # Hardly learns: the scores stop to rise soon.
    stops = ["callbacks=[default,early_stopping]", f"callbacks.early_stopping.patience={patience}"]
    stops += ["optimizer.lr=1e-9", "epochs=40"]
    overrides, log = [*RUN, *stops], tmp_path / "log.txt"
    server.train([*overrides, f"run_root={tmp_path / 'whole'}"], log)
    (whole,) = (tmp_path / "whole").glob("*/*")
    killed = server.train_with_kills(
        overrides, tmp_path / "killed", log, kills=patience // 2, seed=patience
    )
    assert_same_training(whole, killed)
