"""Are the labels of a dataset plausible as joints of people in its pictures?"""

from collections.abc import Mapping
from functools import cache

import numpy as np
from jaxtyping import Bool, Float, Int64
from scipy.optimize import quadratic_assignment

from pnfs.body import Skeleton
from pnfs.data.check.findings import Finding, by_share, found, found_in
from pnfs.data.check.images import ImageReport
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
        profile: The data's profile; every entry finite.
        reference: Profile of people whose joints are known, in the order that the data should have.
        flip_permutation: The profile cannot tell a person from the mirrored one; of the two
            answers the one that changes fewer columns is given.

    Returns:
        Column -> joint that it looks like; then the root mean square difference of the profiles'
        square roots with the given order of columns, and with that order.
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
    if len(persons) < FEWEST:
        return []
    skeleton, labelled = persons.skeleton, persons.visibility > UNLABELLED
    check, reference = "joint order", reference_profile(skeleton)
    if reference is None:
        problem = (
            f"skeleton {skeleton.name} has joints that no drawn person has, so that their order was "
            "not checked"
        )
        advice = "Look at `pnfs browse`: limbs must connect neighbouring joints."
        return found("note", check, persons.name, problem, advice)
    profile = distance_profile(persons.joints, labelled)
    profile = np.where(np.isfinite(profile), profile, reference)
    order, as_named, as_found = likely_order(profile, reference, skeleton.flip_permutation)
    evidence = np.median((labelled[:, :, None] & labelled[:, None]).sum(0))
    # Few persons' profile is noisy: there only a large gain means anything.
    convincing = as_found < (0.93 if evidence >= _MANY else 0.75) * as_named
    if not convincing or evidence < FEWEST:
        return []
    names = skeleton.joints
    moved = [f"{names[k]} looks like {names[j]}" for k, j in enumerate(order.tolist()) if j != k]
    problem = (
        f"limb lengths are implausible (difference from the usual proportions {as_named:.2f}, in another "
        f"order {as_found:.2f})"
    )
    advice = (
        f"The labels are probably stored in another joint order than {skeleton.name}'s files have. "
        "Use the original annotation files; look at `pnfs browse`."
    )
    return found_in(moved, "error", check, persons.name, problem, advice, shown=4)


def _seen(persons: Persons, *names: str) -> Float[np.ndarray, "n K 2"]:
    """These joints of the persons who have all of them labelled; of nobody where the skeleton lacks one."""
    if not set(names) <= set(persons.skeleton.joints):
        return np.empty((0, len(names), 2))
    columns = persons.skeleton.indices(names)
    return persons.joints[(persons.visibility[:, columns] > UNLABELLED).all(-1)][:, columns]


def check_sides(persons: Persons) -> list[Finding]:
    """Whether left and right are exchanged on everybody: more people face a camera than do not."""
    x = _seen(persons, "left_shoulder", "right_shoulder")[..., 0]
    if len(x) < _MANY or (share := float((x[:, 0] > x[:, 1]).mean())) >= 0.4:
        return []
    problem = (
        f"the left shoulder lies on the picture's right on only {share:.0%} of {len(x):,} persons; "
        "where most people face the camera it is 60–90 %"
    )
    return found("warning", "left and right", persons.name, problem)


def check_upright(persons: Persons) -> list[Finding]:
    """Whether heads lie above ankles on most people: x and y may be exchanged, or y upwards."""
    head = "head_top" if "head_top" in persons.skeleton.joints else "nose"
    y = _seen(persons, head, "left_ankle", "right_ankle")[..., 1]
    if len(y) < _MANY or (share := float((y[:, 0] < y[:, 1:].mean(-1)).mean())) >= 0.5:
        return []
    problem = f"the head lies above the ankles on only {share:.0%} of {len(y):,} persons"
    return found("warning", "upright persons", persons.name, problem)


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
    rows, limb = np.flatnonzero(long.any(-1)), long.argmax(-1)
    names = [f"{persons.ids[row]} ({'–'.join(skeleton.limbs[limb[row]])})" for row in rows]
    share = len(rows) / len(persons)
    problem = f"{len(rows):,} persons ({share:.1%}) have a limb that is implausibly long"
    severity = by_share(share, warning=0.1, error=1)
    return found_in(names, severity, "limb lengths", persons.name, problem)


# --- where the joints lie


def joint_places(
    persons: Persons, reports: Mapping[int, ImageReport]
) -> tuple[
    Float[np.ndarray, "n K 2"], Bool[np.ndarray, "n K"], Float[np.ndarray, "n 2"], list[str]
]:
    """Joints, labelled, (width, height) and ids of the persons whose image size is known."""
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
    names = [
        f"{ids[n]} ({persons.skeleton.joints[k]} at {joints[n, k, 0]:.0f}, {joints[n, k, 1]:.0f} "
        f"of {size[n, 0]:.0f}×{size[n, 1]:.0f})"
        for n, k in np.argwhere(outside)
    ]
    share = outside.sum() / labelled.sum()
    problem = f"{len(names):,} labelled joints ({share:.2%}) lie outside their image"
    severity, usual = (
        by_share(share),
        "Labels of joints that the picture cuts off; they are learnt too.",
    )
    advice = usual if severity == "note" else None
    return found_in(names, severity, "joints outside images", persons.name, problem, advice)


def check_boxes(persons: Persons) -> list[Finding]:
    """Persons most of whose labelled joints lie outside their own box."""
    labelled = persons.visibility > UNLABELLED
    offset = np.abs(persons.joints - persons.center[:, None])
    inside = labelled & (offset <= persons.box_size[:, None] / 2).all(-1)
    names = persons.ids[labelled.any(-1) & (2 * inside.sum(-1) < labelled.sum(-1))].tolist()
    share = len(names) / max(len(persons), 1)
    problem = f"{len(names):,} persons ({share:.1%}) have most joints outside their box"
    return found_in(names, by_share(share), "person boxes", persons.name, problem)


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
    seen, kept = "", ""
    if low >= 3 and low > 10 * max(high, last):
        seen = f"{low} joints lie at −1 and {last} on the last pixel"
        kept = (
            "0-based, the dataset's own are 1-based" if stored_from_one else "one pixel too small"
        )
    elif high >= 3 and high > 10 * max(low, first):
        seen = f"{high} joints lie one pixel beyond the last and {first} at 0"
        kept = "counted from 2" if stored_from_one else "1-based, the dataset's own are 0-based"
    problem = f"at the images' edges {seen}: the coordinates are probably {kept}"
    return found("error", "pixel base", where, problem) if seen else []
