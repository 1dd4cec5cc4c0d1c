"""Person crops kept in one SQLite file, so that an epoch decodes what it needs and no more.

A cached crop shows the person's box, upright, with room for every rotation and scale that augmentation may draw.
Training crops have 1.5 times the pixels a side: interpolated twice at equal resolution they were softer than
validation's, which cost 4 points of PCK@0.2 on LSPET at 64 pixels. Others are kept pixel by pixel.

Table `crops` has a row for each person: the checksum and the pixels, a JPEG file or raw RGB. Table `about` says by
name, in JSON, how they were made.
"""

import hashlib
import json
import math
import os
import sqlite3
import threading
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import cv2
import numpy as np
from filelock import FileLock
from jaxtyping import Float64, UInt8
from rich.console import Console
from rich.progress import track

from pnfs.data.augmentation import Augmentation
from pnfs.data.geometry import compose, crop_extent, crop_matrix, fit_box, invert
from pnfs.data.images import DataError, View, view_of
from pnfs.data.persons import Persons
from pnfs.errors import PnfsError

Format = Literal["jpeg", "raw"]

FORMAT_VERSION = 4
ANEW = "delete this file, to have it written anew"
_SCHEMA = """
CREATE TABLE IF NOT EXISTS about (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS crops (person INTEGER PRIMARY KEY, crc32 INTEGER, pixels BLOB);
"""
# A damaged file may say that a value is of another type.
_CROP = "SELECT CAST(crc32 AS INTEGER), CAST(pixels AS BLOB) FROM crops WHERE person = ?"
UNFINISHED = ".partial"  # Suffix of a cache until it is finished.
_CHUNK = 64  # Persons in a transaction.
_JPEG = [cv2.IMWRITE_JPEG_QUALITY, 95, cv2.IMWRITE_JPEG_OPTIMIZE, 1]
_PROBES = 4  # Images whose pixels are compared when a cache is found.


@dataclass(frozen=True)
class CacheSettings:
    """What a cached crop looks like; raises PnfsError for an unknown format."""

    input_size: tuple[int, int]  # (height, width) of the crops that are cut from the cached ones.
    rotation: float = 0.0  # There is room to rotate by this many degrees either way.
    largest_scale: float = 1.0  # There is room to enlarge the box by this factor.
    resolution: float = 1.5  # Pixels of the cached crop per pixel of the plain crop.
    format: Format = "jpeg"  # Or raw: about ten times the size, and nothing to decode.
    reduced_decoding: bool = True  # See `CropDataset`.
    unbiased: bool = False  # Geometry, see `crop_matrix`: that of the crops that are cut from it.

    def __post_init__(self) -> None:
        object.__setattr__(self, "input_size", tuple(self.input_size))
        if self.format not in get_args(Format):
            raise PnfsError(f"the cache's format is jpeg or raw, not {self.format!r}")

    def with_room_for(self, augmentation: Augmentation | None) -> "CacheSettings":
        """The same with room for what an augmentation may draw; None: for the plain crop, as it is."""
        if augmentation is None:
            return replace(self, rotation=0.0, largest_scale=1.0, resolution=1.0)
        return replace(self, rotation=float(augmentation.rotation), largest_scale=float(augmentation.scale[1]))

    @property
    def crop_size(self) -> tuple[int, int]:
        """(height, width) of a cached crop."""

        def side(along: int, across: int) -> int:
            # Furthest out is a corner; beyond the turn that brings it on the axis it comes back.
            turn = min(math.radians(self.rotation), math.atan2(across, along))
            extent = along * math.cos(turn) + across * math.sin(turn)
            # One pixel more a side for the interpolation; even as `along` is: the pixels of both crops coincide.
            return 2 * math.ceil(self.resolution * self.largest_scale * extent / 2 + 1) + along % 2

        height, width = self.input_size
        return side(height, width), side(width, height)

    def matrix(self, persons: Persons, row: int) -> Float64[np.ndarray, "2 3"]:
        """The map from pixels of the image to pixels of the cached crop."""
        width, height = crop_extent(self.input_size, self.unbiased)
        box = fit_box(persons.box_size[row], width / height)
        enlarged = box * (crop_extent(self.crop_size, self.unbiased)[0] / (self.resolution * width))
        return crop_matrix(persons.center[row], enlarged, 0.0, self.crop_size, unbiased=self.unbiased)


