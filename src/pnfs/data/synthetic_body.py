"""Random articulated people: from uniform numbers to landmarks and limbs in an image plane.

A person is posed in three dimensions by forward kinematics and projected without perspective,
so foreshortening, the order of limbs in depth and the sides of the body always agree. Everything
is vectorised over people and is a pure function of the numbers it is given.
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

_POINTS = (
    *LANDMARKS,
    "crown",
    "chin",
    *(f"{side}_{tip}" for tip in ("hand", "toe") for side in SIDES),
)
_POINT_INDEX = {name: index for index, name in enumerate(_POINTS)}

# Drawn limbs: name -> (first landmark, second landmark, radius there, radius here), the radii in
# person heights. Points that no skeleton labels (crown, chin, hand, toe) shape the drawing only.
_PAIRED_LIMBS = {
    "upper_arm": ("shoulder", "elbow", 0.034, 0.026),
    "forearm": ("elbow", "wrist", 0.026, 0.018),
    "hand": ("wrist", "hand", 0.018, 0.022),
    "thigh": ("hip", "knee", 0.052, 0.036),
    "shin": ("knee", "ankle", 0.036, 0.022),
    "foot": ("ankle", "toe", 0.024, 0.020),
}
LIMBS: Mapping[str, tuple[str, str, float, float]] = {
    "head": ("crown", "chin", 0.056, 0.042),
    "neck": ("upper_neck", "thorax", 0.030, 0.034),
    **{
        f"{side}_{limb}": (f"{side}_{first}", f"{side}_{second}", near, far)
        for limb, (first, second, near, far) in _PAIRED_LIMBS.items()
        for side in SIDES
    },
}
TORSO_CORNERS: Mapping[str, float] = {
    "left_shoulder": 0.038, "right_shoulder": 0.038, "right_hip": 0.056, "left_hip": 0.056,
}  # fmt: skip
"""The torso is drawn as the hull of discs around these landmarks: name -> radius."""

# Added to a limb's depth where lines without thickness would decide the order wrongly:
# arms lie on the trunk, the shirt hangs over the trousers, the collar over the neck.
_DEPTH_BIAS = {"upper_arm": -0.05, "forearm": -0.05, "hand": -0.05, "thigh": 0.05, "neck": 0.08}

# A joint is never hidden by the limbs it belongs to.
_OWN_LIMBS: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(("head_top", "upper_neck", "thorax"), ("head", "neck", "torso")),
    "pelvis": ("torso", "left_thigh", "right_thigh"),
    **dict.fromkeys(("nose", "left_eye", "right_eye", "left_ear", "right_ear"), ("head",)),
    **{
        f"{side}_{joint}": tuple(
            [f"{side}_{limb}" for limb in limbs]
            + (["torso"] if joint in ("shoulder", "hip") else [])
        )
        for side in SIDES
        for joint, limbs in {
            "shoulder": ("upper_arm",), "elbow": ("upper_arm", "forearm"),
            "wrist": ("forearm", "hand"), "hip": ("thigh",), "knee": ("thigh", "shin"),
            "ankle": ("shin", "foot"),
        }.items()
    },
}  # fmt: skip


class Draws:
    """Columns of independent uniform numbers, taken one after another and never twice.

    Args:
        uniforms: One row per person, every number in [0, 1).
    """

    def __init__(self, uniforms: Float64[np.ndarray, "N M"]) -> None:
        self._uniforms = uniforms
        # Cut off at 2.5 deviations so that no pose is absurd.
        self._normals = np.clip(ndtri(np.maximum(uniforms, 1e-9)), -2.5, 2.5)
        self._taken = 0

    def __len__(self) -> int:
        return len(self._uniforms)

    def unit(self) -> Float64[np.ndarray, " N"]:
        """The next column as it is."""
        self._taken += 1
        return self._uniforms[:, self._taken - 1]

    def uniform(self, low: float, high: float) -> Float64[np.ndarray, " N"]:
        return low + (high - low) * self.unit()

    def pairs(self, low: float, high: float) -> Float64[np.ndarray, "N 2"]:
        """Two uniform columns side by side."""
        self._taken += 2
        return low + (high - low) * self._uniforms[:, self._taken - 2 : self._taken]

    def normal(self, mean: float, deviation: float) -> Float64[np.ndarray, " N"]:
        """Normal, but never more than 2.5 deviations from the mean."""
        self._taken += 1
        return mean + deviation * self._normals[:, self._taken - 1]

    def chance(self, probability: float) -> Bool[np.ndarray, " N"]:
        return self.unit() < probability


_LIMB_ENDS = np.array([[_POINT_INDEX[end] for end in limb[:2]] for limb in LIMBS.values()])
_LIMB_RADII = np.array([limb[2:] for limb in LIMBS.values()])
_LIMB_BIAS = np.array(
    [_DEPTH_BIAS.get(name.removeprefix("left_").removeprefix("right_"), 0.0) for name in LIMBS]
)
# Heads do not grow with the girth of the body.
_IS_HEAD = np.array([name == "head" for name in LIMBS])
_TORSO = np.array([_POINT_INDEX[name] for name in TORSO_CORNERS])
_TORSO_RADII = np.array(list(TORSO_CORNERS.values()))
_BODY_PARTS = (*LIMBS, "torso")
_OWN = {name: np.array([part in own for part in _BODY_PARTS]) for name, own in _OWN_LIMBS.items()}


@dataclass(frozen=True)
class Figures:
    """N people in an image plane; x to the right, y down, depth away from the camera.

    Lengths are in person heights until `placed` brings them to pixels.
    """

    points: Float64[np.ndarray, "N P 3"]
    """x, y, depth of the landmarks and of the points that only shape the drawing."""
    forward: Float64[np.ndarray, "N 3"]
    """Unit vector (x, y, depth) along which the face looks; negative depth is to the camera."""
    width: Float64[np.ndarray, " N"]
    """Thickness of the limbs, 1 on average."""
    unit: Float64[np.ndarray, " N"]
    """Length of one person height."""

    def at(self, name: str) -> Float64[np.ndarray, "N 3"]:
        """One point of all people."""
        return self.points[:, _POINT_INDEX[name]]

    def landmarks(self) -> Float64[np.ndarray, "N L 2"]:
        """x, y in the order of `LANDMARKS`."""
        return self.points[:, : len(LANDMARKS), :2]

    def placed(
        self, unit: Float64[np.ndarray, " N"], origin: Float64[np.ndarray, "N 2"]
    ) -> "Figures":
        """The same people, one person height being `unit` px and the point (0, 0) at `origin`."""
        points = self.points * unit[:, None, None]
        points[..., :2] += origin[:, None]
        return Figures(points, self.forward, self.width, self.unit * unit)

    def limbs(self) -> tuple[Float64[np.ndarray, "N D 2 2"], Float64[np.ndarray, "N D 2"]]:
        """Both ends of the D limbs in the order of `LIMBS`, and the radii there."""
        thickness = self.unit[:, None] * np.where(_IS_HEAD, 1.0, self.width[:, None])
        return self.points[:, _LIMB_ENDS, :2], _LIMB_RADII * thickness[..., None]

    def torso(self) -> tuple[Float64[np.ndarray, "N 4 2"], Float64[np.ndarray, "N 4"]]:
        """Centres and radii of the discs whose hull the torso is."""
        return self.points[:, _TORSO, :2], _TORSO_RADII * (self.unit * self.width)[:, None]

    def depths(self) -> Float64[np.ndarray, "N D+1"]:
        """Drawing order of the limbs and, last, the torso: what is farther is drawn first."""
        limbs = self.points[:, _LIMB_ENDS, 2].mean(axis=2) + _LIMB_BIAS * self.unit[:, None]
        return np.concatenate([limbs, self.points[:, _TORSO, 2].mean(1, keepdims=True)], axis=1)

    def facing(self) -> Bool[np.ndarray, " N"]:
        """Whether the face is turned to the camera."""
        return self.forward[:, 2] < 0

    def face_turned_to_camera(self, name: str) -> Bool[np.ndarray, " N"]:
        """Whether the head itself does not hide the nose, an eye or an ear."""
        between_ears = (self.at("left_ear") + self.at("right_ear")) / 2
        towards_camera = (between_ears - self.at(name))[:, 2] / self.unit
        # An ear stands out from the head and is seen from slightly behind as well.
        return towards_camera > (-0.03 if name.endswith("ear") else 0.008)

    def chest_to_camera(self) -> Bool[np.ndarray, " N"]:
        """Whether the front of the torso is seen rather than the back."""
        across = self.at("left_shoulder") - self.at("right_shoulder")
        down = self.at("pelvis") - self.at("thorax")
        return across[:, 0] * down[:, 1] - across[:, 1] * down[:, 0] > 0

    def bounds(self) -> tuple[Float64[np.ndarray, "N 2"], Float64[np.ndarray, "N 2"]]:
        """Upper left and lower right corner of the drawn person."""
        (ends, radii), (corners, corner_radii) = self.limbs(), self.torso()
        centers = np.concatenate([ends[:, :, 0], ends[:, :, 1], corners], axis=1)
        radius = np.concatenate([radii[..., 0], radii[..., 1], corner_radii], axis=1)[..., None]
        return (centers - radius).min(axis=1), (centers + radius).max(axis=1)

    def head_size(self) -> Float64[np.ndarray, " N"]:
        """0.6 x the diagonal of a box around the head, as MPII's evaluation defines it.

        The box is aligned with the head: as long as head top to chin, as wide as the head.
        """
        ends, radii = (column[:, list(LIMBS).index("head")] for column in self.limbs())
        length = np.linalg.norm(ends[:, 1] - ends[:, 0], axis=1) + radii.sum(axis=1)
        return 0.6 * np.hypot(length, 2 * radii[:, 0])

    def self_occluded(self) -> Bool[np.ndarray, "N L"]:
        """Whether a nearer limb, torso or head of the same person covers a landmark."""
        ends, radii = self.limbs()
        depths = self.depths()
        hidden = []
        for column, name in enumerate(LANDMARKS):
            at = self.points[:, column, :2]
            covers = in_capsules(at[:, None], ends, radii)
            covers = np.concatenate([covers, self._in_torso(at)[:, None]], axis=1)
            nearer = depths < depths[:, _OWN[name]].min(axis=1, keepdims=True)
            hidden.append((covers & nearer & ~_OWN[name]).any(axis=1))
        return np.stack(hidden, axis=1)

    def _in_torso(self, at: Float64[np.ndarray, "N 2"]) -> Bool[np.ndarray, " N"]:
        corners, radii = self.torso()
        a, b, c, d = np.moveaxis(corners, 1, 0)
        following = np.roll(np.arange(4), -1)
        edges = np.stack([corners, corners[:, following]], axis=2)
        edge_radii = np.stack([radii, radii[:, following]], axis=2)
        near_edge = in_capsules(at[:, None], edges, edge_radii).any(axis=1)
        return near_edge | _in_triangle(at, a, b, c) | _in_triangle(at, c, d, a)


def in_capsules(
    at: Float64[np.ndarray, "... 2"],
    ends: Float64[np.ndarray, "... 2 2"],
    radii: Float64[np.ndarray, "... 2"],
) -> Bool[np.ndarray, "..."]:
    """Whether points lie in tapered capsules, given by their two ends and the radii there."""
    axis = ends[..., 1, :] - ends[..., 0, :]
    length2 = np.maximum((axis**2).sum(-1), 1e-12)
    from_first = at - ends[..., 0, :]
    along = np.clip((from_first * axis).sum(-1) / length2, 0, 1)
    distance = np.linalg.norm(from_first - along[..., None] * axis, axis=-1)
    return distance < radii[..., 0] + along * (radii[..., 1] - radii[..., 0])


def _in_triangle(at, a, b, c) -> Bool[np.ndarray, " N"]:
    """Whether points (N, 2) lie in triangles with corners (N, 2), whatever their orientation."""

    def side(p, q):
        edge, to_point = q - p, at - p
        return edge[:, 0] * to_point[:, 1] - edge[:, 1] * to_point[:, 0]

    signs = np.sign([side(a, b), side(b, c), side(c, a)])
    return np.all(signs >= 0, axis=0) | np.all(signs <= 0, axis=0)


# --- Poses -------------------------------------------------------------------------------------
# Body axes: to the person's left, up, forward. A person who stands upright and looks into the
# camera has them along the image's right, the image's up and towards the camera.


def pose_people(draws: Draws, turned_away: float) -> Figures:
    """People in varied poses, about one unit tall, the pelvis at (0, 0).

    Args:
        draws: Where the randomness comes from; `POSE_DRAWS` columns are used.
        turned_away: Probability that a person shows the back.
    """
    body, torso, head = _frames(draws, turned_away)
    width = draws.uniform(0.85, 1.2)
    trunk, arms, legs, skull = (draws.normal(mean, 0.06) for mean in (1, 1, 1, 1.05))
    points = {"pelvis": np.zeros((len(draws), 3))}
    points["thorax"] = torso.up * (0.295 * trunk)[:, None]
    points["upper_neck"] = points["thorax"] + _mean(torso.up, head.up) * (0.045 * trunk)[:, None]
    points |= _head_points(points["upper_neck"], head, skull)
    for sign, side in zip((1.0, -1.0), SIDES, strict=True):
        points |= _arm_points(draws, sign, side, points["thorax"], torso, arms, width)
        points |= _leg_points(draws, sign, side, body, legs, width)
    to_image = np.array([1.0, -1.0, -1.0])
    ordered = np.stack([points[name] for name in _POINTS], axis=1) * to_image
    return Figures(ordered, head.forward * to_image, width, np.ones(len(draws)))


POSE_DRAWS = 39
"""Columns that `pose_people` takes."""


class _Frame:
    """Axes to the person's left, up and forward, (N, 3) each, in the camera's axes.

    Args:
        rotation: From the body part's own axes to the camera's: right, up, towards the camera.
    """

    def __init__(self, rotation: Float64[np.ndarray, "N 3 3"]) -> None:
        self.left, self.up, self.forward = np.moveaxis(rotation, 2, 0)

    def direction(self, sideways, down, forward) -> np.ndarray:
        """(N, 3) from components (N,) along the axes."""
        return (
            sideways[:, None] * self.left
            - down[:, None] * self.up
            + forward[:, None] * self.forward
        )


def _mean(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return _normalized(a + b)


def _normalized(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-9)


def _frames(draws: Draws, turned_away: float) -> tuple[_Frame, _Frame, _Frame]:
    """Axes of hips, torso and head."""
    turn = draws.normal(0, 24) + 180.0 * draws.chance(turned_away)
    # One in ten leans or lies far over, the others stand nearly upright.
    tilt = np.where(draws.chance(0.1), draws.uniform(-75, 75), draws.normal(0, 7))
    looking_down = draws.normal(8, 5)
    angles = [
        (-turn, -looking_down, -tilt),
        (draws.normal(0, 10), draws.normal(6, 11), draws.normal(0, 8)),
        (draws.normal(0, 18), draws.normal(4, 9), draws.normal(0, 8)),
    ]
    order = np.array(angles).transpose(0, 2, 1).reshape(-1, 3)
    turns = Rotation.from_euler("YXZ", order, degrees=True).as_matrix().reshape(3, -1, 3, 3)
    # The hips' angles are those of the inverse: the turn is applied first, the tilt last.
    body = turns[0].transpose(0, 2, 1)
    torso = body @ turns[1]
    return _Frame(body), _Frame(torso), _Frame(torso @ turns[2])


def _head_points(neck: np.ndarray, head: _Frame, size: np.ndarray) -> dict[str, np.ndarray]:
    def at(sideways: float, up: float, forward: float) -> np.ndarray:
        return neck + head.direction(sideways * size, -up * size, forward * size)

    head_top, crown_radius = at(0, 0.158, 0), LIMBS["head"][2]
    return {
        "head_top": head_top, "crown": head_top - crown_radius * head.up, "chin": at(0, 0.052, 0.006),
        "nose": at(0, 0.072, 0.058),
        "left_eye": at(0.022, 0.092, 0.046), "right_eye": at(-0.022, 0.092, 0.046),
        "left_ear": at(0.054, 0.082, 0), "right_ear": at(-0.054, 0.082, 0),
    }  # fmt: skip


def _arm_points(draws, sign, side, thorax, torso, length, width) -> dict[str, np.ndarray]:
    # Zero hangs down, 170 reaches up; low ones are the most frequent.
    raised = np.deg2rad(8 + 162 * draws.unit() ** 1.7)
    swing = np.deg2rad(draws.uniform(-25, 85))
    upper_arm = torso.direction(
        sign * np.sin(raised) * np.cos(swing), np.cos(raised), np.sin(raised) * np.sin(swing)
    )
    # The forearm closes forwards, inwards or upwards: the elbow does not bend backwards.
    towards = torso.direction(
        -sign * draws.uniform(-0.5, 1.0), -draws.uniform(-0.3, 1.0), draws.uniform(0.3, 1.0)
    )
    forearm = _bent(upper_arm, towards, np.deg2rad(5 + 125 * draws.unit() ** 1.2))
    shrug = 0.03 * (1 - np.cos(raised)) / 2
    shoulder = thorax + torso.direction(sign * 0.112 * width, 0.012 - shrug, np.zeros(len(length)))
    elbow = shoulder + upper_arm * (0.168 * length)[:, None]
    wrist = elbow + forearm * (0.15 * length)[:, None]
    hand = wrist + forearm * (0.045 * length)[:, None]
    return {
        f"{side}_shoulder": shoulder, f"{side}_elbow": elbow, f"{side}_wrist": wrist,
        f"{side}_hand": hand,
    }  # fmt: skip


def _leg_points(draws, sign, side, body, length, width) -> dict[str, np.ndarray]:
    swing = np.deg2rad(draws.uniform(-40, 95))
    # A leg goes up higher in front of the body than beside it.
    highest = 50 + 32 * np.sin(swing) ** 2
    raised = np.deg2rad(3 + (highest - 3) * draws.unit() ** 2.2)
    thigh = body.direction(
        sign * np.sin(raised) * np.cos(swing), np.cos(raised), np.sin(raised) * np.sin(swing)
    )
    # Heels go back, never forwards; the more the thigh is lifted the more the knee is bent.
    backwards = body.direction(sign * draws.uniform(-0.3, 0.4), 0 * raised, 0 * raised - 1)
    bend = np.deg2rad(3 + 90 * draws.unit() ** 2) + 0.4 * raised * np.clip(np.sin(swing), 0, 1)
    shin = _bent(thigh, backwards, bend)
    ahead = body.direction(0 * raised + 0.45 * sign, 0 * raised, 0 * raised + 1)
    toes = _bent(shin, ahead, np.deg2rad(draws.uniform(55, 95)))
    hip = body.direction(sign * 0.062 * width, 0 * raised, 0 * raised)
    knee = hip + thigh * (0.238 * length)[:, None]
    ankle = knee + shin * (0.235 * length)[:, None]
    toe = ankle + toes * (0.075 * length)[:, None]
    return {
        f"{side}_hip": hip, f"{side}_knee": knee, f"{side}_ankle": ankle, f"{side}_toe": toe,
    }  # fmt: skip


def _bent(limb: np.ndarray, towards: np.ndarray, angle: np.ndarray) -> np.ndarray:
    """Unit vectors (N, 3): `limb` turned by `angle` (N,) radians in the plane of `towards`."""
    across = _normalized(towards - (towards * limb).sum(-1, keepdims=True) * limb)
    return np.cos(angle)[:, None] * limb + np.sin(angle)[:, None] * across
