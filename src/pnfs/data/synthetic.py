"""Drawn people: a dataset that needs no download and that pose networks can learn from.

Person `index` of a split is a pure function of (seed, split, index): the table of joints is computed for all
persons at once, the pictures are drawn when they are read, the same in every process and every order.
"""

import colorsys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Float64, UInt8
from numpy.random import Generator

from pnfs.body import skeleton_by_name
from pnfs.data.datasets.base import PoseDataset
from pnfs.data.datasets.mpii import pckh
from pnfs.data.images import DataError
from pnfs.data.persons import UNLABELLED, VISIBLE, Persons
from pnfs.evaluation.pck import PCK

Image = UInt8[np.ndarray, "H W 3"]
Color = tuple[float, ...]

SPLITS, SIDES = ("train", "val"), ("left", "right")
# Every point that a skeleton may label; MPII and COCO take their joints from these.
LANDMARKS = (
    "head_top", "upper_neck", "thorax", "pelvis", "nose",
    *(f"{side}_{stem}" for stem in (
        "eye", "ear", "shoulder", "elbow", "wrist", "hip", "knee", "ankle") for side in SIDES),
)  # fmt: skip

# Drawn limbs: name -> (first landmark, second landmark, radius in person heights).
LIMBS: Mapping[str, tuple[str, str, float]] = {
    **{f"{side}_{limb}": (f"{side}_{first}", f"{side}_{second}", radius)
       for limb, first, second, radius in (
           ("thigh", "hip", "knee", 0.042), ("shin", "knee", "ankle", 0.030),
           ("upper_arm", "shoulder", "elbow", 0.030), ("forearm", "elbow", "wrist", 0.022))
       for side in SIDES},
    "neck": ("upper_neck", "thorax", 0.032),
    "head": ("head_top", "nose", 0.050),
}  # fmt: skip
RADIUS = 0.05  # Of the thickest part, in person heights.
_TORSO = ("left_shoulder", "right_shoulder", "right_hip", "left_hip")
_SKIN = ((255, 224, 196), (224, 172, 130), (198, 140, 100), (160, 105, 70), (90, 58, 40))
_HAIR = ((25, 20, 18), (60, 40, 25), (150, 100, 45), (205, 170, 95), (150, 150, 150))
_SHIFT = 4  # OpenCV draws at a sixteenth of a pixel; (0, 0) is the centre of the upper left pixel.
# Independent streams of random numbers of one picture.
_PERSON, _BACKGROUND, _LOOKS, _LIGHT = range(4)


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


@dataclass(frozen=True)
class SyntheticImages:
    """Draws picture `index` of split number `split` whenever it is read; arguments as in `Synthetic`."""

    seed: int
    split: int
    count: int
    size: tuple[int, int]
    turned_away: float
    truncated: float
    unlabelled: float
    clutter: int

    def describe(self, index: int) -> str:
        return f"synthetic {SPLITS[self.split]} picture {index} of seed {self.seed}"

    def read(self, index: int, with_person: bool = True) -> Image:
        """The picture of person `index` in RGB, or what it would be without that person."""
        if not 0 <= index < self.count:
            raise DataError(f"{self.describe(index)}: there are only {self.count}")
        image = _background(self._stream(index, _BACKGROUND), self.size, self.clutter)
        if with_person:
            _draw_person(image, self.people([index])[0], _looks(self._stream(index, _LOOKS)))
        # Light of another strength and colour, and noise of up to 5 grey levels.
        light = self._stream(index, _LIGHT)
        strength = light.uniform(0.7, 1.25) * light.uniform(0.95, 1.05, 3)
        image = cv2.multiply(image, np.array([*strength, 1.0]))
        grain = np.frombuffer(light.bytes(image.size), np.uint8).reshape(image.shape)
        return cv2.addWeighted(image, 1.0, grain, 10 / 255, -5)

    def people(self, indices: Sequence[int]) -> tuple[People, Bool[np.ndarray, "N L"]]:
        """The people of these pictures, at varied sizes and places, and which `LANDMARKS` are labelled."""
        # Columns of uniform numbers, a row a person, taken one after another; more than are used.
        columns = iter(np.stack([self._stream(i, _PERSON).random(80) for i in indices], axis=1))

        def draw(low: float = 0.0, high: float = 1.0) -> Float64[np.ndarray, " N"]:
            return low + (high - low) * next(columns)

        people = _pose_people(draw, self.turned_away)
        room = np.array(self.size[::-1]) - 1.0  # From the first to the last pixel.
        low, high = people.bounds()
        unit = draw(0.62, 0.92) * min(room[1], 1.2 * room[0])
        unit = np.minimum(unit, (0.98 * room / (high - low)).min(axis=1))[:, None]
        slack = (room - unit * (high - low)) / 2
        place = np.stack([draw(-0.9, 0.9), draw(-0.9, 0.9)], axis=1) * slack
        # Few are cut off on the left, on the right or at the feet.
        away = np.array([(-1.0, 0.0), (1.0, 0.0), (0.0, 1.0)])[(3 * draw()).astype(int)]
        outside = away * (slack + draw(0.1, 0.35)[:, None] * unit * (high - low))
        cut = (draw() < self.truncated)[:, None] & (away != 0)
        origin = room / 2 + np.where(cut, outside, place) - unit * (low + high) / 2
        points = people.points * unit[..., None] + origin[:, None]
        labelled = np.stack([draw() >= self.unlabelled for _ in LANDMARKS], axis=1)
        labelled &= ((points >= 0) & (points <= room)).all(axis=2)
        # Nobody can say where the face of a person seen from behind is.
        face = [LANDMARKS.index(name) for name in ("nose", "left_eye", "right_eye")]
        labelled[:, face] &= people.facing[:, None]
        return people._replace(points=points, unit=unit[:, 0]), labelled

    def _stream(self, index: int, stream: int) -> Generator:
        return np.random.default_rng([self.seed, self.split, index, stream])


