"""The data of a trained run: its geometry in every later command, and which boxes are for what."""

import csv
import json
import multiprocessing
from pathlib import Path
from typing import Any

import pytest
import torch

from pnfs.commands import scoring
from pnfs.data.module import PoseDataModule
from pnfs.data.synthetic import Synthetic
from pnfs.training.module import PoseModule
from tiny_runs import call, record_of
from written_datasets import write_coco

MODEL = (
    "backbone=fabric", "model.fabrics.channels=4", "model.fabrics.layers=3", "model.fabrics.last_layers=2",
    "parts=p3", "batch_size=4", "trainer=cpu", "workers=0", "strategy=frozen",
)  # fmt: skip
PEOPLE = ("dataset=synthetic", "dataset.train=8", "dataset.val=8", "dataset.image_size=[96,96]")


def trained(root: Path, *overrides: str) -> Path:
    call("train", *MODEL, f"run_root={root}", *overrides)
    (result,) = root.glob("*/*/result.json")
    return result.parent


@pytest.mark.slow
def test_later_commands_score_as_training_did(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = trained(tmp_path / "runs", *PEOPLE, "codec=udp", "input_size=[64,96]", "epochs=1")
    used = []
    loader = PoseDataModule.eval_dataloader

    def noted(self: PoseDataModule, split: str) -> Any:
        used.append(self.dataset(split).unbiased)
        return loader(self, split)

    monkeypatch.setattr(PoseDataModule, "eval_dataloader", noted)
    call("evaluate", "trainer=cpu", "workers=0", f"checkpoint={run}", f"out={tmp_path}")
    assert record_of(tmp_path)["scores"] == pytest.approx(record_of(run)["scores"], abs=1e-9, nan_ok=True)
    # Scores of a network that has hardly begun would hide another geometry.
    assert used == [True]


@pytest.mark.slow
def test_pictures_are_of_the_averaged_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    located, same, locate = [], [], PoseModule.locate

    def noted(self: PoseModule, *arguments: Any) -> Any:
        located.append(next(self.network.parameters()).detach().clone())
        return locate(self, *arguments)

    monkeypatch.setattr(PoseModule, "locate", noted)
    monkeypatch.setattr(scoring, "log_media", lambda *_: same.append(torch.equal(*located[-2:])))
    pictures = ["callbacks=[default,ema,pictures]", "callbacks.pictures.every=1"]
    trained(tmp_path, *PEOPLE, *pictures, "epochs=1", "input_size=[64,64]", "strategy=first_order", "workers=1")
    assert same[0]
    assert multiprocessing.active_children() == []  # The end of the program would wait for them.


def column(run: Path, name: str) -> list[float]:
    rows = csv.DictReader((run / "metrics.csv").open())
    return [float(row[name]) for row in rows if row.get(name)]


@pytest.mark.slow
def test_training_is_watched_in_labelled_boxes(tmp_path: Path) -> None:
    """Six drawn people; a detector finds them all, most surely last, and much that is nobody."""
    coco = tmp_path / "coco"
    people = Synthetic(skeleton="coco", train=4, val=6, image_size=(64, 64))
    write_coco({split: people.persons(split) for split in ("train", "val")}, coco)
    labels = json.loads((coco / "annotations/person_keypoints_val2017.json").read_text())
    detections = []
    for n, label in enumerate(labels["annotations"]):
        record = {"image_id": label["image_id"], "category_id": 1}
        detections += [{**record, "bbox": [k, k, 8.0, 8.0], "score": 0.01 * k} for k in range(10)]
        detections.append({**record, "bbox": label["bbox"], "score": 0.5 + 0.05 * n})
    path = coco / "person_detection_results/COCO_val2017_detections_AP_H_56_person.json"
    path.parent.mkdir()
    path.write_text(json.dumps(detections))
    options = ("dataset=coco", f"dataset.root={coco}", "input_size=[64,64]", "epochs=2")
    detected, labelled = (
        trained(tmp_path / boxes, *options, f"dataset.boxes={boxes}") for boxes in ("detected", "ground_truth")
    )
    # The same training but for the final score.
    for name in ("val/loss", "val/AP", "val/AR"):
        assert column(detected, name) == column(labelled, name)
    assert min(column(detected, "val/loss")) > 0
    found, plain = record_of(detected), record_of(labelled)
    assert found["evaluated_with"]["boxes"] == "detected"
    assert found["evaluated_with"]["best_epoch_by"] == "ground truth boxes"
    assert plain["evaluated_with"]["boxes"] == "ground truth"
    assert "best_epoch_by" not in plain["evaluated_with"]
