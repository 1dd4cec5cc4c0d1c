"""Are the labels of a dataset plausible as joints of people in its pictures?"""

from collections.abc import Mapping
from functools import cache

import numpy as np
from jaxtyping import Bool, Float, Int64
from scipy.optimize import quadratic_assignment

from pnfs.body import Skeleton
from pnfs.data.findings import Finding, Severity, some
from pnfs.data.inspection_images import ImageReport
from pnfs.data.persons import UNLABELLED, Persons
from pnfs.data.synthetic import SKELETON_NAMES, Synthetic

FEWEST = 5
"""Persons below which no statistic is taken for anything."""
_MANY = 100
_REFERENCE_PERSONS = 400
_STARTS = 10
_ALIASES = {"neck": "upper_neck"}
"""Joints of other skeletons -> the joint of MPII's that lies where they do."""


# --- joint order


def distance_profile(
    joints: Float[np.ndarray, "N K 2"], labelled: Bool[np.ndarray, "N K"]
) -> Float[np.ndarray, "K K"]:
    """Typical distance between every two joints, as a multiple of the person's mean distance.

    Such a profile says which joint is which, whatever the size, place and turn of the persons;
    mirrored people have the same one. nan where two joints are never labelled together.
    """
    joints = np.asarray(joints, np.float64)
    both = labelled[:, :, None] & labelled[:, None] & ~np.eye(labelled.shape[1], dtype=bool)
    distances = np.linalg.norm(joints[:, :, None] - joints[:, None], axis=-1)
    mean = np.where(both, distances, 0).sum((1, 2)) / np.maximum(both.sum((1, 2)), 1)
    usable = mean > 0
    relative = np.where(both, distances, np.nan)[usable] / mean[usable, None, None]
    known = np.isfinite(relative).any(0)
    profile = np.full(known.shape, np.nan)
    profile[known] = np.nanmedian(relative[:, known], axis=0)
    np.fill_diagonal(profile, 0.0)
    return profile


def reference_profile(skeleton: Skeleton) -> Float[np.ndarray, "K K"] | None:
    """The profile of drawn people with these joints; None if they do not have all of them."""
    wanted = [_ALIASES.get(joint, joint) for joint in skeleton.joints]
    for name in SKELETON_NAMES:
        persons = _drawn_people(name)
        if set(wanted) <= set(persons.skeleton.joints):
            columns = persons.skeleton.indices(wanted)
            labelled = persons.visibility[:, columns] > UNLABELLED
            return distance_profile(persons.joints[:, columns], labelled)
    return None


@cache
def _drawn_people(skeleton: str) -> Persons:
    return Synthetic(skeleton, train=_REFERENCE_PERSONS).persons("train")


def likely_order(
    profile: Float[np.ndarray, "K K"],
    reference: Float[np.ndarray, "K K"],
    flip_permutation: Int64[np.ndarray, " K"],
) -> tuple[Int64[np.ndarray, " K"], float, float]:
    """Which joint each column really looks like.

    Args:
        profile: Of the data; every entry finite.
        reference: Of people whose joints are known, in the order that the data should have.
        flip_permutation: The profile cannot tell a person from the mirrored one; of the two
            answers the one that changes fewer columns is given.

    Returns:
        Column -> joint that it looks like; then the root mean square difference of the profiles'
        square roots with the columns as they stand, and with that order.
    """
    # Square roots let small distances, as within a face, count beside large ones.
    data, truth = np.sqrt(profile / profile.mean()), np.sqrt(reference / reference.mean())

    def difference(order: Int64[np.ndarray, " K"]) -> float:
        return float(np.sqrt(np.mean((data - truth[np.ix_(order, order)]) ** 2)))

    random, identity = np.random.default_rng(0), np.arange(len(data))
    best = identity
    for start in range(_STARTS):
        first = "randomized" if start else "barycenter"
        options = {"maximize": True, "rng": random}
        rough = quadratic_assignment(
            data, truth, method="faq", options={**options, "P0": first}
        ).col_ind
        guess = np.column_stack([identity, rough])
        fine = quadratic_assignment(
            data, truth, method="2opt", options={**options, "partial_guess": guess}
        ).col_ind
        if difference(fine) < difference(best) - 1e-9:
            best = fine
    mirrored = flip_permutation[best]
    if (mirrored != identity).sum() < (best != identity).sum():
        best = mirrored
    return best, difference(identity), difference(best)


