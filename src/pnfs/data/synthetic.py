"""Drawn people: a dataset that needs no download and that pose networks can learn from.

Person `index` of a split is a pure function of (seed, split, index): the table of joints is computed for all
persons at once, the pictures are drawn when they are read, the same in every process and every order.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
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

SPLITS, SIDES = ("train", "val"), ("left", "right")
# Every point that a skeleton may label; MPII and COCO take their joints from these.
LANDMARKS = (
    "head_top", "upper_neck", "thorax", "pelvis", "nose",
    *(f"{side}_{stem}" for stem in (
        "eye", "ear", "shoulder", "elbow", "wrist", "hip", "knee", "ankle") for side in SIDES),
)  # fmt: skip
# What is drawn, one after the other: landmarks (of each side), radius in person heights, what gives the colour.
_STROKES = [
    ([f"{side}{stem}" for stem in stems.split()], radius, kind)
    for sides, stems, radius, kind in (
        (2, "hip knee", 0.042, "trousers"), (2, "knee ankle", 0.03, "trousers"),
        (1, "upper_neck thorax", 0.032, "skin"), (1, "thorax pelvis", 0.05, "shirt"),
        (2, "shoulder hip", 0.045, "shirt"), (1, "head_top nose", 0.05, "hair"),
        (2, "shoulder elbow", 0.03, "shirt"), (2, "elbow wrist", 0.022, "skin"),
    )
    for side in (("left_", "right_") if sides == 2 else ("",))
]  # fmt: skip
RADIUS = 0.05  # Radius of the thickest limb, in person heights.
_SHIFT = 4  # OpenCV draws at a sixteenth of a pixel; (0, 0) is the centre of the upper left pixel.


class People(NamedTuple):
    """N people, x to the right, y down."""

    points: Float64[np.ndarray, "N L 2"]  # In the order of `LANDMARKS`.
    unit: Float64[np.ndarray, " N"]  # Length of one person height.
    facing: Bool[np.ndarray, " N"]  # Whether the face is seen.

    def bounds(self) -> tuple[Float64[np.ndarray, "N 2"], Float64[np.ndarray, "N 2"]]:
        """Upper left and lower right corner of the drawn person."""
        margin = RADIUS * self.unit[:, None]
        return self.points.min(1) - margin, self.points.max(1) + margin


@dataclass(frozen=True)
class SyntheticImages:
    """Draws picture `index` of split number `split` whenever it is read; arguments as in `Synthetic`."""

    seed: int
    size: tuple[int, int]
    turned_away: float
    truncated: float
    unlabelled: float
    clutter: int
    split: int = 0
    count: int = 0

    def describe(self, index: int) -> str:
        return f"synthetic {SPLITS[self.split]} picture {index} of seed {self.seed}"

    def read(self, index: int, with_person: bool = True) -> Image:
        """The picture of person `index` in RGB, or what it would be without that person."""
        if not 0 <= index < self.count:
            raise DataError(f"{self.describe(index)}: there are only {self.count}")
        rng = self._stream(index, 1)
        colours = {kind: rng.uniform(20, 255, 3) for kind in ("shirt", "trousers", "hair")}
        colours["skin"] = rng.uniform(0.35, 1) * np.array([255, 224, 196])
        # Light of another strength and colour, and noise of up to 5 grey levels.
        light = rng.uniform(0.7, 1.25) * rng.uniform(0.95, 1.05, 3)
        image = _background(rng, self.size, self.clutter)
        grain = np.frombuffer(rng.bytes(image.size), np.uint8).reshape(image.shape)
        if with_person:
            _draw_person(image, self.people([index])[0], colours)
        return cv2.addWeighted(cv2.multiply(image, np.array([*light, 1.0])), 1.0, grain, 10 / 255, -5)

    def people(self, indices: Sequence[int]) -> tuple[People, Bool[np.ndarray, "N L"]]:
        """The people of these pictures, at varied sizes and places, and which `LANDMARKS` are labelled."""
        # Columns of uniform numbers, a row a person, taken one after another; more than are used.
        columns = iter(np.stack([self._stream(i, 0).random(80) for i in indices], axis=1))

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
        """Random numbers of one picture: of the person (0), of all else (1)."""
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
        height, width = image_size
        shares = {"turned_away": turned_away, "truncated": truncated, "unlabelled": unlabelled}
        least = {"train": train - 1, "val": val - 1, "image_size": min(height, width) - 32}
        for name, value in {**shares, "clutter": clutter, "seed": seed, **least}.items():
            if not 0 <= value <= (1 if name in shares else np.inf):
                raise DataError(f"synthetic: {name} is too small, or too large")
        self.skeleton, self._counts = skeleton_by_name(skeleton), {"train": train, "val": val}
        self._images = SyntheticImages(seed, (height, width), turned_away, truncated, unlabelled, clutter)

    def load(self, split: str) -> Persons:
        """The people of a split, row n standing in picture n."""
        count = self._counts[split]
        images = replace(self._images, split=SPLITS.index(split), count=count)
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

        def limb(start: str, angle: np.ndarray, length: np.ndarray, sign=sign, side=side) -> tuple:
            """The end of a limb that is turned outwards by `angle` from hanging down."""
            across, up = at[f"{side}_{start}"]
            return across + sign * length * np.sin(angle), up - length * np.cos(angle)

        for stem, across, up, share in (("eye", 0.022, 0.43, 3), ("ear", 0.054, 0.42, 3),
                                        ("shoulder", 0.112, 0.283, 0), ("hip", 0.062, 0.0, 0)):  # fmt: skip
            at[f"{side}_{stem}"] = (share * slide + sign * across * width, up)
        # Zero hangs down, 170 degrees reaches up; low ones are the most frequent.
        raised = np.deg2rad(8 + 162 * draw() ** 1.7)
        bent = np.deg2rad(5 + 125 * draw() ** 1.2) * np.where(draw() < 0.5, 1, -1)
        at[f"{side}_elbow"] = limb("shoulder", raised, 0.168 * draw(0.6, 1.0))
        at[f"{side}_wrist"] = limb("elbow", raised + bent, 0.15 * draw(0.6, 1.0))
        spread, bent = np.deg2rad(2 + 50 * draw() ** 2), np.deg2rad(60 * draw() ** 2)
        at[f"{side}_knee"] = limb("hip", spread, 0.238 * draw(0.7, 1.0))
        at[f"{side}_ankle"] = limb("knee", spread - bent, 0.235 * draw(0.7, 1.0))
    # One in ten leans or lies far over, the others stand nearly upright.
    lean = np.deg2rad(np.where(draw() < 0.1, draw(-75, 75), draw(-12, 12)))
    across, up = np.stack([np.broadcast_arrays(*at[n], lean)[:2] for n in LANDMARKS], axis=-1)
    x, y, lean = across * np.where(facing, 1, -1)[:, None], -up, lean[:, None]
    turned = (x * np.cos(lean) - y * np.sin(lean), x * np.sin(lean) + y * np.cos(lean))
    return People(np.stack(turned, axis=-1), np.ones(len(x)), facing)


def _stroke(image: Image, ends: Any, radius: float, colour: np.ndarray) -> None:
    """A line with round ends."""
    (first, last), width = np.rint(np.stack(ends) * (1 << _SHIFT)).astype(int).tolist(), round(2 * radius)
    cv2.line(image, first, last, colour.astype(float).tolist(), max(1, width), cv2.LINE_AA, _SHIFT)


def _draw_person(image: Image, people: People, colours: Mapping[str, np.ndarray]) -> None:
    """Draws the first of the people."""
    at, unit = dict(zip(LANDMARKS, people.points[0], strict=True)), float(people.unit[0])
    for ends, radius, kind in _STROKES:
        # A dark outline keeps limbs of one colour apart.
        for margin, shade in ((max(0.7, 0.006 * unit), 0.6), (0.0, 1.0)):
            _stroke(image, [at[end] for end in ends], radius * unit + margin, shade * colours[kind])
        if kind == "hair" and people.facing[0]:
            _stroke(image, (at["nose"], at["nose"]), 0.04 * unit, colours["skin"])


def _background(rng: Generator, size: tuple[int, int], clutter: int) -> Image:
    """A soft random scene with `clutter` bars and discs; size is (height, width)."""
    height, width = size
    coarse = rng.uniform(20, 235, 3) + rng.normal(0, rng.uniform(10, 45), (*rng.integers(2, 9, 2), 3))
    image = cv2.resize(coarse.clip(0, 255).astype(np.uint8), (width, height), interpolation=cv2.INTER_LINEAR)
    for bar in rng.random(clutter) < 0.7:
        ends = rng.uniform((0, 0), (width, height)) + rng.uniform(-0.2, 0.2, (2, 2)) * height
        _stroke(image, ends if bar else ends[[0, 0]], rng.uniform(0.01, 0.08) * height, rng.integers(20, 256, 3))
    return image
