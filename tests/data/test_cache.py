"""The crop cache: same crops and joints as without it, resumes, refuses what is damaged."""

import os
import shutil
import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest

from pnfs.body import LSP
from pnfs.data import cache
from pnfs.data.augmentation import Augmentation
from pnfs.data.cache import CacheSettings, cache_path, ensure_cache, read_about, with_crops
from pnfs.data.crops import CropDataset, SampleKey
from pnfs.data.geometry import apply, crop_matrix, fit_box
from pnfs.data.images import DataError, ImageFiles
from pnfs.data.module import PoseDataModule
from pnfs.data.persons import Persons
from written_datasets import smooth_picture, toy_persons

COUNT, SIZE = 6, (64, 48)
SMALLER = 16 | 32 | 64  # OpenCV's flags of reduced decoding.
PAPER = CacheSettings(input_size=SIZE).with_room_for(Augmentation())


def write_persons(root: Path, count: int = COUNT) -> Persons:
    root.mkdir()
    names = [f"p{i}.jpg" for i in range(count)]
    for number, name in enumerate(names):
        cv2.imwrite(str(root / name), smooth_picture(number), [cv2.IMWRITE_JPEG_QUALITY, 98])
    return toy_persons(count, ImageFiles(root, names))


@pytest.fixture
def persons(tmp_path: Path) -> Persons:
    return write_persons(tmp_path / "images")


def cached(persons: Persons, root: Path, settings: CacheSettings = PAPER) -> Persons:
    return with_crops(persons, ensure_cache(root, persons, settings))


def change(path: Path, statement: str, *values: object) -> None:
    """Changes a cache's tables, as no one should."""
    with closing(sqlite3.connect(path)) as connection, connection:
        assert connection.execute(statement, values).rowcount == 1


def rows_of(path: Path) -> list[tuple]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute("SELECT * FROM crops ORDER BY person").fetchall()


def crops_of(persons: Persons, augmentation: Augmentation | None = None) -> CropDataset:
    return CropDataset(persons, input_size=SIZE, augmentation=augmentation, seed=2)


@pytest.mark.parametrize(("format_", "error"), [("raw", 1.6), ("jpeg", 2.8)])
def test_crops_and_labels_are_those_of_the_images(persons: Persons, tmp_path: Path, format_, error: float) -> None:
    ours = cached(persons, tmp_path / "cache", replace(PAPER, format=format_))
    uncached, from_cache = crops_of(persons, Augmentation()), crops_of(ours, Augmentation())
    for epoch in range(5):
        for index in range(COUNT):
            expected, found = (dict(each[SampleKey(epoch, index)]) for each in (uncached, from_cache))
            difference = found.pop("image").astype(int) - expected.pop("image").astype(int)
            # Boxes are smaller and larger than the crop, and the picture's edge is in some crops.
            assert np.abs(difference).mean() < error
            np.testing.assert_equal(found, expected)


@pytest.mark.parametrize("unbiased", [False, True])
def test_plain_crops_keep_every_pixel(persons: Persons, tmp_path: Path, unbiased: bool) -> None:
    source = SimpleNamespace(persons=lambda split: persons)
    options: Any = {"dataset": source, "input_size": SIZE, "batch_size": 1, "unbiased": unbiased, "workers": 0}
    kinds = {"cache": tmp_path, "cache_format": "raw"}, {}
    ours, theirs = (PoseDataModule(**options, **kind).crop_dataset("val") for kind in kinds)
    for index in range(COUNT):
        pixels = [each[index]["image"].astype(int)[2:-2, 2:-2] for each in (ours, theirs)]
        assert np.abs(pixels[0] - pixels[1]).max() <= 1


@pytest.mark.parametrize("rotation", [0.0, 20.0, 45.0, 180.0])
@pytest.mark.parametrize("size", [(64, 48), (64, 64), (32, 96)])
def test_every_crop_that_may_be_drawn_lies_inside(rotation: float, size: tuple[int, int]) -> None:
    settings = CacheSettings(size, rotation, largest_scale=1.3, resolution=1.0)
    height, width = settings.crop_size
    center, box = np.array([5.0, 7.0]), fit_box(np.array([70.0, 90.0]), size[1] / size[0])
    to_cached = crop_matrix(center, box * width / size[1], 0.0, settings.crop_size)
    corners = np.array([[x, y] for x in (0, size[1] - 1) for y in (0, size[0] - 1)], float)
    places = np.array([
        apply(to_cached, apply(cv2.invertAffineTransform(
            crop_matrix(center, box * 1.3, degrees, size, flip)), corners))
        for degrees in np.linspace(-rotation, rotation, 181) for flip in (False, True)
    ])  # fmt: skip
    assert ((places >= 0) & (places <= (width - 1, height - 1))).all()
    # No more room than is needed: some corner comes within five pixels of the edge.
    assert places[..., 0].max() > width - 6