def check_joint_order(persons: Persons) -> list[Finding]:
    """Columns that look like other joints than they are named after."""
    labelled = persons.visibility > UNLABELLED
    if len(persons) < FEWEST:
        return []
    reference = reference_profile(persons.skeleton)
    if reference is None:
        return [
            Finding(
                "note",
                "joint order",
                persons.name,
                f"skeleton {persons.skeleton.name} has joints that no drawn person has, so that "
                "their order was not checked",
                "Look at `pnfs browse`: limbs must connect neighbouring joints.",
            )
        ]
    profile = distance_profile(persons.joints, labelled)
    profile = np.where(np.isfinite(profile), profile, reference)
    order, as_named, as_found = likely_order(profile, reference, persons.skeleton.flip_permutation)
    joints = persons.skeleton.joints
    moved = [f"{joints[k]} looks like {joints[order[k]]}" for k in range(len(joints))]
    moved = [text for k, text in enumerate(moved) if order[k] != k]
    evidence = np.median((labelled[:, :, None] & labelled[:, None]).sum(0))
    # Few persons' profile is noisy: there only a large gain means anything.
    convincing = as_found < (0.93 if evidence >= _MANY else 0.75) * as_named
    if not moved or not convincing or evidence < FEWEST:
        return []
    return [
        Finding(
            "error",
            "joint order",
            persons.name,
            f"limb lengths are implausible: {some(moved, 4)} (difference from the usual "
            f"proportions {as_named:.2f}, in that order {as_found:.2f})",
            f"The labels are probably stored in another joint order than {persons.skeleton.name}'s "
            "files have. Use the original annotation files; look at `pnfs browse`.",
            tuple(moved),
        )
    ]


def check_sides(persons: Persons) -> list[Finding]:
    """Whether left and right are exchanged on everybody: more people face a camera than do not."""
    joints, skeleton = persons.joints, persons.skeleton
    named = [f"{side}_shoulder" for side in ("left", "right")]
    if not set(named) <= set(skeleton.joints):
        return []
    left, right = skeleton.indices(named)
    seen = (persons.visibility[:, [left, right]] > UNLABELLED).all(-1)
    if seen.sum() < _MANY:
        return []
    share = float((joints[seen, left, 0] > joints[seen, right, 0]).mean())
    if share >= 0.4:
        return []
    return [
        Finding(
            "warning",
            "left and right",
            persons.name,
            f"the left shoulder lies on the picture's right on only {share:.0%} of "
            f"{seen.sum():,} persons; where most people face the camera it is 60–90 %",
            "Left and right are probably exchanged, or the pictures mirrored: left must be the "
            "person's own. Look at `pnfs browse`.",
        )
    ]


def check_upright(persons: Persons) -> list[Finding]:
    """Whether heads lie above ankles on most people: x and y may be exchanged, or y upwards."""
    skeleton = persons.skeleton
    heads = [name for name in ("head_top", "nose") if name in skeleton.joints]
    ankles = [f"{side}_ankle" for side in ("left", "right")]
    if not heads or not set(ankles) <= set(skeleton.joints):
        return []
    head, *feet = skeleton.indices([heads[0], *ankles])
    seen = (persons.visibility[:, [head, *feet]] > UNLABELLED).all(-1)
    if seen.sum() < _MANY:
        return []
    y = persons.joints[seen][..., 1]
    share = float((y[:, head] < y[:, feet].mean(-1)).mean())
    if share >= 0.5:
        return []
    return [
        Finding(
            "warning",
            "upright persons",
            persons.name,
            f"the head lies above the ankles on only {share:.0%} of {seen.sum():,} persons",
            "Unless these people stand on their hands, x and y are exchanged or y counts upwards. "
            "Look at `pnfs browse`.",
        )
    ]


def check_limb_lengths(persons: Persons) -> list[Finding]:
    """Persons with a limb three times as long, for their size, as it is on the median person."""
    skeleton, labelled = persons.skeleton, persons.visibility > UNLABELLED
    if len(persons) < _MANY:
        return []
    limbs = np.array([skeleton.indices(limb) for limb in skeleton.limbs])
    known = labelled[:, limbs].all(-1)
    ends = persons.joints[:, limbs].astype(np.float64)
    size = persons.box_size.max(-1).astype(np.float64)
    lengths = np.where(known, np.linalg.norm(ends[:, :, 0] - ends[:, :, 1], axis=-1), np.nan)
    relative = lengths / size[:, None]
    counted = known.sum(0) >= _MANY
    usual = np.full(len(limbs), np.inf)
    usual[counted] = np.nanmedian(relative[:, counted], axis=0)
    # Joints that nearly coincide, such as those of a face, have no length to speak of.
    long = known & (relative > 3 * usual) & (relative > 0.25)
    rows = np.flatnonzero(long.any(-1))
    if not len(rows):
        return []
    names = [
        f"{persons.ids[row]} ({'–'.join(skeleton.limbs[int(long[row].argmax())])})" for row in rows
    ]
    share = len(rows) / len(persons)
    severity: Severity = "warning" if share > 0.1 else "note"
    return [
        Finding(
            severity,
            "limb lengths",
            persons.name,
            f"{len(rows):,} persons ({share:.1%}) have a limb that is implausibly long: {some(names)}",
            "Single wrong labels; look at these persons. A few do no harm to training.",
            tuple(names),
        )
    ]


# --- where the joints lie


