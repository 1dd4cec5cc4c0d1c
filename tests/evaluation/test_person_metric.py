"""A metric of one's own: what it is given, also in two processes, and what is refused."""

import json
import multiprocessing
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import distributed

from pnfs.data.crops import EpochSampler
from pnfs.errors import PnfsError
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


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_each_person_counts_once(dtype: torch.dtype) -> None:
    metric = MeanDistance(2)
    for rows in ([3, 0], [1], [3, 1]):
        metric.update(**batch(rows, dtype))
    scores = {name: value.item() for name, value in metric.compute().items()}
    assert scores == {"distance": pytest.approx(4 / 3), "weight": 1 + 2 + 8}
    metric.reset()
    assert metric.persons()["predicted"].shape == (0, 2, 2)
    assert metric.criterion() is None


@pytest.mark.parametrize("name", ["predicted", "joints_image", "labelled", "weight"])
def test_a_column_that_is_missing_or_of_another_shape_is_named(name: str) -> None:
    data = batch([0, 1])
    missing = {k: v for k, v in data.items() if k != name}
    for wrong in (missing, data | {name: data[name][:1]}):
        metric = MeanDistance(2)
        with pytest.raises(PnfsError, match=name):
            metric.update(**wrong)
        # Nothing of the batch is kept.
        assert len(metric.persons()["sample_index"]) == len(metric.persons()["weight"]) == 0
    with pytest.raises(PnfsError, match="predicted"):
        MeanDistance(3).update(**data)


# --- two processes, over seven persons, which they cannot share evenly

PERSONS, PROCESSES = 7, 2


def results(rows: list[int]) -> dict[str, float]:
    """Scores after these rows, taken in by batches; the first person, who pads the last batch, is far off."""
    metric = MeanDistance(2)
    for taken in torch.tensor(rows).split(3):
        data = batch(taken.tolist())
        data["predicted"][taken == 0] = 300.0
        metric.update(**data)
    return {label: score.item() for label, score in metric.compute().items()}


def score_as(rank: int, folder: Path) -> None:
    """One process's share."""
    torch.set_num_threads(1)
    meeting = f"file://{folder / 'meeting'}"
    distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=PROCESSES)
    sampler = EpochSampler(range(PERSONS), seed=0, shuffle=False, rank=rank, world_size=PROCESSES)
    (folder / f"rank{rank}.json").write_text(json.dumps(results([key.index for key in sampler])))


def test_two_processes_score_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    forking = multiprocessing.get_context("fork")
    running = [forking.Process(target=score_as, args=(n, tmp_path)) for n in range(PROCESSES)]
    for process in running:
        process.start()
    single = results(list(range(PERSONS)))
    for rank, process in enumerate(running):
        process.join(120)
        found = json.loads((tmp_path / f"rank{rank}.json").read_text())
        assert found == pytest.approx(single, abs=1e-6)
