"""Persons and image files: what they hold, and refusals that name file and record."""

import math
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


def people(images, **changed) -> Persons:
    count = 3
    columns = {
        "ids": np.array(["p0", "p1", "p2"]),
        "image_index": np.array([0, 1, 0]),
        "joints": np.arange(count * 6, dtype=np.float32).reshape(count, 3, 2),
        "visibility": np.array([[2, 1, 0], [2, 2, 2], [0, 0, 1]], np.int8),
        "center": np.full((count, 2), 4, np.float32),
        "box_size": np.full((count, 2), 3, np.float32),
        "reference_length": np.array([1, 2, math.nan], np.float32),
    }
    return Persons(name="toys/train", skeleton=TOY, images=images, **{**columns, **changed})


def files(folder: Path) -> ImageFiles:
    return ImageFiles(folder, ["red.png", "sub/grey.png", "text.jpg", "gone.jpg", "empty.jpg"])


def test_a_person_is_its_row(folder: Path) -> None:
    persons = people(files(folder))
    assert len(persons) == 3
    person = persons[1]
    assert person.id == "p1"
    assert person.image.shape == (4, 5, 3)
    assert person.joints.tolist() == [[6, 7], [8, 9], [10, 11]]
    assert person.visibility.tolist() == [2, 2, 2]
    assert person.center.tolist() == [4, 4]
    assert person.box_size.tolist() == [3, 3]
    assert person.reference_length == 2
    assert math.isnan(persons[2].reference_length)


@pytest.mark.parametrize(("record", "name"), [(2, "text.jpg"), (4, "empty.jpg")])
def test_an_unreadable_image_is_named(folder: Path, record: int, name: str) -> None:
    with pytest.raises(DataError, match=rf"not a readable image \(record {record}\)") as caught:
        files(folder).read(record)
    assert str(folder / name) in str(caught.value)


@pytest.mark.parametrize(
    "path", ["../secret.jpg", "sub/../../secret.jpg", "/etc/hostname", "link/secret.jpg", ".."]
)
def test_a_path_that_leaves_the_folder_is_refused(folder: Path, path: str) -> None:
    root = folder / "data"
    (root / "sub").mkdir(parents=True)
    (root / "link").symlink_to(folder)
    with pytest.raises(DataError, match=r"\(record 1\) leaves the folder") as caught:
        ImageFiles(root, ["fine.jpg", path])
    assert repr(path) in str(caught.value)
    assert str(root) in str(caught.value)


def test_a_file_that_links_out_of_the_folder_is_refused_when_it_is_read(folder: Path) -> None:
    root = folder / "data"
    root.mkdir()
    (root / "inside.png").symlink_to(root / "real.png")
    (root / "outside.png").symlink_to(folder / "red.png")
    cv2.imwrite(str(root / "real.png"), np.zeros((2, 2, 3), np.uint8))
    images = ImageFiles(root, ["inside.png", "outside.png"])
    assert images.read(0).shape == (2, 2, 3)
    with pytest.raises(DataError, match=r"'outside.png' \(record 1\) leaves the folder"):
        images.read(1)


def with_value(column: str, place: tuple[int, ...], value: float) -> dict[str, np.ndarray]:
    array = getattr(people(None), column).copy()
    array[place] = value
    return {column: array}


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"ids": np.array(["p0", "p1", "p1"])}, "the id p1 occurs twice"),
        ({"ids": np.array([], str)}, "there are no usable persons"),
        ({"image_index": np.array([0, 4, -1])}, r"person p2 \(image -1\)"),
        ({"image_index": np.array([0, 4, 5])}, r"person p2 \(image 5\)"),
        (with_value("joints", (1, 2, 0), math.nan), r"person p1 \(sub/grey.png\): a joint is not"),
        (with_value("joints", (1, 0, 1), -math.inf), r"person p1 \(sub/grey.png\): a joint is not"),
        *(
            (with_value(column, (2, 1), value), r"person p2 \(red.png\): the person box is not")
            for column, values in (
                ("center", (math.nan, math.inf)),
                ("box_size", (0, -2, math.nan)),
            )
            for value in values
        ),
        ({"image_index": np.zeros(2, int)}, "image_index"),
        ({"center": np.ones((4, 2), np.float32)}, "center"),
        ({"joints": np.ones((3, 5, 2), np.float32)}, "joints"),
        ({"joints": np.ones((3, 3, 3), np.float32)}, "joints"),
        ({"visibility": np.ones((3, 2), np.int8)}, "visibility"),
    ],
)
def test_what_cannot_be_is_named(folder: Path, changed: dict, said: str) -> None:
    with pytest.raises(DataError, match=f"toys/train: {said}"):
        people(files(folder), **changed)


def announced(path: Path, sides: tuple[int, int]) -> Path:
    """Changes the size in the header of a JPEG or PNG file, as a few bytes may do."""
    content = bytearray(path.read_bytes())
    if path.suffix == ".png":
        content[16:24] = struct.pack(">II", *sides)
        content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    else:
        place = content.index(b"\xff\xc0") + 5
        content[place : place + 4] = struct.pack(">HH", *sides[::-1])
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_an_image_that_announces_too_many_pixels_is_not_decoded(
    folder: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = folder / f"large.{suffix}"
    cv2.imwrite(str(path), np.zeros((40, 30, 3), np.uint8))
    assert stated_size(np.fromfile(path, np.uint8)) == (30, 40)
    announced(path, (30000, 30000))
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("it was decoded"))
    with pytest.raises(DataError, match=path.name):
        ImageFiles(folder, [path.name]).read(0)
    assert "pixels" in (inspect_file(path).problem or "")
