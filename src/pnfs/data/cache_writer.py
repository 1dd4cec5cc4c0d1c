"""Writing a crop cache: several processes cut and encode, one appends; a kill costs what is unwritten."""

import hashlib
import json
import os
import shutil
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import cv2
import numpy as np
from filelock import FileLock
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch.utils.data import DataLoader, Dataset

from pnfs.data.cache import (
    CROPS,
    ENTRY,
    FORMAT_VERSION,
    INDEX,
    MANIFEST,
    CacheSettings,
    cache_folder,
    cut,
    find_cache,
    fingerprint,
    probe_images,
)
from pnfs.data.dataset import start_worker
from pnfs.data.persons import DataError, Persons

_CHUNK = 32
"""Persons between two writes."""
_SAMPLES = 24
"""Crops that the size of a JPEG cache is estimated from."""
_PARTIAL = ".partial"

console = Console(stderr=True)


def report_to_terminal(message: str) -> None:
    """Where messages go unless the caller wants them."""
    console.print(message, soft_wrap=True, highlight=False, markup=False)


def ensure_cache(
    root: Path | str,
    persons: Persons,
    settings: CacheSettings,
    *,
    any_format: bool = False,
    workers: int = 0,
    rebuild: bool = False,
    report: Callable[[str], None] = report_to_terminal,
) -> Path:
    """The folder of a cache that serves; written, or finished, if there is none.

    Args:
        root: Folder that holds caches. Processes that ask for the same one wait for each other.
        persons: The persons whose crops are wanted.
        settings: What is needed, and how a new cache is written.
        any_format: Take an existing cache of another format or quality.
        workers: Processes that cut and encode; 0: this one.
        rebuild: Delete what there is with the same settings first.
        report: Told what is done, and why existing caches do not fit.

    Raises:
        DataError: An image cannot be read, the disk has no room, or the cache found is damaged.
    """
    root = Path(root).expanduser()
    exact = cache_folder(root, persons, settings)
    if not rebuild:
        # A finished cache may lie where nothing can be written, not even a lock.
        found, _ = find_cache(root, persons, settings, any_format)
        if found is not None:
            return found
    try:
        root.mkdir(parents=True, exist_ok=True)
        lock = FileLock(root / f"{exact.name}.lock")
        with lock:
            if rebuild:
                shutil.rmtree(exact, ignore_errors=True)
            found, reasons = find_cache(root, persons, settings, any_format)
            if found is not None:
                return found
            for reason in reasons:
                report(f"cache does not fit: {reason}")
            _write(exact, persons, settings, workers, report)
    except OSError as error:
        raise DataError(
            f"{exact}: cannot be written: {error.strerror or error}; what is written stays, the "
            "same command goes on from there"
        ) from None
    return exact


def estimate_bytes(persons: Persons, settings: CacheSettings) -> int:
    """Size of a cache: exact for raw pixels, from a few crops for JPEG."""
    height, width = settings.crop_size
    if settings.format == "raw":
        return len(persons) * height * width * 3
    rows = np.unique(np.linspace(0, len(persons) - 1, _SAMPLES).astype(int)).tolist()
    total = sum(len(_encode(cut(persons, row, settings)[0], settings)) for row in rows)
    return total * len(persons) // len(rows)


class _EncodedCrops(Dataset):
    """Encoded crops and their index rows; an error as text, because workers garble exceptions."""

    def __init__(self, persons: Persons, settings: CacheSettings) -> None:
        self.persons = persons
        self.settings = settings

    def __len__(self) -> int:
        return len(self.persons)

    def __getitem__(self, row: int) -> tuple[np.ndarray, np.ndarray] | str:
        try:
            crop, to_image, size = cut(self.persons, row, self.settings)
        except DataError as error:
            return f"person {self.persons.ids[row]}: {error}"
        content = _encode(crop, self.settings)
        entry = np.zeros((), ENTRY)
        entry["length"], entry["crc32"] = len(content), zlib.crc32(content.data)
        entry["image_height"], entry["image_width"] = size
        entry["to_image"] = to_image
        return content, entry


def _encode(crop: np.ndarray, settings: CacheSettings) -> np.ndarray:
    if settings.format == "raw":
        return crop.reshape(-1)
    options = [cv2.IMWRITE_JPEG_QUALITY, settings.quality, cv2.IMWRITE_JPEG_OPTIMIZE, 1]
    return cv2.imencode(".jpg", cv2.cvtColor(crop, cv2.COLOR_RGB2BGR), options)[1].reshape(-1)


