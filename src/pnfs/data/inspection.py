"""Images read to their last byte, as nobody does while training: are they whole, upright, and how large?"""

import hashlib
import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from rich.console import Console
from rich.progress import track

from pnfs.data.images import DataError, ImageFiles, require_size
from pnfs.data.persons import Persons
from pnfs.data.pixels import to_bytes

_ORIENTATION = 0x0112
"""EXIF's tag of the camera's orientation."""


@dataclass(frozen=True)
class ImageReport:
    """What one image turned out to be."""

    name: str
    size: tuple[int, int] | None = None
    """(width, height); None where it could not be decoded."""
    problem: str | None = None
    """None for a good image."""
    digest: str = ""
    """Equal for files with equal content; "" where the image is not a file."""
    orientation: int = 1
    """EXIF's: how the camera was held; 1 is upright, 3 upside down, 6 and 8 on its side."""


def inspect_file(path: Path) -> ImageReport:
    """Decodes one image file to its last line.

    OpenCV, which training reads with, fills the missing part of a truncated JPEG with grey and
    says nothing; Pillow refuses it.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        return ImageReport(str(path), problem=f"cannot be read: {error.strerror or error}")
    digest = hashlib.blake2b(content, digest_size=16).hexdigest()
    try:
        require_size(path, np.frombuffer(content, np.uint8))
        with Image.open(io.BytesIO(content)) as image:
            image.load()
            size, orientation = image.size, int(image.getexif().get(_ORIENTATION, 1))
            problem = _depth_problem(image)
    except DataError as error:
        return ImageReport(str(path), problem=str(error), digest=digest)
    except Image.UnidentifiedImageError:
        what = f"is not an image, it begins with {content[:12]!r}" if content else "is empty"
        return ImageReport(str(path), problem=what, digest=digest)
    # Pillow's decoders meet damaged files with whatever their byte arithmetic runs into.
    except Exception as error:
        # Its count of bytes left over says nothing about how much is missing.
        reason = str(error).partition(" (")[0]
        return ImageReport(str(path), problem=f"cannot be decoded: {reason}", digest=digest)
    if not cv2.haveImageReader(str(path)):
        problem = "is in a format that OpenCV does not read"
    return ImageReport(str(path), size, problem, digest, orientation)


def _depth_problem(image: Image.Image) -> str | None:
    """What is wrong with the numbers of an image of more than 8 bits, which training reads with OpenCV."""
    if image.mode == "F" or (image.mode == "I" and image.format != "PNG"):
        return "holds floating point or 32-bit numbers, which training cannot read"
    if image.mode.startswith("I"):
        try:
            to_bytes(np.asarray(image), 16)
        except ValueError as error:
            return str(error)
    return None


def inspect_images(
    persons: Persons, rows: Sequence[int], *, workers: int | None = None
) -> dict[int, ImageReport]:
    """Reads images completely, several at once, with a progress bar.

    Threads are enough: reading, hashing and decoding all happen outside Python's lock.

    Args:
        persons: Whose images.
        rows: Rows of `persons.images`; files that are missing are left out of the result.
        workers: Images at once; None for one a core.

    Returns:
        Row -> report.
    """
    images = persons.images

    def inspect(row: int) -> ImageReport | None:
        name = images.describe(row)
        if isinstance(images, ImageFiles):
            return inspect_file(images.root / name) if (images.root / name).is_file() else None
        try:
            height, width = images.read(row).shape[:2]
        except DataError as error:
            return ImageReport(name, problem=str(error))
        return ImageReport(name, (width, height))

    with ThreadPoolExecutor(workers) as pool:
        reports = track(
            pool.map(inspect, rows),
            description=f"images of {persons.name}",
            total=len(rows),
            transient=True,
            console=Console(stderr=True),
        )
        return {row: report for row, report in zip(rows, reports, strict=True) if report}


def chosen_rows(persons: Persons, images: str, sample: int) -> list[int]:
    """Rows of `persons.images` to read: "all", an even "sample" of so many, or "none"."""
    rows = np.unique(persons.image_index)
    if images == "none":
        return []
    # Images that are drawn when they are read cannot be damaged one by one.
    sampled = images == "sample" or not isinstance(persons.images, ImageFiles)
    if sampled and len(rows) > sample:
        rows = rows[np.linspace(0, len(rows) - 1, sample).round().astype(int)]
    return rows.tolist()
