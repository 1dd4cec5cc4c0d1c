"""The crop cache: same crops and joints as without it, resumes, refuses what does not fit."""

import multiprocessing
import os
import shutil
import signal
import sqlite3
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from torch.utils.data import DataLoader

from pnfs.body import LSP
from pnfs.data.augmentation import Augmentation
from pnfs.data.cache import (
    About,
    CachedCrops,
    CacheSettings,
    with_crops,
)
from pnfs.data.cache_writer import cache_path, ensure_cache, partial_of
from pnfs.data.crops import CropDataset, SampleKey
from pnfs.data.geometry import apply, crop_matrix, fit_box
from pnfs.data.images import DataError, ImageFiles
from pnfs.data.module import PoseDataModule
from pnfs.data.persons import Persons

K, COUNT, SIZE = len(LSP), 6, (64, 48)
PAPER = CacheSettings(input_size=SIZE).with_room_for(Augmentation())


def smooth_picture(seed: int, height: int = 240, width: int = 320) -> np.ndarray:
    """Coarse noise in muted colours: what JPEG and interpolation twice leave nearly as it is."""
    noise = np.random.default_rng(seed).normal(size=(height, width, 3)).astype(np.float32)
    blurred = cv2.GaussianBlur(noise, (0, 0), 6)
    blurred += 2 * blurred.mean(-1, keepdims=True)
    spread = (blurred - blurred.mean()) * (60 / blurred.std()) + 128
    return spread.clip(0, 255).astype(np.uint8)


def write_persons(root: Path, count: int = COUNT, suffix: str = "jpg") -> Persons:
    names = [f"p{i}.{suffix}" for i in range(count)]
    for number, name in enumerate(names):
        cv2.imwrite(str(root / name), smooth_picture(number), [cv2.IMWRITE_JPEG_QUALITY, 98])
    random = np.random.default_rng(9)
    return Persons(
        name="toy train",
        skeleton=LSP,
        images=ImageFiles(root, names),
        ids=np.array([f"person{i}" for i in range(count)]),
        image_index=np.arange(count),
        joints=random.uniform(60, 200, (count, K, 2)).astype(np.float32),
        visibility=random.integers(0, 3, (count, K)).astype(np.int8),
        center=random.uniform((120, 90), (200, 150), (count, 2)).astype(np.float32),
        box_size=random.uniform(50, 110, (count, 2)).astype(np.float32),
        reference_length=random.uniform(10, 20, count).astype(np.float32),
    )


@pytest.fixture
def persons(tmp_path: Path) -> Persons:
    (tmp_path / "images").mkdir()
    return write_persons(tmp_path / "images")


def silent(_: str) -> None:
    pass


def cached(persons: Persons, root: Path, settings: CacheSettings = PAPER) -> Persons:
    return with_crops(persons, ensure_cache(root, persons, settings, report=silent))


def change(path: Path, statement: str, *values: object) -> None:
    """Changes a cache's tables, as no one should."""
    with closing(sqlite3.connect(path)) as connection, connection:
        assert connection.execute(statement, values).rowcount == 1


def rows_of(path: Path) -> list[tuple]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute("SELECT * FROM crops ORDER BY person").fetchall()


def crops_of(persons: Persons, augmentation: Augmentation | None, **options) -> CropDataset:
    return CropDataset(persons, input_size=SIZE, augmentation=augmentation, seed=2, **options)


@pytest.mark.parametrize(("format_", "error"), [("raw", 1.6), ("jpeg", 2.8)])
def test_crops_and_labels_are_those_of_the_images(
    persons: Persons, tmp_path: Path, format_, error: float
) -> None:
    ours = cached(persons, tmp_path / "cache", replace(PAPER, format=format_))
    uncached, from_cache = crops_of(persons, Augmentation()), crops_of(ours, Augmentation())
    for epoch in range(5):
        for index in range(COUNT):
            expected = uncached[SampleKey(epoch, index)]
            found = from_cache[SampleKey(epoch, index)]
            for name in expected:
                if name != "image":
                    np.testing.assert_array_equal(found[name], expected[name], err_msg=name)
            difference = np.abs(found["image"].astype(int) - expected["image"].astype(int))
            # Boxes are smaller and larger than the crop, and the picture's edge is in some crops.
            assert difference.mean() < error, (epoch, index)


