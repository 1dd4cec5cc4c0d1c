"""What may be wrong with a split: its labels beside each other, images, and published numbers."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from pnfs.data.coco_format import CROWD, NO_JOINTS, OTHER_CATEGORY
from pnfs.data.datasets.base import PoseDataset
from pnfs.data.datasets.coco import COCO
from pnfs.data.datasets.lsp import LSP
from pnfs.data.datasets.mpii import FILE_JOINTS, MPII
from pnfs.data.images import DataError, ImageFiles
from pnfs.data.persons import UNLABELLED, Persons
from pnfs.data.readers import read_mat

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")

PUBLISHED = {
    (MPII, "train"): 22246, (MPII, "val"): 2958, (COCO, "train"): 149813, (COCO, "val"): 6352,
    (LSP, "train"): 1000, (LSP, "val"): 1000, (LSP, "test"): 1000,
}  # fmt: skip
"""Persons in each split: MPII and COCO as HRNet trains and evaluates on them, LSP's own split."""

_SOURCE = "Take train.json, valid.json and gt_valid.mat from one source, unchanged."
_BROWSE = "Look at `pnfs data action=browse`."


@dataclass(frozen=True)
class Finding:
    """One thing that somebody should know before hours are spent."""

    severity: Severity
    """error: results would be wrong or a run would stop; warning: look at it; note: for information."""
    check: str  # Which check found it, such as "joint order".
    where: str  # The file, folder, split or device concerned.
    problem: str  # What is wrong, with figures.
    advice: str = ""  # What to do.
    records: tuple[str, ...] = ()  # Every record or file concerned, where they are known.


class ImageReport(NamedTuple):
    """What one image turned out to be."""

    name: str
    size: tuple[int, int] | None = None  # (width, height); None where it could not be decoded.
    problem: str | None = None  # None for a good image.
    digest: str = ""  # Equal for files with equal content; "" where the image is not a file.
    orientation: int = 1
    """EXIF's: how the camera was held; 1 is upright, 3 upside down, 6 and 8 on its side."""


@dataclass(frozen=True)
class Seen:
    """A split, and row of `persons.images` -> what that image turned out to be."""

    dataset: PoseDataset
    split: str
    persons: Persons
    reports: dict[int, ImageReport] = field(default_factory=dict)

    def found(
        self,
        check: str,
        severity: Severity | tuple[float, float],
        problem: str,
        advice: str,
        records: Sequence[str] | Bool[np.ndarray, " N"] | None = None,
    ) -> Iterator[Finding]:
        """A finding if there are records (ids, or rows), of which `problem` says what is wrong, or only a problem.

        The severity may depend on the share of persons: above one number a warning, above the other an error.
        """
        if isinstance(records, np.ndarray):
            records = self.persons.ids[records].tolist()
        names = tuple(records or ())
        if isinstance(severity, tuple):
            share = len(names) / len(self.persons)
            severity = SEVERITIES[2 - sum(share > limit for limit in severity)]
        if names:
            problem = f"{len(names):,} {problem}: {_some(names)}"
        if names or (records is None and problem):
            yield Finding(severity, check, self.persons.name, problem, advice, names)


def _some(names: Sequence[str], most: int = 3) -> str:
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def person_keys(persons: Persons) -> list[bytes | None]:
    """One key a person: image name and labelled joints; None without labelled joints."""
    labelled = persons.visibility > UNLABELLED
    joints = np.where(labelled[..., None], persons.joints, 0)
    found: list[bytes | None] = [None] * len(persons)
    for row in np.flatnonzero(labelled.any(-1)).tolist():
        name = persons.images.describe(int(persons.image_index[row]))
        found[row] = name.encode("utf-8", "surrogatepass") + joints[row].tobytes()
    return found


def finding_of_error(error: DataError, check: str, where: str) -> Finding:
    """A loader's refusal as a finding; what follows its first line says what to do."""
    problem, _, rest = str(error).partition("\n")
    advice = rest or "Repair or replace what the message names, then check again."
    return Finding("error", check, where, problem, advice)


def faults(seen: Seen) -> Iterator[Finding]:
    """What is wrong within one split."""
    for look in (_images, _persons, _statistics, _evaluation_file):
        try:
            yield from look(seen)
        except DataError as error:
            yield finding_of_error(error, "annotation files", seen.split)


