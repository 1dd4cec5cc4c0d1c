"""Persons and image files: what they hold, and refusals that name file and record."""

import struct
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from pnfs.body import Skeleton
from pnfs.data.check import inspect_file
from pnfs.data.images import DataError, ImageFiles, stated_size
from pnfs.data.persons import Persons
from written_datasets import toy_persons

TOY = Skeleton("toy", ("head", "left_hand", "right_hand"), (), (), {})
NAN, INF = np.nan, np.inf


@pytest.fixture
def files(tmp_path: Path) -> ImageFiles:
    (tmp_path / "sub").mkdir()
    cv2.imwrite(str(tmp_path / "red.png"), np.full((6, 8, 3), (0, 0, 255), np.uint8))  # OpenCV writes BGR.
    cv2.imwrite(str(tmp_path / "sub/grey.png"), np.full((4, 5), 77, np.uint8))
    (tmp_path / "text.jpg").write_text("not an image")
    (tmp_path / "empty.jpg").touch()
    return ImageFiles(tmp_path, ["red.png", "sub/grey.png", "text.jpg", "gone.jpg", "empty.jpg"])


@pytest.fixture
def persons(files: ImageFiles) -> Persons:
    return replace(toy_persons(3, files, skeleton=TOY), visibility=np.full((3, 3), 2, np.int8))


def test_a_person_is_its_row(persons: Persons) -> None:
    assert (persons[0].ids, persons[0].image[0, 0].tolist()) == ("person0", [255, 0, 0])
    assert persons[1].image.shape == (4, 5, 3)
    assert persons[1].joints.tolist() == persons.joints[1].tolist()


def test_an_unreadable_image_is_named(files: ImageFiles) -> None:
    for record, name in ((2, "text.jpg"), (3, "gone.jpg"), (4, "empty.jpg")):
        with pytest.raises(DataError, match=rf"{name}.*record {record}\)"):
            files.read(record)


@pytest.mark.parametrize("path", ["../a.jpg", "sub/../../a.jpg", "/etc/hostname", "link/a.jpg"])
def test_a_path_that_leaves_the_folder_is_refused(files: ImageFiles, path: str) -> None:
    root = files.root / "data"
    (root / "sub").mkdir(parents=True)
    (root / "link").symlink_to(files.root)
    with pytest.raises(DataError, match=rf"'{path}' \(record 1\) leaves the folder"):
        ImageFiles(root, ["fine.jpg", path])
    # A file's own link is followed when it is read.
    (root / "outside.png").symlink_to(files.root / "red.png")
    (root / "inside.png").symlink_to(root / "real.png")
    cv2.imwrite(str(root / "real.png"), np.zeros((2, 2, 3), np.uint8))
    images = ImageFiles(root, ["inside.png", "outside.png"])
    assert images.read(0).shape == (2, 2, 3)
    with pytest.raises(DataError, match=r"'outside.png' \(record 1\) leaves the folder"):
        images.read(1)


@pytest.mark.parametrize(
    ("column", "place", "value", "said"),
    [("ids", 2, "person1", r"person person1 .*twice"), ("image_index", 2, -1, r"person person2 \(image -1\)"),
     ("image_index", 2, 5, r"person person2 \(image 5\)"),
     ("joints", (1, 2, 0), NAN, r"person person1 \(sub/grey.png\): a joint"),
     *(("box_size", (2, 1), value, r"person person2 .*box") for value in (0, -2, NAN)),
     ("center", (2, 1), INF, r"person person2 \(text.jpg\): the person box")],
)  # fmt: skip
def test_what_cannot_be_is_named(persons: Persons, column: str, place, value, said: str) -> None:
    array = getattr(persons, column).copy()
    array[place] = value
    with pytest.raises(DataError, match=f"toy train: {said}"):
        replace(persons, **{column: array})
    for other, shape in (("image_index", 2), ("center", (4, 2)), ("joints", (3, 5, 2)), ("visibility", (3, 2))):
        with pytest.raises(DataError, match=other):
            replace(persons, **{other: np.ones(shape)})
    with pytest.raises(DataError, match="no usable persons"):
        replace(persons, ids=np.ones(0))


def test_an_image_that_announces_too_many_pixels_is_not_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "large.jpg"
    cv2.imwrite(str(path), np.zeros((40, 30, 3), np.uint8))
    content = bytearray(path.read_bytes())
    assert stated_size(np.frombuffer(content, np.uint8)) == (30, 40)
    # A few other bytes in the header.
    place = content.index(b"\xff\xc0") + 5
    content[place : place + 4] = struct.pack(">HH", 30000, 30000)
    path.write_bytes(content)
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("it was decoded"))
    with pytest.raises(DataError, match=path.name):
        ImageFiles(tmp_path, [path.name]).read(0)
    assert "pixels" in str(inspect_file(path))
