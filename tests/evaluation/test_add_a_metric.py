"""A metric is added with one class and one dataset that returns it; training and evaluation take it."""

import json
from pathlib import Path

import numpy as np
from hydra import compose, initialize_config_dir

from pnfs.commands import evaluate, train
from pnfs.commands.configuration import configuration_folder
from pnfs.data.synthetic import Synthetic
from pnfs.evaluation import PersonMetric


class Nearness(PersonMetric):
    columns = ("predicted", "joints_image", "labelled")

    def score(self, persons):
        distance = np.linalg.norm(persons["predicted"] - persons["joints_image"], axis=-1)
        return {"nearness": 1 / (1 + distance[persons["labelled"] > 0].mean())}


class ScoredByNearness(Synthetic):
    def metric(self, split: str) -> Nearness:
        return Nearness(len(self.skeleton))


def test_a_metric_of_ones_own(tmp_path: Path) -> None:
    dataset = "dataset._target_=test_add_a_metric.ScoredByNearness"
    small = ["dataset=synthetic", dataset, "dataset.train=4", "dataset.val=4", "input_size=[64,64]",
             "backbone=fabric", "parts=p3", "workers=0", "strategy=frozen", "epochs=1"]  # fmt: skip
    with initialize_config_dir(version_base="1.3", config_dir=str(configuration_folder())):
        train.run(compose("train", [*small, "trainer=cpu", f"run_root={tmp_path}"]))
        (result,) = tmp_path.glob("*/*/result.json")
        found = evaluate.run(compose("evaluate", [f"checkpoint={result.parent}", "trust=true"]))
    assert 0 < found == json.loads(result.read_text())["score"] < 1