def _images(seen: Seen) -> Iterator[Finding]:
    images, reports = seen.persons.images, seen.reports.values()
    yield from seen.found(
        "missing images", "error", "images are missing",
        "Unpack the dataset's image archive again, or take the records out of the annotations.",
        images.missing() if isinstance(images, ImageFiles) else [],
    )  # fmt: skip
    yield from seen.found(
        "damaged images", "error", "images cannot be read whole",
        "Copy or download these files again and compare their size with the source's.",
        [f"{r.name}: {r.problem}" for r in reports if r.problem],
    )  # fmt: skip
    turns = {2: "mirrored", 3: "180°", 4: "180°, mirrored", 5: "90°, mirrored", 6: "90°",
             7: "270°, mirrored", 8: "270°"}  # fmt: skip
    yield from seen.found(
        "image orientation", "warning", "images are stored turned or mirrored (EXIF)",
        "Training reads pixels as they are stored. If the labels were made on the upright picture, "
        f"store the images upright, without this entry. {_BROWSE}",
        [f"{r.name} ({turns[r.orientation]})" for r in reports if r.orientation in turns],
    )  # fmt: skip
    if isinstance(seen.dataset, COCO):
        table = seen.dataset.annotations(seen.split).images
        stated = {image["file_name"]: (image["width"], image["height"]) for image in table}
        sizes = [(images.describe(row), r.size) for row, r in seen.reports.items() if r.size]
        yield from seen.found(
            "image sizes", "error", "images have another size than the annotations say",
            "The images were resized or come from elsewhere: use the original ones.",
            [
                f"{name}: {w}×{h}, not {stated[name][0]}×{stated[name][1]}"
                for name, (w, h) in sizes if (w, h) != stated[name]
            ],
        )  # fmt: skip


def _persons(seen: Seen) -> Iterator[Finding]:
    persons, labelled = seen.persons, seen.persons.visibility > UNLABELLED
    unusual = persons.remarks or persons.left_out.keys() - {CROWD, NO_JOINTS, OTHER_CATEGORY}
    if unusual:
        advice = "Change the annotation file if this is not what it means."
        yield from seen.found("annotations", "warning", persons.described(), advice)
    elif persons.left_out:
        advice = "Nothing, unless these are to count."
        yield from seen.found("left out", "note", persons.described(), advice)
    published = PUBLISHED.get((type(seen.dataset), seen.split), len(persons))
    if len(persons) != published:
        yield from seen.found(
            "number of persons", "note",
            f"{len(persons):,} usable persons, the published number is {published:,}",
            "A selection, or damaged annotation files: scores cannot be compared with published ones.",
        )  # fmt: skip
    first: dict[bytes, str] = {}
    pairs = zip(persons.ids.tolist(), person_keys(persons), strict=True)
    pairs = [(id_, first.setdefault(key, id_)) for id_, key in pairs if key]
    yield from seen.found(
        "duplicate records", "warning", "persons repeat image and joints of another one",
        "These count twice in training and scores; take the copies out of the annotations.",
        [f"{id_} = {other}" for id_, other in pairs if id_ != other],
    )  # fmt: skip
    sizes = {row: report.size for row, report in seen.reports.items() if report.size}
    size = np.array([sizes.get(int(row), (np.inf, np.inf)) for row in persons.image_index])
    joints = persons.joints.astype(np.float64)
    beyond = labelled & ((joints < -1) | (joints > size[:, None])).any(-1)
    yield from seen.found(
        "joints outside images", (0.1, 0.5), "persons have labelled joints outside their image",
        "Of many: labels and images do not belong together, or x and y are exchanged.",
        np.asarray(beyond.any(-1) & np.isfinite(size).all(-1)),
    )  # fmt: skip
    offset = np.abs(persons.joints - persons.center[:, None])
    inside = labelled & (offset <= persons.box_size[:, None] / 2).all(-1)
    yield from seen.found(
        "person boxes", (0.02, 0.2), "persons have most joints outside their box",
        "Crops would not show them. Boxes and joints must come from one source.",
        labelled.any(-1) & (2 * inside.sum(-1) < labelled.sum(-1)),
    )  # fmt: skip


