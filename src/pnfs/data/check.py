"""Is a dataset fit to spend hours on? Images are read to their last byte, labels compared with images."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

import numpy as np
from rich.console import Console
from rich.progress import track

from pnfs.data.coco_format import CROWD, NO_JOINTS, OTHER_CATEGORY
from pnfs.data.datasets.base import PoseDataset
from pnfs.data.datasets.coco import COCO
from pnfs.data.datasets.mpii import FILE_JOINTS, MPII
from pnfs.data.images import DataError, ImageFiles, ImageReport, inspect_file
from pnfs.data.persons import UNLABELLED, Persons
from pnfs.data.readers import read_mat

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")

_TURNS = {2: "mirrored", 3: "180°", 4: "180°, mirrored", 5: "90°, mirrored", 6: "90°", 7: "270°, mirrored",
          8: "270°"}  # fmt: skip
"""EXIF's orientation -> how the image is stored; 1 is upright."""
_SOURCE = "Take train.json, valid.json and gt_valid.mat from one source, unchanged."
_LOOK = "Look at crops.png, which `pnfs data out=<folder>` writes."


@dataclass(frozen=True)
class Finding:
    """One thing that somebody should know before hours are spent."""

    severity: Severity
    """error: results would be wrong or a run would stop; warning: look at it; note: for information."""
    check: str  # Which check found it, such as "joint order".
    where: str  # The file, folder or split concerned.
    problem: str  # What is wrong, with figures.
    advice: str = ""  # What to do.
    records: tuple[str, ...] = ()  # Every record or file concerned, where they are known.


@dataclass(frozen=True)
class Seen:
    """A split, and row of `persons.images` -> what that image turned out to be."""

    dataset: PoseDataset
    split: str
    persons: Persons
    reports: dict[int, ImageReport]


Fault = tuple[str, Severity, str, str, Iterable[str] | np.ndarray | None]
"""Check, severity, problem, advice, and the records: ids, or a mask of persons; None: the problem says all."""


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
    `check_images=False`: missing images are looked for here, file by file. Image files are decoded: "all", an
    evenly spread "sample" of each split, or "none"; `workers` at once, None: one a core.
    """
    findings: list[Finding] = []
    seen: list[Seen] = []
    for split in splits:
        try:
            persons = dataset.persons(split)
            rows = np.unique(persons.image_index)
            if images == "none":
                rows = rows[:0]
            elif images == "sample" and len(rows) > sample:
                rows = rows[np.linspace(0, len(rows) - 1, sample).round().astype(int)]
            reports = inspect_images(persons, rows.tolist(), workers)
            seen.append(Seen(dataset, split, persons, reports))
            for finding in faults(seen[-1]):
                findings.append(finding)
        except DataError as error:
            findings.append(finding_of_error(error, "annotation files", split))
    for first, second in itertools.combinations(seen, 2):
        # LSP has one test set under two names, and says so.
        if {first.split, second.split} != {"val", "test"}:
            where = f"{first.persons.name} and {second.persons.name}"
            findings += _findings(_shared(first, second), second.persons, where)
    return sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity))


def finding_of_error(error: DataError, check: str, where: str) -> Finding:
    """A loader's refusal as a finding; what follows its first line says what to do."""
    problem, _, rest = str(error).partition("\n")
    advice = rest or "Repair or replace what the message names, then check again."
    return Finding("error", check, where, problem, advice)


def faults(seen: Seen) -> Iterator[Finding]:
    """What is wrong within one split; a DataError where MPII's evaluation file cannot be read."""
    for look in (_images, _persons, _names, _evaluation_file):
        yield from _findings(look(seen), seen.persons, seen.persons.name)


def _findings(found: Iterable[Fault], persons: Persons, where: str) -> Iterator[Finding]:
    for check, severity, problem, advice, records in found:
        if records is None:
            yield Finding(severity, check, where, problem, advice)
            continue
        is_mask = isinstance(records, np.ndarray)
        names = tuple(persons.ids[records].tolist() if is_mask else records)
        if names:
            more = f" and {len(names) - 3:,} more" if len(names) > 3 else ""
            problem = f"{len(names):,} {problem}: {', '.join(names[:3])}{more}"
            yield Finding(severity, check, where, problem, advice, names)


def _person_keys(persons: Persons) -> list[bytes | None]:
    """One key a person: image name and labelled joints; None without labelled joints."""
    labelled = persons.visibility > UNLABELLED
    joints = np.where(labelled[..., None], persons.joints, 0)
    found: list[bytes | None] = [None] * len(persons)
    for row in np.flatnonzero(labelled.any(-1)).tolist():
        name = persons.images.describe(int(persons.image_index[row]))
        found[row] = name.encode("utf-8", "surrogatepass") + joints[row].tobytes()
    return found