def read_about(path: Path) -> dict[str, Any]:
    """What a finished cache says about itself; raises DataError if it is damaged, or of another version."""
    try:
        with closing(_opened(path)) as connection:
            rows = connection.execute("SELECT name, value FROM about").fetchall()
        about: dict[str, Any] = {name: json.loads(value) for name, value in rows}
        if about["version"] != FORMAT_VERSION:
            raise PnfsError(f"version {about['version']}, this is {FORMAT_VERSION}")
        return about | {"settings": CacheSettings(**about["settings"]), "probes": about["probes"]}
    except (sqlite3.Error, ValueError, TypeError, KeyError) as error:
        raise DataError(f"{path}: is not a usable crop cache ({error}); {ANEW}") from None


class CachedCrops:
    """The crops of one finished cache, as the images of the `Persons` that it was made of: row n is person n."""

    def __init__(self, path: Path | str, persons: Persons) -> None:
        self.path = Path(path)
        self.settings: CacheSettings = read_about(self.path)["settings"]
        self._persons = persons
        self._checked = np.zeros(len(persons), bool)
        self._connections: dict[tuple[int, int], sqlite3.Connection] = {}

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_connections": {}}

    def view(self, index: int, zoom: float) -> View:
        """The cached crop, whatever the zoom; raises DataError naming the person if it is not what was written."""
        # Each thread has its own; a forked process must neither use nor close its parent's, so that one is kept.
        user, row = (os.getpid(), threading.get_ident()), None
        try:
            if user not in self._connections:
                self._connections[user] = _opened(self.path)
            query = self._connections[user].execute(_CROP, (int(index),))
            row = query.fetchone()
        except (sqlite3.Error, ValueError) as error:  # ValueError: a name of the file is not UTF-8.
            raise self._damage(index, str(error)) from None
        # Each crop is checked when it is read for the first time.
        if row is None or row[1] is None or (not self._checked[index] and zlib.crc32(row[1]) != row[0]):
            raise self._damage(index, "it is not what was written")
        self._checked[index] = True
        pixels = np.frombuffer(row[1], np.uint8)
        raw = self.settings.format == "raw"
        crop = pixels.reshape(*self.settings.crop_size, 3) if raw else cv2.imdecode(pixels, cv2.IMREAD_COLOR_RGB)
        if crop is None:
            raise self._damage(index, "it is no JPEG")
        return crop, self.place(index)

    def place(self, index: int) -> Float64[np.ndarray, "2 3"]:
        """The map of the cached crop's pixels to those of the image."""
        return invert(self.settings.matrix(self._persons, index))

    def read(self, index: int) -> UInt8[np.ndarray, "H W 3"]:
        """The image itself, which need not lie there for training."""
        return self._persons.image(index)

    def describe(self, index: int) -> str:
        return self._persons.images.describe(int(self._persons.image_index[index]))

    def _damage(self, index: int, why: str) -> DataError:
        person = self._persons.ids[index]
        return DataError(f"{self.path}: the crop of person {person} is damaged ({why}); {ANEW}")


def _opened(path: Path) -> sqlite3.Connection:
    """A connection that reads a finished cache, without locks, also where nothing can be written."""
    uri = f"{path.resolve().as_uri()}?mode=ro&immutable=1"
    connection = sqlite3.connect(uri, uri=True, check_same_thread=False)
    # Raw crops are copied out of the page cache once, not twice: a third of the time. SQLite maps the first 2 GiB.
    connection.execute(f"PRAGMA mmap_size = {2**31}")
    return connection


def with_crops(persons: Persons, path: Path) -> Persons:
    """The same persons with the crops of a finished cache in place of their images."""
    return replace(persons, images=CachedCrops(path, persons), image_index=np.arange(len(persons)))


# --- writing