def _statistics(seen: Seen) -> Iterator[Finding]:
    persons, skeleton = seen.persons, seen.persons.skeleton
    labelled, joints = persons.visibility > UNLABELLED, persons.joints.astype(np.float64)

    def of(*names: str) -> Float[np.ndarray, "n K 2"]:
        """These joints of persons who have all of them; none where there are too few persons to tell."""
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
            yield from seen.found(
                "joint order", "warning",
                f"limbs are {limb / pair:.2f} times as long as joints are apart on average (usually 0.3 to "
                "0.6): joints stand in another order than their names",
                f"The labels are probably stored in another joint order than the dataset's own. {_BROWSE}",
            )  # fmt: skip
    shoulders = of("left_shoulder", "right_shoulder")[..., 0]
    # More people face a camera than do not.
    if len(shoulders) and (share := (shoulders[:, 0] > shoulders[:, 1]).mean()) < 0.4:
        yield from seen.found(
            "left and right", "warning",
            f"the left shoulder lies on the picture's right on only {share:.0%} of {len(shoulders):,} "
            "persons; where most people face the camera it is 60–90 %",
            "Left and right are probably exchanged, or the pictures mirrored: left must be the person's "
            f"own. {_BROWSE}",
        )  # fmt: skip
    head = "head_top" if "head_top" in skeleton.joints else "nose"
    y = of(head, "left_ankle", "right_ankle")[..., 1]
    if len(y) and (share := (y[:, 0] < y[:, 1:].mean(-1)).mean()) < 0.5:
        yield from seen.found(
            "upright persons", "warning",
            f"the head lies above the ankles on only {share:.0%} of {len(y):,} persons",
            f"Unless these people stand on their hands, x and y are exchanged or y counts upwards. {_BROWSE}",
        )  # fmt: skip


def _evaluation_file(seen: Seen) -> Iterator[Finding]:
    """MPII's validation labels beside gt_valid.mat, which its evaluation reads."""
    if not isinstance(seen.dataset, MPII) or seen.split != "val":
        return
    persons, path = seen.persons, seen.dataset.root / "annot/gt_valid.mat"
    truth, boxes = (
        np.moveaxis(read_mat(path, name, (*shape, None)).astype(np.float64), -1, 0)
        for name, shape in (("pos_gt_src", (16, 2)), ("headboxes_src", (2, 2)))
    )
    if len(truth) != len(persons):
        raise DataError(f"{path}: pos_gt_src is of {len(truth)} persons, not {len(persons)}")
    # The files' order and 1-based pixels.
    columns = persons.skeleton.indices(FILE_JOINTS)
    labelled = persons.visibility[:, columns] > UNLABELLED
    joints = persons.joints[:, columns].astype(np.float64) + 1
    difference = (joints - truth)[labelled & (truth != 0).any(-1)]
    shift = np.median(difference, axis=0) if len(difference) else np.zeros(2)
    agree = (np.abs(difference - shift).max(-1, initial=0) < 1).mean() if len(difference) else 1
    problem = ""
    if agree < 0.9:
        problem = "its joints are others than those of gt_valid.mat, or stand in another order"
    elif np.abs(shift).max() >= 0.5:
        problem = (
            f"its joints lie ({shift[0]:+.1f}, {shift[1]:+.1f}) px beside those of gt_valid.mat"
        )
        if np.abs(shift + 1).max() < 0.25:
            problem += ": its pixels are 0-based, MPII's are 1-based"
    advice = f"At small thresholds a pixel of shift costs score. {_SOURCE}"
    yield from seen.found("pixel base", "error", problem, advice)
    if not problem:
        ends = [FILE_JOINTS.index(name) for name in ("head_top", "upper_neck")]
        # (person, corner, x or y)
        distance = np.linalg.norm(joints[:, ends].mean(1) - boxes.mean(1), axis=-1)
        diagonal = np.linalg.norm(boxes[:, 1] - boxes[:, 0], axis=-1)
        yield from seen.found(
            "head boxes", (0.0, 0.2), "persons have their head box away from the head",
            f"PCKh would divide by another person's head size. {_SOURCE}",
            labelled[:, ends].all(-1) & (distance > diagonal),
        )  # fmt: skip
