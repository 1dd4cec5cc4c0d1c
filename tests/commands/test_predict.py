"""`pnfs predict` and `pnfs.load` from end to end: what is written, and what a bad input leaves."""

import contextlib
import io
import json
import math
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from pycocotools.coco import COCO
from rich.console import Console

import pnfs
from pnfs.codec import Codec
from pnfs.commands import predict
from pnfs.commands.configuration import UsageError, plain
from pnfs.data.images import DataError
from pnfs.training.checkpoints import CheckpointError
from tiny_runs import WATCH, call, composed, untrained_run

K = 16
MAIN = "from pnfs.commands.main import main; main()"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return untrained_run(tmp_path_factory.mktemp("run")) / "checkpoints" / "best.ckpt"


def picture(seed: int, size: tuple[int, int] = (90, 70)) -> np.ndarray:
    small = np.random.default_rng(seed).integers(0, 255, (9, 7, 3), dtype=np.uint8)
    return cv2.resize(small, size[::-1], interpolation=cv2.INTER_CUBIC)


def folder_of(root: Path, *names: str) -> Path:
    """A folder with pictures of these names."""
    for seed, name in enumerate(names):
        (root / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(root / "in" / name), picture(seed))
    return root / "in"


def write_video(path: Path, count: int) -> None:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 8.0, (70, 90))
    for n in range(count):
        writer.write(picture(n))
    writer.release()


def box_file(root: Path, images: Iterable[dict], annotations: Iterable[dict], **more) -> str:
    persons = [{"category_id": 1, **annotation} for annotation in annotations]
    content = {"images": list(images), "annotations": persons, **more}
    (root / "boxes.json").write_text(json.dumps(content))
    return f"boxes={root / 'boxes.json'}"


def run(checkpoint: Path, out: Path, asked: Path, *overrides: str) -> dict:
    fixed = (f"checkpoint={checkpoint}", f"input={asked}", f"out={out}", "device=cpu")
    call("predict", *fixed, *overrides)
    return json.loads((out / "keypoints.json").read_text())


def overlays(out: Path) -> list[str]:
    folder = out / "overlays"
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.*"))


def test_weights_that_do_not_fit_are_named(checkpoint: Path, tmp_path: Path) -> None:
    content = torch.load(checkpoint, weights_only=True)
    content["state_dict"].popitem()
    torch.save(content, tmp_path / "less.ckpt")
    for name, named in (("absent", "no checkpoint"), ("less", "its weights do not fit")):
        with pytest.raises(CheckpointError, match=rf"{name}\.ckpt: {named}"):
            pnfs.load(tmp_path / f"{name}.ckpt")