def test_cached_training_crops_have_half_as_many_pixels_again() -> None:
    """Interpolated twice at equal resolution crops would be softer; those of an evaluation are cut once."""
    still = Augmentation(rotation=0, scale=(1, 1))
    found = [CacheSettings((64, 48)).with_room_for(room).crop_size for room in (still, None)]
    # One pixel more a side, for the interpolation.
    assert found == [(64 * 1.5 + 2, 48 * 1.5 + 2), (64 + 2, 48 + 2)]


def test_a_finished_cache_is_taken_and_other_settings_are_another_one(persons: Persons, tmp_path: Path) -> None:
    path = ensure_cache(tmp_path, persons, PAPER)
    before = path.stat().st_mtime_ns
    assert (ensure_cache(tmp_path, persons, PAPER), path.stat().st_mtime_ns) == (path, before)
    others = [{"input_size": (96, 96)}, {"rotation": 60.0}, {"largest_scale": 1.5}, {"format": "raw"},
              {"reduced_decoding": False}, {"resolution": 2.0}]  # fmt: skip
    wider = replace(persons, box_size=persons.box_size * np.float32(1.1))
    paths = {cache_path(tmp_path, persons, replace(PAPER, **other)) for other in others}
    assert len(paths | {path, cache_path(tmp_path, wider, PAPER)}) == len(others) + 2


def test_changed_images_are_noticed_and_absent_ones_not_missed(persons: Persons, tmp_path: Path) -> None:
    before = crops_of(cached(persons, tmp_path / "cache"))[3]["image"]
    cv2.imwrite(str(tmp_path / "images" / "p0.jpg"), smooth_picture(77))
    with pytest.raises(DataError, match="another image of person person0"):
        ensure_cache(tmp_path / "cache", persons, PAPER)
    ensure_cache(tmp_path / "anew", persons, PAPER)
    shutil.rmtree(tmp_path / "images")
    after = crops_of(cached(persons, tmp_path / "anew"))[3]["image"]
    np.testing.assert_array_equal(after, before)


# --- damage


@pytest.mark.parametrize("format_", ["jpeg", "raw"])
@pytest.mark.parametrize("damage", ["pixel", "column", "CAST(x'df00' AS TEXT)", "7", "NULL"])
def test_a_damaged_crop_is_refused_by_name(persons: Persons, tmp_path: Path, format_, damage) -> None:
    path = ensure_cache(tmp_path / "cache", persons, replace(PAPER, format=format_))
    content = bytearray(rows_of(path)[3][2])
    content[-9] ^= 1
    if damage == "pixel":
        change(path, "UPDATE crops SET pixels = ? WHERE person = 3", bytes(content))
    elif damage == "column":  # The space after a column's name.
        path.write_bytes(path.read_bytes().replace(b"pixels BLOB", b"pixels\xdfBLOB"))
    else:  # A value of another type, as flipped bits may make it.
        change(path, f"UPDATE crops SET pixels = {damage} WHERE person = 3")
    ours = crops_of(with_crops(persons, path))
    assert damage == "column" or ours[2]
    with pytest.raises(DataError, match=rf"{path.name}.*person3.*delete this file"):
        ours[3]


@pytest.mark.parametrize("damage", [0, 40, -4096, ("version", "99"), ("settings", "{}"), ("probes", "")])
def test_a_file_that_is_cut_off_or_says_something_else_is_refused(
    persons: Persons, tmp_path: Path, damage
) -> None:
    path = ensure_cache(tmp_path / "cache", persons, PAPER)
    if isinstance(damage, tuple):
        change(path, "UPDATE about SET value = ? WHERE name = ?", *damage[::-1])
    else:
        os.truncate(path, damage if damage >= 0 else path.stat().st_size + damage)
    with pytest.raises(DataError, match=rf"{path.name}.*delete this file"):
        cached(persons, tmp_path / "cache")
    path.unlink()
    cached(persons, tmp_path / "cache")


def test_an_unreadable_image_and_a_damaged_unfinished_file_are_named(persons: Persons, tmp_path: Path) -> None:
    partial = cache_path(tmp_path, persons, PAPER).with_suffix(".partial")
    partial.write_bytes(b"not a database at all" * 100)
    with pytest.raises(DataError, match=rf"{partial.name}.*delete"):
        ensure_cache(tmp_path, persons, PAPER)
    partial.unlink()
    (tmp_path / "images" / "p4.jpg").write_bytes(b"\xff\xd8nothing")
    with pytest.raises(DataError, match=r"person4.*p4\.jpg"):
        ensure_cache(tmp_path, persons, PAPER, workers=2)


