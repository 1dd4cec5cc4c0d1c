"""Boxes of persons: which belong to which picture, and what is refused."""

import hashlib
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torchvision

from pnfs.data.coco_format import CROWD, OTHER_CATEGORY
from pnfs.data.images import DataError
from pnfs.inference.boxes import CocoBoxes, PersonDetector
from pnfs.inference.inputs import InputFile

IMAGE = np.zeros((100, 200, 3), np.uint8)


def image(id_: int, name: str, **more) -> dict:
    return {"id": id_, "file_name": name, "width": 200, "height": 100, **more}


def person(image_id: int, *box: float, **more) -> dict:
    return {"image_id": image_id, "category_id": 1, "bbox": list(box)} | more


def written(tmp_path: Path, content: object, name: str = "boxes.json") -> Path:
    (tmp_path / name).write_text(json.dumps(content))
    return tmp_path / name


def looked(source, path: str, frame: int | None = None):
    return source(IMAGE, InputFile(Path(path), Path(path).name), frame)


def boxes(source: CocoBoxes, path: str, frame: int | None = None) -> list:
    return looked(source, path, frame).boxes.tolist()


def test_persons_are_found_by_file_name_and_category(tmp_path: Path) -> None:
    number = 9
    labels = [
        person(7, 1, 2, 3, 4, score=0.9, category_id=number),
        person(7, 5, 6, 7, 8, category_id=number + 1),
        person(7, 5, 6, 7, 9, iscrowd=1, category_id=number),
        person(7, 5, 6, 0, 9, category_id=number),
        person(7, 5, 6, 7, 9, score=0.1, category_id=number),
    ]
    content = {
        "images": [image(7, "x.jpg"), image(9, "alone.jpg")],
        "annotations": labels,
        "categories": [{"id": number + 1, "name": "dog"}, {"id": number, "name": "Person"}],
    }
    whole = CocoBoxes(written(tmp_path, content), threshold=0.5)
    found = looked(whole, "/data/x.jpg")
    assert (found.boxes.tolist(), found.image_id) == ([[1, 2, 3, 4]], 7)
    assert found.scores.tolist() == pytest.approx([0.9])
    assert boxes(whole, "/data/alone.jpg") == []
    kinds = (OTHER_CATEGORY, CROWD, "without extent", "with a score below 0.5")
    assert whole.left_out == dict.fromkeys(kinds, 1)
    with pytest.raises(DataError, match="names no such picture"):
        boxes(whole, "/data/z.jpg")


def test_folders_in_names_tell_equal_names_apart(tmp_path: Path) -> None:
    content = {
        "images": [image(1, "a/x.jpg"), image(2, "b/x.jpg"), image(3, "c/y.jpg")],
        "annotations": [person(n, n, n, n, n) for n in (1, 2, 3)],
    }
    source = CocoBoxes(written(tmp_path, content))
    for n, path in enumerate(("/data/a/x.jpg", "/data/b/x.jpg", "/elsewhere/y.jpg"), 1):
        assert boxes(source, path) == [[n] * 4]
    with pytest.raises(DataError, match="several pictures"):
        boxes(source, "/elsewhere/x.jpg")
    other = {"images": [image(1, "x.jpg") | {"width": 400}], "annotations": []}
    with pytest.raises(DataError, match="another picture"):
        boxes(CocoBoxes(written(tmp_path, other)), "x.jpg")


def test_frames_are_found_by_video_and_number(tmp_path: Path) -> None:
    content = {
        "images": [image(n + 1, "walk.mp4", frame_id=n) for n in range(3)],
        "annotations": [person(n + 1, n, n, 10, 10) for n in range(3)],
    }
    source = CocoBoxes(written(tmp_path, content))
    for n in range(3):
        assert boxes(source, "/data/walk.mp4", n) == [[n, n, 10, 10]]
    unlisted = [looked(source, "/data/walk.mp4", n) for n in (3, 4)]
    assert [(u.boxes.tolist(), u.carried, u.image_id) for u in unlisted] == [([], True, 4), ([], True, 5)]
    for info, upright in (({}, False), ([], False), ({"upright": True}, True)):
        assert CocoBoxes(written(tmp_path, content | {"info": info})).upright is upright
    with pytest.raises(DataError, match="frame_id"):
        boxes(source, "/data/run.mp4", 0)