def test_folder_with_unreadable_pictures(checkpoint: Path, tmp_path: Path, capsys) -> None:
    names = ["a/x.bmp", "a/x.bmp.png", "a/x.jpg", "a/x.png", "b/x.jpg"]
    inputs, out = folder_of(tmp_path, *names), tmp_path / "out"
    content = (inputs / "a" / "x.jpg").read_bytes()
    (inputs / "b" / "cut.jpg").write_bytes(content[: len(content) // 2])
    (inputs / "phone.heic").write_bytes(b"")
    with pytest.raises(UsageError, match=r"1 of 6 inputs could not be used.*\n.*cut\.jpg"):
        run(checkpoint, out, inputs)
    assert "video: phone.heic" in capsys.readouterr().out
    # Every readable picture has its own overlay, and all are in the one file.
    drawn = ["a/x.bmp.png", "a/x.bmp.png.png", *names[2:]]
    assert overlays(out) == drawn
    result = json.loads((out / "keypoints.json").read_text())
    assert sorted(image["file_name"] for image in result["images"]) == names
    for name, overlay in zip(names, drawn, strict=True):
        found = cv2.imread(str(out / "overlays" / overlay)).astype(int)
        # Something is drawn on it, and it is the picture of that name.
        own = np.abs(found - cv2.imread(str(inputs / name))).mean()
        assert 0.5 < own < np.abs(found - picture(77)).mean()


def test_person_without_a_score_is_named_and_others_are_written(checkpoint: Path, tmp_path, monkeypatch) -> None:
    decode, lost = Codec.decode, torch.tensor([[math.nan], [0.0]])  # Of the first of two persons.
    monkeypatch.setattr(Codec, "decode", lambda *a: (decode(*a)[0], decode(*a)[1] + lost))
    inputs, out = folder_of(tmp_path, "a.png", "b.png"), tmp_path / "out"
    with pytest.raises(UsageError, match=r"1 of 2 inputs.*\n.*a\.png: poses left out, .*: 1;"):
        run(checkpoint, out, inputs, "second_look=false")
    assert set(pd.read_csv(out / "keypoints.csv")["file"]) == {"b.png"}
    assert len(json.loads((out / "keypoints.json").read_text())["annotations"]) == 1


def test_results_load_in_pycocotools_and_serve_as_boxes(checkpoint: Path, tmp_path: Path) -> None:
    inputs, out = folder_of(tmp_path, "p9.png", "p10.png"), tmp_path / "out"
    boxes = box_file(
        tmp_path,
        [{"id": 40 + n, "file_name": f"p{n}.png"} for n in (9, 10)],
        [
            {"image_id": 50, "bbox": [5, 5, 30, 50]},
            {"image_id": 49, "bbox": [1, 2, 30, 60], "score": 0.75},
            {"image_id": 50, "bbox": [9, 9, 40, 60]},
        ],
    )
    first = run(checkpoint, out, inputs, boxes)
    named = [(image["id"], image["file_name"]) for image in first["images"]]
    assert named == [(49, "p9.png"), (50, "p10.png")]
    with contextlib.redirect_stdout(io.StringIO()):
        loaded = COCO(str(out / "keypoints.json"))
    (person,) = loaded.loadAnns(loaded.getAnnIds(imgIds=49))
    predictor = pnfs.load(checkpoint, "cpu")
    image = cv2.cvtColor(picture(0), cv2.COLOR_BGR2RGB)
    found = predictor.predict(image, [[1, 2, 30, 60]], box_scores=np.array([0.75]))
    table = np.array(person["keypoints"]).reshape(K, 3)
    np.testing.assert_allclose(table[:, :2], found.joints[0], atol=0.01)
    assert table[:, 2].tolist() == np.where(found.scores[0] >= 0.2, 2, 1).tolist()
    np.testing.assert_allclose(person["keypoint_scores"], found.scores[0], atol=1e-4)
    assert person["score"] == pytest.approx(found.person_scores[0], abs=1e-4)
    (category,) = loaded.loadCats(loaded.getCatIds())
    assert category["keypoints"] == list(predictor.skeleton.joints)
    own = f"boxes={out / 'keypoints.json'}"
    again = run(checkpoint, tmp_path / "again", inputs, own, "box_threshold=0")
    rows = pd.read_csv(out / "keypoints.csv")
    persons = rows[["file", "person"]].drop_duplicates().to_numpy().tolist()
    assert persons == [["p9.png", 1], ["p10.png", 1], ["p10.png", 2]]
    assert rows[["frame", "time_s"]].isna().all(axis=None)
    before, after = ([a["keypoints"] for a in x["annotations"]] for x in (first, again))
    assert before == after
    assert again["info"]["upright"] is False


def test_video_becomes_a_video_and_a_record_a_frame(checkpoint: Path, tmp_path: Path) -> None:
    path, out = tmp_path / "walk.avi", tmp_path / "out"
    write_video(path, 7)
    # An untrained network is sure of nothing.
    result = run(checkpoint, out, path, "batch_size=3", "tracking.score=0")
    assert overlays(out) == ["walk.avi.mp4"]
    capture, frames = cv2.VideoCapture(str(out / "overlays" / "walk.avi.mp4")), 0
    while capture.read()[0]:
        frames += 1
    assert (frames, capture.get(cv2.CAP_PROP_FPS)) == (7, pytest.approx(8))
    images, persons = result["images"], result["annotations"]
    assert [image["frame_id"] for image in images] == list(range(7))
    assert [person["image_id"] for person in persons] == [image["id"] for image in images]
    assert result["videos"][0]["name"] == "walk.avi"
    assert {person["track_id"] for person in persons} == {1}
    assert result["info"]["smoothing"] == {"min_cutoff": 1.0, "beta": 10.0}
    raw = run(checkpoint, tmp_path / "raw", path, "tracking.score=0", "smoothing.enabled=false")
    assert (raw["info"]["smoothing"], raw["info"]["upright"]) == (None, True)
    with pytest.raises(UsageError, match=r"walk\.avi\.mp4"):
        run(checkpoint, out, out / "overlays" / "walk.avi.mp4")
    first, *others = zip(persons, raw["annotations"], strict=True)
    assert first[0] == first[1]
    assert all(a["keypoints"] != b["keypoints"] for a, b in others)
    assert all(a["bbox"] == b["bbox"] for a, b in others), "smoothing moves no box"
    # The table is the JSON file, a joint a row; pictures have no frame, and the place among the persons.
    names, expected = result["categories"][0]["keypoints"], []
    for frame, person in enumerate(persons):
        xy = np.array(person["keypoints"]).reshape(K, 3)[:, :2].tolist()
        for joint, place, score in zip(names, xy, person["keypoint_scores"], strict=True):
            expected.append(["walk.avi", frame, frame / 8, 1, joint, *place, score])
    assert pd.read_csv(out / "keypoints.csv").to_numpy().tolist() == expected


def test_other_choices_have_a_folder_of_their_own() -> None:
    asked: list[list[str]] = [[], ["run_root=runs"], ["flip_test=false"], ["boxes=a.json"], ["tracking.keep=3"]]
    folders = [predict._folder(plain(composed("predict", "input=x.jpg", *more))) for more in asked]
    assert folders[0] == folders[1]
    assert len(set(folders)) == 4


def test_one_skeleton_per_picture_is_warned_of(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cv2.imwrite(str(tmp_path / "street.png"), picture(0))
    run(checkpoint, tmp_path / "out", tmp_path / "street.png")
    warning = next(x for x in capsys.readouterr().out.splitlines() if x.startswith("warning"))
    assert "boxes=detector" in warning


@pytest.mark.slow
@pytest.mark.parametrize("download", [False, True])
def test_nothing_is_downloaded_unasked(tmp_path: Path, download: bool) -> None:
    cv2.imwrite(str(tmp_path / "x.png"), picture(0))
    command = [sys.executable, "-c", WATCH + MAIN, "predict", "x.png", "boxes=detector", "device=cpu"]
    done = subprocess.run(
        [*command, *["detector.download=true"] * download],
        cwd=tmp_path,
        env={**os.environ, "TORCH_HOME": str(tmp_path), "HOME": str(tmp_path), "SEEN": "seen"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0
    assert (tmp_path / "seen").exists() == download
    said = done.stdout + done.stderr
    assert "Traceback" not in said
    assert "https://download.pytorch.org/models/fasterrcnn" in said
    assert download or "detector.download=true" in said


def test_in_a_terminal_the_download_is_offered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(predict, "console", Console(force_terminal=True, file=io.StringIO()))
    monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    settings = plain(composed("predict", "input=x.png", "boxes=detector", "device=cpu"))
    with pytest.raises(DataError, match=r"detector\.download=true"):
        predict.choose_boxes(settings)
    assert "Download 167 MB from https://" in " ".join(predict.console.file.getvalue().split())
