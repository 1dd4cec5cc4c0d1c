"""Is a dataset fit to spend hours on? What `pnfs doctor` checks, as plain functions."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pnfs.data.coco import COCO
from pnfs.data.coco_format import CROWD, NO_JOINTS, OTHER_CATEGORY
from pnfs.data.findings import SEVERITIES, Finding, Severity, finding_of_error, some, worst_first
from pnfs.data.inspection_images import (
    ImageChoice,
    ImageReport,
    check_damaged,
    check_missing,
    check_orientation,
    check_same_pictures,
    check_sizes,
    chosen_rows,
    inspect_images,
)
from pnfs.data.inspection_mpii import check_mpii_truth
from pnfs.data.inspection_poses import (
    check_boxes,
    check_inside,
    check_joint_order,
    check_limb_lengths,
    check_pixel_base,
    check_sides,
    check_upright,
    joint_places,
)
from pnfs.data.lsp import LSP, LSPET
from pnfs.data.module import Source
from pnfs.data.mpii import MPII
from pnfs.data.persons import UNLABELLED, DataError, Persons, listed
from pnfs.data.readers import read_json

__all__ = [
    "SEVERITIES",
    "Finding",
    "Severity",
    "check_counts",
    "check_duplicates",
    "check_left_out",
    "check_overlap",
    "check_reference",
    "finding_of_error",
    "inspect_dataset",
    "worst_first",
]

PUBLISHED: Mapping[type, Mapping[str, int]] = {
    MPII: {"train": 22246, "val": 2958},
    COCO: {"train": 149813, "val": 6352},
    LSP: {"train": 1000, "val": 1000, "test": 1000},
}
"""Persons in each split: MPII and COCO as HRNet trains and evaluates on them, LSP's own split."""
LSPET_PERSONS = 10000


def inspect_dataset(
    source: Source,
    *,
    splits: Sequence[str] = ("train", "val"),
    images: ImageChoice = "all",
    sample: int = 500,
    workers: int | None = None,
) -> list[Finding]:
    """Everything that can be found wrong with a dataset before training on it.

    A loader's refusal becomes a finding, and the checks go on with what is left. Give sources
    `check_images=False`, where they know it: missing images are looked for here, file by file.

    Args:
        source: The dataset.
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
    persons: dict[str, Persons] = {}
    for split in splits:
        try:
            persons[split] = source.persons(split)
        except DataError as error:
            findings.append(finding_of_error(error, "annotation files", split))
    reports: dict[str, dict[int, ImageReport]] = {}
    for split, people in persons.items():
        findings += check_missing(people)
        rows = chosen_rows(people, images, sample)
        reports[split] = inspect_images(people, rows, workers=workers) if rows else {}
        findings += check_damaged(people, reports[split])
        findings += check_orientation(people, reports[split])
        findings += check_left_out(people)
        findings += _check_persons(people, reports[split])
        findings += check_counts(source, split, len(people))
        if split != "train":
            findings += check_reference(people)
    findings += _check_across(source, persons, reports)
    return worst_first(findings)


def _check_persons(persons: Persons, reports: Mapping[int, ImageReport]) -> list[Finding]:
    return [
        *check_duplicates(persons),
        *check_joint_order(persons),
        *check_sides(persons),
        *check_upright(persons),
        *check_limb_lengths(persons),
        *check_boxes(persons),
        *check_inside(persons, reports),
    ]


def _check_across(
    source: Source, persons: Mapping[str, Persons], reports: Mapping[str, dict[int, ImageReport]]
) -> list[Finding]:
    """What concerns several splits, or one dataset only."""
    findings = check_overlap(persons)
    if not findings:
        # The same persons in two splits bring the same pictures with them.
        findings += check_same_pictures({s: reports[s].values() for s in reports})
    places = [joint_places(people, reports[split])[:3] for split, people in persons.items()]
    findings += check_pixel_base(places, ", ".join(persons), isinstance(source, MPII))
    if isinstance(source, MPII) and "val" in persons:
        findings += check_mpii_truth(persons["val"], source.root / "annot/gt_valid.mat")
    if isinstance(source, COCO):
        for split in persons:
            path = source.root / "annotations" / f"person_keypoints_{split}2017.json"
            findings += check_sizes(path, _stated_sizes(path), reports[split].values())
    if isinstance(source, LSPET) and {"train", "val"} <= persons.keys():
        total = sum(len(persons[split]) for split in ("train", "val"))
        findings += _compared("LSPET, train and val together", total, LSPET_PERSONS)
    return findings


def _stated_sizes(path: Path) -> dict[str, tuple[int, int]]:
    """(height, width) of COCO's images, from a file that the loader has read before."""

    def without_outline(record: dict[str, Any]) -> dict[str, Any]:
        record.pop("segmentation", None)
        return record

    images = read_json(path, object_hook=without_outline)["images"]
    return {image["file_name"]: (image["height"], image["width"]) for image in images}


