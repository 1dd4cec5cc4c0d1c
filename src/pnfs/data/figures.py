"""Random people for drawings: from uniform numbers to landmarks in an image plane."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float64

SIDES = ("left", "right")
LANDMARKS = (
    "head_top", "upper_neck", "thorax", "pelvis", "nose",
    *(f"{side}_{stem}" for stem in (
        "eye", "ear", "shoulder", "elbow", "wrist", "hip", "knee", "ankle") for side in SIDES),
)  # fmt: skip
"""Every point that a skeleton may label; MPII and COCO take their joints from these."""

LIMBS: Mapping[str, tuple[str, str, float]] = {
    **{f"{side}_{limb}": (f"{side}_{first}", f"{side}_{second}", radius)
       for limb, first, second, radius in (
           ("thigh", "hip", "knee", 0.042), ("shin", "knee", "ankle", 0.030),
           ("upper_arm", "shoulder", "elbow", 0.030), ("forearm", "elbow", "wrist", 0.022))
       for side in SIDES},
    "neck": ("upper_neck", "thorax", 0.032),
    "head": ("head_top", "nose", 0.050),
}  # fmt: skip
"""Drawn limbs: name -> (first landmark, second landmark, radius in person heights)."""
RADIUS = 0.05  # Of the thickest part, in person heights.


class People(NamedTuple):
    """N people, x to the right, y down."""

    points: Float64[np.ndarray, "N L 2"]  # In the order of `LANDMARKS`.
    unit: Float64[np.ndarray, " N"]  # Length of one person height.
    facing: Bool[np.ndarray, " N"]  # Whether the face is seen.
    arms_in_front: Bool[np.ndarray, "N 2"]  # Left, right.

    def bounds(self) -> tuple[Float64[np.ndarray, "N 2"], Float64[np.ndarray, "N 2"]]:
        """Upper left and lower right corner of the drawn person."""
        margin = RADIUS * self.unit[:, None]
        return self.points.min(1) - margin, self.points.max(1) + margin


class Draws:
    """Columns of independent uniform numbers in [0, 1), one row a person, taken one after another, never twice."""

    def __init__(self, uniforms: Float64[np.ndarray, "N M"]) -> None:
        self._columns = iter(uniforms.T)

    def __call__(self, low: float = 0.0, high: float = 1.0) -> Float64[np.ndarray, " N"]:
        return low + (high - low) * next(self._columns)


def pose_people(draw: Draws, turned_away: float) -> People:
    """People in varied poses, about one unit tall, the pelvis at (0, 0), of fewer than 40 columns of draws."""
    facing, width, slide = draw() >= turned_away, draw(0.55, 1.0), draw(-0.02, 0.02)
    # (towards the person's left, up), as one sees it who faces the person.
    at: dict[str, tuple] = {
        "pelvis": (0.0, 0.0), "thorax": (0.0, 0.295), "upper_neck": (slide, 0.34),
        "head_top": (2 * slide, 0.5), "nose": (3 * slide, 0.41),
    }  # fmt: skip
    for sign, side in zip((1.0, -1.0), SIDES, strict=True):

        def limb(start: tuple, angle: np.ndarray, length: np.ndarray, sign=sign) -> tuple:
            """The end of a limb that is turned outwards by `angle` from hanging down."""
            return start[0] + sign * length * np.sin(angle), start[1] - length * np.cos(angle)

        for stem, across, up in (("eye", 0.022, 0.43), ("ear", 0.054, 0.42)):
            at[f"{side}_{stem}"] = (3 * slide + sign * across * width, up)
        for stem, across, up in (("shoulder", 0.112, 0.283), ("hip", 0.062, 0.0)):
            at[f"{side}_{stem}"] = (sign * across * width, up)
        # Zero hangs down, 170 degrees reaches up; low ones are the most frequent.
        raised = np.deg2rad(8 + 162 * draw() ** 1.7)
        bent = np.deg2rad(5 + 125 * draw() ** 1.2) * np.where(draw() < 0.5, 1, -1)
        at[f"{side}_elbow"] = limb(at[f"{side}_shoulder"], raised, 0.168 * draw(0.6, 1.0))
        at[f"{side}_wrist"] = limb(at[f"{side}_elbow"], raised + bent, 0.15 * draw(0.6, 1.0))
        spread, bent = np.deg2rad(2 + 50 * draw() ** 2), np.deg2rad(60 * draw() ** 2)
        at[f"{side}_knee"] = limb(at[f"{side}_hip"], spread, 0.238 * draw(0.7, 1.0))
        at[f"{side}_ankle"] = limb(at[f"{side}_knee"], spread - bent, 0.235 * draw(0.7, 1.0))
    # One in ten leans or lies far over, the others stand nearly upright.
    lean = np.deg2rad(np.where(draw() < 0.1, draw(-75, 75), draw(-12, 12)))
    x, y = (
        np.stack([np.broadcast_to(at[name][axis], lean.shape) for name in LANDMARKS], axis=1)
        for axis in (0, 1)
    )
    x, y, lean = x * np.where(facing, 1, -1)[:, None], -y, lean[:, None]
    turned = (x * np.cos(lean) - y * np.sin(lean), x * np.sin(lean) + y * np.cos(lean))
    in_front = np.stack([draw() < 0.7, draw() < 0.7], axis=1)
    return People(np.stack(turned, axis=-1), np.ones(len(x)), facing, in_front)