class Synthetic(PoseDataset):
    """Drawn people in varied poses, clothes and surroundings, one labelled person per picture.

    Skeletons are "mpii" (16 joints) and "coco" (17 joints); the pictures are the same. `turned_away`, `truncated`
    (cut off by the picture's edge) and `unlabelled` (of a joint) are probabilities, `clutter` the number of bars
    and discs in the background, `image_size` (height, width). Raises DataError for an argument out of range.
    """

    name = "synthetic"
    splits = SPLITS

    def __init__(
        self,
        skeleton: str = "mpii",
        train: int = 2000,
        val: int = 200,
        seed: int = 0,
        image_size: tuple[int, int] = (192, 192),
        turned_away: float = 0.3,
        truncated: float = 0.08,
        unlabelled: float = 0.02,
        clutter: int = 8,
    ) -> None:
        super().__init__()
        if skeleton not in ("mpii", "coco"):
            raise DataError(f"synthetic: skeleton is mpii or coco, not {skeleton!r}")
        shares = {"turned_away": turned_away, "truncated": truncated, "unlabelled": unlabelled}
        counts, people = {"clutter": clutter, "seed": seed}, {"train": train, "val": val}
        least, sides = {"train": 1, "val": 1, "image_size": 32}, {"image_size": min(image_size)}
        for name, value in {**shares, **counts, **people, **sides}.items():
            if not least.get(name, 0) <= value <= (1 if name in shares else np.inf):
                raise DataError(f"synthetic: {name}={value} is too small, or too large")
        self.skeleton = skeleton_by_name(skeleton)
        self._counts, self._knobs = people, {**shares, **counts, "size": tuple(image_size)}

    def load(self, split: str) -> Persons:
        """The people of a split, row n standing in picture n."""
        count = self._counts[split]
        images = SyntheticImages(split=SPLITS.index(split), count=count, **self._knobs)
        people, labelled = images.people(range(count))
        columns = [LANDMARKS.index(name) for name in self.skeleton.joints]
        joints, labelled = people.points[:, columns], labelled[:, columns]
        low, high = (np.clip(corner, 0, np.array(images.size[::-1]) - 1) for corner in people.bounds())
        box = high - low
        if self.skeleton.name == "mpii":
            # MPII gives one scale per person, not a box of the person's shape.
            box = np.repeat(box.max(axis=1, keepdims=True), 2, axis=1)
        top, neck = (people.points[:, LANDMARKS.index(n)] for n in ("head_top", "upper_neck"))
        length = np.linalg.norm(top - neck, axis=1) + RADIUS * people.unit
        return Persons(
            name=f"synthetic {split}",
            skeleton=self.skeleton,
            images=images,
            ids=np.array([f"{split}-{row:06d}" for row in range(count)]),
            image_index=np.arange(count, dtype=np.int64),
            joints=np.where(labelled[..., None], joints, 0).astype(np.float32),
            visibility=np.where(labelled, VISIBLE, UNLABELLED).astype(np.int8),
            center=((low + high) / 2).astype(np.float32),
            box_size=(self.padding * box).astype(np.float32),
            # 0.6 x the diagonal of a box around the head, as MPII's evaluation defines it.
            reference_length=(0.6 * np.hypot(length, 2 * RADIUS * people.unit)).astype(np.float32),
        )

    def metric(self, split: str) -> PCK:
        """PCKh at 0.5, 0.1 and 0.11 of the head size."""
        self.require_split(split)
        return pckh(self.skeleton)


