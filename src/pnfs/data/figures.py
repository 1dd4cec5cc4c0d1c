"""Random articulated people: from uniform numbers to landmarks in an image plane.

A person is posed in three dimensions and projected without perspective, so that foreshortening, the order of limbs
in depth and the sides of the body agree. Everything is vectorised over people, a pure function of its numbers.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64
from scipy.spatial.transform import Rotation
from scipy.special import ndtri

SIDES = ("left", "right")
LANDMARKS = (
    "head_top", "upper_neck", "thorax", "pelvis", "nose",
    *(f"{side}_{stem}" for stem in (
        "eye", "ear", "shoulder", "elbow", "wrist", "hip", "knee", "ankle") for side in SIDES),
)  # fmt: skip
"""Every point that a skeleton may label; MPII and COCO take their joints from these."""

_INDEX = {name: row for row, name in enumerate(LANDMARKS)}

LIMBS: Mapping[str, tuple[str, str, float]] = {
    **{f"{side}_{limb}": (f"{side}_{first}", f"{side}_{second}", radius)
       for limb, first, second, radius in (
           ("thigh", "hip", "knee", 0.042), ("shin", "knee", "ankle", 0.030),
           ("upper_arm", "shoulder", "elbow", 0.030), ("forearm", "elbow", "wrist", 0.022))
       for side in SIDES},
    "neck": ("upper_neck", "thorax", 0.032),
    "head": ("head_top", "upper_neck", 0.050),
}  # fmt: skip
"""Drawn limbs, the head last: name -> (first landmark, second landmark, radius in person heights)."""
_LIMB_ENDS = np.array([[_INDEX[a], _INDEX[b]] for a, b, _ in LIMBS.values()])
_LIMB_RADII = np.array([radius for _, _, radius in LIMBS.values()])
_TORSO = [_INDEX[n] for n in ("left_shoulder", "right_shoulder", "right_hip", "left_hip")]
TORSO_RADIUS = 0.045
# Added to a limb's depth: arms lie on the trunk, the shirt hangs over trousers and neck.
_DEPTH_BIAS = np.array(
    [{"arm": -0.05, "igh": 0.05, "eck": 0.08}.get(name[-3:], 0.0) for name in LIMBS]
)


class Draws:
    """Columns of independent uniform numbers in [0, 1), one row a person, taken one after another, never twice."""

    def __init__(self, uniforms: Float64[np.ndarray, "N M"]) -> None:
        self._columns = iter(uniforms.T)

    def uniform(self, low: float = 0.0, high: float = 1.0) -> Float64[np.ndarray, " N"]:
        return low + (high - low) * next(self._columns)

    def normal(self, mean: float, deviation: float) -> Float64[np.ndarray, " N"]:
        """Normal, but never more than 2.5 deviations from the mean."""
        return mean + deviation * np.clip(ndtri(np.maximum(self.uniform(), 1e-9)), -2.5, 2.5)

    def chance(self, probability: float) -> Bool[np.ndarray, " N"]:
        return self.uniform() < probability


@dataclass(frozen=True)
class Figures:
    """N people in an image plane; x to the right, y down, depth away from the camera.

    Lengths are in person heights until `placed` brings them to pixels.
    """

    points: Float64[np.ndarray, "N L 3"]  # x, y, depth in the order of `LANDMARKS`.
    forward: Float64[np.ndarray, "N 3"]
    """Unit vector (x, y, depth) along which the face looks; negative depth is to the camera."""
    unit: Float64[np.ndarray, " N"]  # Length of one person height.

    def placed(
        self, unit: Float64[np.ndarray, " N"], origin: Float64[np.ndarray, "N 2"]
    ) -> "Figures":
        """The same people, one person height being `unit` px and the point (0, 0) at `origin`."""
        points = self.points * unit[:, None, None]
        points[..., :2] += origin[:, None]
        return Figures(points, self.forward, self.unit * unit)

    def limbs(self) -> tuple[Float64[np.ndarray, "N D 2 2"], Float64[np.ndarray, "N D"]]:
        """Both ends of the D limbs in the order of `LIMBS`, and their radii."""
        ends, radii = self.points[:, _LIMB_ENDS, :2], _LIMB_RADII * self.unit[:, None]
        # The skull reaches from the head top to the chin, a third above the neck.
        top, neck = ends[:, -1, 0].copy(), ends[:, -1, 1].copy()
        ends[:, -1, 0], ends[:, -1, 1] = 0.75 * top + 0.25 * neck, 0.35 * top + 0.65 * neck
        return ends, radii

    def torso(self) -> Float64[np.ndarray, "N 4 2"]:
        """Shoulders, then hips."""
        return self.points[:, _TORSO, :2]

    def depths(self) -> Float64[np.ndarray, "N D+1"]:
        """Drawing order of the limbs and, last, the torso: what is farther is drawn first."""
        limbs = self.points[:, _LIMB_ENDS, 2].mean(axis=2) + _DEPTH_BIAS * self.unit[:, None]
        return np.concatenate([limbs, self.points[:, _TORSO, 2].mean(1, keepdims=True)], axis=1)

    def bounds(self) -> tuple[Float64[np.ndarray, "N 2"], Float64[np.ndarray, "N 2"]]:
        """Upper left and lower right corner of the drawn person."""
        ends, radii = self.limbs()
        torso = np.full((len(radii), 4), TORSO_RADIUS) * self.unit[:, None]
        centers = np.concatenate([ends[:, :, 0], ends[:, :, 1], self.torso()], axis=1)
        radius = np.concatenate([radii, radii, torso], axis=1)[..., None]
        return (centers - radius).min(axis=1), (centers + radius).max(axis=1)

    def head_size(self) -> Float64[np.ndarray, " N"]:
        """0.6 x the diagonal of a box around the head, as MPII's evaluation defines it."""
        ends, radii = (column[:, -1] for column in self.limbs())
        length = np.linalg.norm(ends[:, 1] - ends[:, 0], axis=1) + 2 * radii
        return 0.6 * np.hypot(length, 2 * radii)


