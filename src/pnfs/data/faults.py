"""What may be wrong with a split: one function each, from the split to the records concerned or to a sentence."""

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Float

from pnfs.data.coco_format import CROWD, NO_JOINTS, OTHER_CATEGORY
from pnfs.data.datasets.base import PoseDataset
from pnfs.data.datasets.coco import COCO
from pnfs.data.datasets.lsp import LSP
from pnfs.data.datasets.mpii import FILE_JOINTS, MPII
from pnfs.data.images import DataError, ImageFiles
from pnfs.data.inspection import ImageReport
from pnfs.data.persons import UNLABELLED, Persons
from pnfs.data.readers import read_mat

PUBLISHED = {
    (MPII, "train"): 22246, (MPII, "val"): 2958, (COCO, "train"): 149813, (COCO, "val"): 6352,
    (LSP, "train"): 1000, (LSP, "val"): 1000, (LSP, "test"): 1000,
}  # fmt: skip
"""Persons in each split: MPII and COCO as HRNet trains and evaluates on them, LSP's own split."""

_LIMBS = 0.7
"""Length of limbs, in mean distances between joints, from which names and joints do not fit."""

_MANY = 100
"""Persons below which no statistic is taken for anything."""


@dataclass(frozen=True)
class Seen:
    """A split, as the checks see it."""

    dataset: PoseDataset
    split: str
    persons: Persons
    reports: dict[int, ImageReport] = field(default_factory=dict)
    """Row of `persons.images` -> what it turned out to be."""

    def labelled(self) -> Bool[np.ndarray, "N K"]:
        return self.persons.visibility > UNLABELLED

    def ids(self, chosen: Bool[np.ndarray, " N"]) -> list[str]:
        """Ids of the chosen persons."""
        return self.persons.ids[chosen].tolist()


# --- files


def missing(seen: Seen) -> list[str]:
    """Image files that are not there."""
    images = seen.persons.images
    return images.missing() if isinstance(images, ImageFiles) else []


def damaged(seen: Seen) -> list[str]:
    """Images that cannot be decoded to their end."""
    return [f"{r.name}: {r.problem}" for r in seen.reports.values() if r.problem]


def turned(seen: Seen) -> list[str]:
    """Viewers turn these by their EXIF entry, while training reads stored pixels."""
    turns = {2: "mirrored", 3: "180°", 4: "180°, mirrored", 5: "90°, mirrored", 6: "90°",
             7: "270°, mirrored", 8: "270°"}  # fmt: skip
    found = [(r.name, turns.get(r.orientation)) for r in seen.reports.values()]
    return [f"{name} ({turn})" for name, turn in found if turn]


def resized(seen: Seen) -> list[str]:
    """Images that are not as large as the annotation file says."""
    if not isinstance(seen.dataset, COCO):
        return []
    table = seen.dataset.annotations(seen.split).images
    stated = {image["file_name"]: (image["width"], image["height"]) for image in table}
    found = [(seen.persons.images.describe(n), r.size) for n, r in seen.reports.items() if r.size]
    return [
        f"{name}: {size[0]}×{size[1]}, not {stated[name][0]}×{stated[name][1]}"
        for name, size in found
        if size != stated[name]
    ]


# --- persons


def unusual(seen: Seen) -> str:
    """Annotations that were left out, or filled in, for reasons that good files do not give."""
    unusual = seen.persons.left_out.keys() - {CROWD, NO_JOINTS, OTHER_CATEGORY}
    return seen.persons.described() if unusual or seen.persons.remarks else ""


def left_out(seen: Seen) -> str:
    """What good files leave out too."""
    return seen.persons.described() if seen.persons.left_out and not unusual(seen) else ""


def number(seen: Seen) -> str:
    """Another number of persons than the published one."""
    published = PUBLISHED.get((type(seen.dataset), seen.split), len(seen.persons))
    if len(seen.persons) == published:
        return ""
    return f"{len(seen.persons):,} usable persons, the published number is {published:,}"


