"""Checks a dataset before training: decodes every image, compares labels with images."""

import itertools
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal, NamedTuple

import cv2
import numpy as np
from PIL import Image
from rich.console import Console
from rich.progress import track

from pnfs.body import MPII_FILE_JOINTS
from pnfs.data.coco_format import image_table
from pnfs.data.datasets.base import PoseDataset
from pnfs.data.datasets.coco import COCO
from pnfs.data.datasets.mpii import MPII, TRUTH
from pnfs.data.images import DataError, ImageFiles, require_size
from pnfs.data.persons import UNLABELLED, Persons
from pnfs.data.readers import read_mat

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")


class Finding(NamedTuple):
    """One problem, or a note."""

    severity: Severity
    """error: results would be wrong or a run would stop; warning: look at it; note: for information."""
    check: str  # Which check found it, such as "missing images".
    where: str  # The file, folder or split concerned.
    problem: str  # What is wrong, with figures, and what to do.
    records: tuple[str, ...] = ()  # Every record or file concerned, where they are known.


ImageReport = tuple[int, int] | str
"""(width, height) of an image file, or what is wrong with it."""


def inspect_dataset(
    dataset: PoseDataset,
    *,
    splits: Sequence[str] = ("train", "val"),
    images: bool = True,
    workers: int | None = None,
) -> list[Finding]:
    """Everything that can be found wrong with a dataset before training on it, errors first.

    A loader's refusal becomes a finding, and the checks go on. Give datasets `check_images=False`: missing images
    are looked for here. With `images` the files are decoded, `workers` at once (None: one a core).
    """
    findings: list[Finding] = []
    seen: dict[str, Persons] = {}
    for split in splits:
        try:
            persons, stated = dataset.persons(split), {}
            if isinstance(dataset, COCO):
                stated = dict(image_table(dataset.annotations(split)).values())
            findings += faults(persons, inspect_images(persons, workers) if images else {}, stated)
            if isinstance(dataset, MPII) and split == "val":
                findings += _beside_truth(dataset, persons)
            seen[split] = persons
        except DataError as error:
            findings.append(Finding("error", "annotation files", split, str(error)))
    for one, other in itertools.combinations(seen, 2):
        # LSP has one test set under two names, and says so.
        if {one, other} != {"val", "test"}:
            known, where = _keys(seen[one]), f"{seen[one].name} and {seen[other].name}"
            names = [id_ for key, ids in _keys(seen[other]).items() if key in known for id_ in ids]
            problem = "persons are in both (take them out of one: their scores say little)"
            findings += _about(where, "warning", "persons in two splits", names, problem)
    return sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity))


def _about(where: str, severity: Severity, check: str, names: Sequence[str], problem: str) -> list[Finding]:
    """A finding about the records of these names, if there are any."""
    more = f" and {len(names) - 3:,} more" if len(names) > 3 else ""
    problem = f"{len(names):,} {problem}: {', '.join(names[:3])}{more}"
    return [Finding(severity, check, where, problem, tuple(names))] if names else []


def _beside_truth(dataset: MPII, persons: Persons) -> list[Finding]:
    """MPII's validation labels beside gt_valid.mat, by whose head boxes PCKh divides."""
    truth = read_mat(dataset.root / TRUTH, "pos_gt_src", (16, 2, len(persons))).astype(float).transpose(2, 0, 1)
    columns = persons.skeleton.indices(MPII_FILE_JOINTS)  # The file counts pixels from 1.
    labelled = (persons.visibility[:, columns] > UNLABELLED) & (truth != 0).any(-1)
    apart = labelled & (np.abs(persons.joints[:, columns] + 1.0 - truth).max(-1) >= 0.5)
    names = persons.ids[apart.any(-1)].tolist() if apart.sum() > 0.1 * labelled.sum() else []
    problem = (
        "persons have their joints elsewhere in gt_valid.mat (take it and valid.json from one source: PCKh would "
    )
    return _about(persons.name, "error", "head sizes", names, f"{problem}divide by others' head sizes)")