OX = {"images": [image(7, "x.jpg")], "annotations": [], "categories": [{"id": 1, "name": "ox"}]}


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ([], "no COCO annotations"),
        (OX, "categories.*ox"),
        ({"images": [{"id": 1}], "annotations": []}, "file_name"),
        ({"images": [], "annotations": [person(4, 1, 1, 1, 1)]}, "record 0: its image_id"),
        ({"images": [image(4, "x")], "annotations": [person(4, 1, 1, 1)]}, r"record 0: bbox"),
    ],
)
def test_damaged_files_are_refused(tmp_path: Path, content: object, problem: str) -> None:
    with pytest.raises(DataError, match=rf"boxes\.json.*{problem}"):
        CocoBoxes(written(tmp_path, content))


# --- the detector

SMALL = "ssdlite320_mobilenet_v3_large"


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Untrained weights of a small detector."""
    path = tmp_path_factory.mktemp("weights") / "w.pth"
    model = torchvision.models.get_model(SMALL, weights=None, weights_backbone=None)
    torch.save(model.state_dict(), path)
    return path


def test_weights_are_downloaded_if_allowed_and_only_if_their_hash_fits(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    meta = torchvision.models.get_model_weights(SMALL).DEFAULT.meta
    content, asked = weights.read_bytes(), []
    # A server's file carries the beginning of its hash in its name.
    own = f"w-{hashlib.sha256(content).hexdigest()[:8]}.pth"

    def attempt(answer: bool, name: str) -> PersonDetector:
        (tmp_path / name).write_bytes(content)
        fake = SimpleNamespace(url=(tmp_path / name).as_uri(), meta=meta)
        enum = SimpleNamespace(DEFAULT=fake)
        monkeypatch.setattr(torchvision.models, "get_model_weights", lambda name: enum)
        return PersonDetector(SMALL, download=lambda what: asked.append(what) or answer)

    kept = tmp_path / "hub/checkpoints"
    with pytest.raises(DataError, match=rf"13 MB from file://.*{own}.*detector\.weights"):
        attempt(False, own)
    with pytest.raises(DataError, match="hash"):
        attempt(True, "w-00000000.pth")
    assert not list(kept.glob("*"))
    # Untrained weights run, and are sure of nothing.
    assert looked(attempt(True, own), "x.jpg").boxes.shape == (0, 4)
    assert [path.name for path in kept.iterdir()] == [own]
    assert len(asked) == 3
    attempt(False, own)
    assert len(asked) == 3, "what is there is not downloaded again"


def test_weights_that_are_no_weights_are_named(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pth")
    for name, file, named in (
        (SMALL, "absent.pth", r"absent\.pth"),
        ("yolo", "absent.pth", r"there are .*fasterrcnn"),
        (SMALL, "other.pth", "no weights of ssdlite320"),
    ):
        with pytest.raises(DataError, match=named):
            PersonDetector(name, weights=tmp_path / file)


def test_detector_keeps_sure_persons_only(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    detector = PersonDetector(SMALL, weights=weights, threshold=0.5, every=3)
    answer = {
        "boxes": torch.tensor([[10.0, 20, 40, 80], [1, 1, 9, 9], [5, 5, 9, 9]]),
        "labels": torch.tensor([1, 1, 3]),
        "scores": torch.tensor([0.9, 0.4, 0.99]),
    }
    seen: list[torch.Tensor] = []
    monkeypatch.setattr(detector, "model", lambda pixels: seen.extend(pixels) or [answer])
    for frame in (None, 0, 3):
        found = looked(detector, "x.jpg", frame)
        assert (found.boxes.tolist(), found.carried) == ([[10, 20, 30, 60]], False)
        assert found.scores.tolist() == pytest.approx([0.9])
    assert seen[0].shape == (3, 100, 200)
    found = looked(detector, "x.mp4", 4)
    assert (found.boxes.tolist(), found.carried) == ([], True)
