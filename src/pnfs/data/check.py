"""Is a dataset fit to spend hours on? Images are read to their last byte, and `faults` are looked for."""

import hashlib
import io
import itertools
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from rich.console import Console
from rich.progress import track

from pnfs.data.datasets.base import PoseDataset
from pnfs.data.faults import (
    SEVERITIES,
    Finding,
    ImageReport,
    Seen,
    faults,
    finding_of_error,
    person_keys,
)
from pnfs.data.images import DataError, ImageFiles, require_size, stated_size, to_bytes
from pnfs.data.persons import Persons
from pnfs.errors import PnfsError


def worst_first(findings: Iterable[Finding]) -> list[Finding]:
    """Errors, then warnings, then notes; otherwise in the order found."""
    return sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity))


def inspect_dataset(
    dataset: PoseDataset,
    *,
    splits: Sequence[str] = ("train", "val"),
    images: str = "all",
    sample: int = 500,
    workers: int | None = None,
) -> list[Finding]:
    """Everything that can be found wrong with a dataset before training on it, errors first.

    A loader's refusal becomes a finding, and the checks continue with the rest. Give datasets
    `check_images=False`: missing images are looked for here, file by file.

    Args:
        dataset: The dataset.
        splits: The splits to inspect.
        images: Decode "all" images, an evenly spread "sample", or "none"; without images nothing
            is known about damaged files and joints outside their image. Of images that are not
            files but made when they are read, "all" takes a sample too.
        sample: Images of each split in a sample.
        workers: Images decoded at once; None for one a core.
    """
    findings: list[Finding] = []
    seen: list[Seen] = []
    for split in splits:
        try:
            persons = dataset.persons(split)
        except DataError as error:
            findings.append(finding_of_error(error, "annotation files", split))
            continue
        rows = np.unique(persons.image_index)
        # Images that are drawn when they are read cannot be damaged one by one.
        few = images == "sample" or not isinstance(persons.images, ImageFiles)
        if few and len(rows) > sample:
            rows = rows[np.linspace(0, len(rows) - 1, sample).round().astype(int)]
        reports = {} if images == "none" else inspect_images(persons, rows.tolist(), workers)
        seen.append(Seen(dataset, split, persons, reports))
        findings += faults(seen[-1])
    for first, second in itertools.combinations(seen, 2):
        # LSP has one test set under two names, and says so.
        if {first.split, second.split} != {"val", "test"}:
            findings += _shared(first, second)
    return worst_first(findings)


def _shared(first: Seen, second: Seen) -> Iterator[Finding]:
    """Persons, or else pictures, that belong to two splits."""
    known = set(person_keys(first.persons)) - {None}
    check, what = "persons in two splits", "persons are in both"
    pairs = zip(second.persons.ids.tolist(), person_keys(second.persons), strict=True)
    names = [id_ for id_, key in pairs if key in known]
    if not names:
        check, what = "duplicate images", "pictures are in both"
        digests = {r.digest for r in first.reports.values() if r.digest and not r.problem}
        names = [r.name for r in second.reports.values() if r.digest in digests]
    advice = "Scores on persons that were trained on say little; take them out of one split."
    for finding in second.found(check, "warning", what, advice, names):
        yield replace(finding, where=f"{first.persons.name} and {second.persons.name}")


def inspect_file(path: Path) -> ImageReport:
    """Decodes one image file to its last line.

    OpenCV, which training reads with, fills the missing part of a truncated JPEG with grey and
    says nothing; Pillow refuses it.
    """
    name, digest = str(path), ""
    try:
        content = path.read_bytes()
        digest = hashlib.blake2b(content, digest_size=16).hexdigest()
        require_size(path, *stated_size(np.frombuffer(content, np.uint8)))
        with Image.open(io.BytesIO(content)) as image:
            image.load()
            # EXIF's tag of the camera's orientation.
            size, orientation = image.size, int(image.getexif().get(0x0112, 1))
            if image.mode == "F" or (image.mode == "I" and image.format != "PNG"):
                raise DataError(
                    "holds floating point or 32-bit numbers, which training cannot read"
                )
            if image.mode.startswith("I"):
                to_bytes(np.asarray(image), 16)
        if not cv2.haveImageReader(name):
            raise DataError("is in a format that OpenCV does not read")
    except PnfsError as error:
        return ImageReport(name, problem=str(error), digest=digest)
    # Pillow's decoders meet damaged files with whatever their byte arithmetic runs into; its count of bytes left
    # over, in brackets, says nothing about how much is missing.
    except Exception as error:
        reason = str(error).partition(" (")[0].partition(" <")[0]
        return ImageReport(name, problem=f"cannot be decoded: {reason}", digest=digest)
    return ImageReport(name, size, None, digest, orientation)


def inspect_images(
    persons: Persons, rows: Sequence[int], workers: int | None = None
) -> dict[int, ImageReport]:
    """Row of `persons.images` -> report, without files that are missing; `workers` at once, None: one a core.

    Threads are enough: reading, hashing and decoding all happen outside Python's lock.
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
