"""The naive pipeline that ours is timed against makes the same crops and target maps."""

from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from pnfs.bench.data import bench_data, naive_sample, write_pictures
from pnfs.codec.targets import gaussian_targets
from pnfs.data.augmentation import Augmentation
from pnfs.data.crops import CropDataset, SampleKey
from pnfs.models.network import normalise_images


def test_the_naive_pipeline_does_the_same_work(tmp_path: Path) -> None:
    people = write_pictures(tmp_path, 3, (180, 320))
    ours = CropDataset(people, input_size=(64, 64), augmentation=Augmentation())
    compared = 0
    for epoch in range(4):
        for row in range(3):
            image, maps = naive_sample(people, SampleKey(epoch, row), (64, 64))
            sample = cast(Any, ours[SampleKey(epoch, row)])
            if np.linalg.det(sample["to_image"][:, :2]) < 0:
                continue  # Sides are exchanged in ours; the naive one leaves that out.
            expected = normalise_images(torch.from_numpy(sample["image"])[None])[0]
            assert (image - expected).abs().mean() < 0.15
            target, _ = gaussian_targets(
                torch.from_numpy(sample["joints_crop"])[None],
                torch.from_numpy(sample["labelled"])[None],
                heatmap_size=(16, 16),
                stride=4.0,
                sigma=2.0,
                quantised=True,
            )
            inside = (np.abs(sample["joints_crop"] - 32) < 28).all(-1) & sample["labelled"]
            np.testing.assert_allclose(maps[inside], target[0][inside], atol=2e-3)
            compared += int(inside.sum())
    assert compared > 20


def test_the_benchmark_reports_its_ratios() -> None:
    result = bench_data(persons=2, input_size=(64, 64), image_size=(180, 320), rounds=1)
    assert len(result["ratios"]) == 4
    rates = result["persons_per_second"]
    for name, ratio in result["ratios"].items():
        above, below = name.split(" / ")
        assert ratio == rates[above] / rates[below]
