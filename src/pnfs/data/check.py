"""Is a dataset fit to spend hours on? `CHECKS` has a row for each thing that is looked at."""

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from pnfs.data import faults
from pnfs.data.datasets.base import PoseDataset
from pnfs.data.faults import Seen
from pnfs.data.images import DataError
from pnfs.data.inspection import chosen_rows, inspect_images

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")


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


def _shared(first: Seen, second: Seen) -> list[Finding]:
    """Persons, or else pictures, that belong to two splits."""
    where = f"{first.persons.name} and {second.persons.name}"
    advice = "Scores on persons that were trained on say little; take them out of one split."
    known = set(faults.person_keys(first.persons)) - {None}
    found = [key in known for key in faults.person_keys(second.persons)]
    if any(found):
        names = tuple(second.ids(np.array(found)))
        problem = f"{len(names):,} persons are in both: {_some(names)}"
        return [Finding("warning", "persons in two splits", where, problem, advice, names)]
    digests = {r.digest for r in first.reports.values() if r.digest and not r.problem}
    names = tuple(r.name for r in second.reports.values() if r.digest in digests)
    problem = f"{len(names):,} pictures are in both: {_some(names)}"
    pictures = Finding("warning", "duplicate images", where, problem, advice, names)
    return [pictures] if names else []


_SOURCE = "Take train.json, valid.json and gt_valid.mat from one source, unchanged."
_BROWSE = "Look at `pnfs data action=browse`."

CHECKS = (
    Check("missing images", "error", "images are missing",
          "Unpack the dataset's image archive again, or take the records out of the annotations.",
          faults.missing),
    Check("damaged images", "error", "images cannot be read whole",
          "Copy or download these files again and compare their size with the source's.", faults.damaged),
    Check("image orientation", "warning", "images are stored turned or mirrored (EXIF)",
          "Training reads pixels as they are stored. If the labels were made on the upright picture, "
          f"store the images upright, without this entry. {_BROWSE}", faults.turned),
    Check("image sizes", "error", "images have another size than the annotations say",
          "The images were resized or come from elsewhere: use the original ones.", faults.resized),
    Check("annotations", "warning", "", "Change the annotation file if this is not what it means.",
          faults.unusual),
    Check("left out", "note", "", "Nothing, unless these are to count.", faults.left_out),
    Check("number of persons", "note", "",
          "A selection, or damaged annotation files: scores cannot be compared with published ones.",
          faults.number),
    Check("duplicate records", "warning", "persons repeat image and joints of another one",
          "These count twice in training and scores; take the copies out of the annotations.", faults.copies),
    Check("joints outside images", (0.1, 0.5), "persons have labelled joints outside their image",
          "Of many: labels and images do not belong together, or x and y are exchanged.", faults.outside),
    Check("person boxes", (0.02, 0.2), "persons have most joints outside their box",
          "Crops would not show them. Boxes and joints must come from one source.", faults.beside_box),
    Check("joint order", "warning", "",
          f"The labels are probably stored in another joint order than the dataset's own. {_BROWSE}",
          faults.joint_order),
    Check("left and right", "warning", "",
          "Left and right are probably exchanged, or the pictures mirrored: left must be the person's "
          f"own. {_BROWSE}", faults.sides),
    Check("upright persons", "warning", "",
          f"Unless these people stand on their hands, x and y are exchanged or y counts upwards. {_BROWSE}",
          faults.upright),
    Check("pixel base", "error", "", f"At small thresholds a pixel of shift costs score. {_SOURCE}",
          faults.shifted),
    Check("annotation files", "warning", "joints are elsewhere in gt_valid.mat, or in one file only",
          _SOURCE, faults.disagree),
    Check("head boxes", (0.0, 0.2), "persons have their head box away from the head",
          f"PCKh would divide by another person's head size. {_SOURCE}", faults.head_boxes),
)  # fmt: skip
"""What is looked at in every split."""
