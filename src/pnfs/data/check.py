"""Is a dataset fit to spend hours on? Images are read to their last byte, labels compared with images."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

import numpy as np
from rich.console import Console
from rich.progress import track

from pnfs.data.datasets.base import PoseDataset
from pnfs.data.datasets.coco import COCO
from pnfs.data.datasets.coco_boxes import image_table
from pnfs.data.datasets.mpii import FILE_JOINTS, MPII
from pnfs.data.images import DataError, ImageFiles, ImageReport, inspect_file
from pnfs.data.persons import UNLABELLED, Persons
from pnfs.data.readers import read_mat

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")

_TURNS = {2: "mirrored", 3: "180°", 4: "180°, mirrored", 5: "90°, mirrored", 6: "90°", 7: "270°, mirrored",
          8: "270°"}  # fmt: skip
"""EXIF's orientation -> how the image is stored; 1 is upright."""
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
    seen: dict[str, Persons] = {}
    for split in splits:
        try:
            persons, stated = dataset.persons(split), {}
            rows = np.unique(persons.image_index)
            if images == "sample":
                rows = rows[np.unique(np.linspace(0, len(rows) - 1, sample).round().astype(int))]
            reports = inspect_images(persons, rows.tolist() if images != "none" else [], workers)
            if isinstance(dataset, COCO):
                stated = dict(image_table(dataset.annotations(split)).values())
            findings += faults(persons, reports, stated)
            if isinstance(dataset, MPII) and split == "val":
                findings += _head_sizes(dataset, persons)
        except DataError as error:
            findings.append(finding_of_error(error, "annotation files", split))
        else:
            seen[split] = persons
    for one, other in itertools.combinations(seen, 2):
        # LSP has one test set under two names, and says so.
        if {one, other} != {"val", "test"}:
            known, pairs = set(_keys(seen[one])), _keys(seen[other]).items()
            names = [id_ for key, ids in pairs if key in known for id_ in ids]
            where = f"{seen[one].name} and {seen[other].name}"
            findings += _about(
                where, "warning", "persons in two splits", names, "persons are in both",
                "Scores on persons that were trained on say little; take them out of one split.",
            )  # fmt: skip
    return sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity))


def _head_sizes(dataset: MPII, persons: Persons) -> list[Finding]:
    """MPII's validation labels beside gt_valid.mat, by whose head boxes PCKh divides."""
    path, count = dataset.root / "annot/gt_valid.mat", len(persons)
    truth = read_mat(path, "pos_gt_src", (16, 2, count)).astype(np.float64).transpose(2, 0, 1)
    boxes = read_mat(path, "headboxes_src", (2, 2, count)).astype(np.float64).transpose(2, 0, 1)
    columns = persons.skeleton.indices(FILE_JOINTS)  # The file counts pixels from 1.
    joints, labelled = persons.joints[:, columns] + 1.0, persons.visibility[:, columns] > UNLABELLED
    source = "Take train.json, valid.json and gt_valid.mat from one source, unchanged."
    apart = (joints - truth)[labelled & (truth != 0).any(-1)]
    if len(apart) and (np.abs(apart).max(-1) < 0.5).mean() < 0.9:
        x, y = np.median(apart, axis=0)
        problem = f"joints lie elsewhere than in gt_valid.mat, in the median ({x:+.1f}, {y:+.1f}) px"
        return [Finding("error", "pixel base", persons.name, problem, source)]
    ends = [FILE_JOINTS.index(name) for name in ("head_top", "upper_neck")]
    distance = np.linalg.norm(joints[:, ends].mean(1) - boxes.mean(1), axis=-1)
    away = distance > np.linalg.norm(boxes[:, 1] - boxes[:, 0], axis=-1)
    names = persons.ids[away & labelled[:, ends].all(-1)].tolist()
    advice = f"PCKh would divide by another person's head size. {source}"
    problem = "persons have their head box away from the head"
    return _about(persons.name, "error", "head boxes", names, problem, advice)


def finding_of_error(error: DataError, check: str, where: str) -> Finding:
    """A loader's refusal as a finding; what follows its first line says what to do."""
    problem, _, rest = str(error).partition("\n")
    advice = rest or "Repair or replace what the message names, then check again."
    return Finding("error", check, where, problem, advice)


def _about(
    where: str, severity: Severity, check: str, names: Sequence[str], problem: str, advice: str
) -> list[Finding]:
    """A finding about the records of these names, if there are any."""
    if not names:
        return []
    more = f" and {len(names) - 3:,} more" if len(names) > 3 else ""
    problem = f"{len(names):,} {problem}: {', '.join(names[:3])}{more}"
    return [Finding(severity, check, where, problem, advice, tuple(names))]


def _keys(persons: Persons) -> dict[bytes, list[str]]:
    """Image name and labelled joints -> ids of the persons who have these."""
    labelled = persons.visibility > UNLABELLED
    joints = np.where(labelled[..., None], persons.joints, 0)
    found: dict[bytes, list[str]] = {}
    for row in np.flatnonzero(labelled.any(-1)).tolist():
        name = persons.images.describe(int(persons.image_index[row]))
        key = name.encode("utf-8", "surrogatepass") + joints[row].tobytes()
        found.setdefault(key, []).append(str(persons.ids[row]))
    return found


