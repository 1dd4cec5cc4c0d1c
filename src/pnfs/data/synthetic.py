"""Drawn people: a dataset that needs no download and that pose networks can learn from.

Person `index` of a split is a pure function of (seed, split, index): the table of joints is computed for all
persons at once, the pictures are drawn when they are read, the same in every process and every order.
"""

import colorsys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Bool, UInt8
from numpy.random import Generator

from pnfs.body import skeleton_by_name
from pnfs.data.datasets.base import PoseDataset
from pnfs.data.datasets.mpii import pckh
from pnfs.data.figures import LANDMARKS, LIMBS, RADIUS, SIDES, Draws, People, pose_people
from pnfs.data.images import DataError
from pnfs.data.persons import UNLABELLED, VISIBLE, Persons
from pnfs.evaluation.pck import PCK

Image = UInt8[np.ndarray, "H W 3"]
Color = tuple[float, ...]

SPLITS = ("train", "val")
_TORSO = ("left_shoulder", "right_shoulder", "right_hip", "left_hip")
# Independent streams of random numbers of one picture.
_PERSON, _BACKGROUND, _LOOKS, _LIGHT = range(4)


@dataclass(frozen=True)
class SyntheticImages:
    """Draws picture `index` whenever it is read; small, so that it can travel to a worker.

    The arguments are those of `Synthetic`, whose split number `split` this is.
    """

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
        # More random numbers than are used.
        draw = Draws(np.stack([self._stream(index, _PERSON).random(80) for index in indices]))
        people = pose_people(draw, self.turned_away)
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
        people = people._replace(points=people.points * unit[..., None] + origin[:, None])
        people = people._replace(unit=unit[:, 0])
        labelled = np.stack([draw() >= self.unlabelled for _ in LANDMARKS], axis=1)
        labelled &= ((people.points >= 0) & (people.points <= room)).all(axis=2)
        # Nobody can say where the face of a person seen from behind is.
        face = [LANDMARKS.index(name) for name in ("nose", "left_eye", "right_eye")]
        labelled[:, face] &= people.facing[:, None]
        return people, labelled

    def _stream(self, index: int, stream: int) -> Generator:
        return np.random.default_rng([self.seed, self.split, index, stream])


class Synthetic(PoseDataset):
    """Drawn people in varied poses, clothes and surroundings, one labelled person per picture.

    Skeletons are "mpii" (16 joints) and "coco" (17 joints); the pictures are the same. `turned_away`, `truncated`
    (cut off by the picture's edge) and `unlabelled` (of a joint) are probabilities, `clutter` the number of bars
    and discs in the background, `image_size` (height, width).

    Raises:
        DataError: An argument is out of range.
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
        if len(image_size) != 2 or min(image_size) < 32:
            raise DataError(
                "synthetic: image_size must be (height, width) of at least 32 pixels, not "
                f"{tuple(image_size)}"
            )
        shares = {"turned_away": turned_away, "truncated": truncated, "unlabelled": unlabelled}
        for name, value in {**shares, "clutter": clutter, "seed": seed}.items():
            most = 1 if name in shares else np.inf
            if not 0 <= value <= most:
                raise DataError(f"synthetic: {name} must be from 0 to {most}, it is {value}")
        self.skeleton = skeleton_by_name(skeleton)
        height, width = image_size
        self._counts = {"train": train, "val": val}
        self._knobs = {
            **shares,
            "clutter": clutter,
            "seed": seed,
            "size": (int(height), int(width)),
        }

    def load(self, split: str) -> Persons:
        """The people of a split, row n standing in picture n."""
        count = self._counts[split]
        images = SyntheticImages(split=SPLITS.index(split), count=count, **self._knobs)
        if count < 1:
            raise DataError(f"synthetic {split}: there are no persons; set dataset.{split} above 0")
        people, labelled = images.people(range(count))
        columns = [LANDMARKS.index(name) for name in self.skeleton.joints]
        joints, labelled = people.points[:, columns], labelled[:, columns]
        limit = np.array(images.size[::-1]) - 1
        low, high = (np.clip(corner, 0, limit) for corner in people.bounds())
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


# --- pictures

_SHIFT = 4
_SKIN = ((255, 224, 196), (224, 172, 130), (198, 140, 100), (160, 105, 70), (90, 58, 40))
_HAIR = ((25, 20, 18), (60, 40, 25), (150, 100, 45), (205, 170, 95), (150, 150, 150))


def _random_color(rng: Generator) -> Color:
    hsv = rng.random(), 0.85 * rng.random(), rng.uniform(0.2, 1)
    return tuple(255 * channel for channel in colorsys.hsv_to_rgb(*hsv))


def _looks(rng: Generator) -> dict[str, Color]:
    """Colours by part of the body: sleeves and trousers are long or short."""
    shirt, trousers, skin, hair = _random_color(rng), _random_color(rng), *(
        some[rng.integers(5)] for some in (_SKIN, _HAIR)
    )  # fmt: skip
    sleeve, shorts = rng.random(), rng.random() < 0.3
    return {
        "upper_arm": skin if sleeve < 0.15 else shirt, "forearm": shirt if sleeve > 0.6 else skin,
        "thigh": trousers, "shin": skin if shorts else trousers, "neck": skin, "head": hair,
        "torso": shirt, "face": skin,
    }  # fmt: skip


def _fixed(points: np.ndarray) -> np.ndarray:
    return np.rint(points * (1 << _SHIFT)).astype(np.int32)


def _stroke(image: Image, ends: np.ndarray, radius: float, color: Color) -> None:
    """A line with round ends."""
    (first, last), width = _fixed(ends).tolist(), max(1, round(2 * radius))
    cv2.line(image, first, last, color, width, cv2.LINE_AA, _SHIFT)


def _draw_person(image: Image, people: People, looks: Mapping[str, Color]) -> None:
    """Draws the first of the people, what is far from the camera first.

    OpenCV draws at a sixteenth of a pixel; (0, 0) is the centre of the upper left pixel, as everywhere in pnfs.
    """
    at, unit = dict(zip(LANDMARKS, people.points[0], strict=True)), float(people.unit[0])
    in_front = dict(zip(SIDES, people.arms_in_front[0].tolist(), strict=True))
    arms = {side: [f"{side}_upper_arm", f"{side}_forearm"] for side in SIDES}
    legs = [f"{side}_{part}" for side in SIDES for part in ("thigh", "shin")]
    behind, before = (
        [part for side in SIDES if in_front[side] == front for part in arms[side]]
        for front in (False, True)
    )
    for part in [*behind, *legs, "neck", "torso", "head", *before]:
        color = looks[part.partition("_")[2] if part.startswith(SIDES) else part]
        # A dark outline keeps limbs of one colour apart.
        for margin, shade in ((max(0.7, 0.006 * unit), 0.6), (0.0, 1.0)):
            shown = tuple(shade * channel for channel in color)
            if part == "torso":
                corners = np.stack([at[name] for name in _TORSO])
                cv2.fillConvexPoly(image, _fixed(corners), shown, cv2.LINE_AA, _SHIFT)
                for edge in range(4):
                    _stroke(image, corners[[edge, edge - 1]], 0.045 * unit + margin, shown)
            else:
                first, second, radius = LIMBS[part]
                _stroke(image, np.stack([at[first], at[second]]), radius * unit + margin, shown)
        if part == "head" and people.facing[0]:
            _stroke(image, np.stack([at["nose"], at["nose"]]), 0.04 * unit, looks["face"])


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