def ensure_cache(root: Path | str, persons: Persons, settings: CacheSettings, *, workers: int = 0) -> Path:
    """The file of a cache of these persons and settings below `root`; written, or finished, if there is none.

    Processes that ask for the same one wait for each other; `workers` crops are cut at once. Raises DataError if
    an image cannot be read, the disk is full, or the cache found is damaged or was made from other images.
    """
    path = cache_path(Path(root).expanduser(), persons, settings)
    # A finished cache may lie where nothing can be written, not even a lock.
    if _is_finished(path, persons):
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock")):
            if not _is_finished(path, persons):
                _write(path, persons, settings, workers)
    except (OSError, sqlite3.OperationalError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{path}: cannot be written: {reason}; the same command resumes") from None
    except sqlite3.DatabaseError as error:
        raise DataError(f"{path.with_suffix(UNFINISHED)}: is damaged ({error}); delete it") from None
    return path


def cache_path(root: Path, persons: Persons, settings: CacheSettings) -> Path:
    """The file below `root` that a cache is, by what its crops depend on: settings, persons and their boxes."""
    stem = "".join(c if c.isalnum() else "_" for c in persons.name.lower())
    who = hashlib.sha256("\n".join(persons.ids.tolist()).encode())
    for column in (persons.center, persons.box_size):
        who.update(np.ascontiguousarray(column, "<f4").tobytes())
    key = json.dumps([FORMAT_VERSION, who.hexdigest(), asdict(settings)], sort_keys=True)
    return root / f"{stem}-{hashlib.sha256(key.encode()).hexdigest()[:8]}.sqlite"


def _is_finished(path: Path, persons: Persons) -> bool:
    """Whether the cache is there; raises DataError if it is damaged or was made from other images."""
    if not path.exists():
        return False
    probes = read_about(path)["probes"]
    if changed := [id_ for id_, crc in _probe_images(persons).items() if probes.get(id_, crc) != crc]:
        raise DataError(f"{path}: was made from another image of person {changed[0]}; {ANEW}")
    return True


def _probe_images(persons: Persons) -> dict[str, int]:
    """Checksums of the pixels of a few images, by person's id; images that are not there left out."""
    found = {}
    for row in np.unique(np.linspace(0, len(persons) - 1, _PROBES).astype(int)).tolist():
        with suppress(DataError):
            found[str(persons.ids[row])] = zlib.crc32(np.ascontiguousarray(persons.image(row)).data)
    return found


def _cut(persons: Persons, settings: CacheSettings, row: int) -> tuple[int, int, bytes]:
    """A person's row of the table `crops`."""
    matrix = settings.matrix(persons, row)
    zoom = 1 / math.hypot(*matrix[0, :2]) if settings.reduced_decoding else 1.0
    try:
        image, to_image = view_of(persons.images, int(persons.image_index[row]), zoom)
    except DataError as error:
        raise DataError(f"person {persons.ids[row]}: {error}") from None
    crop = cv2.warpAffine(image, compose(matrix, to_image), settings.crop_size[::-1])
    content = crop.tobytes()
    if settings.format == "jpeg":
        content = cv2.imencode(".jpg", cv2.cvtColor(crop, cv2.COLOR_RGB2BGR), _JPEG)[1].tobytes()
    return row, zlib.crc32(content), content


def _write(path: Path, persons: Persons, settings: CacheSettings, workers: int) -> None:
    partial = path.with_suffix(UNFINISHED)
    with (
        closing(sqlite3.connect(partial)) as connection,
        # Decoding, cutting and encoding happen outside Python's lock.
        ThreadPoolExecutor(max(1, workers)) as pool,
    ):
        # A crop is a chain of pages; longer ones are read faster, and waste more behind a JPEG.
        connection.execute(f"PRAGMA page_size = {16384 if settings.format == 'raw' else 4096}")
        connection.executescript(_SCHEMA)
        done = {person for (person,) in connection.execute("SELECT person FROM crops")}
        missing = [row for row in range(len(persons)) if row not in done]
        about = f"crops of {persons.name}"
        for start in track(range(0, len(missing), _CHUNK), about, console=Console(stderr=True)):
            chunk = missing[start : start + _CHUNK]
            rows = list(pool.map(lambda row: _cut(persons, settings, row), chunk))
            with connection:
                connection.executemany("INSERT OR IGNORE INTO crops VALUES (?, ?, ?)", rows)
        made = {"version": FORMAT_VERSION, "probes": _probe_images(persons), "settings": asdict(settings)}
        with connection:
            entries = [(name, json.dumps(value)) for name, value in made.items()]
            connection.executemany("INSERT OR REPLACE INTO about VALUES (?, ?)", entries)
    partial.replace(path)