@pytest.mark.parametrize("rotation", [0.0, 20.0, 45.0, 90.0, 180.0])
@pytest.mark.parametrize("size", [(64, 48), (64, 64), (32, 96)])
def test_every_crop_that_may_be_drawn_lies_inside(rotation: float, size: tuple[int, int]) -> None:
    settings = CacheSettings(input_size=size, rotation=rotation, largest_scale=1.3)
    height, width = settings.crop_size
    box = fit_box(np.array([70.0, 90.0]), size[1] / size[0])
    to_cached = crop_matrix(np.array([5.0, 7.0]), box * width / size[1], 0.0, settings.crop_size)
    corners = np.array([[x, y] for x in (0, size[1] - 1) for y in (0, size[0] - 1)], float)
    furthest = 0.0
    for degrees in np.linspace(-rotation, rotation, 181):
        for flip in (False, True):
            matrix = crop_matrix(np.array([5.0, 7.0]), box * 1.3, degrees, size, flip)
            back = cv2.invertAffineTransform(matrix)
            places = apply(to_cached, apply(back, corners))
            assert (places >= 0).all()
            assert (places <= (width - 1, height - 1)).all()
            furthest = max(furthest, float((width - 1 - places[:, 0]).min() * -1 + 0))
    # No more room than is needed: some corner comes within four pixels of the edge.
    assert furthest > -5


def test_augmented_crops_of_textures_are_hardly_softer_from_the_cache(
    persons: Persons, tmp_path: Path
) -> None:
    root = tmp_path / "textures"
    root.mkdir()
    persons = write_persons(root)
    for number in range(COUNT):
        noise = np.random.default_rng(number).normal(128, 60, (260, 320, 3))
        # As fine as photographs are: some detail is left between neighbouring pixels.
        texture = cv2.GaussianBlur(noise, (0, 0), 1.0).clip(0, 255).astype(np.uint8)
        cv2.imwrite(str(root / f"p{number}.jpg"), texture, [cv2.IMWRITE_JPEG_QUALITY, 98])

    def drawn(some: Persons) -> np.ndarray:
        crops = crops_of(some, Augmentation(rotation=30, scale=(0.75, 1.25), flip=0.5))
        keys = [SampleKey(epoch, i) for epoch in range(4) for i in range(COUNT)]
        return np.stack([crops[key]["image"].astype(np.float32) for key in keys])

    def sharpness(crops: np.ndarray) -> float:
        return float(np.mean([np.abs(cv2.Laplacian(x, cv2.CV_32F)).mean() for x in crops]))

    exact, ours = drawn(persons), drawn(cached(persons, tmp_path / "cache"))
    coarse = drawn(cached(persons, tmp_path / "coarse", replace(PAPER, resolution=1.0)))
    assert 0.75 < sharpness(ours) / sharpness(exact) < 1
    # With as many pixels as the plain crop has, what is drawn is blurred.
    assert sharpness(coarse) < 0.7 * sharpness(exact)
    assert np.abs(ours - exact).mean() < 0.8 * np.abs(coarse - exact).mean()


def test_a_finished_cache_is_taken_as_it_is(persons: Persons, tmp_path: Path) -> None:
    path = ensure_cache(tmp_path / "cache", persons, PAPER, report=silent)
    before = path.stat().st_mtime_ns
    # One with room for more serves those that need less.
    plain = replace(PAPER.with_room_for(None), quality=50)
    again = ensure_cache(tmp_path / "cache", persons, plain, report=silent)
    assert again == ensure_cache(tmp_path / "cache", persons, PAPER, report=silent) == path
    assert path.stat().st_mtime_ns == before
    raw = replace(plain, format="raw")
    assert ensure_cache(tmp_path / "cache", persons, raw, report=silent) != path


