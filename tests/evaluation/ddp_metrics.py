"""Metrics over seven persons, which two processes cannot share evenly.

python ddp_metrics.py FOLDER RANK PROCESSES
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, distributed

from pnfs.body import COCO, LSP
from pnfs.data.coco_format import read_annotations
from pnfs.data.crops import EpochSampler
from pnfs.evaluation import PCK, OKSAveragePrecision

PERSONS = 7
BATCH_SIZE = 3


def columns() -> dict[str, Tensor]:
    """Persons of 17 joints; the first, who pads the last batch, is far off."""
    generator = torch.Generator().manual_seed(0)
    target = 200 * torch.rand(PERSONS, len(COCO), 2, generator=generator) + 20
    offset = torch.randn(target.shape, generator=generator) * torch.arange(PERSONS)[:, None, None]
    offset[0] = 300.0
    return {
        "predicted": target + offset,
        "scores": torch.rand(PERSONS, len(COCO), generator=generator),
        "joints_image": target,
        "labelled": torch.rand(PERSONS, len(COCO), generator=generator) < 0.8,
        "reference_length": torch.full((PERSONS,), 40.0),
        "sample_index": torch.arange(PERSONS),
    }


def metrics(target: Tensor) -> dict[str, PCK | OKSAveragePrecision]:
    annotations = [
        {
            "id": row + 1, "image_id": row // 2, "category_id": 1, "iscrowd": 0, "area": 6000.0,
            "bbox": [0.0, 0.0, 240.0, 240.0], "num_keypoints": 17,
            "keypoints": torch.cat([points, torch.full((17, 1), 2.0)], -1).flatten().tolist(),
        }
        for row, points in enumerate(target)
    ]  # fmt: skip
    truth = {
        "images": [{"id": image, "width": 240, "height": 240} for image in range(4)],
        "annotations": annotations,
        "categories": [{"id": 1, "name": "person", "keypoints": list(COCO.joints)}],
    }
    precision = OKSAveragePrecision(
        truth=read_annotations(truth),
        image_ids=np.arange(PERSONS) // 2,
        areas=np.full(PERSONS, 7000.0),
        box_scores=np.linspace(1, 0.4, PERSONS),
        # Suppression would hide a person who counts twice.
        nms_threshold=None,
    )
    thresholds = (0.5, 0.1, 0.11)
    pckh = PCK(joints=COCO.joints, groups=COCO.groups, thresholds=thresholds, name="PCKh")
    pck = PCK(joints=LSP.joints, groups=LSP.groups, thresholds=(0.2,))
    return {"PCKh": pckh, "PCK": pck, "AP": precision}


def results(rows: list[int]) -> dict[str, dict[str, float]]:
    """Scores after these rows, taken in by batches."""
    data = columns()
    scores = {}
    for name, metric in metrics(data["joints_image"]).items():
        joints = len(LSP) if name == "PCK" else len(COCO)
        for batch in torch.tensor(rows, dtype=torch.int64).split(BATCH_SIZE):
            part = {k: v[batch][:, :joints] if v.ndim > 1 else v[batch] for k, v in data.items()}
            metric.update(**metric._filter_kwargs(**part))
        scores[name] = {label: score.item() for label, score in metric.compute().items()}
    return scores


if __name__ == "__main__":
    folder, rank, processes = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=processes
    )
    sampler = EpochSampler(PERSONS, seed=0, shuffle=False, rank=rank, world_size=processes)
    found = results([key.index for key in sampler])
    (folder / f"rank{rank}.json").write_text(json.dumps(found))
    distributed.destroy_process_group()
