"""Errors by joint, visibility and person, against slow counting."""

import math

import numpy as np
import pytest
import torch

from pnfs.body import Skeleton
from pnfs.commands.scoring import PredictionCollector
from pnfs.data.coco_format import read_annotations
from pnfs.data.persons import Persons
from pnfs.data.predictions import UNMATCHED, Matches, Predictions
from pnfs.evaluation import PCK, Criterion, OKSAveragePrecision, oks

TOY = Skeleton(
    "toy", ("head", "left_hand", "right_hand"), (("left_hand", "right_hand"),), (),
    {"hands": ("left_hand", "right_hand")},
)  # fmt: skip
PERSONS = 40


class NoImages:
    def read(self, index: int) -> np.ndarray:
        raise AssertionError(index)

    def describe(self, index: int) -> str:
        return f"image {index}"


def people(seed: int = 0) -> Matches:
    random = np.random.default_rng(seed)
    labels = Persons(
        name="toys",
        skeleton=TOY,
        images=NoImages(),
        ids=np.array([f"p{n}" for n in range(PERSONS)]),
        image_index=np.arange(PERSONS),
        joints=random.uniform(0, 100, (PERSONS, 3, 2)).astype(np.float32),
        visibility=random.integers(0, 3, (PERSONS, 3)).astype(np.int8),
        center=np.full((PERSONS, 2), 50, np.float32),
        box_size=np.full((PERSONS, 2), 90, np.float32),
        reference_length=np.where(
            random.random(PERSONS) < 0.2, np.nan, random.uniform(5, 20, PERSONS)
        ).astype(np.float32),
    )
    rows = random.permutation(PERSONS + 5)[:PERSONS]
    rows[random.random(PERSONS) < 0.15] = UNMATCHED
    locations = random.uniform(0, 100, (PERSONS + 5, 3, 2)).astype(np.float32)
    near = rows != UNMATCHED
    locations[rows[near]] = labels.joints[near] + random.normal(0, 4, (near.sum(), 3, 2))
    scores = np.ones((PERSONS + 5, 3), np.float32)
    return Matches(labels, Predictions(locations, scores), rows)


def counted(matches: Matches, k: int, threshold: float, flag=None):
    """Right and all labels of a joint, one person after another."""
    right = total = 0
    for n in range(PERSONS):
        visibility, length = matches.labels.visibility[n, k], matches.labels.reference_length[n]
        if visibility == 0 or math.isnan(length) or (flag is not None and visibility != flag):
            continue
        total += 1
        if matches.rows[n] != UNMATCHED:
            x, y = matches.predictions.locations[matches.rows[n], k] - matches.labels.joints[n, k]
            right += math.hypot(x, y) <= threshold * length
    return right, total


@pytest.mark.parametrize("flag", [None, 1, 2])
def test_rates_are_those_of_counting(flag: int | None) -> None:
    matches = people()
    thresholds = np.array([0.2, 0.5, 0.8])
    rates, counts = matches.errors.rates(thresholds, flag)
    for k in range(3):
        right, total = counted(matches, k, thresholds[k], flag)
        assert 0 < right < total == counts[k]
        assert rates[k] == pytest.approx(100 * right / total)


def test_persons_are_ordered_by_their_mean_error() -> None:
    matches = people()
    rows, errors = matches.errors.by_error()
    assert (np.diff(errors) >= 0).all()
    for row, error in zip(rows[:5], errors[:5], strict=True):
        labels, located = matches.labels, matches.predictions.locations[matches.rows[row]]
        distances = [
            math.dist(located[k], labels.joints[row, k])
            for k in range(3) if labels.visibility[row, k]
        ]  # fmt: skip
        expected = sum(distances) / len(distances) / labels.reference_length[row]
        assert error == pytest.approx(expected, rel=1e-5)
    left_out = set(range(PERSONS)) - set(rows.tolist())
    scorable = matches.labels.visibility.any(-1) & ~np.isnan(matches.labels.reference_length)
    assert left_out == set(np.flatnonzero(~scorable | (matches.rows == UNMATCHED)).tolist())
    record = matches.errors.record(Criterion("any", "length", np.full(3, 0.5), (0, 1, 2)))
    assert record["missed_persons"] == (scorable & (matches.rows == UNMATCHED)).sum() > 0


def test_nothing_predicted_is_wrong_and_nothing_labelled_is_not_scored() -> None:
    matches = people()
    matches.predictions.locations[:] = np.nan
    rates, counts = matches.errors.rates(1000.0)
    assert (rates == 0).all()
    assert (counts > 0).all()
    matches = people()
    matches.labels.visibility[:] = 0
    assert np.isnan(matches.errors.rates(0.5)[0]).all()
    assert len(matches.errors.by_error()[0]) == 0


def test_records_hold_none_where_nothing_is_labelled() -> None:
    matches = people()
    matches.labels.visibility[:, 1] = 2
    criterion = Criterion("any", "length", np.full(3, 0.5), (0, 1, 2))
    record = matches.errors.record(criterion)
    assert record["joints"]["left_hand"]["occluded"] == {"percent": None, "labels": 0}
    right, total = counted(matches, 0, 0.5)
    assert record["joints"]["head"]["all"] == {
        "percent": pytest.approx(100 * right / total, abs=1e-3),
        "labels": total,
    }


def test_criteria_are_the_first_threshold_and_a_similarity_of_one_half() -> None:
    metric = PCK(
        joints=TOY.joints, groups={}, thresholds=(0.5, 0.1), name="PCKh", mean_excludes=("head",)
    )
    criterion = metric.criterion()
    assert (criterion.label, criterion.reference) == ("PCKh@0.5", "head size")
    assert criterion.thresholds.tolist() == [0.5] * 3
    assert criterion.mean_rows == (1, 2)
    truth = {"images": [{"id": 1}], "annotations": [], "categories": [{"id": 1, "name": "person"}]}
    columns = {"image_ids": np.array([1]), "areas": np.ones(1), "box_scores": np.ones(1)}
    criterion = OKSAveragePrecision(truth=read_annotations(truth), **columns).criterion()
    assert oks(900.0 * criterion.thresholds**2, np.array(900.0)) == pytest.approx(0.5)


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_the_collector_keeps_each_sample_once_in_their_order() -> None:
    collector = PredictionCollector(3)
    collector.compute()
    assert len(collector.predictions) == 0
    points = torch.arange(24.0).reshape(4, 3, 2)
    scores = torch.arange(12.0).reshape(4, 3)
    for rows in ([2, 0], [3, 1], [2]):
        collector.update(
            predicted=points[rows], scores=scores[rows], sample_index=torch.tensor(rows)
        )
    assert collector.compute() == {}
    np.testing.assert_array_equal(collector.predictions.locations, points.numpy())
    np.testing.assert_array_equal(collector.predictions.scores, scores.numpy())