def _shared(first: Seen, second: Seen) -> Iterator[Fault]:
    known = set(_person_keys(first.persons)) - {None}
    pairs = zip(second.persons.ids.tolist(), _person_keys(second.persons), strict=True)
    names = [id_ for id_, key in pairs if key in known]
    advice = "Scores on persons that were trained on say little; take them out of one split."
    yield "persons in two splits", "warning", "persons are in both", advice, names


def _images(seen: Seen) -> Iterator[Fault]:
    images, reports = seen.persons.images, seen.reports.values()
    yield (
        "missing images", "error", "images are missing",
        "Unpack the dataset's image archive again, or take the records out of the annotations.",
        images.missing() if isinstance(images, ImageFiles) else (),
    )  # fmt: skip
    yield (
        "damaged images", "error", "images cannot be read whole",
        "Copy or download these files again and compare their size with the source's.",
        [f"{r.name}: {r.problem}" for r in reports if r.problem],
    )  # fmt: skip
    yield (
        "image orientation", "warning", "images are stored turned or mirrored (EXIF)",
        "Training reads pixels as they are stored. If the labels were made on the upright picture, "
        f"store the images upright, without this entry. {_LOOK}",
        [f"{r.name} ({_TURNS[r.orientation]})" for r in reports if r.orientation in _TURNS],
    )  # fmt: skip
    if isinstance(seen.dataset, COCO):
        table = seen.dataset.annotations(seen.split).images
        stated = {image["file_name"]: (image["width"], image["height"]) for image in table}
        sizes = [(images.describe(row), r.size) for row, r in seen.reports.items() if r.size]
        yield (
            "image sizes", "error", "images have another size than the annotations say",
            "The images were resized or come from elsewhere: use the original ones.",
            [
                f"{name}: {w}×{h}, not {stated[name][0]}×{stated[name][1]}"
                for name, (w, h) in sizes if (w, h) != stated[name]
            ],
        )  # fmt: skip


def _persons(seen: Seen) -> Iterator[Fault]:
    persons, labelled = seen.persons, seen.persons.visibility > UNLABELLED
    usual = not (persons.remarks or persons.left_out.keys() - {CROWD, NO_JOINTS, OTHER_CATEGORY})
    if not usual or persons.left_out:
        advice = "Change the annotation file if this is not what it means."
        yield "annotations", "note" if usual else "warning", persons.described(), advice, None
    first: dict[bytes, str] = {}
    pairs = zip(persons.ids.tolist(), _person_keys(persons), strict=True)
    pairs = [(id_, first.setdefault(key, id_)) for id_, key in pairs if key]
    yield (
        "duplicate records", "warning", "persons repeat image and joints of another one",
        "These count twice in training and scores; take the copies out of the annotations.",
        [f"{id_} = {other}" for id_, other in pairs if id_ != other],
    )  # fmt: skip
    sizes = {row: report.size for row, report in seen.reports.items() if report.size}
    size = np.array([sizes.get(int(row), (np.inf, np.inf)) for row in persons.image_index])
    joints = persons.joints.astype(np.float64)
    beyond = labelled & ((joints < -1) | (joints > size[:, None])).any(-1)
    yield (
        "joints outside images", "warning", "persons have labelled joints outside their image",
        "Of many: labels and images do not belong together, or x and y are exchanged.",
        np.asarray(beyond.any(-1) & np.isfinite(size).all(-1)),
    )  # fmt: skip
    offset = np.abs(persons.joints - persons.center[:, None])
    inside = labelled & (offset <= persons.box_size[:, None] / 2).all(-1)
    yield (
        "person boxes", "warning", "persons have most joints outside their box",
        "Crops would not show them. Boxes and joints must come from one source.",
        labelled.any(-1) & (2 * inside.sum(-1) < labelled.sum(-1)),
    )  # fmt: skip


