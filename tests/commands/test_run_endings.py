"""A run is what it says it is: what ends it, what it is resumed with, and what its score is of."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from lightning.pytorch.callbacks.timer import Timer

from pnfs.commands import evaluate, train
from pnfs.commands.configuration import UsageError, configuration_folder
from pnfs.data.synthetic import Synthetic
from pnfs.runs.finding import read_run
from pnfs.runs.identity import OtherRunError
from pnfs.runs.state import UnfinishedError
from pnfs.search import FirstOrder
from pnfs.training.module import NonFiniteLossError, PoseModule
from train_server import assert_same_training
from written_datasets import write_mpii

MODEL = [
    "backbone=fabric",
    "backbone.fabrics.first_layers=3",
    "backbone.fabrics.channels=2",
    "model.fabrics.channels=2",
    "parts=p1",
    "input_size=[32,32]",
    "batch_size=4",
    "eval_batch_size=4",
    "optimizer.lr=0.01",
    "workers=0",
    "trainer=cpu",
    "name=tiny",
]
RUN = [*MODEL, "dataset.train=16", "dataset.val=12", "dataset.image_size=[48,48]", "epochs=3"]
BATCHES = 4


def composed(command: str, *overrides: str) -> Any:
    with initialize_config_dir(version_base="1.3", config_dir=str(configuration_folder())):
        return compose(command, list(overrides))


def trained(root: Path, *overrides: str) -> float:
    return train.run(composed("train", *overrides, f"run_root={root}"))


def only_run(root: Path) -> Path:
    (folder,) = root.glob("*/*")
    return folder


def state_of(folder: Path) -> tuple[str, str | None]:
    run = read_run(folder)
    assert run is not None
    return run.status, run.cause


def strict_json(path: Path) -> Any:
    """The content of a file that any JSON reader takes."""

    def refuse(word: str) -> None:
        raise AssertionError(f"{path} holds {word}")

    return json.loads(path.read_text(), parse_constant=refuse)


# --- stopped before the last epoch


@pytest.mark.slow
@pytest.mark.parametrize(("steps", "whole"), [(2 * BATCHES + 1, 2), (1, 0)])
def test_max_steps_does_not_finish_a_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, steps: int, whole: int
) -> None:
    caplog.set_level("INFO", "pnfs")
    for _ in range(2):
        with pytest.raises(UnfinishedError, match=f"{whole} of 3 epochs"):
            trained(tmp_path, *RUN, f"+trainer.max_steps={steps}")
    assert f"max_steps={steps}" in caplog.text
    folder = only_run(tmp_path)
    assert state_of(folder)[0] == "interrupted"
    assert not (folder / "result.json").exists()


def time_runs_out(at: int) -> Callable[[Timer, Any], None]:
    """Stops a training at the timer's n-th look, counted over all starts."""
    looks = iter(range(1, 1000))

    def check(timer: Timer, trainer: Any) -> None:
        trainer.should_stop = trainer.should_stop or next(looks) == at

    return check


@pytest.mark.slow
@pytest.mark.parametrize("moves", [False, True])
def test_paused_run_ends_like_the_uninterrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moves: bool
) -> None:
    trained(tmp_path / "whole", *RUN)
    pause = "+trainer.max_time=00:00:01:00"
    # In the middle of the second epoch.
    monkeypatch.setattr(Timer, "_check_time_remaining", time_runs_out(1 + BATCHES + 2))
    with pytest.raises(UnfinishedError, match="1 of 3 epochs"):
        trained(tmp_path / "paused", *RUN, pause)
    folder = only_run(tmp_path / "paused")
    assert state_of(folder)[0] == "interrupted"
    name = "tiny"
    if moves:
        name = "another_name"
        (tmp_path / "moved" / name).mkdir(parents=True)
        shutil.move(folder, tmp_path / "moved" / name / folder.name)
    trained(tmp_path / ("moved" if moves else "paused"), *RUN, pause, f"name={name}")
    (resumed,) = tmp_path.glob(f"[mp]*/{name}/*")
    assert state_of(resumed)[0] == "finished"
    assert_same_training(only_run(tmp_path / "whole"), resumed)


# --- keys for debugging


