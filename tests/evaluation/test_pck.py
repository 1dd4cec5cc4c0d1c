import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.io import loadmat
from torchmetrics import MetricCollection

from pnfs.body import LSP, MPII
from pnfs.evaluation import PCK, head_size, torso_size
from pnfs.evaluation.pck import pck_curve, relative_errors

MPII_FILE_NAMES = {
    "head": "head_top", "neck": "upper_neck", "thor": "thorax", "pelv": "pelvis",
    **{side[0] + short: f"{side}_{name}" for side in ("left", "right") for short, name in (
        ("sho", "shoulder"), ("elb", "elbow"), ("wri", "wrist"),
        ("hip", "hip"), ("kne", "knee"), ("ank", "ankle"))},
}  # fmt: skip


def companion(predictions: Path, what: str, suffix: str) -> Path:
    """The file recorded with these predictions: of the same name, else the common one."""
    specific = predictions.with_name(predictions.stem.replace("preds", what) + suffix)
    candidates = [specific, *sorted(predictions.parent.glob(f"pckh_{what}*{suffix}"))]
    found = next((path for path in candidates if path.is_file()), None)
    if found is None:
        pytest.skip(f"no recorded fixture {specific.name}")
    return found


@pytest.mark.fixtures("pckh_preds*.npz")
def test_pckh_matches_the_reference(fixture_file: Path) -> None:
    predictions = np.load(fixture_file)
    expected = json.loads(companion(fixture_file, "expected", ".json").read_text())
    truth = loadmat(companion(fixture_file, "gt", ".mat"))
    names = [MPII_FILE_NAMES[str(cell[0])] for cell in truth["dataset_joints"][0]]
    target = torch.from_numpy(truth["pos_gt_src"].transpose(2, 0, 1) - 1.0)
    labelled = torch.from_numpy(truth["jnt_missing"].T == 0)
    length = torch.from_numpy(head_size(truth["headboxes_src"].transpose(2, 0, 1)))
    cases = [key.removesuffix("_preds") for key in predictions if key.endswith("_preds")]
    assert cases
    for case in cases:
        metric = PCK(
            joints=names,
            groups=MPII.groups,
            thresholds=(0.5, 0.1, 0.11),
            name="PCKh",
            mean_excludes=("pelvis", "thorax"),
        )
        metric.update(
            predicted=torch.from_numpy(predictions[f"{case}_preds"][..., :2]),
            joints_image=target,
            labelled=labelled,
            reference_length=length,
            sample_index=torch.arange(len(target)),
        )
        scores = metric.compute()
        for group in MPII.groups:
            recorded = expected[case][group.capitalize()]
            assert scores[f"PCKh@0.5/{group}"].item() == pytest.approx(recorded, abs=1e-3), case
        for label, recorded in (
            ("PCKh@0.5", "Mean"),
            ("PCKh@0.11", "Mean@0.1"),
            ("PCKh@0.1", "extra_mean_at_0.10_exact"),
        ):
            if recorded in expected[case]:
                assert scores[label].item() == pytest.approx(expected[case][recorded], abs=1e-3)


def lsp_metric(**options) -> PCK:
    limbs = [joint for joint in LSP.joints if joint not in ("neck", "head_top")]
    return PCK(
        joints=LSP.joints,
        groups={**LSP.groups, "limbs": limbs},
        thresholds=(0.2, 0.5),
        **options,
    )


def batch(seed: int, count: int) -> dict[str, torch.Tensor]:
    generator = np.random.default_rng(seed)
    target = generator.uniform(0, 200, (count, len(LSP), 2))
    labelled = generator.random((count, len(LSP))) < 0.7
    labelled[:, LSP.joints.index("neck")] = False
    length = generator.uniform(20, 60, count)
    length[generator.random(count) < 0.2] = generator.choice([np.nan, 0.0])
    arrays = {
        "predicted": target + generator.normal(0, 12, target.shape),
        "joints_image": np.where(labelled[..., None], target, np.nan),
        "reference_length": length,
    }
    tensors = {key: torch.from_numpy(array).float() for key, array in arrays.items()}
    index = torch.from_numpy(generator.permutation(count))
    return {**tensors, "labelled": torch.from_numpy(labelled), "sample_index": index}