def pose_people(draws: Draws, turned_away: float) -> Figures:
    """People in varied poses, about one unit tall, the pelvis at (0, 0), of fewer than 40 columns of draws."""
    turn = draws.normal(0, 24) + 180.0 * draws.chance(turned_away)
    # One in ten leans or lies far over, the others stand nearly upright.
    tilt = np.where(draws.chance(0.1), draws.uniform(-75, 75), draws.normal(0, 7))
    # Frames (N, 3, 3) take a body part's own axes, left, up and forward, to the camera's: right, up, towards it.
    hips = np.linalg.inv(_turns(-turn, -draws.normal(8, 5), -tilt))
    trunk = hips @ _turns(draws.normal(0, 10), draws.normal(6, 11), draws.normal(0, 8))
    head = trunk @ _turns(draws.normal(0, 18), draws.normal(4, 9), draws.normal(0, 8))
    length, arm, leg, skull = (draws.normal(mean, 0.06) for mean in (1, 1, 1, 1.05))
    thorax = _along(trunk, 0, 0.295, 0, length)
    neck = thorax + (_along(trunk, 0, 0.0225, 0, length) + _along(head, 0, 0.0225, 0, length))
    points = {
        "pelvis": np.zeros_like(thorax), "thorax": thorax, "upper_neck": neck,
        "head_top": neck + _along(head, 0, 0.158, 0, skull),
        "nose": neck + _along(head, 0, 0.072, 0.058, skull),
    }  # fmt: skip
    for sign, side in zip((1.0, -1.0), SIDES, strict=True):
        points[f"{side}_eye"] = neck + _along(head, 0.022 * sign, 0.092, 0.046, skull)
        points[f"{side}_ear"] = neck + _along(head, 0.054 * sign, 0.082, 0, skull)
        points |= _arm(draws, sign, side, thorax, trunk, arm)
        points |= _leg(draws, sign, side, hips, leg)
    to_image = np.array([1.0, -1.0, -1.0])
    ordered = np.stack([points[name] for name in LANDMARKS], axis=1) * to_image
    forward = _along(head, 0, 0, 1) * to_image
    return Figures(ordered, forward, np.ones(len(ordered)))


