"""Persons and image files: what they hold, and refusals that name file and record."""

import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest

from pnfs.body import Skeleton
from pnfs.data.images import DataError, ImageFiles, inspect_file, stated_size
from pnfs.data.persons import Persons

TOY = Skeleton("toy", ("head", "left_hand", "right_hand"), (), (), {})
NAN, INF = np.nan, np.inf


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "sub").mkdir()
    red = np.zeros((6, 8, 3), np.uint8)
    red[..., 2] = 255  # OpenCV writes BGR.
    cv2.imwrite(str(tmp_path / "red.png"), red)
    cv2.imwrite(str(tmp_path / "sub/grey.png"), np.full((4, 5), 77, np.uint8))
    (tmp_path / "text.jpg").write_text("not an image")
    (tmp_path / "empty.jpg").touch()
    return tmp_path


def people(folder: Path, **changed) -> Persons:
    columns = {
        "ids": np.array(["p0", "p1", "p2"]),
        "image_index": np.array([0, 1, 0]),
        "joints": np.arange(18, dtype=np.float32).reshape(3, 3, 2),
        "visibility": np.array([[2, 1, 0], [2, 2, 2], [0, 0, 1]], np.int8),
        "center": np.full((3, 2), 4, np.float32),
        "box_size": np.full((3, 2), 3, np.float32),
        "reference_length": np.array([1, 2, NAN], np.float32),
    }
    return Persons(name="toys", skeleton=TOY, images=files(folder), **{**columns, **changed})


def files(folder: Path) -> ImageFiles:
    return ImageFiles(folder, ["red.png", "sub/grey.png", "text.jpg", "gone.jpg", "empty.jpg"])


def test_a_person_is_its_row(folder: Path) -> None:
    persons = people(folder)
    assert [person.ids for person in persons] == ["p0", "p1", "p2"]
    assert persons[1].image.shape == (4, 5, 3)
    assert persons[1].joints.tolist() == [[6, 7], [8, 9], [10, 11]]


@pytest.mark.parametrize(("record", "name"), [(2, "text.jpg"), (3, "gone.jpg"), (4, "empty.jpg")])
def test_an_unreadable_image_is_named(folder: Path, record: int, name: str) -> None:
    with pytest.raises(DataError, match=rf"record {record}\)") as caught:
        files(folder).read(record)
    assert str(folder / name) in str(caught.value)


@pytest.mark.parametrize("path", ["../a.jpg", "sub/../../a.jpg", "/etc/hostname", "link/a.jpg"])
def test_a_path_that_leaves_the_folder_is_refused(folder: Path, path: str) -> None:
    root = folder / "data"
    (root / "sub").mkdir(parents=True)
    (root / "link").symlink_to(folder)
    with pytest.raises(DataError, match=r"\(record 1\) leaves the folder") as caught:
        ImageFiles(root, ["fine.jpg", path])
    assert repr(path) in str(caught.value)
    # A file's own link is followed when it is read.
    (root / "outside.png").symlink_to(folder / "red.png")
    (root / "inside.png").symlink_to(root / "real.png")
    cv2.imwrite(str(root / "real.png"), np.zeros((2, 2, 3), np.uint8))
    images = ImageFiles(root, ["inside.png", "outside.png"])
    assert images.read(0).shape == (2, 2, 3)
    with pytest.raises(DataError, match=r"'outside.png' \(record 1\) leaves the folder"):
        images.read(1)


@pytest.mark.parametrize(
    ("column", "place", "value", "said"),
    [
        ("ids", 2, "p1", r"person p1 .*twice"),
        ("image_index", 2, -1, r"person p2 \(image -1\)"),
        ("image_index", 2, 5, r"person p2 \(image 5\)"),
        ("joints", (1, 2, 0), NAN, r"person p1 \(sub/grey.png\): a joint"),
        ("joints", (1, 0, 1), -INF, r"person p1 \(sub/grey.png\): a joint"),
        ("center", (2, 1), INF, r"person p2 \(red.png\): the person box"),
        *(("box_size", (2, 1), value, r"person p2 .*box") for value in (0, -2, NAN)),
    ],
)
def test_what_cannot_be_is_named(folder: Path, column: str, place, value, said: str) -> None:
    array = getattr(people(folder), column).copy()
    array[place] = value
    with pytest.raises(DataError, match=f"toys: {said}"):
        people(folder, **{column: array})


@pytest.mark.parametrize(
    ("column", "shape"),
    [("ids", 0), ("image_index", 2), ("center", (4, 2)), ("joints", (3, 5, 2)), ("visibility", (3, 2))],
)  # fmt: skip
def test_columns_of_another_length_are_named(folder: Path, column: str, shape) -> None:
    with pytest.raises(DataError, match=column if shape else "no usable persons"):
        people(folder, **{column: np.ones(shape)})


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_an_image_that_announces_too_many_pixels_is_not_decoded(
    folder: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = folder / f"large.{suffix}"
    cv2.imwrite(str(path), np.zeros((40, 30, 3), np.uint8))
    content = bytearray(path.read_bytes())
    assert stated_size(np.frombuffer(content, np.uint8)) == (30, 40)
    # A few other bytes in the header.
    if suffix == "png":
        content[16:24] = struct.pack(">II", 30000, 30000)
        content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    else:
        place = content.index(b"\xff\xc0") + 5
        content[place : place + 4] = struct.pack(">HH", 30000, 30000)
    path.write_bytes(content)
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("it was decoded"))
    with pytest.raises(DataError, match=path.name):
        ImageFiles(folder, [path.name]).read(0)
    assert "pixels" in (inspect_file(path).problem or "")
