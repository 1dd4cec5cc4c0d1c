"""Finding and writing a crop cache."""

import hashlib
import json
import logging
import math
import sqlite3
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict
from functools import partial
from pathlib import Path
from shutil import disk_usage

import cv2
import numpy as np
from filelock import FileLock
from rich.console import Console
from rich.progress import track

from pnfs.data.cache import ANEW, FORMAT_VERSION, CacheSettings, read_about
from pnfs.data.geometry import compose, invert
from pnfs.data.images import DataError, view_of
from pnfs.data.persons import Persons

_SCHEMA = """
CREATE TABLE IF NOT EXISTS about (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS crops (person INTEGER PRIMARY KEY, to_image BLOB, crc32 INTEGER, pixels BLOB);
"""
_CHUNK = 64  # Persons in a transaction.
_QUALITY = 95  # JPEG quality.
_PROBES = 4  # Images whose pixels are compared when a cache is found.

log = logging.getLogger(__name__)


def ensure_cache(
    root: Path | str, persons: Persons, settings: CacheSettings, *, workers: int = 0
) -> Path:
    """The file of a cache of these persons and settings below `root`; written, or finished, if there is none.

    Processes that ask for the same one wait for each other; `workers` crops are cut at once.

    Raises:
        DataError: An image cannot be read, the disk has no room, or the cache found is damaged or was made from
            other images.
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
        raise DataError(
            f"{path}: cannot be written: {getattr(error, 'strerror', None) or error}; what is "
            "written stays, the same command resumes"
        ) from None
    except sqlite3.DatabaseError as error:
        raise DataError(f"{partial_of(path)}: is damaged ({error}); delete it") from None
    return path


def cache_path(root: Path, persons: Persons, settings: CacheSettings) -> Path:
    """The file below `root` that a cache is, by what its crops depend on: settings, persons and their boxes."""
    stem = "".join(c if c.isalnum() else "_" for c in persons.name.lower())
    key = [FORMAT_VERSION, _fingerprint(persons), asdict(settings)]
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:8]
    return root / f"{stem}-{digest}.sqlite"


def partial_of(path: Path) -> Path:
    """The name of a cache until it is finished."""
    return path.with_suffix(".partial")


def _is_finished(path: Path, persons: Persons) -> bool:
    """Whether the cache is there; raises DataError if it is damaged or was made from other images."""
    if not path.exists():
        return False
    probes = read_about(path)["probes"]
    for id_, crc in _probe_images(persons).items():
        if probes.get(id_, crc) != crc:
            raise DataError(
                f"{path}: the image of person {id_} is not the one that this cache was made from; {ANEW}"
            )
    return True


def _fingerprint(persons: Persons) -> str:
    digest = hashlib.sha256("\n".join(persons.ids.tolist()).encode())
    for column in (persons.center, persons.box_size):
        digest.update(np.ascontiguousarray(column, "<f4").tobytes())
    return digest.hexdigest()


def _probe_images(persons: Persons) -> dict[str, int]:
    """Checksums of the pixels of a few images, by person's id; images that are not there left out."""
    found = {}
    for row in np.unique(np.linspace(0, len(persons) - 1, _PROBES).astype(int)).tolist():
        try:
            image = persons.images.read(int(persons.image_index[row]))
        except DataError:
            continue
        found[str(persons.ids[row])] = zlib.crc32(np.ascontiguousarray(image).data)
    return found


def _row(persons: Persons, settings: CacheSettings, row: int) -> tuple[int, bytes, int, bytes]:
    """A person's row of the table `crops`."""
    matrix = settings.matrix(persons, row)
    zoom = 1 / math.hypot(*matrix[0, :2]) if settings.reduced_decoding else 1.0
    try:
        image, to_image = view_of(persons.images, int(persons.image_index[row]), zoom)
    except DataError as error:
        raise DataError(f"person {persons.ids[row]}: {error}") from None
    crop = cv2.warpAffine(image, compose(matrix, to_image), settings.crop_size[::-1])
    place, content = invert(matrix).tobytes(), crop.tobytes()
    if settings.format == "jpeg":
        options = [cv2.IMWRITE_JPEG_QUALITY, _QUALITY, cv2.IMWRITE_JPEG_OPTIMIZE, 1]
        bgr = cv2.cvtColor(crop, cv2.COLOR_RGB2BGR)
        content = cv2.imencode(".jpg", bgr, options)[1].tobytes()
    return row, place, zlib.crc32(content, zlib.crc32(place)), content


def _write(path: Path, persons: Persons, settings: CacheSettings, workers: int) -> None:
    with (
        closing(sqlite3.connect(partial_of(path))) as connection,
        # Decoding, cutting and encoding happen outside Python's lock.
        ThreadPoolExecutor(max(1, workers)) as pool,
    ):
        if settings.format == "raw":
            # A crop is a chain of pages; longer ones are read faster, and waste more behind a JPEG.
            connection.execute("PRAGMA page_size = 16384")
        connection.executescript(_SCHEMA)
        done = {person for (person,) in connection.execute("SELECT person FROM crops")}
        missing = [row for row in range(len(persons)) if row not in done]
        height, width = settings.crop_size
        about = (
            f"cache of {persons.name}: {len(missing)} of {len(persons)} crops of {width}x{height}"
        )
        free = disk_usage(path.parent).free / 1e6
        log.info("%s to write (%s), %.0f MB are free", about, settings.format, free)
        make = partial(_row, persons, settings)
        for start in track(range(0, len(missing), _CHUNK), "cache", console=Console(stderr=True)):
            rows = list(pool.map(make, missing[start : start + _CHUNK]))
            with connection:
                connection.executemany("INSERT OR IGNORE INTO crops VALUES (?,?,?,?)", rows)
        probes = _probe_images(persons)
        made = {"version": FORMAT_VERSION, "probes": probes, "settings": asdict(settings)}
        entries = [(name, json.dumps(value, allow_nan=False)) for name, value in made.items()]
        with connection:
            connection.executemany("INSERT OR REPLACE INTO about VALUES (?, ?)", entries)
    partial_of(path).replace(path)
    log.info("cache written: %s (%.1f MB)", path, path.stat().st_size / 1e6)
