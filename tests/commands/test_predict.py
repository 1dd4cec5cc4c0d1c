"""`pnfs predict` and `pnfs.load` from end to end: what is written, and what a bad input leaves."""

import contextlib
import io
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from pycocotools.coco import COCO

import pnfs
from pnfs.commands import predict
from pnfs.commands.configuration import UsageError
from pnfs.training.checkpoints import CheckpointError
from tiny_runs import composed, untrained_run

K = 16


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return untrained_run(tmp_path_factory.mktemp("run")) / "checkpoints" / "best.ckpt"


def picture(seed: int, size: tuple[int, int] = (90, 70)) -> np.ndarray:
    small = np.random.default_rng(seed).integers(0, 255, (9, 7, 3), dtype=np.uint8)
    return cv2.resize(small, size[::-1], interpolation=cv2.INTER_CUBIC)


def run(checkpoint: Path, out: Path, asked: Path, *overrides: str) -> dict:
    predict.run(
        composed("predict", f"checkpoint={checkpoint}", f"input={asked}", f"out={out}", "device=cpu",
                 *overrides)
    )  # fmt: skip
    return json.loads((out / "keypoints.json").read_text())


def overlays(out: Path) -> list[str]:
    folder = out / "overlays"
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.*"))


def test_load_predicts_from_an_array(checkpoint: Path) -> None:
    predictor = pnfs.load(checkpoint, "cpu", batch_size=2)
    boxes = np.array([[5, 5, 30, 50], [20, 10, 40, 60], [0, 0, 70, 90]], float)
    found = predictor.predict(picture(0), boxes)
    assert found.joints.shape == (3, K, 2)
    one = predictor.predict(picture(0), boxes[1:2])
    np.testing.assert_allclose(one.joints[0], found.joints[1], atol=1e-3)
    assert pnfs.load(checkpoint.parent, "cpu", padding=2.0).padding == 2.0