def joint_places(
    persons: Persons, reports: Mapping[int, ImageReport]
) -> tuple[
    Float[np.ndarray, "n K 2"], Bool[np.ndarray, "n K"], Float[np.ndarray, "n 2"], list[str]
]:
    """Of the persons whose image size is known: joints, labelled, (width, height), ids."""
    sizes = {row: report.size for row, report in reports.items() if report.size}
    rows = [row for row, image in enumerate(persons.image_index.tolist()) if image in sizes]
    size = [sizes[int(persons.image_index[row])][::-1] for row in rows]
    return (
        persons.joints[rows].astype(np.float64),
        persons.visibility[rows] > UNLABELLED,
        np.array(size, np.float64).reshape(-1, 2),
        persons.ids[rows].tolist(),
    )


def check_inside(persons: Persons, reports: Mapping[int, ImageReport]) -> list[Finding]:
    """Labelled joints more than a pixel outside their image."""
    joints, labelled, size, ids = joint_places(persons, reports)
    outside = labelled & ((joints < -1) | (joints > size[:, None])).any(-1)
    if not outside.any():
        return []
    share = outside.sum() / labelled.sum()
    names = [
        f"{ids[n]} ({persons.skeleton.joints[k]} at {joints[n, k, 0]:.0f}, {joints[n, k, 1]:.0f} "
        f"of {size[n, 0]:.0f}×{size[n, 1]:.0f})"
        for n, k in np.argwhere(outside)
    ]
    severity: Severity = "error" if share > 0.2 else "warning" if share > 0.02 else "note"
    advice = "Labels of joints that the picture cuts off; they are learned as they stand."
    if severity != "note":
        advice = (
            "Labels and images do not belong together: images were resized or cropped, or x and y "
            "are exchanged. Use the original images and annotation files."
        )
    return [
        Finding(
            severity,
            "joints outside images",
            persons.name,
            f"{outside.sum():,} labelled joints ({share:.2%}) lie outside their image: {some(names)}",
            advice,
            tuple(names),
        )
    ]


def check_boxes(persons: Persons) -> list[Finding]:
    """Persons most of whose labelled joints lie outside their own box."""
    labelled = persons.visibility > UNLABELLED
    offset = np.abs(persons.joints - persons.center[:, None])
    inside = labelled & (offset <= persons.box_size[:, None] / 2).all(-1)
    rows = np.flatnonzero(labelled.any(-1) & (2 * inside.sum(-1) < labelled.sum(-1)))
    if not len(rows):
        return []
    share = len(rows) / len(persons)
    names = persons.ids[rows].tolist()
    severity: Severity = "error" if share > 0.2 else "warning" if share > 0.02 else "note"
    return [
        Finding(
            severity,
            "person boxes",
            persons.name,
            f"{len(rows):,} persons ({share:.1%}) have most joints outside their box: {some(names)}",
            "Crops would not show these persons. Boxes and joints must come from one source and "
            "count the same pixels.",
            tuple(names),
        )
    ]


def check_pixel_base(
    places: list[
        tuple[Float[np.ndarray, "n K 2"], Bool[np.ndarray, "n K"], Float[np.ndarray, "n 2"]]
    ],
    where: str,
    stored_from_one: bool,
) -> list[Finding]:
    """Whether all coordinates are one pixel too small or too large, by what happens at the edges.

    Joints at an image's edge are clipped there: coordinates of the first pixel are 0, of the last
    one width − 1. Counted one too small they reach −1 and never the last pixel; one too large
    they reach the width and never 0.

    Args:
        places: Joints (0-based px), labelled, (width, height), for each split.
        where: The files, for the message.
        stored_from_one: Whether the dataset's files count from 1, as MPII's do.
    """
    low = high = first = last = 0
    for joints, labelled, size in places:
        x = np.where(labelled[..., None], joints, np.nan)
        beyond = x - (size[:, None] - 1)
        low += int(((x >= -1) & (x < -0.5)).sum())
        first += int(((x >= -0.5) & (x < 0.5)).sum())
        last += int(((beyond > -0.5) & (beyond <= 0.5)).sum())
        high += int(((beyond > 0.5) & (beyond <= 1)).sum())
    findings = []
    if low >= 3 and low > 10 * max(high, last):
        kept = (
            "0-based, the dataset's own are 1-based" if stored_from_one else "one pixel too small"
        )
        findings.append((f"{low} joints lie at −1 and {last} on the last pixel", kept))
    if high >= 3 and high > 10 * max(low, first):
        kept = "counted from 2" if stored_from_one else "1-based, the dataset's own are 0-based"
        findings.append((f"{high} joints lie one pixel beyond the last and {first} at 0", kept))
    return [
        Finding(
            "error",
            "pixel base",
            where,
            f"at the images' edges {seen}: the coordinates are probably {kept}",
            "Use the original annotation files: at small thresholds a pixel of shift costs score.",
        )
        for seen, kept in findings
    ]