def faults(
    persons: Persons,
    reports: Mapping[int, ImageReport],
    stated: Mapping[str, tuple[int, int]],
) -> Iterator[Finding]:
    """What is wrong within one split.

    `reports`: row of `persons.images` -> what that image turned out to be; `stated`: name -> (width, height) that
    the annotations say.
    """
    images, labelled, ids = persons.images, persons.visibility > UNLABELLED, persons.ids
    sizes = {row: report.size for row, report in reports.items() if report.size}
    if persons.remarks or persons.left_out:
        advice = "Change the annotation file if this is not what it means."
        severity = "warning" if persons.remarks else "note"
        yield Finding(severity, "annotations", persons.name, persons.described(), advice)
    of_image = [(images.describe(row), size) for row, size in sizes.items()]
    size = np.array([sizes.get(int(row), (np.inf, np.inf)) for row in persons.image_index])
    outside = (persons.joints < -1) | (persons.joints > size[:, None])
    beyond = (labelled & outside.any(-1)).any(-1)
    offset = np.abs(persons.joints - persons.center[:, None])
    inside = labelled & (offset <= persons.box_size[:, None] / 2).all(-1)
    away = labelled.any(-1) & (2 * inside.sum(-1) < labelled.sum(-1))
    checks: list[tuple[Severity, str, Sequence[str], str, str]] = [
        ("error", "missing images", images.missing() if isinstance(images, ImageFiles) else [],
         "images are missing",
         "Unpack the dataset's image archive again, or take the records out of the annotations."),
        ("error", "damaged images", [f"{r.name}: {r.problem}" for r in reports.values() if r.problem],
         "images cannot be read whole",
         "Copy or download these files again and compare their size with the source's."),
        ("warning", "image orientation",
         [f"{r.name} ({_TURNS[r.orientation]})" for r in reports.values() if r.orientation in _TURNS],
         "images are stored turned or mirrored (EXIF)",
         "Training reads pixels as they are stored. If the labels were made on the upright picture, store the "
         f"images upright, without this entry. {_LOOK}"),
        ("error", "image sizes",
         [f"{name}: {w}×{h}, not {stated[name][0]}×{stated[name][1]}"
          for name, (w, h) in of_image if stated.get(name, (w, h)) != (w, h)],
         "images have another size than the annotations say",
         "The images were resized or come from elsewhere: use the original ones."),
        ("warning", "duplicate records",
         [f"{copy} = {first}" for first, *copies in _keys(persons).values() for copy in copies],
         "persons repeat image and joints of another one",
         "These count twice in training and scores; take the copies out of the annotations."),
        ("warning", "joints outside images", ids[beyond].tolist(),
         "persons have labelled joints outside their image",
         "Of many: labels and images do not belong together, or x and y are exchanged."),
        ("warning", "person boxes", ids[away].tolist(), "persons have most joints outside their box",
         "Crops would not show them. Boxes and joints must come from one source."),
    ]  # fmt: skip
    for check in checks:
        yield from _about(persons.name, *check)
    yield from _exchanged(persons)


def _exchanged(persons: Persons) -> Iterator[Finding]:
    """Joints or sides that have exchanged names, by what is usual of people."""
    skeleton, joints = persons.skeleton, persons.joints.astype(np.float64)
    labelled = persons.visibility > UNLABELLED

    def mean_distance(pairs: np.ndarray) -> float:
        a, b = pairs.T
        both = labelled[:, a] & labelled[:, b]
        return np.linalg.norm(joints[:, a] - joints[:, b], axis=-1)[both].mean()

    # Limbs are short beside the distances between any two joints.
    if len(persons) >= 10 and skeleton.limbs:
        limbs = np.array([skeleton.indices(limb) for limb in skeleton.limbs])
        every = np.stack(np.triu_indices(len(skeleton), 1), axis=1)
        if (ratio := mean_distance(limbs) / mean_distance(every)) > 0.7:
            problem = f"limbs are {ratio:.2f} times as long as joints are apart on average (usual: 0.3–0.6)"
            advice = f"The labels are probably stored in another joint order than the dataset's own. {_LOOK}"
            yield Finding("warning", "joint order", persons.name, problem, advice)
    names = ("left_shoulder", "right_shoulder")
    if set(names) <= set(skeleton.joints):
        columns = skeleton.indices(names)
        shoulders = joints[labelled[:, columns].all(-1)][:, columns, 0]
        # More people face a camera than do not; few cannot tell.
        share = (shoulders[:, 0] > shoulders[:, 1]).mean() if len(shoulders) >= 100 else 1
        if share < 0.4:
            problem = f"the left shoulder lies on the picture's right on {share:.0%} of persons (usual: 60–90 %)"
            advice = f"Left and right are probably exchanged, or the pictures mirrored. {_LOOK}"
            yield Finding("warning", "left and right", persons.name, problem, advice)


def inspect_images(persons: Persons, rows: Sequence[int], workers: int | None = None) -> dict[int, ImageReport]:
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
