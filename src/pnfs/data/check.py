"""Is a dataset fit to spend hours on? `CHECKS` has a row for each thing that is looked at."""

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float

from pnfs.data.coco_format import CROWD, NO_JOINTS, OTHER_CATEGORY
from pnfs.data.datasets.base import PoseDataset
from pnfs.data.datasets.coco import COCO
from pnfs.data.datasets.lsp import LSP
from pnfs.data.datasets.mpii import FILE_JOINTS, MPII
from pnfs.data.images import DataError, ImageFiles
from pnfs.data.inspection import ImageReport, chosen_rows, inspect_images
from pnfs.data.persons import UNLABELLED, Persons
from pnfs.data.readers import read_mat

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")

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
class Finding:
    """One thing that somebody should know before hours are spent."""

    severity: Severity
    """error: results would be wrong or a run would stop; warning: look at it; note: for information."""
    check: str
    """Which check found it, such as "joint order"."""
    where: str
    """The file, folder, split or device concerned."""
    problem: str
    """What is wrong, with figures."""
    advice: str = ""
    """What to do."""
    records: tuple[str, ...] = ()
    """Every record or file concerned, where they are known."""


def worst_first(findings: Iterable[Finding]) -> list[Finding]:
    """Errors, then warnings, then notes; otherwise in the order found."""
    return sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity))


def finding_of_error(error: DataError, check: str, where: str) -> Finding:
    """A loader's refusal as a finding; what follows its first line says what to do."""
    problem, _, rest = str(error).partition("\n")
    advice = rest or "Repair or replace what the message names, then check again."
    return Finding("error", check, where, problem, advice)


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


@dataclass(frozen=True)
class Check:
    """One thing that is looked at in a split.

    Args:
        name: For the table.
        severity: How bad it is; or the shares of persons concerned above which it is a warning and an error.
        problem: What follows the number of records.
        advice: What to do.
        look: From a split to the records concerned, none if all is well; or to a sentence, "" if all is well.
    """

    name: str
    severity: Severity | tuple[float, float]
    problem: str
    advice: str
    look: Callable[[Seen], Sequence[str] | str]

    def __call__(self, seen: Seen) -> list[Finding]:
        """The finding, if there is one."""
        found = self.look(seen)
        if not found:
            return []
        problem, severity, records = str(found), self.severity, ()
        if not isinstance(found, str):
            records = tuple(found)
            problem = f"{len(found):,} {self.problem}: {_some(records)}"
        if isinstance(severity, tuple):
            share = len(records) / len(seen.persons)
            warning, error = severity
            severity = "error" if share > error else "warning" if share > warning else "note"
        return [Finding(severity, self.name, seen.persons.name, problem, self.advice, records)]


def _some(names: Sequence[str], most: int = 3) -> str:
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def inspect_dataset(
    dataset: PoseDataset,
    *,
    splits: Sequence[str] = ("train", "val"),
    images: str = "all",
    sample: int = 500,
    workers: int | None = None,
) -> list[Finding]:
    """Everything that can be found wrong with a dataset before training on it.

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

    Returns:
        Findings, errors first.
    """
    findings: list[Finding] = []
    seen: list[Seen] = []
    for split in splits:
        try:
            persons = dataset.persons(split)
        except DataError as error:
            findings.append(finding_of_error(error, "annotation files", split))
            continue
        rows = chosen_rows(persons, images, sample)
        reports = inspect_images(persons, rows, workers=workers) if rows else {}
        seen.append(Seen(dataset, split, persons, reports))
        for check in CHECKS:
            try:
                findings += check(seen[-1])
            except DataError as error:
                findings.append(finding_of_error(error, check.name, split))
    for first, second in itertools.combinations(seen, 2):
        # LSP has one test set under two names, and says so.
        if {first.split, second.split} != {"val", "test"}:
            findings += _shared(first, second)
    return worst_first(findings)


# --- files


def _missing(seen: Seen) -> list[str]:
    images = seen.persons.images
    return images.missing() if isinstance(images, ImageFiles) else []


def _damaged(seen: Seen) -> list[str]:
    return [f"{r.name}: {r.problem}" for r in seen.reports.values() if r.problem]


def _turned(seen: Seen) -> list[str]:
    """Viewers turn these by their EXIF entry, while training reads stored pixels."""
    turns = {2: "mirrored", 3: "180°", 4: "180°, mirrored", 5: "90°, mirrored", 6: "90°",
             7: "270°, mirrored", 8: "270°"}  # fmt: skip
    found = [(r.name, turns.get(r.orientation)) for r in seen.reports.values()]
    return [f"{name} ({turn})" for name, turn in found if turn]


def _resized(seen: Seen) -> list[str]:
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


def _same_pictures(seen: Seen) -> list[str]:
    first: dict[str, str] = {}
    reports = [r for r in seen.reports.values() if r.digest and not r.problem]
    pairs = [(r.name, first.setdefault(r.digest, r.name)) for r in reports]
    return [f"{name} = {other}" for name, other in pairs if name != other]


# --- persons


