"""Skeletons over photographs, coloured by the person's side."""

from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, UInt8

from pnfs.body import Skeleton
from pnfs.viz.canvas import OUTLINE_COLOUR, Picture, box, dot, label, line
from pnfs.viz.style import SIDE_COLOURS, Side, checked_rgb

LowScored = Literal["hollow", "omit"]
Joints = Float[np.ndarray, "K 2"]
Mask = Bool[np.ndarray, " K"]


def joint_sides(skeleton: Skeleton) -> tuple[Side, ...]:
    """For each joint the person's side: pairs are (left, right), unpaired joints "centre"."""
    left = {pair[0] for pair in skeleton.flip_pairs}
    right = {pair[1] for pair in skeleton.flip_pairs}
    return tuple(
        "left" if joint in left else "right" if joint in right else "centre"
        for joint in skeleton.joints
    )


def draw_pose(
    image: UInt8[np.ndarray, "H W 3"],
    joints: Float[np.ndarray, "K 2"],
    *,
    skeleton: Skeleton,
    scores: Float[np.ndarray, " K"] | None = None,
    shown: Bool[np.ndarray, " K"] | None = None,
    line_width: int | None = None,
    score_threshold: float = 0.2,
    low_scored: LowScored = "hollow",
) -> UInt8[np.ndarray, "H W 3"]:
    """A copy of the image with a skeleton on it, coloured by the person's side.

    A limb has the side of its ends; one that touches both sides or none is "centre".

    Args:
        image: RGB.
        joints: x, y in px of the image, 0 being the centre of the first pixel.
        skeleton: Whose joints they are.
        scores: One per joint; None takes all joints as certain.
        shown: Joints to draw; None draws all.
        line_width: Width of the limbs in px; None takes 1/70 of the image's shorter side.
        score_threshold: Joints that score less are low-scored.
        low_scored: "hollow" draws them as dark dots with a coloured rim and thin limbs, "omit"
            leaves them out.

    Raises:
        ValueError: An array of the wrong shape or type, or a shown joint that is not finite.
    """
    canvas = checked_rgb(image, "image").copy()
    certain = certain_joints(scores, score_threshold, skeleton)
    joints, shown = checked_joints(joints, shown, skeleton)
    if low_scored == "omit":
        shown = shown & certain
    width = limb_width(canvas) if line_width is None else max(1, line_width)
    draw_limbs(canvas, joints, shown, certain, skeleton, width)
    draw_joints(canvas, joints, shown, certain, skeleton, width)
    return canvas