@pytest.mark.slow
@pytest.mark.parametrize("given", ["true", "2"])
def test_fast_dev_run_leaves_no_run_behind(tmp_path: Path, given: str) -> None:
    assert math.isnan(trained(tmp_path, *RUN, f"+trainer.fast_dev_run={given}"))
    folder = only_run(tmp_path)
    assert read_run(folder) is None
    assert not (folder / "checkpoints").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    "key", ["limit_val_batches=1", "limit_val_batches=0.4", "overfit_batches=1"]
)
def test_score_is_of_the_whole_split_whatever_limits_the_training(tmp_path: Path, key: str) -> None:
    score = trained(tmp_path / "runs", *RUN, f"+trainer.{key}")
    folder = only_run(tmp_path / "runs")
    # Evaluation knows nothing of the limits of the training.
    where = [f"checkpoint={folder}", f"out={tmp_path / 'out'}", "workers=0", "trainer=cpu"]
    assert evaluate.run(composed("evaluate", *where)) == score
    assert strict_json(tmp_path / "out" / "result.json")["persons"] == 12
    assert strict_json(folder / "result.json")["score"] == score


@pytest.mark.parametrize("key", ["limit_val_batches=1", "fast_dev_run=true", "overfit_batches=2"])
def test_evaluation_of_a_part_is_refused(key: str) -> None:
    with pytest.raises(UsageError, match=key.partition("=")[0]):
        evaluate.run(composed("evaluate", "checkpoint=anywhere", f"+trainer.{key}"))


# --- losses that are not finite


@pytest.mark.slow
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_training_stops_at_the_first_loss_that_is_not_finite(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bad: float
) -> None:
    seen: list[list[int]] = []
    whole = PoseModule.training_loss

    def loss(module: PoseModule, batch: Any) -> torch.Tensor:
        seen.append(batch["sample_index"].tolist())
        return whole(module, batch) * (bad if len(seen) == BATCHES + 2 else 1)

    monkeypatch.setattr(PoseModule, "training_loss", loss)
    with pytest.raises(NonFiniteLossError) as stopped:
        trained(tmp_path, *RUN)
    assert len(seen) == BATCHES + 2
    text = str(stopped.value)
    ids = Synthetic(train=16, val=12, image_size=(48, 48)).persons("train").ids
    # The schedule has divided the rate by four after the first of three epochs.
    where = ("epoch 1", f"step {BATCHES + 1}", "learning rate 0.0025")
    for part in ("training loss", *where, *ids[seen[-1]]):
        assert part in text
    folder = only_run(tmp_path)
    assert state_of(folder) == ("failed", text)
    assert not (folder / "result.json").exists()
    # What was kept is from before.
    last = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    assert last["epoch"] == 0
    assert all(value.isfinite().all() for value in last["state_dict"].values())


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["synchronous", "random"])
def test_training_that_explodes_fails(tmp_path: Path, strategy: str) -> None:
    with pytest.raises(NonFiniteLossError):
        trained(tmp_path, *RUN, "optimizer.lr=1e30", f"strategy={strategy}")
    assert state_of(only_run(tmp_path))[0] == "failed"


@pytest.mark.slow
@pytest.mark.parametrize("bad", [math.nan, -math.inf])
def test_search_loss_that_is_not_finite_stops_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bad: float
) -> None:
    whole = FirstOrder.architecture_gradients

    def gradients(strategy: FirstOrder, *batches: Any) -> Any:
        found, loss = whole(strategy, *batches)
        return found, loss * 0 + bad

    monkeypatch.setattr(FirstOrder, "architecture_gradients", gradients)
    with pytest.raises(NonFiniteLossError, match=r"architecture loss is .*epoch 0, step 0"):
        trained(tmp_path, *RUN, "strategy=first_order")


# --- data


@pytest.fixture
def mpii(tmp_path: Path) -> Callable[..., Path]:
    """Writes a small MPII; returns its root."""

    def write(name: str, seed: int = 0) -> Path:
        people = Synthetic(train=8, val=8, seed=seed, image_size=(48, 48))
        root = tmp_path / name / "people"
        write_mpii({split: people.persons(split) for split in ("train", "val")}, root)
        return root

    return write


def unlabel(path: Path) -> None:
    records = json.loads(path.read_text())
    for record in records:
        record["joints_vis"] = [0] * 16
    path.write_text(json.dumps(records))


