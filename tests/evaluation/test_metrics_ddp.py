"""A metric gives the same value in two processes as in one, over seven persons, which they cannot share evenly."""

import json
import multiprocessing
from pathlib import Path

import pytest
import torch
from torch import distributed

from pnfs.body import COCO
from pnfs.data.crops import EpochSampler
from pnfs.evaluation import PCK

PERSONS, BATCH_SIZE, PROCESSES = 7, 3, 2


def results(rows: list[int]) -> dict[str, float]:
    """Scores after these rows, taken in by batches; the first person, who pads the last batch, is far off."""
    generator = torch.Generator().manual_seed(0)
    target = 200 * torch.rand(PERSONS, len(COCO), 2, generator=generator) + 20
    offset = torch.randn(target.shape, generator=generator) * torch.arange(PERSONS)[:, None, None]
    offset[0] = 300.0
    metric = PCK(joints=COCO.joints, groups=COCO.groups, thresholds=(0.5, 0.1), name="PCKh")
    for batch in torch.tensor(rows, dtype=torch.int64).split(BATCH_SIZE):
        metric.update(
            predicted=(target + offset)[batch],
            joints_image=target[batch],
            labelled=torch.ones(len(batch), len(COCO), dtype=torch.bool),
            reference_length=torch.full((len(batch),), 40.0),
            sample_index=batch,
        )
    return {label: score.item() for label, score in metric.compute().items()}


def score_as(rank: int, folder: Path) -> None:
    """One process's share."""
    torch.set_num_threads(1)
    meeting = f"file://{folder / 'meeting'}"
    distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=PROCESSES)
    sampler = EpochSampler(PERSONS, seed=0, shuffle=False, rank=rank, world_size=PROCESSES)
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