def draw_persons(
    image: UInt8[np.ndarray, "H W 3"],
    joints: Float[np.ndarray, "N K 2"],
    *,
    skeleton: Skeleton,
    scores: Float[np.ndarray, "N K"],
    person_scores: Float[np.ndarray, " N"],
    boxes: Float[np.ndarray, "N 4"],
    draw_boxes: bool = True,
    score_threshold: float = 0.2,
    low_scored: LowScored = "hollow",
) -> UInt8[np.ndarray, "H W 3"]:
    """A copy of the image with all its persons, the surest on top, each with its score.

    Lines are as wide as the person is large; see `draw_pose` for colours and hollow joints.

    Args:
        image: RGB.
        joints: x, y in px of the image.
        skeleton: Whose joints they are.
        scores: Scores of the joints.
        person_scores: Scores of the persons, written at their boxes.
        boxes: x, y, width, height in px.
        draw_boxes: Whether the boxes are drawn too.
        score_threshold: Joints that score less are low-scored.
        low_scored: How those are drawn; see `draw_pose`.

    Raises:
        ValueError: Arrays whose shapes do not fit together, or a joint that is not finite.
    """
    canvas = checked_rgb(image, "image").copy()
    lengths = {len(joints), len(scores), len(person_scores), len(boxes)}
    if len(lengths) != 1:
        raise ValueError(f"joints, scores, person_scores and boxes have {sorted(lengths)} rows")
    widest = limb_width(canvas)
    order = np.argsort(person_scores, kind="stable")
    sizes = np.sqrt(np.maximum(1.0, boxes[:, 2] * boxes[:, 3])) if len(boxes) else np.zeros(0)
    for n in order:
        width = int(np.clip(round(sizes[n] / 60), 1, widest))
        if draw_boxes:
            box(canvas, boxes[n], max(1, width // 5))
        canvas = draw_pose(
            canvas,
            joints[n],
            skeleton=skeleton,
            scores=scores[n],
            line_width=width,
            score_threshold=score_threshold,
            low_scored=low_scored,
        )
    for n in order:
        size = int(np.clip(sizes[n] / 16, 9, 24))
        label(canvas, f"{person_scores[n]:.2f}", boxes[n][:2], size)
    return canvas


# --- what the sheets share -----------------------------------------------------------------------


def limb_width(image: Picture) -> int:
    return max(1, round(min(image.shape[:2]) / 70))


def dot_radius(line_width: int) -> float:
    return 0.6 + 0.8 * line_width


def certain_joints(
    scores: Float[np.ndarray, " K"] | None, threshold: float, skeleton: Skeleton
) -> Mask:
    """Joints that score at least the threshold; all without scores."""
    if scores is None:
        return np.ones(len(skeleton), bool)
    return _one_each(scores, skeleton, "the scores") >= threshold


def checked_joints(joints: Joints, shown: Mask | None, skeleton: Skeleton) -> tuple[Joints, Mask]:
    """The joints and the mask of those to draw, whose places must be finite."""
    joints = np.asarray(joints, np.float64)
    if joints.shape != (len(skeleton), 2):
        raise ValueError(
            f"joints have shape {joints.shape}, skeleton {skeleton.name} needs ({len(skeleton)}, 2)"
        )
    if shown is None:
        shown = np.ones(len(skeleton), bool)
    shown = _one_each(shown, skeleton, "the mask of joints").astype(bool)
    wrong = np.flatnonzero(shown & ~np.isfinite(joints).all(-1))
    if len(wrong):
        raise ValueError(
            f"joint {skeleton.joints[wrong[0]]} is at {joints[wrong[0]].tolist()}; a joint without "
            "a place must be masked"
        )
    return joints, shown


def _one_each(values: np.ndarray, skeleton: Skeleton, what: str) -> np.ndarray:
    values = np.asarray(values)
    if values.shape != (len(skeleton),):
        raise ValueError(
            f"{what} has shape {values.shape}, skeleton {skeleton.name} needs ({len(skeleton)},)"
        )
    return values


def draw_limbs(
    canvas: Picture, joints: Joints, shown: Mask, certain: Mask, skeleton: Skeleton, width: int
) -> None:
    sides = joint_sides(skeleton)
    limbs = []
    for a, b in map(skeleton.indices, skeleton.limbs):
        if shown[a] and shown[b]:
            its_width = width if certain[a] and certain[b] else max(1, width // 2)
            colour = SIDE_COLOURS[_limb_side(sides[a], sides[b])]
            limbs.append((joints[a], joints[b], colour, its_width))
    # All outlines come first, so that none cuts through a limb drawn earlier.
    for start, end, _, its_width in limbs:
        line(canvas, start, end, OUTLINE_COLOUR, its_width + 2)
    for start, end, colour, its_width in limbs:
        line(canvas, start, end, colour, its_width)


def _limb_side(a: Side, b: Side) -> Side:
    if "centre" in (a, b):
        return b if a == "centre" else a
    return a if a == b else "centre"


def draw_joints(
    canvas: Picture, joints: Joints, shown: Mask, certain: Mask, skeleton: Skeleton, width: int
) -> None:
    sides = joint_sides(skeleton)
    for k in np.flatnonzero(shown):
        dot(canvas, joints[k], dot_radius(width), SIDE_COLOURS[sides[k]], hollow=not certain[k])