def test_an_interrupted_start_is_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    persons = write_persons(tmp_path / "images", count=70)
    whole = ensure_cache(tmp_path / "whole", persons, PAPER, workers=2)
    path, cut, done = cache_path(tmp_path / "cache", persons, PAPER), cache._cut, []

    def interrupted(persons: Persons, settings: CacheSettings, row: int) -> tuple:
        done.append(row)
        if len(done) == 67:
            raise KeyboardInterrupt
        return cut(persons, settings, row)

    monkeypatch.setattr(cache, "_cut", interrupted)
    with pytest.raises(KeyboardInterrupt):
        ensure_cache(tmp_path / "cache", persons, PAPER)
    assert not path.exists()
    done.clear()
    ensure_cache(tmp_path / "cache", persons, PAPER)
    assert sorted(done) == list(range(64, 70))  # 64 persons are a transaction.
    assert rows_of(path) == rows_of(whole)
    assert read_about(path) == read_about(whole)
    assert not path.with_suffix(".partial").exists()


def test_a_finished_cache_is_read_where_nothing_can_be_written(
    persons: Persons, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ensure_cache(tmp_path / "cache", persons, PAPER)

    def refused(*_: object, **__: object) -> None:
        raise PermissionError("read-only file system")

    # Permissions do not stop root, who may run these tests.
    monkeypatch.setattr(Path, "mkdir", refused)
    monkeypatch.setattr("pnfs.data.cache.FileLock", refused)
    assert crops_of(cached(persons, tmp_path / "cache"))[0]


# --- reduced decoding


@pytest.mark.parametrize("factor", [2, 4, 8])
def test_a_reduced_image_lies_where_the_image_does(tmp_path: Path, factor: int) -> None:
    """Against averages over blocks of the whole image, on sides that no factor divides."""
    image = cv2.GaussianBlur(smooth_picture(3, 211, 333), (0, 0), 8)
    for suffix in ("jpg", "png"):
        cv2.imwrite(str(tmp_path / f"a.{suffix}"), image, [cv2.IMWRITE_JPEG_QUALITY, 100])
    files = ImageFiles(tmp_path, ["a.jpg", "a.png"])
    reduced, to_image = files.view(0, factor + 0.3)
    whole = files.read(0)
    assert reduced.shape[:2] == (-(-211 // factor), -(-333 // factor))
    assert files.view(0, factor - 0.1)[0].shape[0] > reduced.shape[0]
    np.testing.assert_array_equal(files.view(1, factor)[0], files.read(1))
    y, x = np.mgrid[2 : reduced.shape[0] - 2, 2 : reduced.shape[1] - 2].astype(np.float64)
    places = apply(to_image, np.stack([x, y], -1)).astype(np.float32)
    before, here, after = (
        np.abs(
            cv2.remap(whole, places[..., 0] + moved, places[..., 1], cv2.INTER_LINEAR)
            - reduced[2:-2, 2:-2].astype(float)
        ).mean()
        for moved in (-0.5, 0, 0.5)
    )
    # Half a pixel of the image to either side fits worse, equally so.
    assert here < min(before, after, 3)
    assert after == pytest.approx(before, rel=0.35)


@pytest.mark.parametrize("with_cache", [False, True])
def test_reduced_decoding_can_be_switched_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, with_cache: bool
) -> None:
    """OpenCV's flags say how an image is decoded; those of the cache's own JPEGs are not counted."""
    # A person five times as large as the crop.
    box = {"center": np.float32([[160, 120]]), "box_size": np.float32([[240, 320]])}
    large = replace(write_persons(tmp_path / "toy", count=1), **box)
    flags: list[int] = []
    decode = cv2.imdecode
    monkeypatch.setattr(cv2, "imdecode", lambda data, f: flags.append(f) or decode(data, f))
    source: Any = SimpleNamespace(persons=lambda split: large, skeleton=LSP)
    options = {"cache": tmp_path / "cache" if with_cache else None, "batch_size": 1, "workers": 0}
    still = Augmentation(rotation=0, scale=(1, 1), flip=0)
    for reduced in (True, False):
        data = PoseDataModule(
            dataset=source, input_size=SIZE, augmentation=still, reduced_decoding=reduced, **options
        )
        flags.clear()
        next(iter(data.train_dataloader()))
        assert any(flag & SMALLER for flag in flags) == reduced


def test_threads_read_over_connections_of_their_own(
    persons: Persons, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    users: dict[int, set[int]] = {}

    class Watched(sqlite3.Connection):
        def execute(self, *arguments: Any) -> sqlite3.Cursor:
            users.setdefault(id(self), set()).add(threading.get_ident())
            return super().execute(*arguments)

    crops = with_crops(persons, ensure_cache(tmp_path, persons, CacheSettings((64, 48)))).images
    alone = [crops.view(row, 1.0)[0] for row in range(len(persons))]
    connect, together = sqlite3.connect, threading.Barrier(4)
    monkeypatch.setattr(sqlite3, "connect", lambda *a, **named: connect(*a, factory=Watched, **named))

    def read(row: int) -> Any:
        together.wait(timeout=60)
        return crops.view(row % len(persons), 1.0)[0]

    with ThreadPoolExecutor(4) as pool:
        for row, crop in enumerate(pool.map(read, range(20))):
            np.testing.assert_array_equal(crop, alone[row % len(persons)])
    assert [len(threads) for threads in users.values()] == [1] * 4