def _keys(persons: Persons) -> dict[tuple[str, bytes], list[str]]:
    """Image name and labelled joints -> ids of the persons who have these."""
    labelled, found = persons.visibility > UNLABELLED, defaultdict(list)
    joints = np.where(labelled[..., None], persons.joints, 0)
    for row in np.flatnonzero(labelled.any(-1)).tolist():
        name = persons.images.describe(int(persons.image_index[row]))
        found[name, joints[row].tobytes()].append(str(persons.ids[row]))
    return found


def faults(
    persons: Persons, reports: Mapping[str, ImageReport], stated: Mapping[str, tuple[int, int]]
) -> Iterator[Finding]:
    """What is wrong within one split; `reports` and `stated`, the sizes that annotations say, go by image name."""
    images, labelled, name, ids = persons.images, persons.visibility > UNLABELLED, persons.name, persons.ids
    sizes = {image: report for image, report in reports.items() if not isinstance(report, str)}
    if persons.remarks or persons.left_out:
        yield Finding("warning" if persons.remarks else "note", "annotations", name, persons.described())
    missing = images.missing() if isinstance(images, ImageFiles) else []
    damaged = [f"{image}: {report}" for image, report in reports.items() if isinstance(report, str)]
    others = [f"{i}: {size}, not {stated[i]}" for i, size in sizes.items() if stated.get(i, size) != size]
    copies = [f"{copy} = {first}" for first, *copies in _keys(persons).values() for copy in copies]
    unknown = (np.inf, np.inf)
    size = np.array([sizes.get(images.describe(int(i)), unknown) for i in persons.image_index])[:, None]
    beyond = labelled & ((persons.joints < -1) | (persons.joints > size)).any(-1)
    away = np.abs(persons.joints - persons.center[:, None]) > persons.box_size[:, None] / 2
    away = 2 * (labelled & away.any(-1)).sum(-1) > labelled.sum(-1)
    checks: list[tuple[Severity, str, Sequence[str], str]] = [
        ("error", "missing images", missing, "images are missing (unpack the dataset's archive again)"),
        ("error", "damaged images", damaged, "images cannot be read whole (copy these files again)"),
        ("error", "image sizes", others, "images have another (width, height) than the annotations say"),
        ("warning", "duplicate records", copies, "persons repeat image and joints of others, and count twice"),
        ("warning", "joints outside images", ids[beyond.any(-1)].tolist(),
         "persons have labelled joints outside their image (of many: they do not belong together)"),
        ("warning", "person boxes", ids[away].tolist(), "persons have most joints outside their box"),
    ]  # fmt: skip
    for check in checks:
        yield from _about(name, *check)


def inspect_images(persons: Persons, workers: int | None = None) -> dict[str, ImageReport]:
    """Name -> report of the image files that are there; reading happens outside Python's lock."""
    images = persons.images
    if not isinstance(images, ImageFiles):
        return {}
    names = [images.describe(row) for row in np.unique(persons.image_index).tolist()]
    paths = {name: path for name in names if (path := images.root / name).is_file()}
    with ThreadPoolExecutor(workers) as pool:
        about = {"description": f"images of {persons.name}", "total": len(paths)}
        found = pool.map(inspect_file, paths.values())
        reports = track(found, transient=True, console=Console(stderr=True), **about)
        return dict(zip(paths, reports, strict=True))


def inspect_file(path: Path) -> ImageReport:
    """Decodes one image file to its last line, with Pillow: OpenCV fills what a JPEG lacks with grey."""
    try:
        with Image.open(path) as image:
            require_size(path, *image.size)
            image.load()
        return image.size if cv2.haveImageReader(str(path)) else "OpenCV does not read this format"
    # Pillow's decoders meet damaged files with whatever their byte arithmetic runs into.
    except Exception as error:
        return f"cannot be decoded: {str(error).partition(' <')[0]}"
