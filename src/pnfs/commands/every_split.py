"""`split=all`: the labelled persons of all splits of a dataset, whatever the splits are called."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import Float64, UInt8
from torchmetrics import Metric

from pnfs.commands.configuration import UsageError
from pnfs.data.datasets.base import PoseDataset
from pnfs.data.images import DataError, ImageSource, view_of
from pnfs.data.persons import Persons
from pnfs.evaluation import OKSAveragePrecision

ALL = "all"


def with_every_split(dataset: PoseDataset, split: str) -> PoseDataset:
    """The dataset, with its splits joined to one where `split` asks for all of them."""
    return EverySplit(dataset) if split == ALL and ALL not in dataset.splits else dataset


class EverySplit(PoseDataset):
    """A dataset with one split, "all".

    A split "test" that has no labels, or whose labels are not there, is left out; `splits_read` says which
    are in it. Ids begin with the name of their split.

    Args:
        dataset: Scored person by person.

    Raises:
        UsageError: The dataset is scored image by image, over one annotation file.
    """

    splits = (ALL,)

    def __init__(self, dataset: PoseDataset) -> None:
        super().__init__()
        self.dataset, self.skeleton, self.name = dataset, dataset.skeleton, dataset.name
        self.splits_read: tuple[str, ...] = ()
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
        self.splits_read = tuple(found)
        return joined(f"{self.name}, {' and '.join(found)}", found)

    def metric(self, split: str) -> Metric:
        return self.dataset.metric(self.dataset.splits[0])

    def evaluation_choices(self, split: str) -> Mapping[str, Any]:
        self.persons(split)
        choices = self.dataset.evaluation_choices(self.dataset.splits[0])
        return {**choices, "splits": ", ".join(self.splits_read)}


def joined(name: str, parts: Mapping[str, Persons]) -> Persons:
    """The persons of all parts, one after the other.

    Args:
        name: Name of the whole.
        parts: Name of a part, which the ids begin with -> its persons.
    """
    persons = list(parts.values())
    columns = ("joints", "visibility", "center", "box_size", "reference_length")
    images = JoinedImages([part.images for part in persons], [part.image_index for part in persons])
    return replace(
        persons[0],
        name=name,
        images=images,
        ids=np.array([f"{label}/{id_}" for label, part in parts.items() for id_ in part.ids]),
        image_index=np.arange(sum(map(len, persons))),
        left_out=_summed([part.left_out for part in persons]),
        remarks=_summed([part.remarks for part in persons]),
        file="",
        **{
            column: np.concatenate([getattr(part, column) for part in persons])
            for column in columns
        },
    )


class JoinedImages:
    """The image of each person, of several sources one after the other.

    Args:
        sources: Where the images come from.
        indices: For each source the images of its persons.
    """

    def __init__(self, sources: Sequence[ImageSource], indices: Sequence[np.ndarray]) -> None:
        self.sources = list(sources)
        self.numbers = np.repeat(np.arange(len(indices)), list(map(len, indices)))
        self.indices = np.concatenate(list(indices))

    def __len__(self) -> int:
        return len(self.indices)

    def read(self, index: int) -> UInt8[np.ndarray, "H W 3"]:
        return self.sources[self.numbers[index]].read(int(self.indices[index]))

    def view(
        self, index: int, zoom: float
    ) -> tuple[UInt8[np.ndarray, "h w 3"], Float64[np.ndarray, "2 3"]]:
        return view_of(self.sources[self.numbers[index]], int(self.indices[index]), zoom)

    def describe(self, index: int) -> str:
        return self.sources[self.numbers[index]].describe(int(self.indices[index]))


def _summed(counts: Sequence[Mapping[str, int]]) -> dict[str, int]:
    reasons = dict.fromkeys(reason for part in counts for reason in part)
    return {reason: sum(part.get(reason, 0) for part in counts) for reason in reasons}
