"""`split=all`: the labelled persons of all splits of a dataset, whatever the splits are called."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import Float64, UInt8
from torchmetrics import Metric

from pnfs.commands.configuration import UsageError
from pnfs.data.datasets.base import PoseDataset
from pnfs.data.images import DataError, view_of
from pnfs.data.persons import Persons
from pnfs.evaluation import OKSAveragePrecision

ALL = "all"


def with_every_split(dataset: PoseDataset, split: str) -> PoseDataset:
    """The dataset, with its splits joined to one where `split` asks for all of them."""
    return EverySplit(dataset) if split == ALL and ALL not in dataset.splits else dataset


class EverySplit(PoseDataset):
    """A dataset with one split, "all"; ids begin with the name of their own split.

    A split "test" that has no labels, or whose labels are not there, is left out.
    """

    splits = (ALL,)

    def __init__(self, dataset: PoseDataset) -> None:
        super().__init__()
        self.dataset, self.skeleton, self.name = dataset, dataset.skeleton, dataset.name
        if isinstance(self.metric(ALL), OKSAveragePrecision):
            raise UsageError(
                f"split=all: {self.name} is scored split by split, from one annotation file; choose one of "
                f"{', '.join(dataset.splits)}"
            )

    def load(self, split: str) -> Persons:
        found: dict[str, Persons] = {}
        for name in self.dataset.splits:
            try:
                persons = self.dataset.persons(name)
            except DataError:
                if name != "test":
                    raise
                continue
            # LSP's "val" is its "test".
            if persons.visibility.any() and not any(persons is other for other in found.values()):
                found[name] = persons
        return joined(f"{self.name}, {' and '.join(found)}", found)

    def metric(self, split: str) -> Metric:
        return self.dataset.metric(self.dataset.splits[0])

    def evaluation_choices(self, split: str) -> Mapping[str, Any]:
        read = dict.fromkeys(str(name).partition("/")[0] for name in self.persons(split).ids)
        choices = self.dataset.evaluation_choices(self.dataset.splits[0])
        return {**choices, "splits": ", ".join(read)}


def joined(name: str, parts: Mapping[str, Persons]) -> Persons:
    """The persons of all parts (name, which their ids begin with -> persons), one after the other."""
    persons = list(parts.values())

    def column(of: str) -> np.ndarray:
        return np.concatenate([getattr(part, of) for part in persons])

    def counts(of: str) -> dict[str, int]:
        each: list[Mapping[str, int]] = [getattr(part, of) for part in persons]
        reasons = dict.fromkeys(reason for part in each for reason in part)
        return {reason: sum(part.get(reason, 0) for part in each) for reason in reasons}

    columns = ("joints", "visibility", "center", "box_size", "reference_length")
    return replace(
        persons[0],
        name=name,
        images=JoinedImages(persons),
        ids=np.array([f"{label}/{id_}" for label, part in parts.items() for id_ in part.ids]),
        image_index=np.arange(sum(map(len, persons))),
        left_out=counts("left_out"),
        remarks=counts("remarks"),
        file="",
        **{name: column(name) for name in columns},
    )


class JoinedImages:
    """The image of each person, of several sources one after the other."""

    def __init__(self, parts: list[Persons]) -> None:
        self._places = [(part.images, int(index)) for part in parts for index in part.image_index]

    def __len__(self) -> int:
        return len(self._places)

    def read(self, index: int) -> UInt8[np.ndarray, "H W 3"]:
        source, there = self._places[index]
        return source.read(there)

    def view(
        self, index: int, zoom: float
    ) -> tuple[UInt8[np.ndarray, "h w 3"], Float64[np.ndarray, "2 3"]]:
        source, there = self._places[index]
        return view_of(source, there, zoom)

    def describe(self, index: int) -> str:
        source, there = self._places[index]
        return source.describe(there)