def _pose_people(draw: Callable[..., Float64[np.ndarray, " N"]], turned_away: float) -> People:
    """People in varied poses, about one unit tall, the pelvis at (0, 0), of fewer than 40 draws."""
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
    across, up = np.stack([np.broadcast_arrays(*at[n], lean)[:2] for n in LANDMARKS], axis=-1)
    x, y, lean = across * np.where(facing, 1, -1)[:, None], -up, lean[:, None]
    turned = (x * np.cos(lean) - y * np.sin(lean), x * np.sin(lean) + y * np.cos(lean))
    in_front = np.stack([draw() < 0.7, draw() < 0.7], axis=1)
    return People(np.stack(turned, axis=-1), np.ones(len(x)), facing, in_front)


def _random_color(rng: Generator) -> Color:
    hsv = rng.random(), 0.85 * rng.random(), rng.uniform(0.2, 1)
    return tuple(255 * channel for channel in colorsys.hsv_to_rgb(*hsv))


def _looks(rng: Generator) -> dict[str, Color]:
    """Colours by part of the body: sleeves and trousers are long or short."""
    shirt, trousers = _random_color(rng), _random_color(rng)
    skin, hair = (some[rng.integers(5)] for some in (_SKIN, _HAIR))
    sleeve, shorts = rng.random(), rng.random() < 0.3
    return {
        "upper_arm": skin if sleeve < 0.15 else shirt, "forearm": shirt if sleeve > 0.6 else skin,
        "thigh": trousers, "shin": skin if shorts else trousers, "neck": skin, "head": hair,
        "torso": shirt, "face": skin,
    }  # fmt: skip


def _fixed(points: Any) -> np.ndarray:
    return np.rint(np.stack(points) * (1 << _SHIFT)).astype(np.int32)


def _stroke(image: Image, ends: Any, radius: float, color: Color) -> None:
    """A line with round ends."""
    (first, last), width = _fixed(ends).tolist(), max(1, round(2 * radius))
    cv2.line(image, first, last, color, width, cv2.LINE_AA, _SHIFT)


def _draw_person(image: Image, people: People, looks: Mapping[str, Color]) -> None:
    """Draws the first of the people, what is far from the camera first."""
    at, unit = dict(zip(LANDMARKS, people.points[0], strict=True)), float(people.unit[0])
    arms = {True: [], False: []}
    for side, in_front in zip(SIDES, people.arms_in_front[0].tolist(), strict=True):
        arms[in_front] += [f"{side}_upper_arm", f"{side}_forearm"]
    legs = [f"{side}_{part}" for side in SIDES for part in ("thigh", "shin")]
    for part in [*arms[False], *legs, "neck", "torso", "head", *arms[True]]:
        color = looks[part.partition("_")[2] if part.startswith(SIDES) else part]
        # A dark outline keeps limbs of one colour apart.
        for margin, shade in ((max(0.7, 0.006 * unit), 0.6), (0.0, 1.0)):
            shown = tuple(shade * channel for channel in color)
            if part == "torso":
                corners = [at[name] for name in _TORSO]
                cv2.fillConvexPoly(image, _fixed(corners), shown, cv2.LINE_AA, _SHIFT)
                for edge in range(4):
                    _stroke(image, (corners[edge], corners[edge - 1]), 0.045 * unit + margin, shown)
            else:
                first, second, radius = LIMBS[part]
                _stroke(image, (at[first], at[second]), radius * unit + margin, shown)
        if part == "head" and people.facing[0]:
            _stroke(image, (at["nose"], at["nose"]), 0.04 * unit, looks["face"])


def _background(rng: Generator, size: tuple[int, int], clutter: int) -> Image:
    """A soft random scene with `clutter` bars and discs; size is (height, width)."""
    height, width = size
    cells = int(rng.integers(2, 9))
    coarse = np.array(_random_color(rng)) + rng.normal(0, rng.uniform(10, 45), (cells, cells, 3))
    coarse = np.clip(coarse, 0, 255).astype(np.uint8)
    image = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR)
    for bar in rng.random(clutter) < 0.7:
        ends = rng.uniform((0, 0), (width, height)) + rng.uniform(-0.2, 0.2, (2, 2)) * height
        radius = rng.uniform(0.01, 0.08) * height
        _stroke(image, ends if bar else ends[[0, 0]], radius, _random_color(rng))
    return image
