"""PCK against the recorded scores of public code; where predictions are wrong."""

import math

import numpy as np
import pytest
import torch
from torchmetrics import MetricCollection

from pnfs.body import LSP, Skeleton
from pnfs.data.coco_format import read_annotations
from pnfs.errors import PnfsError
from pnfs.evaluation import PCK, Criterion, OKSAveragePrecision, head_size, oks, torso_size
from pnfs.evaluation.pck import Errors


def lsp_metric(**options) -> PCK:
    return PCK(**{"joints": LSP.joints, "groups": LSP.groups, "thresholds": (0.2, 0.5), **options})


def batch(lengths: list[float], labelled: bool = True) -> dict[str, torch.Tensor]:
    """Persons whose joint k is k pixels off."""
    labels = torch.zeros(len(lengths), len(LSP), 2)
    off = torch.arange(len(LSP))[:, None] * torch.tensor([1.0, 0.0])
    return {
        "joints_image": labels, "predicted": labels + off, "labelled": torch.full(labels.shape[:2], labelled),
        "reference_length": torch.tensor(lengths), "sample_index": torch.arange(len(lengths)),
        "scores": torch.ones(labels.shape[:2]),
    }  # fmt: skip


def test_an_error_is_divided_by_the_persons_own_length_and_persons_without_one_are_left_out() -> None:
    metric = lsp_metric(mean_excludes=("right_ankle",))
    # Of what all metrics together ask for each takes what it knows.
    MetricCollection([metric]).update(**batch([10.0, 20.0, math.nan, 0.0]))
    scores = metric.compute()
    # Up to 2 and 4 pixels of joints 1 to 13; an error equal to the threshold is right.
    assert scores["PCK@0.2"].item() == pytest.approx(100 * (2 + 4) / 26)
    # Of both persons' ankles (0 and 5 pixels off) at half the length.
    assert scores["PCK@0.5/ankle"].item() == pytest.approx(100)
    assert scores["PCK@0.2/ankle"].item() == pytest.approx(50)


def test_nothing_to_count_gives_nan_and_unknown_names_are_refused() -> None:
    metric = lsp_metric()
    metric.update(**batch([10.0], labelled=False))
    assert all(math.isnan(score) for score in metric.compute().values())
    for wrong, named in (({"groups": {"tail": ("tail",)}}, "tail"), ({"thresholds": ()}, "positive")):
        with pytest.raises(PnfsError, match=named):
            lsp_metric(**wrong)


def test_reference_lengths() -> None:
    boxes = np.array([[[10.0, 10.0], [40.0, 50.0]], [[5.0, 5.0], [5.0, 5.0]]])
    np.testing.assert_allclose(head_size(boxes), [30.0, 0.0])
    joints, visibility = np.zeros((2, len(LSP), 2), np.float32), np.ones((2, len(LSP)), np.int8)
    places = {"left_shoulder": (3, 0), "right_hip": (0, 4),
              "right_shoulder": (0, 0), "left_hip": (6, 8)}  # fmt: skip
    for name, place in places.items():
        joints[:, LSP.joints.index(name)] = place
    visibility[1, LSP.joints.index("left_hip")] = 0
    # The longer diagonal.
    np.testing.assert_allclose(torso_size(joints, visibility, LSP), [10.0, np.nan])


# --- errors by joint, visibility and person, against slow counting

TOY = Skeleton("toy", ("head", "left_hand", "right_hand"), (("left_hand", "right_hand"),))


def test_errors_by_joint_visibility_and_person_are_those_of_counting() -> None:
    random, count = np.random.default_rng(0), 40
    predicted, visibility = random.random(count) < 0.8, random.integers(0, 3, (count, 3))
    visibility[:, 2] = np.minimum(visibility[:, 2], 1)
    relative = np.where(visibility > 0, random.uniform(0, 1, (count, 3)), np.nan)
    relative[~predicted] += np.inf
    errors, limits = Errors(TOY, relative, visibility, predicted), (0.2, 0.5, 0.8)
    record = errors.record(Criterion("any", "length", np.array(limits)))
    for kind, flags in {"all": (1, 2), "visible": (2,), "occluded": (1,)}.items():
        for k, joint in enumerate(TOY.joints):
            own = [relative[n, k] for n in range(count) if visibility[n, k] in flags]
            right = sum(error <= limits[k] for error in own)
            percent = pytest.approx(100 * right / len(own), abs=1e-3) if own else None
            assert record["joints"][joint][kind] == {"percent": percent, "labels": len(own)}
    scored = visibility.any(-1)
    assert record["missed_persons"] == (scored & ~predicted).sum() > 0
    rows, means = errors.by_error()
    assert sorted(rows) == np.flatnonzero(scored & predicted).tolist()
    assert means.tolist() == sorted(means) == pytest.approx(np.nanmean(relative[rows], -1))


def test_criteria_are_the_first_threshold_and_a_similarity_of_one_half() -> None:
    metric = lsp_metric(thresholds=(0.5, 0.1), name="PCKh", mean_excludes=LSP.joints[:12])
    criterion = metric.criterion()
    assert (criterion.label, criterion.reference) == ("PCKh@0.5", "head size")
    assert criterion.thresholds.tolist() == [0.5] * len(LSP)
    truth = {"images": [{"id": 1}], "annotations": [], "categories": [{"id": 1, "name": "person"}]}
    columns = {"image_ids": np.array([1]), "areas": np.ones(1), "box_scores": np.ones(1)}
    criterion = OKSAveragePrecision(truth=read_annotations(truth), **columns).criterion()
    assert oks(900.0 * criterion.thresholds**2, np.array(900.0)) == pytest.approx(0.5)