def _turns(turn: np.ndarray, nod: np.ndarray, tilt: np.ndarray) -> Float64[np.ndarray, "N 3 3"]:
    angles = np.stack([turn, nod, tilt], axis=1)
    return Rotation.from_euler("YXZ", angles, degrees=True).as_matrix()


def _along(
    frame, left, up, forward, length: np.ndarray | float = 1.0
) -> Float64[np.ndarray, "N 3"]:
    """`length` times (left, up, forward), numbers or (N,), of a frame's axes in the camera's."""
    one = np.ones(len(frame))
    parts = [(part * length) * one for part in (left, up, forward)]
    return np.einsum("nij,nj->ni", frame, np.stack(parts, axis=1))


def _arm(draws, sign, side, thorax, trunk, length) -> dict[str, np.ndarray]:
    # Zero hangs down, 170 reaches up; low ones are the most frequent.
    raised, swing = np.deg2rad(8 + 162 * draws.uniform() ** 1.7), np.deg2rad(draws.uniform(-25, 85))
    upper = _along(trunk, *_swung(sign, raised, swing))
    # The forearm closes forwards, inwards or upwards: the elbow does not bend backwards.
    inwards, upwards, ahead = (draws.uniform(*r) for r in ((-0.5, 1.0), (-0.3, 1.0), (0.3, 1.0)))
    towards = _along(trunk, -sign * inwards, upwards, ahead)
    lower = _bent(upper, towards, np.deg2rad(5 + 125 * draws.uniform() ** 1.2))
    shrug = 0.03 * (1 - np.cos(raised)) / 2
    shoulder = thorax + _along(trunk, sign * 0.112, shrug - 0.012, 0)
    elbow = shoulder + upper * (0.168 * length)[:, None]
    wrist = elbow + lower * (0.15 * length)[:, None]
    return {f"{side}_shoulder": shoulder, f"{side}_elbow": elbow, f"{side}_wrist": wrist}


def _leg(draws, sign, side, hips, length) -> dict[str, np.ndarray]:
    swing = np.deg2rad(draws.uniform(-40, 95))
    # A leg goes up higher in front of the body than beside it.
    raised = np.deg2rad(3 + (47 + 32 * np.sin(swing) ** 2) * draws.uniform() ** 2.2)
    thigh = _along(hips, *_swung(sign, raised, swing))
    # Heels go back, never forwards; the more the thigh is lifted the more the knee is bent.
    backwards = _along(hips, sign * draws.uniform(-0.3, 0.4), 0, -1)
    bend = np.deg2rad(3 + 90 * draws.uniform() ** 2) + 0.4 * raised * np.clip(np.sin(swing), 0, 1)
    hip = _along(hips, sign * 0.062, 0, 0)
    knee = hip + thigh * (0.238 * length)[:, None]
    ankle = knee + _bent(thigh, backwards, bend) * (0.235 * length)[:, None]
    return {f"{side}_hip": hip, f"{side}_knee": knee, f"{side}_ankle": ankle}


def _swung(sign: float, raised: np.ndarray, swing: np.ndarray) -> tuple[np.ndarray, ...]:
    """Direction (left, up, forward) of a limb that hangs down, raised sideways and swung forwards."""
    across = np.sin(raised)
    return sign * across * np.cos(swing), -np.cos(raised), across * np.sin(swing)


def _bent(limb: np.ndarray, towards: np.ndarray, angle: np.ndarray) -> np.ndarray:
    """Unit vectors (N, 3): `limb` turned by `angle` (N,) radians in the plane of `towards`."""
    across = towards - (towards * limb).sum(-1, keepdims=True) * limb
    across /= np.maximum(np.linalg.norm(across, axis=-1, keepdims=True), 1e-9)
    return np.cos(angle)[:, None] * limb + np.sin(angle)[:, None] * across