@pytest.mark.parametrize(
    "other",
    [
        {"input_size": (96, 96)},
        {"rotation": 60.0},
        {"largest_scale": 1.5},
        {"format": "raw"},
        {"reduced_decoding": False},
        {"resolution": 2.0},
    ],
)
def test_other_settings_are_another_cache_and_the_message_says_why(
    persons: Persons, tmp_path: Path, other: dict
) -> None:
    ensure_cache(tmp_path / "cache", persons, PAPER, report=silent)
    messages: list[str] = []
    ensure_cache(tmp_path / "cache", persons, replace(PAPER, **other), report=messages.append)
    (key,) = other
    assert any(f"{key} is " in message for message in messages)
    wider = replace(persons, box_size=persons.box_size * np.float32(1.1))
    ensure_cache(tmp_path / "cache", wider, PAPER, report=messages.append)
    assert any("boxes are others" in message for message in messages)
    assert len(list((tmp_path / "cache").glob("*.sqlite"))) == 3


def test_changed_images_are_noticed(persons: Persons, tmp_path: Path) -> None:
    ensure_cache(tmp_path / "cache", persons, PAPER, report=silent)
    cv2.imwrite(str(tmp_path / "images" / "p0.jpg"), smooth_picture(77))
    with pytest.raises(DataError, match="the image of person person0 is not the one"):
        ensure_cache(tmp_path / "cache", persons, PAPER, report=silent)
    ensure_cache(tmp_path / "cache", persons, PAPER, rebuild=True, report=silent)
    ensure_cache(tmp_path / "cache", persons, PAPER, report=silent)


def test_the_cache_does_without_the_images(persons: Persons, tmp_path: Path) -> None:
    before = [crops_of(cached(persons, tmp_path / "cache"), None)[i] for i in range(COUNT)]
    shutil.rmtree(tmp_path / "images")
    ours = cached(persons, tmp_path / "cache")
    for index in range(COUNT):
        after = crops_of(ours, None)[index]["image"]
        np.testing.assert_array_equal(after, before[index]["image"])


@pytest.mark.parametrize("format_", ["jpeg", "raw"])
@pytest.mark.parametrize("column", ["pixels", "to_image"])
def test_a_damaged_crop_is_refused_by_name(
    persons: Persons, tmp_path: Path, format_, column: str
) -> None:
    settings = replace(PAPER, format=format_)
    path = ensure_cache(tmp_path / "cache", persons, settings, report=silent)
    names = ["person", "to_image", "crc32", "pixels"]
    content = bytearray(rows_of(path)[3][names.index(column)])
    content[-9] ^= 1
    change(path, f"UPDATE crops SET {column} = ? WHERE person = 3", bytes(content))
    ours = with_crops(persons, path)
    assert isinstance(ours.images, CachedCrops)
    crops_of(ours, None)[2]
    with pytest.raises(DataError) as error:
        crops_of(ours, None)[3]
    for said in (str(path), "person3", "delete this file"):
        assert said in str(error.value)


@pytest.mark.parametrize("kept", [0, 40, -4096])
def test_a_cut_off_file_is_refused(persons: Persons, tmp_path: Path, kept: int) -> None:
    path = ensure_cache(tmp_path / "cache", persons, PAPER, report=silent)
    os.truncate(path, kept if kept >= 0 else path.stat().st_size + kept)
    with pytest.raises(DataError) as error:
        cached(persons, tmp_path / "cache")
    assert str(path) in str(error.value)
    assert "rebuild=true" in str(error.value)
    ensure_cache(tmp_path / "cache", persons, PAPER, rebuild=True, report=silent)
    cached(persons, tmp_path / "cache")


@pytest.mark.parametrize(("name", "value"), [("version", "99"), ("settings", "{}"), ("probes", "")])
def test_a_cache_that_says_something_else_is_refused(
    persons: Persons, tmp_path: Path, name: str, value: str
) -> None:
    path = ensure_cache(tmp_path / "cache", persons, PAPER, report=silent)
    change(path, "UPDATE about SET value = ? WHERE name = ?", value, name)
    with pytest.raises(DataError) as error:
        cached(persons, tmp_path / "cache")
    assert str(path) in str(error.value)