def test_load_refuses_what_is_no_checkpoint(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        pnfs.load(tmp_path / "absent.ckpt")
    content = torch.load(checkpoint, weights_only=True)
    content["state_dict"].popitem()
    torch.save(content, tmp_path / "less.ckpt")
    with pytest.raises(CheckpointError, match=r"less\.ckpt: its weights do not fit"):
        pnfs.load(tmp_path / "less.ckpt")


def test_folder_with_unreadable_pictures(checkpoint: Path, tmp_path: Path) -> None:
    inputs, out = tmp_path / "in", tmp_path / "out"
    for folder in ("a", "b"):
        (inputs / folder).mkdir(parents=True)
    for seed, name in enumerate(("a/x.jpg", "a/x.png", "b/x.jpg", "a/x.bmp", "a/x.bmp.png")):
        cv2.imwrite(str(inputs / name), picture(seed))
    content = (inputs / "a" / "x.jpg").read_bytes()
    (inputs / "b" / "cut.jpg").write_bytes(content[: len(content) // 2])
    with pytest.raises(UsageError, match=r"1 of 6 inputs could not be used.*\n.*cut\.jpg"):
        run(checkpoint, out, inputs, "score_maps=true")
    # Every readable picture has its own overlay, and all are in the one file.
    expected = ["a/x.bmp.png", "a/x.bmp.png.png", "a/x.jpg", "a/x.png", "b/x.jpg"]
    assert overlays(out) == expected
    result = json.loads((out / "keypoints.json").read_text())
    assert sorted(image["file_name"] for image in result["images"]) == [
        "a/x.bmp", "a/x.bmp.png", "a/x.jpg", "a/x.png", "b/x.jpg",
    ]  # fmt: skip
    for name in expected[2:]:
        drawn = cv2.imread(str(out / "overlays" / name))
        assert drawn.shape == (90, 70, 3)
        # Something is drawn on it, and it is the picture of that name.
        own = np.abs(drawn.astype(int) - cv2.imread(str(inputs / name))).mean()
        other = np.abs(drawn.astype(int) - picture(77)).mean()
        assert 0.5 < own < other
    assert len(list((out / "score_maps").rglob("person_000.png"))) == 5


def test_what_is_passed_over_stands_on_screen(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    inputs = tmp_path / "in"
    inputs.mkdir()
    cv2.imwrite(str(inputs / "x.png"), picture(0))
    (inputs / "phone.heic").write_bytes(b"")
    (inputs / "moves.gif").write_bytes(b"")
    box = {"image_id": 1, "bbox": [5, 5, 30, 50]}
    content = {
        "images": [{"id": 1, "file_name": "x.png", "width": 70, "height": 90}],
        "annotations": [box | {"category_id": 0}, box | {"category_id": 3}],
        "categories": [{"id": 0, "name": "person"}, {"id": 3, "name": "dog"}],
    }
    (tmp_path / "boxes.json").write_text(json.dumps(content))
    found = run(checkpoint, tmp_path / "out", inputs, f"boxes={tmp_path / 'boxes.json'}")
    assert len(found["annotations"]) == 1
    screen = capsys.readouterr().out
    assert ".gif 1 (moves.gif), .heic 1 (phone.heic)" in screen
    assert "boxes left out: 1" in screen


def test_results_load_in_pycocotools_and_serve_as_boxes(checkpoint: Path, tmp_path: Path) -> None:
    inputs, out = tmp_path / "in", tmp_path / "out"
    inputs.mkdir()
    for n in (10, 9):
        cv2.imwrite(str(inputs / f"p{n}.png"), picture(n))
    boxes = {
        "images": [{"id": 40 + n, "file_name": f"p{n}.png"} for n in (9, 10)],
        "annotations": [
            {"image_id": 50, "bbox": [5, 5, 30, 50], "category_id": 1},
            {"image_id": 49, "bbox": [1, 2, 30, 60], "category_id": 1, "score": 0.75},
            {"image_id": 50, "bbox": [9, 9, 40, 60], "category_id": 1},
        ],
    }
    (tmp_path / "boxes.json").write_text(json.dumps(boxes))
    first = run(checkpoint, out, inputs, f"boxes={tmp_path / 'boxes.json'}")
    assert [(image["id"], image["file_name"]) for image in first["images"]] == [
        (49, "p9.png"),
        (50, "p10.png"),
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        loaded = COCO(str(out / "keypoints.json"))
    (person,) = loaded.loadAnns(loaded.getAnnIds(imgIds=49))
    predictor = pnfs.load(checkpoint, "cpu")
    image = cv2.cvtColor(picture(9), cv2.COLOR_BGR2RGB)
    found = predictor.predict(image, [[1, 2, 30, 60]], box_scores=np.array([0.75]))
    table = np.array(person["keypoints"]).reshape(K, 3)
    np.testing.assert_allclose(table[:, :2], found.joints[0], atol=0.01)
    assert table[:, 2].tolist() == np.where(found.scores[0] >= 0.2, 2, 1).tolist()
    np.testing.assert_allclose(person["keypoint_scores"], found.scores[0], atol=1e-4)
    assert person["score"] == pytest.approx(found.person_scores[0], abs=1e-4)
    (category,) = loaded.loadCats(loaded.getCatIds())
    assert category["keypoints"] == list(predictor.skeleton.joints)
    again = run(
        checkpoint, tmp_path / "again", inputs, f"boxes={out / 'keypoints.json'}", "box_threshold=0"
    )
    assert [a["keypoints"] for a in again["annotations"]] == [
        a["keypoints"] for a in first["annotations"]
    ]


def test_poses_of_overlapping_boxes_are_left_out(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in").mkdir()
    cv2.imwrite(str(tmp_path / "in" / "1.png"), picture(1))
    box = {"image_id": 1, "category_id": 1, "score": 0.9}
    detections = [box | {"bbox": [5, 5, 40, 60]}, box | {"bbox": [5, 5, 40, 60], "score": 0.8}]
    (tmp_path / "boxes.json").write_text(json.dumps(detections))
    asked = tmp_path / "in", f"boxes={tmp_path / 'boxes.json'}"
    found = run(checkpoint, tmp_path / "out", *asked)
    assert [person["box_score"] for person in found["annotations"]] == [0.9]
    assert "1 more were left out" in capsys.readouterr().out
    found = run(checkpoint, tmp_path / "all", *asked, "nms_threshold=null")
    assert [person["box_score"] for person in found["annotations"]] == [0.9, 0.8]


def test_video_becomes_a_video_and_a_record_a_frame(checkpoint: Path, tmp_path: Path) -> None:
    path, out = tmp_path / "walk.avi", tmp_path / "out"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 8.0, (64, 96))
    for n in range(7):
        writer.write(picture(n, (96, 64)))
    writer.release()
    result = run(checkpoint, out, path, "batch_size=3")
    assert overlays(out) == ["walk.avi.mp4"]
    capture = cv2.VideoCapture(str(out / "overlays" / "walk.avi.mp4"))
    frames = 0
    while capture.read()[0]:
        frames += 1
    assert frames == 7
    assert capture.get(cv2.CAP_PROP_FPS) == pytest.approx(8)
    assert [image["frame_id"] for image in result["images"]] == list(range(7))
    assert [person["image_id"] for person in result["annotations"]] == [
        image["id"] for image in result["images"]
    ]
    assert result["videos"][0]["name"] == "walk.avi"
