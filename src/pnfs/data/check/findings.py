"""What an inspection finds, and what to do about it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from pnfs.data.persons import DataError

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")

_FROM_ONE_SPLIT = (
    "Scores on persons that were trained on say little; take them out of one split, or use the set "
    "for checks of the software only."
)

ADVICE: Mapping[str, str] = {
    "missing images": "Unpack the dataset's image archive again, or take the records out of the annotations.",
    "damaged images": "Copy or download these files again and compare their size with the source's.",
    "image orientation": "Training and scoring read pixels as they are stored. If the labels were made on the "
    "upright picture, store the images upright, without this entry; look at `pnfs browse`.",
    "image sizes": "The images were resized or come from elsewhere: joints would lie in wrong places. "
    "Use the original images.",
    "duplicate images": _FROM_ONE_SPLIT,
    "persons in two splits": _FROM_ONE_SPLIT,
    "annotation files": "Take train.json, valid.json and gt_valid.mat from one source, unchanged.",
    "reference length": "Nothing: the torso or head joints of these persons are not labelled.",
    "left and right": "Left and right are probably exchanged, or the pictures mirrored: left must be the "
    "person's own. Look at `pnfs browse`.",
    "upright persons": "Unless these people stand on their hands, x and y are exchanged or y counts upwards. "
    "Look at `pnfs browse`.",
    "limb lengths": "Single wrong labels; look at these persons. A few do no harm to training.",
    "joints outside images": "Labels and images do not belong together: images were resized or cropped, or x "
    "and y are exchanged. Use the original images and annotation files.",
    "person boxes": "Crops would not show these persons. Boxes and joints must come from one source and count "
    "the same pixels.",
    "pixel base": "Use the original annotation files: at small thresholds a pixel of shift costs score.",
    "head boxes": "PCKh would divide by another person's head size. Take train.json, valid.json and "
    "gt_valid.mat from one source, unchanged.",
}
"""What to do about what a check finds, unless a finding brings its own advice."""


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
    advice: str
    """What to do."""
    records: tuple[str, ...] = ()
    """Every record or file concerned, where they are known."""


def found(
    severity: Severity, check: str, where: object, problem: str, advice: str | None = None
) -> list[Finding]:
    """One finding, with the advice of its check unless another is given."""
    return [
        Finding(severity, check, str(where), problem, ADVICE[check] if advice is None else advice)
    ]


def found_in(
    records: Sequence[str],
    severity: Severity,
    check: str,
    where: object,
    problem: str,
    advice: str | None = None,
    shown: int = 3,
) -> list[Finding]:
    """One finding that names the first of the records concerned; none where there are no records."""
    if not records:
        return []
    advice = ADVICE[check] if advice is None else advice
    problem = f"{problem}: {some(records, shown)}"
    return [Finding(severity, check, str(where), problem, advice, tuple(records))]


def by_share(share: float, *, warning: float = 0.02, error: float = 0.2) -> Severity:
    """How bad it is that a check fails for this share of the records."""
    return "error" if share > error else "warning" if share > warning else "note"


def finding_of_error(error: DataError, check: str, where: str) -> Finding:
    """A loader's refusal as a finding; what follows its first line says what to do."""
    problem, _, rest = str(error).partition("\n")
    advice = rest or "Repair or replace what the message names, then inspect again."
    return Finding("error", check, where, problem, advice)


def some(names: Sequence[str], most: int = 3) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def worst_first(findings: Iterable[Finding]) -> list[Finding]:
    """Errors, then warnings, then notes; otherwise in the order found."""
    return sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity))
