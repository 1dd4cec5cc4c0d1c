"""Are the images of a dataset there, whole, and as large as the labels say?"""

import hashlib
import io
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from PIL import Image
from rich.console import Console
from rich.progress import track

from pnfs.data.check.findings import Finding, found_in
from pnfs.data.persons import DataError, ImageFiles, Persons
from pnfs.data.pixels import to_bytes

ImageChoice = Literal["all", "sample", "none"]
_ORIENTATION = 0x0112
"""EXIF's tag of the camera's orientation."""
_TURNS = {2: "mirrored", 3: "180°", 4: "180°, mirrored", 5: "90°, mirrored", 6: "90°",
          7: "270°, mirrored", 8: "270°"}  # fmt: skip
"""EXIF orientation -> how a viewer turns the picture, clockwise."""


@dataclass(frozen=True)
class ImageReport:
    """What one image turned out to be."""

    name: str
    size: tuple[int, int] | None
    """(height, width); None where it could not be decoded."""
    problem: str | None
    """None for a good image."""
    digest: str
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
        return ImageReport(str(path), None, f"cannot be read: {error.strerror or error}", "")
    digest = hashlib.blake2b(content, digest_size=16).hexdigest()
    if not content:
        return ImageReport(str(path), None, "is empty (0 bytes)", digest)
    try:
        with Image.open(io.BytesIO(content)) as image:
            image.load()
            size = image.height, image.width
            orientation = int(image.getexif().get(_ORIENTATION, 1))
            depth = _depth_problem(image)
    except Image.UnidentifiedImageError:
        start = content[:12]
        return ImageReport(str(path), None, f"is not an image, it begins with {start!r}", digest)
    # Pillow's decoders meet damaged files with whatever their byte arithmetic runs into.
    except Exception as error:
        # Its count of bytes left over says nothing about how much is missing.
        reason = str(error).partition(" (")[0]
        return ImageReport(str(path), None, f"cannot be decoded: {reason}", digest)
    problem = depth
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
        if isinstance(images, ImageFiles):
            path = images.root / images.describe(row)
            return inspect_file(path) if path.is_file() else None
        try:
            height, width = images.read(row).shape[:2]
        except DataError as error:
            return ImageReport(images.describe(row), None, str(error), "")
        return ImageReport(images.describe(row), (height, width), None, "")

    with ThreadPoolExecutor(workers) as pool:
        reports = track(
            pool.map(inspect, rows),
            description=f"images of {persons.name}",
            total=len(rows),
            transient=True,
            console=Console(stderr=True),
        )
        return {row: report for row, report in zip(rows, reports, strict=True) if report}


def chosen_rows(persons: Persons, images: ImageChoice, sample: int) -> list[int]:
    """Rows of `persons.images` to read: all, an even sample, or none."""
    rows = np.unique(persons.image_index)
    if images == "none":
        return []
    # Images that are drawn when they are read cannot be damaged one by one.
    sampled = images == "sample" or not isinstance(persons.images, ImageFiles)
    if sampled and len(rows) > sample:
        rows = rows[np.linspace(0, len(rows) - 1, sample).round().astype(int)]
    return rows.tolist()


def check_missing(persons: Persons) -> list[Finding]:
    """Image files that are not there, by the records that need them."""
    if not isinstance(persons.images, ImageFiles):
        return []
    missing, total = persons.images.missing(), len(np.unique(persons.images.paths))
    problem = f"{persons.name}: {len(missing):,} of {total:,} images are missing"
    return found_in(missing, "error", "missing images", persons.images.root, problem)


def check_damaged(persons: Persons, reports: Mapping[int, ImageReport]) -> list[Finding]:
    """Images that cannot be decoded to their end."""
    damaged = [report for report in reports.values() if report.problem]
    names = [f"{report.name}: {report.problem}" for report in damaged]
    where = damaged[0].name if damaged else ""
    problem = f"{persons.name}: {len(names):,} images cannot be read whole"
    return found_in(names, "error", "damaged images", where, problem, shown=1)


def check_orientation(persons: Persons, reports: Mapping[int, ImageReport]) -> list[Finding]:
    """Images that viewers turn or mirror by their EXIF entry, while training reads stored pixels.

    A picture that stands on its head has the size that its labels state, so that nothing else
    shows when labels refer to the turned one.
    """
    turned = [
        f"{report.name} ({_TURNS[report.orientation]})"
        for report in reports.values()
        if report.orientation in _TURNS
    ]
    problem = f"{len(turned):,} of {len(reports):,} images are stored turned or mirrored (EXIF)"
    return found_in(turned, "warning", "image orientation", persons.name, problem)


def check_sizes(
    where: Path, stated: Mapping[str, tuple[int, int]], reports: Iterable[ImageReport]
) -> list[Finding]:
    """Images that are not as large as the annotation file says.

    Args:
        where: The annotation file.
        stated: File name -> (height, width).
        reports: One for each image.
    """
    wrong = [
        f"{name}: {report.size[1]}×{report.size[0]}, not {stated[name][1]}×{stated[name][0]}"
        for report in reports
        if report.size and (name := Path(report.name).name) in stated
        if report.size != tuple(stated[name])
    ]
    problem = f"{len(wrong):,} images have another size than {where.name} says"
    return found_in(wrong, "error", "image sizes", where, problem)


def check_same_pictures(reports_by_split: Mapping[str, Iterable[ImageReport]]) -> list[Finding]:
    """Files with equal content under several names, within a split and between splits."""
    names: dict[str, dict[str, list[str]]] = {}
    for split, reports in reports_by_split.items():
        for report in reports:
            if report.digest and not report.problem:
                names.setdefault(report.digest, {}).setdefault(split, []).append(report.name)
    within = [f"{a[0]} = {a[1]}" for by in names.values() for a in by.values() if len(a) > 1]
    between = [" = ".join(n[0] for n in by.values()) for by in names.values() if len(by) > 1]
    where, check = " and ".join(reports_by_split), "duplicate images"
    twice = f"{len(within):,} pictures lie there under more than one name"
    meant = "Nothing, if the dataset is meant to be so; such persons count several times."
    shared = f"{len(between):,} pictures belong to more than one split"
    return [
        *found_in(within, "note", check, where, twice, meant),
        *found_in(between, "warning", check, where, shared),
    ]