def _names(seen: Seen) -> Iterator[Fault]:
    """Joints, sides or axes that were exchanged, by what is usual of people."""
    persons, skeleton = seen.persons, seen.persons.skeleton
    labelled, joints = persons.visibility > UNLABELLED, persons.joints.astype(np.float64)

    def of(*names: str) -> np.ndarray:
        """(n, K, 2) these joints of persons who have all of them; none where too few persons could tell."""
        columns = skeleton.indices(names) if set(names) <= set(skeleton.joints) else []
        found = joints[labelled[:, columns].all(-1)][:, columns]
        return found if columns and len(found) >= 100 else found[:0]

    if len(persons) >= 10 and skeleton.limbs:
        limbs = np.array([skeleton.indices(limb) for limb in skeleton.limbs])
        pairs = np.stack(np.triu_indices(len(skeleton), 1), axis=1)
        limb, pair = (
            np.linalg.norm(joints[:, a] - joints[:, b], axis=-1)[
                labelled[:, a] & labelled[:, b]
            ].mean()
            for a, b in (limbs.T, pairs.T)
        )
        # Limbs are short beside the distances between any two joints, unless joints have exchanged names.
        if limb / pair > 0.7:
            problem = f"limbs are {limb / pair:.2f} times as long as joints are apart on average (usual: 0.3–0.6)"
            advice = f"The labels are probably stored in another joint order than the dataset's own. {_LOOK}"
            yield "joint order", "warning", problem, advice, None
    shoulders = of("left_shoulder", "right_shoulder")[..., 0]
    # More people face a camera than do not.
    if len(shoulders) and (share := (shoulders[:, 0] > shoulders[:, 1]).mean()) < 0.4:
        problem = f"the left shoulder lies on the picture's right on only {share:.0%} of persons; usual is 60–90 %"
        advice = f"Left and right are probably exchanged, or the pictures mirrored. {_LOOK}"
        yield "left and right", "warning", problem, advice, None
    head = "head_top" if "head_top" in skeleton.joints else "nose"
    y = of(head, "left_ankle", "right_ankle")[..., 1]
    if len(y) and (share := (y[:, 0] < y[:, 1:].mean(-1)).mean()) < 0.5:
        problem = f"the head lies above the ankles on only {share:.0%} of {len(y):,} persons"
        advice = f"x and y are probably exchanged, or y counts upwards. {_LOOK}"
        yield "upright persons", "warning", problem, advice, None


def _evaluation_file(seen: Seen) -> Iterator[Fault]:
    """MPII's validation labels beside gt_valid.mat, which its evaluation reads."""
    if not isinstance(seen.dataset, MPII) or seen.split != "val":
        return
    persons, path = seen.persons, seen.dataset.root / "annot/gt_valid.mat"
    truth, boxes = (
        np.moveaxis(read_mat(path, name, (*shape, len(persons))).astype(np.float64), -1, 0)
        for name, shape in (("pos_gt_src", (16, 2)), ("headboxes_src", (2, 2)))
    )
    # The files' order and 1-based pixels.
    columns = persons.skeleton.indices(FILE_JOINTS)
    labelled = persons.visibility[:, columns] > UNLABELLED
    joints = persons.joints[:, columns].astype(np.float64) + 1
    difference = (joints - truth)[labelled & (truth != 0).any(-1)]
    if len(difference) and (np.abs(difference).max(-1) < 0.5).mean() < 0.9:
        x, y = np.median(difference, axis=0)
        problem = f"its joints lie elsewhere than in gt_valid.mat, or are 0-based (median ({x:+.1f}, {y:+.1f}) px)"
        yield "pixel base", "error", problem, _SOURCE, None
        return
    ends = [FILE_JOINTS.index(name) for name in ("head_top", "upper_neck")]
    # (person, corner, x or y)
    distance = np.linalg.norm(joints[:, ends].mean(1) - boxes.mean(1), axis=-1)
    diagonal = np.linalg.norm(boxes[:, 1] - boxes[:, 0], axis=-1)
    away = labelled[:, ends].all(-1) & (distance > diagonal)
    advice = f"PCKh would divide by another person's head size. {_SOURCE}"
    yield "head boxes", "error", "persons have their head box away from the head", advice, away


def inspect_images(
    persons: Persons, rows: Sequence[int], workers: int | None = None
) -> dict[int, ImageReport]:
    """Row of `persons.images` -> report of the files that are there; `workers` at once, None: one a core.

    Threads are enough: reading and decoding happen outside Python's lock.
    """
    images = persons.images
    if not isinstance(images, ImageFiles):
        return {}
    paths = {row: images.root / images.describe(row) for row in rows}
    paths = {row: path for row, path in paths.items() if path.is_file()}
    with ThreadPoolExecutor(workers) as pool:
        about = {"description": f"images of {persons.name}", "total": len(paths)}
        found = pool.map(inspect_file, paths.values())
        reports = track(found, transient=True, console=Console(stderr=True), **about)
        return dict(zip(paths, reports, strict=True))