def test_an_unreadable_image_names_the_person(persons: Persons, tmp_path: Path) -> None:
    (tmp_path / "images" / "p4.jpg").write_bytes(b"\xff\xd8nothing")
    with pytest.raises(DataError, match=r"p4\.jpg"):
        ensure_cache(tmp_path / "cache", persons, PAPER, report=silent, workers=1)


def _write_slowly(persons: Persons, root: Path) -> None:
    read = ImageFiles.view

    def slow(self: ImageFiles, index: int, zoom: float):
        time.sleep(0.01)
        return read(self, index, zoom)

    ImageFiles.view = slow  # type: ignore[method-assign]
    ensure_cache(root, persons, PAPER, report=silent)


def _has_rows(path: Path) -> bool:
    try:
        return path.is_file() and len(rows_of(path)) > 0
    except sqlite3.OperationalError:
        return False  # Not begun, or locked.


def test_a_killed_start_is_continued(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    persons = write_persons(tmp_path / "images", count=70)
    whole = ensure_cache(tmp_path / "whole", persons, PAPER, report=silent)
    path = cache_path(tmp_path / "cache", persons, PAPER)
    process = multiprocessing.get_context("fork").Process(
        target=_write_slowly, args=(persons, tmp_path / "cache")
    )
    process.start()
    while not _has_rows(partial_of(path)):
        assert process.is_alive()
        time.sleep(0.005)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert not path.exists()
    messages: list[str] = []
    ensure_cache(tmp_path / "cache", persons, PAPER, report=messages.append)
    assert not any("70 of 70 crops" in message for message in messages)
    assert rows_of(path) == rows_of(whole)
    assert About.read(path) == About.read(whole)
    assert not partial_of(path).exists()


def test_a_damaged_unfinished_file_is_refused(persons: Persons, tmp_path: Path) -> None:
    partial = partial_of(cache_path(tmp_path, persons, PAPER))
    partial.write_bytes(b"not a database at all" * 100)
    with pytest.raises(DataError, match="delete") as error:
        ensure_cache(tmp_path, persons, PAPER, report=silent)
    assert str(partial) in str(error.value)


def _write_and_read(persons: Persons, root: Path, results) -> None:
    ours = with_crops(persons, ensure_cache(root, persons, PAPER, report=silent))
    results.put([int(crops_of(ours, Augmentation())[row]["image"].sum()) for row in range(COUNT)])


def test_two_processes_that_need_a_cache_write_it_once(persons: Persons, tmp_path: Path) -> None:
    fork = multiprocessing.get_context("fork")
    results = fork.SimpleQueue()
    processes = [
        fork.Process(target=_write_and_read, args=(persons, tmp_path / "cache", results))
        for _ in range(3)
    ]
    for process in processes:
        process.start()
    found = [results.get() for _ in processes]
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert found[0] == found[1] == found[2]
    assert len(list((tmp_path / "cache").glob("*.sqlite"))) == 1


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_write_the_same(persons: Persons, tmp_path: Path, workers: int) -> None:
    alone = ensure_cache(tmp_path / "a", persons, PAPER, report=silent)
    shared = ensure_cache(tmp_path / "b", persons, PAPER, report=silent, workers=workers)
    assert rows_of(alone) == rows_of(shared)


def test_a_finished_cache_is_read_where_nothing_can_be_written(
    persons: Persons, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = ensure_cache(tmp_path / "cache", persons, PAPER, report=silent)

    def refused(*_: object, **__: object) -> None:
        raise PermissionError("read-only file system")

    # Permissions do not stop root, who may run these tests.
    monkeypatch.setattr(Path, "mkdir", refused)
    monkeypatch.setattr("pnfs.data.cache_writer.FileLock", refused)
    path.chmod(0o444)
    path.parent.chmod(0o555)
    crops_of(cached(persons, tmp_path / "cache"), None)[0]
    assert sorted(file.name for file in path.parent.iterdir()) == sorted(
        [path.name, path.with_suffix(".lock").name]
    )
    path.parent.chmod(0o755)


@pytest.mark.parametrize("method", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_processes_of_a_loader_have_connections_of_their_own(
    persons: Persons, tmp_path: Path, method: str
) -> None:
    ours = crops_of(cached(persons, tmp_path / "cache"), None)
    expected = [ours[row]["image"] for row in range(COUNT)]
    loader = DataLoader(
        ours, batch_size=1, num_workers=1, multiprocessing_context=method, sampler=range(COUNT)
    )
    for batch, image in zip(loader, expected, strict=True):
        np.testing.assert_array_equal(batch["image"][0], image)


@pytest.mark.parametrize("factor", [2, 4, 8])
@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_a_reduced_image_lies_where_the_image_does(tmp_path: Path, factor: int, suffix) -> None:
    """Against averages over blocks of the whole image, on sides that no factor divides."""
    image = cv2.GaussianBlur(smooth_picture(3, 211, 333), (0, 0), 8)
    cv2.imwrite(str(tmp_path / f"a.{suffix}"), image, [cv2.IMWRITE_JPEG_QUALITY, 100])
    files = ImageFiles(tmp_path, [f"a.{suffix}"])
    reduced, to_image = files.view(0, factor + 0.3)
    whole = files.read(0)
    if suffix == "png":
        np.testing.assert_array_equal(reduced, whole)
        return
    assert reduced.shape[:2] == (-(-211 // factor), -(-333 // factor))
    y, x = np.mgrid[2 : reduced.shape[0] - 2, 2 : reduced.shape[1] - 2].astype(np.float64)
    places = apply(to_image, np.stack([x, y], -1)).astype(np.float32)
    expected = cv2.remap(whole, places[..., 0], places[..., 1], cv2.INTER_LINEAR).astype(float)

    def distance(moved: float) -> float:
        there = cv2.remap(whole, places[..., 0] + moved, places[..., 1], cv2.INTER_LINEAR)
        return float(np.abs(there.astype(float) - reduced[2:-2, 2:-2]).mean())

    assert np.abs(expected - reduced[2:-2, 2:-2]).mean() < 3
    # Half a pixel of the image to either side fits worse, equally so.
    assert distance(0.5) > distance(0.0) < distance(-0.5)
    assert distance(0.5) == pytest.approx(distance(-0.5), rel=0.35)
    assert files.view(0, factor - 0.1)[0].shape[0] > reduced.shape[0]


@pytest.fixture
def large_person(tmp_path: Path) -> Persons:
    """A person five times as large as the crop."""
    image = cv2.GaussianBlur(smooth_picture(4, 480, 640), (0, 0), 5)
    cv2.imwrite(str(tmp_path / "a.jpg"), image, [cv2.IMWRITE_JPEG_QUALITY, 98])
    (tmp_path / "toy").mkdir()
    return replace(
        write_persons(tmp_path / "toy", count=1),
        images=ImageFiles(tmp_path, ["a.jpg"]),
        center=np.array([[320, 240]], np.float32),
        box_size=np.array([[240, 320]], np.float32),
    )


@pytest.mark.parametrize("with_cache", [False, True])
def test_reduced_decoding_can_be_switched_off(
    large_person: Persons, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, with_cache: bool
) -> None:
    """OpenCV's flags say how an image is decoded; those of the cache's own JPEGs are not counted."""
    flags: list[int] = []
    decode = cv2.imdecode

    def noted(content: np.ndarray, flag: int) -> np.ndarray | None:
        flags.append(flag)
        return decode(content, flag)

    monkeypatch.setattr(cv2, "imdecode", noted)
    source = SimpleNamespace(persons=lambda split: large_person, skeleton=LSP)
    for reduced in (True, False):
        data = PoseDataModule(
            source=source,  # type: ignore[arg-type]
            input_size=SIZE,
            batch_size=1,
            workers=0,
            cache=tmp_path / "cache" if with_cache else None,
            augmentation=Augmentation(rotation=0, scale=(1, 1), flip=0),
            reduced_decoding=reduced,
        )
        flags.clear()
        next(iter(data.train_dataloader()))
        half = cv2.IMREAD_REDUCED_COLOR_2 & ~cv2.IMREAD_COLOR
        deeper = (cv2.IMREAD_REDUCED_COLOR_4 | cv2.IMREAD_REDUCED_COLOR_8) & ~cv2.IMREAD_COLOR
        assert any(flag & (half | deeper) for flag in flags) == reduced