def person_keys(persons: Persons) -> list[bytes | None]:
    """One key a person: image name, labelled joints and flags; None without labelled joints."""
    labelled = persons.visibility > UNLABELLED
    joints = np.where(labelled[..., None], persons.joints, 0)
    names = [
        persons.images.describe(int(image)).encode("utf-8", "surrogatepass")
        for image in persons.image_index
    ]
    return [
        name + joints[row].tobytes() + persons.visibility[row].tobytes()
        if labelled[row].any()
        else None
        for row, name in enumerate(names)
    ]


def copies(seen: Seen) -> list[str]:
    """Persons with the image and joints of another one."""
    first: dict[bytes, int] = {}
    rows = [
        (row, first.setdefault(key, row))
        for row, key in enumerate(person_keys(seen.persons))
        if key
    ]
    ids = seen.persons.ids
    return [f"{ids[row]} = {ids[other]}" for row, other in rows if row != other]


def outside(seen: Seen) -> list[str]:
    """Persons with labelled joints more than a pixel outside their image."""
    persons = seen.persons
    sizes = {row: report.size for row, report in seen.reports.items() if report.size}
    size = np.array([sizes.get(int(row), (np.inf, np.inf)) for row in persons.image_index])
    joints = persons.joints.astype(np.float64)
    beyond = seen.labelled() & ((joints < -1) | (joints > size[:, None])).any(-1)
    return seen.ids(np.asarray(beyond.any(-1) & np.isfinite(size).all(-1)))


def beside_box(seen: Seen) -> list[str]:
    """Persons most of whose labelled joints lie outside their own box."""
    persons, labelled = seen.persons, seen.labelled()
    offset = np.abs(persons.joints - persons.center[:, None])
    inside = labelled & (offset <= persons.box_size[:, None] / 2).all(-1)
    return seen.ids(labelled.any(-1) & (2 * inside.sum(-1) < labelled.sum(-1)))


# --- statistics


def _seen_joints(persons: Persons, *names: str) -> Float[np.ndarray, "n K 2"]:
    """These joints of the persons who have all of them labelled; none where there are too few to tell."""
    if not set(names) <= set(persons.skeleton.joints):
        return np.empty((0, len(names), 2))
    columns = persons.skeleton.indices(list(names))
    found = persons.joints[(persons.visibility[:, columns] > UNLABELLED).all(-1)][:, columns]
    return found if len(found) >= _MANY else found[:0]


def sides(seen: Seen) -> str:
    """Left and right exchanged on everybody: more people face a camera than do not."""
    x = _seen_joints(seen.persons, "left_shoulder", "right_shoulder")[..., 0]
    if not len(x) or (share := float((x[:, 0] > x[:, 1]).mean())) >= 0.4:
        return ""
    return (
        f"the left shoulder lies on the picture's right on only {share:.0%} of {len(x):,} persons; "
        "where most people face the camera it is 60–90 %"
    )


def upright(seen: Seen) -> str:
    """Heads below ankles on most people: x and y exchanged, or y upwards."""
    head = "head_top" if "head_top" in seen.persons.skeleton.joints else "nose"
    y = _seen_joints(seen.persons, head, "left_ankle", "right_ankle")[..., 1]
    if not len(y) or (share := float((y[:, 0] < y[:, 1:].mean(-1)).mean())) >= 0.5:
        return ""
    return f"the head lies above the ankles on only {share:.0%} of {len(y):,} persons"


