"""Similarity of poses and suppression of duplicates: a slow computation, and recorded runs of HRNet's code."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from pnfs.body import COCO, MPII
from pnfs.evaluation import oks, oks_nms
from pnfs.evaluation.coco_eval import similarity_sigmas


def test_joints_that_coco_knows_are_compared_as_cocos() -> None:
    np.testing.assert_array_equal(similarity_sigmas(COCO), COCO.oks_sigmas)
    found = dict(zip(MPII.joints, similarity_sigmas(MPII).tolist(), strict=True))
    assert (found["left_hip"], found["right_wrist"]) == (0.107, 0.062)
    assert found["pelvis"] == found["head_top"] == pytest.approx(sum(COCO.oks_sigmas) / 17)


@pytest.mark.fixtures("oks_nms_inputs*.npz")
def test_suppression_matches_the_reference(fixture_file: Path) -> None:
    inputs = np.load(fixture_file)
    name = fixture_file.name.replace("inputs", "expected").replace(".npz", ".json")
    expected = json.loads(fixture_file.with_name(name).read_text())
    offsets = inputs["set_offsets"]
    assert len(expected) == len(offsets) - 1 > 0
    for number, recorded in enumerate(expected):
        rows = slice(offsets[number], offsets[number + 1])
        joints = inputs["keypoints"][rows, :, :2]
        for key, indices in recorded.items():
            function, _, threshold = key.rpartition("_")
            kept = oks_nms(
                joints, inputs["scores"][rows], inputs["areas"][rows], float(threshold),
                soft=function == "soft_oks_nms",
            )  # fmt: skip
            assert kept.tolist() == indices, (number, key)


def test_oks_matches_a_slow_computation() -> None:
    generator = np.random.default_rng(0)
    squared = generator.uniform(0, 60, (4, 17))
    areas = generator.uniform(500, 5000, 4)
    counted = generator.random((4, 17)) < 0.5
    counted[3] = False
    for mask in (None, counted):
        found = oks(squared, areas, counted=mask)
        for n in range(4):
            alike = [
                math.exp(-squared[n, k] / (2 * (2 * sigma) ** 2 * areas[n]))
                for k, sigma in enumerate(COCO.oks_sigmas)
                if mask is None or mask[n, k]
            ]
            assert found[n] == pytest.approx(sum(alike) / max(len(alike), 1))


@pytest.mark.parametrize("soft", [False, True])
def test_suppressing_nothing_gives_nothing(soft: bool) -> None:
    assert not len(oks_nms(np.zeros((0, 17, 2)), np.zeros(0), np.zeros(0), 0.9, soft=soft))
