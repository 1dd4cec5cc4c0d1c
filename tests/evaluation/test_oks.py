import copy
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from pnfs.body import COCO, MPII
from pnfs.data.coco_format import read_annotations
from pnfs.evaluation import (
    OKSAveragePrecision,
    evaluate_detections,
    oks,
    oks_nms,
    soft_oks_nms,
)
from pnfs.evaluation.oks import similarity_sigmas

SUPPRESSIONS = {"oks_nms": oks_nms, "soft_oks_nms": soft_oks_nms}
NAMES = ["AP", "AP .5", "AP .75", "AP (M)", "AP (L)", "AR", "AR .5", "AR .75", "AR (M)", "AR (L)"]


def beside(file: Path, name: str) -> Path:
    path = file.with_name(name)
    if not path.is_file():
        pytest.skip(f"no recorded fixture {name}")
    return path


def test_joints_that_coco_knows_are_compared_as_cocos() -> None:
    np.testing.assert_array_equal(similarity_sigmas(COCO), COCO.oks_sigmas)
    found = dict(zip(MPII.joints, similarity_sigmas(MPII).tolist(), strict=True))
    assert (found["left_hip"], found["right_wrist"]) == (0.107, 0.062)
    assert found["pelvis"] == found["head_top"] == pytest.approx(sum(COCO.oks_sigmas) / 17)


@pytest.mark.fixtures("oks_nms_inputs*.npz")
def test_suppression_matches_the_reference(fixture_file: Path) -> None:
    inputs = np.load(fixture_file)
    name = fixture_file.name.replace("inputs", "expected").replace(".npz", ".json")
    expected = json.loads(beside(fixture_file, name).read_text())
    offsets = inputs["set_offsets"]
    assert len(expected) == len(offsets) - 1 > 0
    for number, recorded in enumerate(expected):
        rows = slice(offsets[number], offsets[number + 1])
        arrays = (inputs["keypoints"][rows], inputs["scores"][rows], inputs["areas"][rows])
        for key, indices in recorded.items():
            function, _, threshold = key.rpartition("_")
            kept = SUPPRESSIONS[function](*arrays, float(threshold))
            assert kept.tolist() == indices, (number, key)


@pytest.mark.fixtures("coco_dt_*.json")
def test_average_precision_matches_the_reference(fixture_file: Path, capsys) -> None:
    ground_truth = beside(fixture_file, "coco_gt.json")
    case = fixture_file.stem.removeprefix("coco_dt_")
    expected = json.loads(beside(fixture_file, "coco_expected.json").read_text())[case]
    expected = {name: math.nan if value == -1 else value for name, value in expected.items()}
    detections = json.loads(fixture_file.read_text())
    for source in (ground_truth, json.loads(ground_truth.read_text())):
        truth = read_annotations(source)
        before = copy.deepcopy((detections, truth.images, truth.records))
        scores = evaluate_detections(detections, truth)
        assert scores == pytest.approx(expected, abs=1e-6, nan_ok=True)
        assert (detections, truth.images, truth.records) == before
    assert capsys.readouterr().out == ""


def slow_oks(a, b, area_a: float, area_b: float) -> float:
    total = 0.0
    for k, sigma in enumerate(COCO.oks_sigmas):
        squared = (a[k][0] - b[k][0]) ** 2 + (a[k][1] - b[k][1]) ** 2
        total += math.exp(-squared / (2 * (2 * sigma) ** 2 * (area_a + area_b) / 2))
    return total / len(COCO)


def test_oks_matches_a_slow_computation() -> None:
    generator = np.random.default_rng(0)
    person = generator.uniform(0, 60, (17, 2))
    others = person + generator.normal(0, 5, (4, 17, 2))
    areas = generator.uniform(500, 5000, 4)
    found = oks(person, others, 2000.0, areas)
    expected = [slow_oks(person, o, 2000.0, a) for o, a in zip(others, areas, strict=True)]
    np.testing.assert_allclose(found, expected)
    assert oks(person, person[None], 2000.0, np.array([2000.0])) == pytest.approx(1)