def joint_order(seen: Seen) -> str:
    """Limbs are short beside the distances between any two joints, unless joints have exchanged names."""
    skeleton, labelled = seen.persons.skeleton, seen.labelled()
    if len(seen.persons) < 10 or not skeleton.limbs:
        return ""
    joints = seen.persons.joints.astype(np.float64)
    pairs = np.stack(np.triu_indices(len(skeleton), 1), axis=1)
    mean_of = []
    for ends in (np.array([skeleton.indices(limb) for limb in skeleton.limbs]), pairs):
        lengths = np.linalg.norm(joints[:, ends[:, 0]] - joints[:, ends[:, 1]], axis=-1)
        mean_of.append(lengths[labelled[:, ends].all(-1)].mean())
    ratio = mean_of[0] / mean_of[1]
    if not ratio > _LIMBS:
        return ""
    return (
        f"limbs are {ratio:.2f} times as long as joints are apart on average (usually 0.3 to 0.6): joints "
        "stand in another order than their names"
    )


# --- MPII's two files of validation labels


def _truth(seen: Seen, variable: str, shape: tuple[int, ...]) -> Float[np.ndarray, "N ..."] | None:
    """(N, ...) of gt_valid.mat, the file that MPII's evaluation reads; None for other splits and datasets."""
    if not isinstance(seen.dataset, MPII) or seen.split != "val":
        return None
    path, count = seen.dataset.root / "annot/gt_valid.mat", len(seen.persons)
    array = read_mat(path, variable, (*shape, None)).astype(np.float64)
    if array.shape[-1] != count:
        raise DataError(
            f"{path}: {variable} is of {array.shape[-1]} persons, valid.json of {count}"
        )
    return np.moveaxis(array, -1, 0)


def _in_file_order(seen: Seen) -> tuple[Float[np.ndarray, "N 16 2"], Bool[np.ndarray, "N 16"]]:
    """Joints in the files' order and 1-based pixels, and which are labelled."""
    columns = seen.persons.skeleton.indices(list(FILE_JOINTS))
    return seen.persons.joints[:, columns].astype(np.float64) + 1, seen.labelled()[:, columns]


def shifted(seen: Seen) -> str:
    """All joints of valid.json beside those of gt_valid.mat, or other persons."""
    truth = _truth(seen, "pos_gt_src", (16, 2))
    if truth is None:
        return ""
    joints, labelled = _in_file_order(seen)
    difference = (joints - truth)[labelled & (truth != 0).any(-1)]
    shift = np.median(difference, axis=0) if len(difference) else np.zeros(2)
    agree = (np.abs(difference - shift).max(-1, initial=0) < 1).mean() if len(difference) else 1
    if agree < 0.9:
        return "its joints are others than those of gt_valid.mat, or stand in another order"
    if np.abs(shift).max() < 0.5:
        return ""
    meaning = ": its pixels are 0-based, MPII's are 1-based" if np.abs(shift + 1).max() < 0.25 else ""  # fmt: skip
    return f"its joints lie ({shift[0]:+.1f}, {shift[1]:+.1f}) px beside those of gt_valid.mat{meaning}"


def disagree(seen: Seen) -> list[str]:
    """Single joints on which the two files differ."""
    truth, missing = _truth(seen, "pos_gt_src", (16, 2)), _truth(seen, "jnt_missing", (16,))
    if truth is None or missing is None or shifted(seen):
        return []
    joints, labelled = _in_file_order(seen)
    away = labelled & (missing == 0) & (np.abs(joints - truth).max(-1) > 1)
    wrong = away | (labelled != (missing == 0))
    return [f"{seen.persons.ids[n]} {FILE_JOINTS[k]}" for n, k in np.argwhere(wrong)]


def head_boxes(seen: Seen) -> list[str]:
    """Head boxes that do not lie around the head."""
    boxes = _truth(seen, "headboxes_src", (2, 2))
    if boxes is None or shifted(seen):
        return []
    joints, labelled = _in_file_order(seen)
    ends = [FILE_JOINTS.index(name) for name in ("head_top", "upper_neck")]
    # (person, corner, x or y)
    distance = np.linalg.norm(joints[:, ends].mean(1) - boxes.mean(1), axis=-1)
    diagonal = np.linalg.norm(boxes[:, 1] - boxes[:, 0], axis=-1)
    return seen.ids(labelled[:, ends].all(-1) & (distance > diagonal))