def _unusual(seen: Seen) -> str:
    """Annotations that were left out, or filled in, for reasons that good files do not give."""
    unusual = seen.persons.left_out.keys() - {CROWD, NO_JOINTS, OTHER_CATEGORY}
    return seen.persons.described() if unusual or seen.persons.remarks else ""


def _left_out(seen: Seen) -> str:
    return seen.persons.described() if seen.persons.left_out and not _unusual(seen) else ""


def _number(seen: Seen) -> str:
    published = PUBLISHED.get((type(seen.dataset), seen.split), len(seen.persons))
    if len(seen.persons) == published:
        return ""
    return f"{len(seen.persons):,} usable persons, the published number is {published:,}"


def _keys(persons: Persons) -> list[bytes | None]:
    """One key a person: image name, labelled joints and flags; None without labelled joints."""
    labelled = persons.visibility > UNLABELLED
    joints = np.where(labelled[..., None], persons.joints, 0)
    names = [persons.images.describe(int(image)).encode() for image in persons.image_index]
    return [
        name + joints[row].tobytes() + persons.visibility[row].tobytes()
        if labelled[row].any()
        else None
        for row, name in enumerate(names)
    ]


def _copies(seen: Seen) -> list[str]:
    first: dict[bytes, int] = {}
    rows = [(row, first.setdefault(key, row)) for row, key in enumerate(_keys(seen.persons)) if key]
    ids = seen.persons.ids
    return [f"{ids[row]} = {ids[other]}" for row, other in rows if row != other]


def _shared(first: Seen, second: Seen) -> list[Finding]:
    """Persons, or else pictures, that belong to two splits."""
    where = f"{first.persons.name} and {second.persons.name}"
    advice = "Scores on persons that were trained on say little; take them out of one split."
    known = set(_keys(first.persons)) - {None}
    found = [key in known for key in _keys(second.persons)]
    if any(found):
        names = tuple(second.ids(np.array(found)))
        problem = f"{len(names):,} persons are in both: {_some(names)}"
        return [Finding("warning", "persons in two splits", where, problem, advice, names)]
    digests = {r.digest for r in first.reports.values() if r.digest and not r.problem}
    names = tuple(r.name for r in second.reports.values() if r.digest in digests)
    problem = f"{len(names):,} pictures are in both: {_some(names)}"
    pictures = Finding("warning", "duplicate images", where, problem, advice, names)
    return [pictures] if names else []


def _unscored(seen: Seen) -> list[str]:
    known = np.isfinite(seen.persons.reference_length)
    # Where no length is known at all the split is not for scoring.
    return seen.ids(~known) if known.any() and seen.split != "train" else []


def _outside(seen: Seen) -> list[str]:
    persons = seen.persons
    sizes = {row: report.size for row, report in seen.reports.items() if report.size}
    size = np.array([sizes.get(int(row), (np.inf, np.inf)) for row in persons.image_index])
    joints = persons.joints.astype(np.float64)
    beyond = seen.labelled() & ((joints < -1) | (joints > size[:, None])).any(-1)
    return seen.ids(np.asarray(beyond.any(-1) & np.isfinite(size).all(-1)))


def _beside_box(seen: Seen) -> list[str]:
    persons, labelled = seen.persons, seen.labelled()
    offset = np.abs(persons.joints - persons.center[:, None])
    inside = labelled & (offset <= persons.box_size[:, None] / 2).all(-1)
    return seen.ids(labelled.any(-1) & (2 * inside.sum(-1) < labelled.sum(-1)))


def _long_limbs(seen: Seen) -> list[str]:
    """Limbs three times as long, for the person's size, as on the median person."""
    persons, skeleton = seen.persons, seen.persons.skeleton
    if len(persons) < _MANY or not skeleton.limbs:
        return []
    limbs = np.array([skeleton.indices(limb) for limb in skeleton.limbs])
    ends = persons.joints[:, limbs].astype(np.float64)
    known = seen.labelled()[:, limbs].all(-1)
    lengths = np.where(known, np.linalg.norm(ends[:, :, 0] - ends[:, :, 1], axis=-1), np.nan)
    relative = lengths / persons.box_size.max(-1)[:, None]
    counted = known.sum(0) >= _MANY
    usual = np.full(len(limbs), np.inf)
    usual[counted] = np.nanmedian(relative[:, counted], axis=0)
    # Joints that nearly coincide, such as those of a face, have no length to speak of.
    return seen.ids(np.asarray((known & (relative > 3 * usual) & (relative > 0.25)).any(-1)))


# --- statistics


def _seen_joints(persons: Persons, *names: str) -> Float[np.ndarray, "n K 2"]:
    """These joints of the persons who have all of them labelled; none where there are too few to tell."""
    if not set(names) <= set(persons.skeleton.joints):
        return np.empty((0, len(names), 2))
    columns = persons.skeleton.indices(list(names))
    found = persons.joints[(persons.visibility[:, columns] > UNLABELLED).all(-1)][:, columns]
    return found if len(found) >= _MANY else found[:0]


