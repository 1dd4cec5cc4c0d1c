"""The results file of COCO's server: each fault of it is found and named."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pnfs.data.results_file import check_results, results_name, write_results

NAME = "person_keypoints_test-dev2017_mine_results.json"


def sound(image: int = 7, start: float = 0.0) -> dict[str, Any]:
    keypoints = [start + k for k in range(51)]
    return {"image_id": image, "category_id": 1, "keypoints": keypoints, "score": 0.5}


def written(folder: Path, content: Any, name: str = NAME) -> Path:
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_what_is_written_is_sound(tmp_path: Path) -> None:
    detections = [{**sound(), "keypoints": [1.23456] * 51}, sound(9)]
    path = write_results(tmp_path / "new" / results_name("test-dev2017", "mine"), detections)
    assert path.name == NAME
    assert check_results(path, [7, 9]) == []
    assert json.loads(path.read_text())[0]["keypoints"] == [1.23] * 51


@pytest.mark.parametrize("method", ["", "a b", "../up", "naïve"])
def test_a_name_that_no_file_may_have(method: str) -> None:
    with pytest.raises(ValueError, match="the method's name"):
        results_name("val2017", method)


def change(**changed: Any) -> Callable[[], list]:
    return lambda: [sound(), {**sound(9), **changed}, {**sound(11), **changed}]


def without(key: str) -> Callable[[], list]:
    return lambda: [sound(), {k: v for k, v in sound(9).items() if k != key}]


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (lambda: "[{", "cannot be read as JSON"),
        (lambda: {"annotations": []}, "holds dict instead of a list"),
        (list, "holds no detection"),
        (lambda: [sound(), 5], "detection 1: "),
        (without("score"), "detection 1: score: "),
        (without("image_id"), "detection 1: image_id: "),
        (change(image_id="9"), "detection 1 (and 1 more): image_id: "),
        (change(image_id=9.0), "detection 1 (and 1 more): image_id: "),
        (change(image_id=True), "detection 1 (and 1 more): image_id: "),
        (change(image_id=8), "detection 1 (and 1 more): image_id: is not an image of the test set"),
        (change(category_id=2), "detection 1 (and 1 more): category_id: "),
        (change(keypoints=[1.0] * 34), "detection 1 (and 1 more): keypoints: "),
        (change(keypoints=[[1.0, 2.0, 3.0]] * 17), "detection 1 (and 1 more): keypoints: "),
        (change(keypoints=[1.0] * 50 + [None]), "detection 1 (and 1 more): keypoints: "),
        (change(keypoints=[1.0] * 50 + [float("nan")]), "detection 1 (and 1 more): keypoints: "),
        (change(keypoints=[1.0] * 50 + [True]), "detection 1 (and 1 more): keypoints: "),
        (change(score=float("inf")), "detection 1 (and 1 more): score: "),
        (change(score="0.5"), "detection 1 (and 1 more): score: "),
        (lambda: [sound(), sound(9), sound()], "detection 2: repeats an earlier detection"),
    ],
)
def test_each_fault_is_found_alone(tmp_path: Path, content: Callable, fault: str) -> None:
    faults = check_results(written(tmp_path, content()), [7, 9, 11])
    assert any(fault in found for found in faults), faults
    # Two records with one keypoints list in one image are a repetition as well.
    assert len([found for found in faults if "repeats" not in found]) == ("repeats" not in fault)


@pytest.mark.parametrize(
    "name",
    ["results.json", "person_keypoints_test-dev2017_results.json",
     "person_keypoints_test-dev_mine_results.json", "keypoints_val2017_mine_results.json"],
)  # fmt: skip
def test_a_wrong_name_is_found(tmp_path: Path, name: str) -> None:
    (fault,) = check_results(written(tmp_path, [sound()], name))
    assert fault.startswith(f"the name {name} is not")


def test_a_missing_file_is_found(tmp_path: Path) -> None:
    (fault,) = check_results(tmp_path / NAME)
    assert "cannot be read" in fault


def test_images_are_not_checked_without_a_test_set(tmp_path: Path) -> None:
    assert check_results(written(tmp_path, [sound(123456)])) == []