def check_counts(source: Source, split: str, persons: int) -> list[Finding]:
    """Persons of a split against the published number."""
    published = PUBLISHED.get(type(source), {}).get(split)
    if published is None:
        return []
    return _compared(f"{type(source).__name__} {split}", persons, published)


def _compared(where: str, persons: int, published: int) -> list[Finding]:
    if persons == published:
        return []
    # Somebody who makes a selection leaves out more than a few persons in a hundred.
    incomplete = 0.95 * published < persons
    return [
        Finding(
            "warning" if incomplete else "note",
            "number of persons",
            where,
            f"{persons:,} usable persons, the published number is {published:,}",
            "Annotation files are damaged or from elsewhere: use the original ones."
            if incomplete
            else "A selection: scores cannot be compared with published ones.",
        )
    ]


def check_duplicates(persons: Persons) -> list[Finding]:
    """Persons of one split with equal image and equal joints, or equal ids."""
    findings = []
    for what, keys, advice in (
        ("id", persons.ids.tolist(), "Ids must be unique: scores are gathered by person."),
        (
            "image and joints",
            _keys(persons),
            "These count twice in training and scores; take the copies out of the annotations.",
        ),
    ):
        seen: dict[object, int] = {}
        copies = []
        for row, key in enumerate(keys):
            if key is not None and seen.setdefault(key, row) != row:
                copies.append(f"{persons.ids[row]} = {persons.ids[seen[key]]}")
        if copies:
            findings.append(
                Finding(
                    "warning" if what != "id" else "error",
                    "duplicate records",
                    persons.name,
                    f"{len(copies):,} persons repeat the {what} of another one: {some(copies)}",
                    advice,
                    tuple(copies),
                )
            )
    return findings


def check_overlap(persons_by_split: Mapping[str, Persons]) -> list[Finding]:
    """Persons that belong to two splits: equal image name and equal joints."""
    findings = []
    splits = list(persons_by_split)
    for number, a in enumerate(splits):
        keys_a = set(_keys(persons_by_split[a])) - {None}
        for b in splits[number + 1 :]:
            persons = persons_by_split[b]
            rows = [r for r, key in enumerate(_keys(persons)) if key in keys_a]
            # LSP has one test set under two names, and says so.
            if not rows or {a, b} == {"val", "test"}:
                continue
            names = persons.ids[rows].tolist()
            findings.append(
                Finding(
                    "warning",
                    "persons in two splits",
                    f"{a} and {b}",
                    f"{len(rows):,} of {len(persons):,} persons of {b} are also in {a}: "
                    f"{some(names)}",
                    "Scores on persons that were trained on say little; take them out of one "
                    "split, or use the set for checks of the software only.",
                    tuple(names),
                )
            )
    return findings


def _keys(persons: Persons) -> list[bytes | None]:
    """One key a person: image name, labelled joints and flags; None without labelled joints."""
    labelled = persons.visibility > UNLABELLED
    joints, known = np.where(labelled[..., None], persons.joints, 0), np.any(labelled, axis=-1)
    names = [persons.images.describe(int(image)) for image in persons.image_index]
    return [
        name.encode() + joints[row].tobytes() + persons.visibility[row].tobytes()
        if known[row]
        else None
        for row, name in enumerate(names)
    ]


USUAL = {CROWD, NO_JOINTS, OTHER_CATEGORY}
"""Reasons to leave annotations out that good files have too."""


def check_left_out(persons: Persons) -> list[Finding]:
    """Annotations that are not among the persons, and what was filled in or assumed."""
    findings = []
    for counts, what, advice in (
        (persons.left_out, "left out", "Repair the annotations if these persons are to count."),
        (persons.remarks, "noted", "Change the annotation file if this is not what it means."),
    ):
        if counts:
            unusual = counts.keys() - USUAL
            findings.append(
                Finding(
                    "warning" if unusual else "note",
                    f"annotations {what}",
                    persons.file or persons.name,
                    f"{persons.name}: {len(persons):,} persons are read; {what}: {listed(counts)}",
                    advice if unusual else "Nothing, unless these are to count.",
                )
            )
    return findings


def check_reference(persons: Persons) -> list[Finding]:
    """Persons that no score counts, because the length to divide by is unknown."""
    known = np.isfinite(persons.reference_length)
    unknown = np.flatnonzero(~known)
    # Where no length is known at all the split is not for scoring.
    if not len(unknown) or not known.any():
        return []
    names = persons.ids[unknown].tolist()
    return [
        Finding(
            "note",
            "reference length",
            persons.name,
            f"{len(unknown):,} of {len(persons):,} persons have no reference length and are left "
            f"out of the score: {some(names)}",
            "Nothing: the torso or head joints of these persons are not labelled.",
            tuple(names),
        )
    ]