def _sides(seen: Seen) -> str:
    x = _seen_joints(seen.persons, "left_shoulder", "right_shoulder")[..., 0]
    if not len(x) or (share := float((x[:, 0] > x[:, 1]).mean())) >= 0.4:
        return ""
    return (
        f"the left shoulder lies on the picture's right on only {share:.0%} of {len(x):,} persons; "
        "where most people face the camera it is 60–90 %"
    )


def _upright(seen: Seen) -> str:
    head = "head_top" if "head_top" in seen.persons.skeleton.joints else "nose"
    y = _seen_joints(seen.persons, head, "left_ankle", "right_ankle")[..., 1]
    if not len(y) or (share := float((y[:, 0] < y[:, 1:].mean(-1)).mean())) >= 0.5:
        return ""
    return f"the head lies above the ankles on only {share:.0%} of {len(y):,} persons"


def _joint_order(seen: Seen) -> str:
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


def _shifted(seen: Seen) -> str:
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


def _disagree(seen: Seen) -> list[str]:
    truth, missing = _truth(seen, "pos_gt_src", (16, 2)), _truth(seen, "jnt_missing", (16,))
    if truth is None or missing is None or _shifted(seen):
        return []
    joints, labelled = _in_file_order(seen)
    away = labelled & (missing == 0) & (np.abs(joints - truth).max(-1) > 1)
    wrong = away | (labelled != (missing == 0))
    return [f"{seen.persons.ids[n]} {FILE_JOINTS[k]}" for n, k in np.argwhere(wrong)]


def _head_boxes(seen: Seen) -> list[str]:
    boxes = _truth(seen, "headboxes_src", (2, 2))
    if boxes is None or _shifted(seen):
        return []
    joints, labelled = _in_file_order(seen)
    ends = [FILE_JOINTS.index(name) for name in ("head_top", "upper_neck")]
    # (person, corner, x or y)
    distance = np.linalg.norm(joints[:, ends].mean(1) - boxes.mean(1), axis=-1)
    diagonal = np.linalg.norm(boxes[:, 1] - boxes[:, 0], axis=-1)
    return seen.ids(labelled[:, ends].all(-1) & (distance > diagonal))


_SOURCE = "Take train.json, valid.json and gt_valid.mat from one source, unchanged."
_BROWSE = "Look at `pnfs data action=browse`."

CHECKS = (
    Check("missing images", "error", "images are missing",
          "Unpack the dataset's image archive again, or take the records out of the annotations.",
          _missing),
    Check("damaged images", "error", "images cannot be read whole",
          "Copy or download these files again and compare their size with the source's.", _damaged),
    Check("image orientation", "warning", "images are stored turned or mirrored (EXIF)",
          "Training reads pixels as they are stored. If the labels were made on the upright picture, "
          f"store the images upright, without this entry. {_BROWSE}", _turned),
    Check("image sizes", "error", "images have another size than the annotations say",
          "The images were resized or come from elsewhere: use the original ones.", _resized),
    Check("same images", "note", "pictures lie there under more than one name",
          "Nothing, if the dataset is meant to be so; such persons count several times.",
          _same_pictures),
    Check("annotations", "warning", "", "Change the annotation file if this is not what it means.",
          _unusual),
    Check("left out", "note", "", "Nothing, unless these are to count.", _left_out),
    Check("number of persons", "note", "",
          "A selection, or damaged annotation files: scores cannot be compared with published ones.",
          _number),
    Check("duplicate records", "warning", "persons repeat image and joints of another one",
          "These count twice in training and scores; take the copies out of the annotations.", _copies),
    Check("reference length", "note", "persons have no reference length and are not scored",
          "Nothing: the torso or head joints of these persons are not labelled.", _unscored),
    Check("joints outside images", (0.1, 0.5), "persons have labelled joints outside their image",
          "Of many: labels and images do not belong together, or x and y are exchanged.", _outside),
    Check("person boxes", (0.02, 0.2), "persons have most joints outside their box",
          "Crops would not show them. Boxes and joints must come from one source.", _beside_box),
    Check("limb lengths", (0.1, 1.0), "persons have a limb that is implausibly long",
          "Single wrong labels; look at these persons. A few do no harm to training.", _long_limbs),
    Check("joint order", "warning", "",
          f"The labels are probably stored in another joint order than the dataset's own. {_BROWSE}",
          _joint_order),
    Check("left and right", "warning", "",
          "Left and right are probably exchanged, or the pictures mirrored: left must be the person's "
          f"own. {_BROWSE}", _sides),
    Check("upright persons", "warning", "",
          f"Unless these people stand on their hands, x and y are exchanged or y counts upwards. {_BROWSE}",
          _upright),
    Check("pixel base", "error", "", f"At small thresholds a pixel of shift costs score. {_SOURCE}",
          _shifted),
    Check("annotation files", "warning", "joints are elsewhere in gt_valid.mat, or in one file only",
          _SOURCE, _disagree),
    Check("head boxes", (0.0, 0.2), "persons have their head box away from the head",
          f"PCKh would divide by another person's head size. {_SOURCE}", _head_boxes),
)  # fmt: skip
"""What is looked at in every split."""