def slow_scores(data: dict[str, torch.Tensor], excluded: tuple[str, ...]) -> dict[str, float]:
    """PCK as the definition reads, joint by joint."""
    groups = {**LSP.groups, "limbs": LSP.joints[:12]}
    result = {}
    for threshold in (0.2, 0.5):
        right, total = dict.fromkeys(LSP.joints, 0), dict.fromkeys(LSP.joints, 0)
        for person in range(len(data["predicted"])):
            length = data["reference_length"][person].item()
            if math.isnan(length) or length == 0:
                continue
            for k, joint in enumerate(LSP.joints):
                if data["labelled"][person, k]:
                    offset = data["predicted"][person, k] - data["joints_image"][person, k]
                    total[joint] += 1
                    right[joint] += math.hypot(*offset.tolist()) <= threshold * length
        counted = [joint for joint in LSP.joints if joint not in excluded]
        mean = sum(right[j] for j in counted) / sum(total[j] for j in counted)
        result[f"PCK@{threshold}"] = 100 * mean
        for label, names in groups.items():
            rates = [100 * right[j] / total[j] for j in names if total[j]]
            result[f"PCK@{threshold}/{label}"] = sum(rates) / len(rates)
    return result


def one_person(error: float, length: float) -> dict[str, torch.Tensor]:
    target = torch.zeros(1, len(LSP), 2)
    predicted = target.clone()
    predicted[..., 0] = error
    return {
        "predicted": predicted,
        "joints_image": target,
        "labelled": torch.ones(1, len(LSP), dtype=torch.bool),
        "reference_length": torch.tensor([length]),
        "sample_index": torch.tensor([0]),
    }


@pytest.mark.parametrize(
    ("error", "score"), [(6.0, 100.0), (6.001, 0.0), (math.nan, 0.0), (math.inf, 0.0)]
)
def test_an_error_equal_to_the_threshold_is_right(error: float, score: float) -> None:
    metric = lsp_metric()
    metric.update(**one_person(error, 30.0))
    assert metric.compute()["PCK@0.2"].item() == score


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_nothing_to_count_gives_nan() -> None:
    metric = lsp_metric()
    assert all(math.isnan(score) for score in metric.compute().values())
    unlabelled = {**batch(0, 4), "labelled": torch.zeros(4, len(LSP), dtype=torch.bool)}
    for nothing in (one_person(0.0, math.nan), unlabelled):
        metric.reset()
        metric.update(**nothing)
        assert all(math.isnan(score) for score in metric.compute().values())


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 10_000))
def test_scores_and_curve_match_a_slow_computation(seed: int) -> None:
    data = batch(seed, 12)
    # Of what all metrics together ask for each takes what it knows.
    metric = lsp_metric(mean_excludes=("left_hip",))
    MetricCollection([metric]).update(**data, scores=torch.rand(12, len(LSP)))
    expected = slow_scores(data, ("left_hip",))
    scores = {label: score.item() for label, score in metric.compute().items()}
    assert scores == pytest.approx(expected, abs=1e-4)
    persons = metric.persons()
    errors = relative_errors(*(persons[name] for name in metric.columns))
    curve = pck_curve(errors, [0.0, 0.2, 0.5, 100.0], metric.mean_rows, metric.group_rows)
    for row, threshold in ((1, 0.2), (2, 0.5)):
        assert curve.mean[row] == pytest.approx(expected[f"PCK@{threshold}"])
        for group, rates in curve.groups.items():
            assert rates[row] == pytest.approx(expected[f"PCK@{threshold}/{group}"])
    assert curve.mean[[0, -1]].tolist() == [0, 100]


def test_unknown_names_and_thresholds_are_refused() -> None:
    with pytest.raises(ValueError, match="tail"):
        PCK(joints=LSP.joints, groups={"tail": ("tail",)}, thresholds=(0.2,))
    with pytest.raises(ValueError, match="tail"):
        lsp_metric(mean_excludes=("tail",))
    with pytest.raises(ValueError, match="positive"):
        PCK(joints=LSP.joints, groups={}, thresholds=())


def test_head_size_is_a_share_of_the_diagonal() -> None:
    boxes = np.array([[[10.0, 10.0], [40.0, 50.0]], [[5.0, 5.0], [5.0, 5.0]]])
    np.testing.assert_allclose(head_size(boxes), [30.0, 0.0])


def test_torso_size_is_the_longer_diagonal() -> None:
    joints = np.zeros((2, len(LSP), 2), np.float32)
    places = {"left_shoulder": (3, 0), "right_hip": (0, 4),
              "right_shoulder": (0, 0), "left_hip": (6, 8)}  # fmt: skip
    for name, place in places.items():
        joints[:, LSP.joints.index(name)] = place
    visibility = np.ones((2, len(LSP)), np.int8)
    visibility[1, LSP.joints.index("left_hip")] = 0
    np.testing.assert_allclose(torso_size(joints, visibility, LSP), [10.0, np.nan])
