"""`pnfs predict` and `pnfs.load` from end to end: what is written, and what a bad input leaves."""

import contextlib
import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from rich.console import Console

import pnfs
from pnfs.commands import predict
from pnfs.commands.configuration import UsageError, plain
from pnfs.data.images import DataError
from pnfs.training.checkpoints import CheckpointError
from tiny_runs import call, composed, untrained_run

K = 16


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return untrained_run(tmp_path_factory.mktemp("run")) / "checkpoints" / "best.ckpt"


def picture(seed: int, size: tuple[int, int] = (90, 70)) -> np.ndarray:
    small = np.random.default_rng(seed).integers(0, 255, (9, 7, 3), dtype=np.uint8)
    return cv2.resize(small, size[::-1], interpolation=cv2.INTER_CUBIC)


def run(checkpoint: Path, out: Path, asked: Path, *overrides: str) -> dict:
    call("predict", f"checkpoint={checkpoint}", f"input={asked}", f"out={out}", "device=cpu",
         *overrides)  # fmt: skip
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
    with pytest.raises(CheckpointError, match=r"absent\.ckpt"):
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
    # An untrained network is sure of nothing.
    result = run(checkpoint, out, path, "batch_size=3", "tracking.score=0")
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
    assert {person["track_id"] for person in result["annotations"]} == {1}
    assert result["info"]["smoothing"] == {"min_cutoff": 1.0, "beta": 10.0}
    raw = run(checkpoint, tmp_path / "raw", path, "tracking.score=0", "smoothing.enabled=false")
    assert raw["info"]["smoothing"] is None
    first, *others = zip(result["annotations"], raw["annotations"], strict=True)
    assert first[0] == first[1]
    assert all(a["keypoints"] != b["keypoints"] for a, b in others)
    assert all(a["bbox"] == b["bbox"] for a, b in others), "smoothing moves no box"


def test_the_table_of_joints_is_the_json_file(checkpoint: Path, tmp_path: Path) -> None:
    inputs, out = tmp_path / "in", tmp_path / "out"
    inputs.mkdir()
    cv2.imwrite(str(inputs / 'a, "b".png'), picture(0))
    writer = cv2.VideoWriter(str(inputs / "v.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 8.0, (70, 90))
    for n in range(2):
        writer.write(picture(n))
    writer.release()
    boxes = {
        "images": [{"id": 1, "file_name": 'a, "b".png'}]
        + [{"id": n + 2, "file_name": "v.avi", "frame_id": n} for n in range(2)],
        "annotations": [
            {"image_id": image, "bbox": [x, 5, 30, 50], "category_id": 1}
            for image in (1, 2, 3) for x in (1, 36)
        ],
    }  # fmt: skip
    (tmp_path / "boxes.json").write_text(json.dumps(boxes))
    result = run(checkpoint, out, inputs, f"boxes={tmp_path / 'boxes.json'}", "nms_threshold=null")
    names = {image["id"]: image for image in result["images"]}
    with (out / "keypoints.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 6 * K
    by_person = [rows[n : n + K] for n in range(0, len(rows), K)]
    for table, person in zip(by_person, result["annotations"], strict=True):
        image = names[person["image_id"]]
        assert {row["file"] for row in table} == {image["file_name"]}
        frame = image.get("frame_id")
        assert {row["frame"] for row in table} == {"" if frame is None else str(frame)}
        assert {row["time_s"] for row in table} == {"" if frame is None else str(frame / 8)}
        numbers = [[float(row[name]) for name in ("x", "y")] for row in table]
        assert numbers == np.array(person["keypoints"]).reshape(K, 3)[:, :2].tolist()
        assert [float(row["score"]) for row in table] == person["keypoint_scores"]
        assert [row["joint"] for row in table] == result["categories"][0]["keypoints"]
    assert [table[0]["person"] for table in by_person] == ["1", "2"] * 3
    assert ["track_id" in person for person in result["annotations"]] == [False] * 2 + [True] * 4


@pytest.mark.parametrize(("size", "scene"), [((60, 90), True), ((90, 60), False)])
def test_one_skeleton_over_a_picture_is_said_and_scenes_are_named(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], size, scene: bool
) -> None:
    cv2.imwrite(str(tmp_path / "street.png"), picture(0, size))
    run(checkpoint, tmp_path / "out", tmp_path / "street.png")
    warning = next(x for x in capsys.readouterr().out.splitlines() if x.startswith("warning"))
    assert "boxes=detector" in warning
    assert ("street.png" in warning) == scene


# Anything that asks for an address or a connection is noted in a file and stopped.
WATCH = """
import os, sys
def watch(event, args):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"):
        with open("seen", "a") as seen:
            seen.write(f"{event} {args[1:]}\\n")
        raise OSError("no network in this test")
sys.addaudithook(watch)
from pnfs.commands.main import main
main()
"""


@pytest.mark.slow
@pytest.mark.parametrize("download", [False, True])
def test_nothing_is_downloaded_unasked(tmp_path: Path, download: bool) -> None:
    cv2.imwrite(str(tmp_path / "x.png"), picture(0))
    (tmp_path / "watched.py").write_text(WATCH)
    command = [sys.executable, "watched.py", "predict", "x.png", "boxes=detector", "device=cpu"]
    done = subprocess.run(
        [*command, *["detector.download=true"] * download],
        cwd=tmp_path,
        env={**os.environ, "TORCH_HOME": str(tmp_path), "HOME": str(tmp_path)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0
    assert (tmp_path / "seen").exists() == download
    said = done.stdout + done.stderr
    assert "Traceback" not in said
    assert "https://download.pytorch.org/models/fasterrcnn" in said
    if not download:
        assert "detector.download=true" in said
        assert "167 MB" in said


def test_in_a_terminal_the_download_is_offered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(predict, "console", Console(force_terminal=True, file=io.StringIO()))
    monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    settings = plain(composed("predict", "input=x.png", "boxes=detector", "device=cpu"))
    with pytest.raises(DataError, match=r"detector\.download=true"):
        predict.choose_boxes(settings)
    assert "Download 167 MB from https://" in " ".join(predict.console.file.getvalue().split())