def _join(
    encoded: Sequence[tuple[np.ndarray, np.ndarray] | str],
) -> tuple[np.ndarray, np.ndarray] | str:
    errors = [item for item in encoded if isinstance(item, str)]
    if errors:
        return errors[0]
    contents, entries = zip(*encoded, strict=True)
    return np.concatenate(contents), np.stack(entries)


def _chunks(
    persons: Persons, settings: CacheSettings, first: int, workers: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Bytes and index rows of the persons from `first` on, in order."""
    loader = DataLoader(
        _EncodedCrops(persons, settings),
        batch_size=_CHUNK,
        sampler=range(first, len(persons)),
        num_workers=workers,
        worker_init_fn=start_worker,
        collate_fn=_join,
    )
    try:
        for chunk in loader:
            if isinstance(chunk, str):
                raise DataError(chunk)
            yield chunk
    except RuntimeError as error:
        if "worker" not in str(error):
            raise
        raise DataError(
            f"{persons.name}: a process that writes the cache was stopped (out of memory?): "
            f"{error}; the same command goes on from what is written"
        ) from None


def _write(
    folder: Path,
    persons: Persons,
    settings: CacheSettings,
    workers: int,
    report: Callable[[str], None],
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    crops, index = folder / CROPS, folder / (INDEX + _PARTIAL)
    entries = _resume(crops, index)
    written = int(entries["length"].sum())
    _require_space(folder, persons, settings, written, len(entries), report)
    with (
        crops.open("ab") as crop_file,
        index.open("ab") as index_file,
        _progress() as progress,
    ):
        bar = progress.add_task("cache", total=len(persons), completed=len(entries))
        for content, rows in _chunks(persons, settings, len(entries), workers):
            rows["offset"] = written + np.concatenate([[0], rows["length"].cumsum()[:-1]])
            crop_file.write(content.data)
            # First the crops, then the rows that say they are there.
            crop_file.flush()
            index_file.write(rows.tobytes())
            index_file.flush()
            written += len(content)
            progress.update(bar, advance=len(rows))
        os.fsync(crop_file.fileno())
    _finish(folder, index, persons, settings)
    report(f"cache written: {folder} ({written / 1e6:,.1f} MB)")


def _resume(crops: Path, index: Path) -> np.ndarray:
    """Index rows of the crops that an interrupted start left complete; the rest is cut off."""
    content = index.read_bytes() if index.is_file() else b""
    entries = np.frombuffer(content[: len(content) // ENTRY.itemsize * ENTRY.itemsize], ENTRY)
    size = crops.stat().st_size if crops.is_file() else 0
    entries = entries[entries["length"].cumsum() <= size]
    for path, end in ((crops, int(entries["length"].sum())), (index, entries.nbytes)):
        if path.is_file():
            os.truncate(path, end)
    return entries


def _require_space(
    folder: Path,
    persons: Persons,
    settings: CacheSettings,
    written: int,
    done: int,
    report: Callable[[str], None],
) -> None:
    height, width = settings.crop_size
    try:
        expected = estimate_bytes(persons, settings)
    except DataError as error:
        raise DataError(f"{persons.name}: the crop cache cannot be written: {error}") from None
    free = shutil.disk_usage(folder).free
    resumed = f", {done:,} of them there already" if done else ""
    report(
        f"cache of {persons.name}: {len(persons):,} crops of {width}x{height}{resumed}, about "
        f"{expected / 1e6:,.0f} MB ({settings.format}); {free / 1e6:,.0f} MB are free"
    )
    # A JPEG cache may come out somewhat larger than its sample says.
    wanted = (1.0 if settings.format == "raw" else 1.1) * expected - written
    if wanted > free:
        raise DataError(
            f"{folder}: the cache of {persons.name} needs about {wanted / 1e6:,.0f} MB and "
            f"{free / 1e6:,.0f} MB are free; make room, choose another folder, or a smaller cache "
            "(jpeg, lower quality, smaller input_size)"
        )


def _finish(folder: Path, index: Path, persons: Persons, settings: CacheSettings) -> None:
    """The manifest comes last and makes the cache a finished one."""
    np.save(folder / INDEX, np.fromfile(index, ENTRY), allow_pickle=False)
    manifest = {
        "version": FORMAT_VERSION,
        "persons": persons.name,
        "count": len(persons),
        "settings": asdict(settings),
        "crop_size": settings.crop_size,
        "bytes": (folder / CROPS).stat().st_size,
        "fingerprint": fingerprint(persons),
        "probes": probe_images(persons),
        "index_sha256": hashlib.sha256((folder / INDEX).read_bytes()).hexdigest(),
    }
    temporary = folder / (MANIFEST + _PARTIAL)
    temporary.write_text(json.dumps(manifest, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    temporary.replace(folder / MANIFEST)
    index.unlink()


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
    )
