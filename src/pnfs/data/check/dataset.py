"""Every check of a dataset, in turn."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pnfs.data.check.findings import (
    Finding,
    Severity,
    finding_of_error,
    found,
    found_in,
    worst_first,
)
from pnfs.data.check.images import (
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
from pnfs.data.check.joints import (
    check_boxes,
    check_inside,
    check_joint_order,
    check_limb_lengths,
    check_pixel_base,
    check_sides,
    check_upright,
    joint_places,
)
from pnfs.data.check.mpii import check_mpii_truth
from pnfs.data.coco import COCO
from pnfs.data.coco_format import CROWD, NO_JOINTS, OTHER_CATEGORY
from pnfs.data.lsp import LSP, LSPET
from pnfs.data.module import Source
from pnfs.data.mpii import MPII
from pnfs.data.persons import UNLABELLED, DataError, Persons, listed
from pnfs.data.readers import read_json

PUBLISHED: Mapping[type, Mapping[str, int]] = {
    MPII: {"train": 22246, "val": 2958},
    COCO: {"train": 149813, "val": 6352},
    LSP: {"train": 1000, "val": 1000, "test": 1000},
}
"""Persons in each split: MPII and COCO as HRNet trains and evaluates on them, LSP's own split."""
LSPET_PERSONS = 10000

USUAL = {CROWD, NO_JOINTS, OTHER_CATEGORY}
"""Reasons to leave annotations out that good files have too."""


def inspect_dataset(
    source: Source,
    *,
    splits: Sequence[str] = ("train", "val"),
    images: ImageChoice = "all",
    sample: int = 500,
    workers: int | None = None,
) -> list[Finding]:
    """Everything that can be found wrong with a dataset before training on it.

    A loader's refusal becomes a finding, and the checks continue with the rest. Give sources
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
    reports: dict[str, dict[int, ImageReport]] = {}
    for split in splits:
        try:
            people = persons[split] = source.persons(split)
        except DataError as error:
            findings.append(finding_of_error(error, "annotation files", split))
            continue
        rows = chosen_rows(people, images, sample)
        reports[split] = inspect_images(people, rows, workers=workers) if rows else {}
        for check in PERSON_CHECKS:
            findings += check(people)
        for check in IMAGE_CHECKS:
            findings += check(people, reports[split])
        findings += check_counts(source, split, len(people))
        if split != "train":
            findings += check_reference(people)
    findings += _check_across(source, persons, reports)
    return worst_first(findings)


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
    advice = (
        "Annotation files are damaged or from elsewhere: use the original ones."
        if incomplete
        else "A selection: scores cannot be compared with published ones."
    )
    problem = f"{persons:,} usable persons, the published number is {published:,}"
    severity = "warning" if incomplete else "note"
    return found(severity, "number of persons", where, problem, advice)


def check_duplicates(persons: Persons) -> list[Finding]:
    """Persons of one split with equal ids, or with equal image and equal joints."""

    def repeated(
        severity: Severity, what: str, keys: Sequence[object], advice: str
    ) -> list[Finding]:
        first: dict[object, int] = {}
        copies = [
            f"{persons.ids[row]} = {persons.ids[first[key]]}"
            for row, key in enumerate(keys)
            if key is not None and first.setdefault(key, row) != row
        ]
        problem = f"{len(copies):,} persons repeat the {what} of another one"
        return found_in(copies, severity, "duplicate records", persons.name, problem, advice)

    unique = "Ids must be unique: scores are gathered by person."
    twice = "These count twice in training and scores; take the copies out of the annotations."
    return [
        *repeated("error", "id", persons.ids.tolist(), unique),
        *repeated("warning", "image and joints", _keys(persons), twice),
    ]


def check_overlap(persons_by_split: Mapping[str, Persons]) -> list[Finding]:
    """Persons that belong to two splits: equal image name and equal joints."""
    findings: list[Finding] = []
    keys = {split: _keys(persons) for split, persons in persons_by_split.items()}
    for a, b in itertools.combinations(persons_by_split, 2):
        # LSP has one test set under two names, and says so.
        if {a, b} == {"val", "test"}:
            continue
        persons, keys_a = persons_by_split[b], set(keys[a]) - {None}
        names = [str(persons.ids[row]) for row, key in enumerate(keys[b]) if key in keys_a]
        problem = f"{len(names):,} of {len(persons):,} persons of {b} are also in {a}"
        findings += found_in(names, "warning", "persons in two splits", f"{a} and {b}", problem)
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


def check_left_out(persons: Persons) -> list[Finding]:
    """Annotations that are not among the persons, and what was filled in or assumed."""
    findings: list[Finding] = []
    for counts, what, advice in (
        (persons.left_out, "left out", "Repair the annotations if these persons are to count."),
        (persons.remarks, "noted", "Change the annotation file if this is not what it means."),
    ):
        if not counts:
            continue
        if not counts.keys() - USUAL:
            advice = "Nothing, unless these are to count."
        problem = f"{persons.name}: {len(persons):,} persons are read; {what}: {listed(counts)}"
        severity = "warning" if counts.keys() - USUAL else "note"
        where = persons.file or persons.name
        findings += found(severity, f"annotations {what}", where, problem, advice)
    return findings


def check_reference(persons: Persons) -> list[Finding]:
    """Persons that no score counts, because the length to divide by is unknown."""
    known = np.isfinite(persons.reference_length)
    # Where no length is known at all the split is not for scoring.
    names = persons.ids[~known].tolist() if known.any() else []
    problem = f"{len(names):,} of {len(persons):,} persons have no reference length and are left out of the score"
    return found_in(names, "note", "reference length", persons.name, problem)


PERSON_CHECKS: Sequence[Callable[[Persons], list[Finding]]] = (
    check_missing,
    check_left_out,
    check_duplicates,
    check_joint_order,
    check_sides,
    check_upright,
    check_limb_lengths,
    check_boxes,
)
"""What is looked at in the persons of every split."""

IMAGE_CHECKS: Sequence[Callable[[Persons, Mapping[int, ImageReport]], list[Finding]]] = (
    check_damaged,
    check_orientation,
    check_inside,
)
"""What is looked at in the persons of every split and their decoded images."""
