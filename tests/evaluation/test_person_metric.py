"""A metric of one's own: what it is given, and what is refused."""

import numpy as np
import pytest
import torch

from pnfs.evaluation import PersonMetric


class MeanDistance(PersonMetric):
    """Mean distance of labelled joints from their labels, in pixels, and the mean of `weight`."""

    columns = ("predicted", "joints_image", "labelled", "weight")

    def score(self, persons):
        offset = persons["predicted"] - persons["joints_image"]
        distance = np.linalg.norm(offset, axis=-1)[persons["labelled"] > 0]
        total = persons["weight"].sum()
        return {"distance": distance.sum() / max(distance.size, 1), "weight": total}


def batch(rows: list[int], dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    """Person n is n pixels off and weighs 2ⁿ; its second joint is unlabelled."""
    index = torch.tensor(rows)
    joints = torch.zeros(len(rows), 2, 2)
    return {
        "predicted": (joints + index[:, None, None] * torch.tensor([1.0, 0.0])).to(dtype),
        "joints_image": joints,
        "labelled": torch.tensor([[True, False]] * len(rows)),
        "weight": 2.0**index,
        "image": torch.zeros(1),
        "sample_index": index,
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_each_person_counts_once(dtype: torch.dtype) -> None:
    metric = MeanDistance(2)
    for rows in ([3, 0], [1], [3, 1]):
        metric.update(**batch(rows, dtype))
    scores = {name: value.item() for name, value in metric.compute().items()}
    assert scores == {"distance": pytest.approx(4 / 3), "weight": 1 + 2 + 8}
    assert metric.persons()["sample_index"].tolist() == [0, 1, 3]
    metric.reset()
    metric.update(**batch([2], dtype))
    assert metric.compute()["distance"].item() == 2


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_without_input_there_are_no_rows() -> None:
    metric = MeanDistance(2)
    assert metric.compute()["distance"].item() == 0
    assert metric.persons()["predicted"].shape == (0, 2, 2)
    assert metric.criterion() is None


@pytest.mark.parametrize("name", ["predicted", "joints_image", "labelled", "weight"])
def test_a_column_that_is_missing_or_of_another_length_is_named(name: str) -> None:
    data = batch([0, 1])
    for wrong in (
        {k: v for k, v in data.items() if k != name},
        data | {name: data[name][:1]},
    ):
        metric = MeanDistance(2)
        with pytest.raises(ValueError, match=name):
            metric.update(**wrong)
        # Nothing of the batch is kept.
        assert len(metric.persons()["sample_index"]) == len(metric.persons()["weight"]) == 0


def test_another_number_of_joints_is_refused() -> None:
    with pytest.raises(ValueError, match="predicted"):
        MeanDistance(3).update(**batch([0]))
