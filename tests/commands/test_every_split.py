"""`pnfs evaluate split=all`: the persons of all splits, scored as one."""

import json
from pathlib import Path

import numpy as np
import pytest

from pnfs.commands import evaluate
from pnfs.data.datasets.base import PoseDataset, with_every_split
from pnfs.data.images import DataError
from pnfs.data.persons import Persons
from pnfs.data.synthetic import Synthetic
from pnfs.evaluation import OKSAveragePrecision
from tiny_runs import composed, untrained_run


class Odd(PoseDataset):
    """Splits of other names; "again" is "first", and "test" is not there."""

    name, splits = "odd", ("first", "second", "again", "test")

    def __init__(self) -> None:
        super().__init__()
        self.people = Synthetic(train=3, val=2, image_size=(64, 64))
        self.skeleton = self.people.skeleton

    def load(self, split: str) -> Persons:
        if split == "test":
            raise DataError("test.json is missing")
        return self.people.persons("val" if split == "second" else "train")

    def metric(self, split: str):
        return self.people.metric("val")


def test_persons_of_all_splits_stand_one_after_the_other() -> None:
    odd = Odd()
    source = with_every_split(odd, "all")
    assert with_every_split(odd, "second") is odd
    persons = source.persons("all")
    assert [id_.split("/")[0] for id_ in persons.ids.tolist()] == ["first"] * 3 + ["second"] * 2
    assert source.evaluation_choices("all")["splits"] == "first, second"
    for row, (split, n) in enumerate(
        [("train", 0), ("train", 1), ("train", 2), ("val", 0), ("val", 1)]
    ):
        own = odd.people.persons(split)[n]
        np.testing.assert_array_equal(persons[row].joints, own.joints)
        np.testing.assert_array_equal(persons[row].image, own.image)


def test_a_score_of_all_is_that_of_its_parts(tmp_path: Path) -> None:
    run = untrained_run(tmp_path / "run")
    records = {}
    for split in ("train", "val", "all"):
        out = tmp_path / split
        evaluate.run(
            composed("evaluate", f"checkpoint={run}", f"split={split}", "trainer=cpu", "workers=0",
                     f"out={out}")
        )  # fmt: skip
        records[split] = json.loads((out / "result.json").read_text())
    assert [records[split]["persons"] for split in records] == [8, 6, 14]
    labels = {
        s: [j["all"]["labels"] for j in r["by_joint"]["joints"].values()]
        for s, r in records.items()
    }
    np.testing.assert_array_equal(np.add(labels["train"], labels["val"]), labels["all"])
    assert records["all"]["evaluated_with"]["splits"] == "train, val"


def test_a_dataset_of_one_annotation_file_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    average = OKSAveragePrecision.__new__(OKSAveragePrecision)
    monkeypatch.setattr(Odd, "metric", lambda self, split: average)
    with pytest.raises(DataError, match="first, second"):
        with_every_split(Odd(), "all")