@pytest.mark.parametrize("suppress", SUPPRESSIONS.values())
def test_suppressing_nothing_gives_nothing(suppress) -> None:
    assert suppress(np.zeros((0, 17, 3)), np.zeros(0), np.zeros(0), 0.9).tolist() == []


def figure(x: float) -> np.ndarray:
    """17 joints of a person about 80 pixels wide."""
    return np.array([[x + k % 5 * 20, 50.0 + k // 5 * 30] for k in range(17)])


def annotation_file(persons: dict[int, list[np.ndarray]]) -> dict:
    annotations = []
    for image, figures in persons.items():
        for points in figures:
            keypoints = np.column_stack([points, np.full(17, 2)]).ravel().tolist()
            annotations.append({
                "id": len(annotations) + 1, "image_id": image, "category_id": 1, "iscrowd": 0,
                "area": 6000.0, "bbox": [points[0, 0], 50.0, 80.0, 90.0],
                "num_keypoints": 17, "keypoints": keypoints,
            })  # fmt: skip
    return {
        "images": [{"id": image, "width": 640, "height": 480} for image in persons],
        "annotations": annotations,
        "categories": [{"id": 1, "name": "person", "keypoints": list(COCO.joints)}],
    }


TRUTH = {7: [figure(0), figure(200)], 9: [figure(100)]}
PERSONS = torch.from_numpy(np.stack([figure(0), figure(200), figure(100)])).float()


def metric(samples: int = 3, **options) -> OKSAveragePrecision:
    columns = {
        "truth": read_annotations(annotation_file(TRUTH)),
        "image_ids": np.array([7, 7, 9, 7])[:samples],
        "areas": np.full(samples, 7200.0),
        "box_scores": np.ones(samples),
    }
    return OKSAveragePrecision(**{**columns, **options})


def scores_of(average: OKSAveragePrecision) -> dict[str, float]:
    return {name: value.item() for name, value in average.compute().items()}


def test_perfect_predictions_score_one() -> None:
    average = metric()
    average.update(predicted=PERSONS, scores=torch.ones(3, 17), sample_index=torch.arange(3))
    scores = scores_of(average)
    assert list(scores) == NAMES
    # The persons' area is of COCO's medium size, so that there is no large one.
    for name, value in scores.items():
        assert math.isnan(value) if "(L)" in name else value == pytest.approx(1), name


def test_images_without_prediction_count() -> None:
    average = metric()
    average.update(predicted=PERSONS[:1], scores=torch.ones(1, 17), sample_index=torch.tensor([0]))
    assert scores_of(average)["AR"] == pytest.approx(1 / 3)


def test_the_metric_agrees_with_detections_written_by_hand() -> None:
    generator = torch.Generator().manual_seed(0)
    predicted = PERSONS + 2 * torch.randn(3, 17, 2, generator=generator)
    joint_scores = torch.rand(3, 17, generator=generator)
    joint_scores[2] = 0.1
    box_scores = np.array([0.5, 0.9, 0.8])
    average = metric(box_scores=box_scores, nms_threshold=None)
    average.update(predicted=predicted, scores=joint_scores, sample_index=torch.arange(3))
    detections = []
    for row, image in enumerate((7, 7, 9)):
        high = [s for s in joint_scores[row].tolist() if s > 0.2]
        score = box_scores[row] * (sum(high) / len(high) if high else 0.0)
        points = torch.cat([predicted[row], joint_scores[row][:, None]], -1)
        detections.append({
            "image_id": image, "category_id": 1, "score": score,
            "keypoints": points.ravel().tolist(),
        })  # fmt: skip
    expected = evaluate_detections(detections, read_annotations(annotation_file(TRUTH)))
    assert 0 < expected["AP"] < 1
    assert scores_of(average) == pytest.approx(expected, abs=1e-6, nan_ok=True)


def test_duplicates_of_a_person_are_suppressed() -> None:
    # Sample 3 is a second, better scored box on sample 0's person: a false alarm unless dropped.
    predicted = torch.cat([PERSONS, PERSONS[:1] + 1])
    arguments = {
        "predicted": predicted,
        "scores": torch.ones(4, 17),
        "sample_index": torch.arange(4),
    }
    precisions = []
    for threshold in (0.9, None):
        average = metric(4, nms_threshold=threshold, box_scores=np.array([0.8, 0.7, 0.6, 1.0]))
        average.update(**arguments)
        precisions.append(scores_of(average)["AP"])
    assert precisions[0] == pytest.approx(1)
    assert precisions[1] < 0.9


def test_soft_suppression_keeps_duplicates_with_their_scores() -> None:
    average = metric(4, soft_nms=True, box_scores=np.array([0.8, 0.7, 0.6, 1.0]))
    predicted = torch.cat([PERSONS, PERSONS[:1] + 1])
    average.update(predicted=predicted, scores=torch.ones(4, 17), sample_index=torch.arange(4))
    assert scores_of(average)["AR"] == pytest.approx(1)


def test_a_sample_counts_once_however_often_it_comes() -> None:
    once, often = metric(nms_threshold=None), metric(nms_threshold=None)
    arguments = {"predicted": PERSONS, "scores": torch.ones(3, 17)}
    once.update(**arguments, sample_index=torch.arange(3))
    often.update(**arguments, sample_index=torch.arange(3))
    often.update(
        predicted=PERSONS[1:] + 500, scores=torch.ones(2, 17), sample_index=torch.tensor([1, 2])
    )
    assert scores_of(often) == pytest.approx(scores_of(once), nan_ok=True)


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_no_input_gives_nan() -> None:
    scores = scores_of(metric())
    assert list(scores) == NAMES
    assert all(math.isnan(value) for value in scores.values())
    assert all(
        map(math.isnan, evaluate_detections([], read_annotations(annotation_file(TRUTH))).values())
    )


def test_columns_must_fit() -> None:
    with pytest.raises(ValueError, match="for every sample"):
        metric(areas=np.ones(2))
    with pytest.raises(ValueError, match="no image 8"):
        metric(image_ids=np.array([7, 8, 9]))
    with pytest.raises(ValueError, match="17 joints"):
        metric().update(
            predicted=PERSONS[:, :16], scores=torch.ones(3, 16), sample_index=torch.arange(3)
        )


def test_unusable_annotations_are_named(tmp_path: Path) -> None:
    file = tmp_path / "annotations.json"
    with pytest.raises(ValueError, match=r"annotations\.json"):
        read_annotations(file)
    file.write_text("{")
    with pytest.raises(ValueError, match=r"annotations\.json"):
        read_annotations(file)
    file.write_text('{"images": []}')
    with pytest.raises(ValueError, match=r"annotations\.json.*'annotations'"):
        read_annotations(file)
    truth = annotation_file(TRUTH)
    del truth["annotations"][1]["bbox"]
    file.write_text(json.dumps(truth))
    with pytest.raises(ValueError, match=r"annotations\.json: annotation 2: bbox"):
        read_annotations(file)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_id": 1}, "detection 0 is in image 1"),
        ({"keypoints": [1.0, 2.0, 3.0]}, "detection 0 has 3 numbers"),
    ],
)
def test_unusable_detections_are_named(change: dict, message: str) -> None:
    detection = {"image_id": 7, "category_id": 1, "score": 1.0, "keypoints": [0.0] * 51}
    truth = read_annotations(annotation_file(TRUTH))
    with pytest.raises(ValueError, match=message):
        evaluate_detections([{**detection, **change}], truth)
    del detection["score"]
    with pytest.raises(ValueError, match="detection 0 lacks score"):
        evaluate_detections([detection], truth)
