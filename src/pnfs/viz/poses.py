"""Skeletons over photographs, coloured by the person's side."""

import math
from dataclasses import dataclass
from typing import Self

import numpy as np
from jaxtyping import Bool, Float, UInt8

from pnfs.body import Skeleton
from pnfs.errors import PnfsError
from pnfs.viz.canvas import LABEL_COLOUR, OUTLINE_COLOUR, Colour, Picture, box, dot, label, line
from pnfs.viz.style import SIDE_COLOURS, Side, checked_rgb

LOW_SCORE = 0.2
"""Joints that score less are drawn as low-scored."""


def joint_sides(skeleton: Skeleton) -> tuple[Side, ...]:
    """For each joint the person's side: pairs are (left, right), unpaired joints "centre"."""
    left = {pair[0] for pair in skeleton.flip_pairs}
    right = {pair[1] for pair in skeleton.flip_pairs}
    return tuple(
        "left" if joint in left else "right" if joint in right else "centre"
        for joint in skeleton.joints
    )


def draw_persons(
    image: UInt8[np.ndarray, "H W 3"],
    joints: Float[np.ndarray, "N K 2"],
    *,
    skeleton: Skeleton,
    scores: Float[np.ndarray, "N K"],
    person_scores: Float[np.ndarray, " N"],
    boxes: Float[np.ndarray, "N 4"],
    draw_boxes: bool = True,
    score_threshold: float = LOW_SCORE,
) -> UInt8[np.ndarray, "H W 3"]:
    """A copy of the image with all its persons, the surest on top, each with its score.

    Lines are as wide as the person is large; see `Pose` for colours and hollow joints.

    Args:
        image: RGB.
        joints: x, y in px of the image.
        skeleton: Whose joints they are.
        scores: Scores of the joints.
        person_scores: Scores of the persons, written at their boxes.
        boxes: x, y, width, height in px.
        draw_boxes: Whether the boxes are drawn too.
        score_threshold: Joints that score less are low-scored.

    Raises:
        ValueError: Arrays whose shapes do not fit together, or a joint that is not finite.
    """
    canvas = checked_rgb(image, "image").copy()
    lengths = {len(joints), len(scores), len(person_scores), len(boxes)}
    if len(lengths) != 1:
        raise PnfsError(f"joints, scores, person_scores and boxes have {sorted(lengths)} rows")
    order = np.argsort(person_scores, kind="stable")
    sizes = [math.sqrt(max(1.0, place[2] * place[3])) for place in boxes]
    for n in order:
        width = int(np.clip(round(sizes[n] / 60), 1, limb_width(canvas)))
        if draw_boxes:
            box(canvas, boxes[n], max(1, width // 5))
        Pose.of(joints[n], skeleton, scores[n], None, score_threshold).draw(canvas, width)
    for n in order:
        size = int(np.clip(sizes[n] / 16, 9, 24))
        label(canvas, f"{person_scores[n]:.2f}", boxes[n][:2], size)
    return canvas


@dataclass(frozen=True)
class Pose:
    """A skeleton to draw, coloured by the person's side.

    A limb has the side of its ends; one that touches both sides or none is "centre". Low-scored joints
    are dark dots with a coloured rim, their limbs thin.

    Attributes:
        joints: x, y in px of the canvas, 0 being the centre of the first pixel.
        skeleton: Whose joints they are.
        shown: Joints to draw; their places are finite.
        certain: Joints that do not score low.
    """

    joints: Float[np.ndarray, "K 2"]
    skeleton: Skeleton
    shown: Bool[np.ndarray, " K"]
    certain: Bool[np.ndarray, " K"]

    @classmethod
    def of(
        cls,
        joints: Float[np.ndarray, "K 2"],
        skeleton: Skeleton,
        scores: Float[np.ndarray, " K"] | None = None,
        shown: Bool[np.ndarray, " K"] | None = None,
        threshold: float = LOW_SCORE,
    ) -> Self:
        """The pose: joints of score 0 have no place and are not drawn, those below the threshold score low.

        Raises:
            ValueError: An array of the wrong shape, or a shown joint that is not finite.
        """
        joints, everyone = np.asarray(joints, np.float64), np.ones(len(skeleton), bool)
        scores = everyone if scores is None else np.asarray(scores)
        shown = everyone if shown is None else np.asarray(shown, bool)
        if joints.shape != (len(skeleton), 2) or {scores.shape, shown.shape} != {everyone.shape}:
            raise PnfsError(
                f"joints of shape {joints.shape}, scores {scores.shape}, a mask {shown.shape}: skeleton "
                f"{skeleton.name} has {len(skeleton)} joints"
            )
        drawn = shown & (scores != 0)
        wrong = np.flatnonzero(drawn & ~np.isfinite(joints).all(-1))
        if len(wrong):
            raise PnfsError(
                f"joint {skeleton.joints[wrong[0]]} is at {joints[wrong[0]].tolist()}; a joint "
                "without a place must be masked"
            )
        return cls(joints, skeleton, drawn, scores >= threshold)

    def draw(self, canvas: Picture, width: int, labels: Self | None = None) -> None:
        """Draws limbs `width` px wide and joints; with labels a line from each joint to its label.

        Error lines lie under the joints, labels on them: a label that was hit is a joint's bright core.
        """
        sides, joints = joint_sides(self.skeleton), self.joints
        limbs: list[tuple[int, int, Colour, int]] = []
        for a, b in map(self.skeleton.indices, self.skeleton.limbs):
            if self.shown[a] and self.shown[b]:
                colour = SIDE_COLOURS[_limb_side(sides[a], sides[b])]
                sure = self.certain[a] and self.certain[b]
                limbs.append((a, b, colour, width if sure else max(1, width // 2)))
        # All outlines come first, so that none cuts through a limb drawn earlier.
        for a, b, _, its_width in limbs:
            line(canvas, joints[a], joints[b], OUTLINE_COLOUR, its_width + 2)
        for a, b, colour, its_width in limbs:
            line(canvas, joints[a], joints[b], colour, its_width)
        if labels is not None:
            thin = max(1, width // 3)
            for k in np.flatnonzero(labels.shown & self.shown):
                for colour, its_width in ((OUTLINE_COLOUR, thin + 2), (LABEL_COLOUR, thin)):
                    line(canvas, joints[k], labels.joints[k], colour, its_width)
        radius = 0.6 + 0.8 * width
        for k in np.flatnonzero(self.shown):
            colour, hollow = SIDE_COLOURS[sides[k]], not self.certain[k]
            dot(canvas, joints[k], radius, colour, hollow=hollow)
        if labels is not None:
            for place in labels.joints[labels.shown]:
                dot(canvas, place, radius / 2, LABEL_COLOUR)


def _limb_side(a: Side, b: Side) -> Side:
    if a == "centre":
        return b
    return a if b in (a, "centre") else "centre"


def limb_width(image: Picture) -> int:
    return max(1, round(min(image.shape[:2]) / 70))