@pytest.mark.parametrize(("file", "split"), [("valid", "val"), ("train", "train")])
def test_split_without_a_label_is_refused(
    mpii: Callable[..., Path], tmp_path: Path, file: str, split: str
) -> None:
    root = mpii("a")
    unlabel(root / "annot" / f"{file}.json")
    with pytest.raises(UsageError, match=f"MPII {split}.*{split}"):
        trained(tmp_path / "runs", *MODEL, "dataset=mpii", f"dataset.root={root}")
    assert state_of(only_run(tmp_path / "runs"))[0] == "failed"


def test_synthetic_split_without_a_label_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="synthetic"):
        trained(tmp_path / "runs", *RUN, "dataset.unlabelled=1.0")


@pytest.mark.slow
def test_dataset_of_the_same_name_and_moved_dataset(
    mpii: Callable[..., Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "pnfs")
    runs = tmp_path / "runs"
    roots = [mpii("a"), mpii("b", seed=1)]
    for root in roots:
        trained(runs, *MODEL, "dataset=mpii", "epochs=1", f"dataset.root={root}")
    assert len(list(runs.glob("tiny/*/result.json"))) == 2
    assert "finished before" not in caplog.text
    moved = tmp_path / "elsewhere" / "renamed"
    moved.parent.mkdir()
    shutil.move(roots[0], moved)
    trained(runs, *MODEL, "dataset=mpii", "epochs=1", f"dataset.root={moved}")
    assert "finished before" in caplog.text
    assert len(list(runs.glob("tiny/*/result.json"))) == 2


@pytest.mark.slow
@pytest.mark.parametrize("file", ["checkpoints/last.ckpt", "result.json"])
def test_file_of_another_run_in_the_folder_is_refused(
    mpii: Callable[..., Path], tmp_path: Path, file: str
) -> None:
    runs = tmp_path / "runs"
    given = [*MODEL, "dataset=mpii", "epochs=1"]
    trained(runs, *given, f"dataset.root={mpii('a')}")
    folder = only_run(runs)
    other = mpii("b", seed=1)
    trained(tmp_path / "others", *given, f"dataset.root={other}")
    theirs = only_run(tmp_path / "others")
    # The state of one run under the name of the other.
    (runs / "tiny" / theirs.name).mkdir()
    (runs / "tiny" / theirs.name / file).parent.mkdir(exist_ok=True)
    shutil.copy(folder / file, runs / "tiny" / theirs.name / file)
    with pytest.raises(OtherRunError) as refusal:
        trained(runs, *given, f"dataset.root={other}")
    text = str(refusal.value)
    assert str(Path(theirs.name) / file) in text
    assert "persons.train" in text
    assert "persons.val" in text


# --- which weights are scored


@pytest.mark.slow
def test_last_weights_in_place_of_the_best_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trained(tmp_path / "runs", *RUN, "epochs=1")
    folder = only_run(tmp_path / "runs")
    record = strict_json(folder / "result.json")
    assert record["evaluated_with"]["weights"] == "best"

    def evaluated(out: str) -> dict[str, Any]:
        capsys.readouterr()
        where = [f"checkpoint={folder}", f"out={tmp_path / out}", "workers=0", "trainer=cpu"]
        evaluate.run(composed("evaluate", *where))
        return strict_json(tmp_path / out / "result.json")

    assert "weights" not in evaluated("best")["evaluated_with"]
    assert "last.ckpt" not in capsys.readouterr().out
    (folder / "checkpoints" / "best.ckpt").unlink()
    assert evaluated("last")["evaluated_with"]["weights"] == "last"
    assert "no best.ckpt" in capsys.readouterr().out
    # A training whose last epoch was kept, but not its best.
    (folder / "result.json").unlink()
    trained(tmp_path / "runs", *RUN, "epochs=1")
    assert "no best.ckpt" in capsys.readouterr().out
    assert strict_json(folder / "result.json")["evaluated_with"]["weights"] == "last"


@pytest.mark.slow
def test_json_files_of_a_run_hold_no_bare_nan(tmp_path: Path) -> None:
    # Without heads in the picture some joints have no score.
    trained(tmp_path, *RUN, "epochs=1", "dataset.unlabelled=0.9", "dataset.val=2")
    folder = only_run(tmp_path)
    record = strict_json(folder / "result.json")
    assert None in record["scores"].values()
    strict_json(folder / "state.json")
    for line in (folder / "architecture.jsonl").read_text().splitlines():
        assert "NaN" not in line
    # And such a record is read again.
    trained(tmp_path, *RUN, "epochs=1", "dataset.unlabelled=0.9", "dataset.val=2")
