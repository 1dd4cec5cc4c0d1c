"""Drawn people: a dataset that needs no download and that pose networks can learn from.

Person `index` of a split is a pure function of (seed, split, index): the table of joints is computed for all
persons at once, the pictures are drawn when they are read, the same in every process and every order.
"""

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Int8, UInt8
from numpy.random import Generator

from pnfs.body import skeleton_by_name
from pnfs.data.datasets.base import PoseDataset
from pnfs.data.datasets.mpii import pckh
from pnfs.data.figures import LANDMARKS, LIMBS, TORSO_RADIUS, Draws, Figures, pose_people
from pnfs.data.images import DataError
from pnfs.data.persons import UNLABELLED, VISIBLE, Persons
from pnfs.evaluation.pck import PCK

Image = UInt8[np.ndarray, "H W 3"]
Color = tuple[float, float, float]

SPLITS = ("train", "val")
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

    def read(self, index: int, with_person: bool = True) -> UInt8[np.ndarray, "H W 3"]:
        """The picture of person `index` in RGB, or what it would be without that person."""
        if not 0 <= index < self.count:
            raise DataError(f"{self.describe(index)}: there are only {self.count}")
        image = _background(self._stream(index, _BACKGROUND), self.size, self.clutter)
        if with_person:
            figures, _ = self.people([index])
            _draw_person(image, figures, 0, _appearance(self._stream(index, _LOOKS)))
        return _lit(self._stream(index, _LIGHT), image)

    def people(self, indices: Sequence[int]) -> tuple[Figures, Int8[np.ndarray, "N L"]]:
        """The people of these pictures, and the visibility of their `LANDMARKS`."""
        # More random numbers than are used.
        draws = Draws(np.stack([self._stream(index, _PERSON).random(80) for index in indices]))
        figures = self._placed(pose_people(draws, self.turned_away), draws)
        at, (height, width) = figures.points[..., :2], self.size
        labelled = np.stack([~draws.chance(self.unlabelled) for _ in LANDMARKS], axis=1)
        labelled &= ((at >= 0) & (at <= (width - 1, height - 1))).all(axis=2)
        # Nobody can say where the face of a person seen from behind is.
        face = [LANDMARKS.index(name) for name in ("nose", "left_eye", "right_eye")]
        labelled[:, face] &= figures.forward[:, 2:] < 0
        return figures, np.where(labelled, VISIBLE, UNLABELLED).astype(np.int8)

    def _stream(self, index: int, stream: int) -> Generator:
        return np.random.default_rng([self.seed, self.split, index, stream])

    def _placed(self, figures: Figures, draws: Draws) -> Figures:
        """The people at varied sizes and places, few of them cut by the picture's edge."""
        room = np.array(self.size[::-1]) - 1.0  # From the first to the last pixel.
        low, high = figures.bounds()
        unit = draws.uniform(0.62, 0.92) * min(room[1], 1.2 * room[0])
        unit = np.minimum(unit, (0.98 * room / (high - low)).min(axis=1))
        extent = unit[:, None] * (high - low)
        slack = (room - extent) / 2
        shift = np.stack([draws.uniform(-0.9, 0.9), draws.uniform(-0.9, 0.9)], axis=1) * slack
        # Cut off on the left, on the right or at the feet.
        away = np.array([(-1.0, 0.0), (1.0, 0.0), (0.0, 1.0)])[(3 * draws.uniform()).astype(int)]
        outside = away * (slack + draws.uniform(0.1, 0.35)[:, None] * extent)
        cut = draws.chance(self.truncated)[:, None] & (away != 0)
        center = room / 2 + np.where(cut, outside, shift)
        return figures.placed(unit, center - unit[:, None] * (low + high) / 2)


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
        figures, visibility = images.people(range(count))
        columns = [LANDMARKS.index(name) for name in self.skeleton.joints]
        joints, visibility = figures.points[:, columns, :2], visibility[:, columns]
        limit = np.array(images.size[::-1]) - 1
        low, high = (np.clip(corner, 0, limit) for corner in figures.bounds())
        box = high - low
        if self.skeleton.name == "mpii":
            # MPII gives one scale per person, not a box of the person's shape.
            box = np.repeat(box.max(axis=1, keepdims=True), 2, axis=1)
        return Persons(
            name=f"synthetic {split}",
            skeleton=self.skeleton,
            images=images,
            ids=np.array([f"{split}-{row:06d}" for row in range(count)]),
            image_index=np.arange(count, dtype=np.int64),
            joints=np.where(visibility[..., None] > UNLABELLED, joints, 0).astype(np.float32),
            visibility=visibility,
            center=((low + high) / 2).astype(np.float32),
            box_size=(self.padding * box).astype(np.float32),
            reference_length=figures.head_size().astype(np.float32),
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
    red, green, blue = colorsys.hsv_to_rgb(rng.random(), 0.85 * rng.random(), rng.uniform(0.2, 1))
    return 255 * red, 255 * green, 255 * blue


def _appearance(rng: Generator) -> dict[str, Color]:
    """Colours by limb, and of "torso" and "skin": sleeves and trousers are long or short."""
    shirt, trousers = _random_color(rng), _random_color(rng)
    skin, hair = (_shaded(some[rng.integers(5)], rng.uniform(0.9, 1.1)) for some in (_SKIN, _HAIR))
    sleeve, shorts = rng.random(), rng.random() < 0.3
    worn = {
        "arm": skin if sleeve < 0.15 else shirt, "forearm": shirt if sleeve > 0.6 else skin,
        "thigh": trousers, "shin": skin if shorts else trousers, "neck": skin, "head": hair,
    }  # fmt: skip
    looks = {limb: worn[limb.rsplit("_", 1)[-1]] for limb in LIMBS}
    return looks | {"torso": shirt, "skin": skin}


def _shaded(color: tuple[float, ...], factor: float) -> Color:
    red, green, blue = (min(255.0, channel * factor) for channel in color)
    return red, green, blue


def _fixed(points: np.ndarray) -> np.ndarray:
    return np.rint(points * (1 << _SHIFT)).astype(np.int32)


def _stroke(image: Image, ends: np.ndarray, radius: float, color: Color) -> None:
    """A line with round ends."""
    (first, last), width = _fixed(ends).tolist(), max(1, round(2 * radius))
    cv2.line(image, first, last, color, width, cv2.LINE_AA, _SHIFT)


def _disc(image: Image, center: np.ndarray, radius: float, color: Color) -> None:
    size = max(1, round(radius * (1 << _SHIFT)))
    cv2.circle(image, _fixed(center).tolist(), size, color, cv2.FILLED, cv2.LINE_AA, _SHIFT)


def _draw_person(image: Image, figures: Figures, row: int, looks: dict[str, Color]) -> None:
    """Draws person `row`, what is far from the camera first.

    OpenCV draws at a sixteenth of a pixel; (0, 0) is the centre of the upper left pixel, as everywhere in pnfs.
    """
    unit, names = float(figures.unit[row]), [*LIMBS, "torso"]
    ends, radii = (column[row] for column in figures.limbs())
    corners = figures.torso()[row]
    for part in np.argsort(-figures.depths()[row], kind="stable").tolist():
        # A dark outline keeps limbs of one colour apart.
        for margin, shade in ((max(0.7, 0.006 * unit), 0.6), (0.0, 1.0)):
            color = _shaded(looks[names[part]], shade)
            if names[part] == "torso":
                cv2.fillConvexPoly(image, _fixed(corners), color, cv2.LINE_AA, _SHIFT)
                for edge in range(4):
                    sides = corners[[edge, edge - 1]]
                    _stroke(image, sides, TORSO_RADIUS * unit + margin, color)
            else:
                _stroke(image, ends[part], radii[part] + margin, color)
        if names[part] == "head" and figures.forward[row, 2] < 0:
            # The face slides over the head as it turns.
            center = ends[part].mean(0) + unit * (0.02 * figures.forward[row, :2] + (0, 0.012))
            _disc(image, center, 0.045 * unit, looks["skin"])


def _background(rng: Generator, size: tuple[int, int], clutter: int) -> Image:
    """A soft random scene with `clutter` bars and discs; size is (height, width)."""
    height, width = size
    cells = int(rng.integers(2, 9))
    coarse = np.array(_random_color(rng)) + rng.normal(0, rng.uniform(10, 45), (cells, cells, 3))
    coarse = np.clip(coarse, 0, 255).astype(np.uint8)
    image = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR)
    for bar in rng.random(clutter) < 0.7:
        places = rng.uniform((0, 0), (width, height)) + rng.uniform(-0.2, 0.2, (2, 2)) * height
        radius = rng.uniform(0.01, 0.08) * height
        if bar:
            _stroke(image, places, radius, _random_color(rng))
        else:
            _disc(image, places[0], radius, _random_color(rng))
    return image


def _lit(rng: Generator, image: Image) -> Image:
    """The picture under light of another strength and colour, with noise of up to 5 grey levels."""
    light = rng.uniform(0.7, 1.25) * rng.uniform(0.95, 1.05, 3)
    image = cv2.multiply(image, np.array([*light, 1.0]))
    grain = np.frombuffer(rng.bytes(image.size), np.uint8).reshape(image.shape)
    return cv2.addWeighted(image, 1.0, grain, 10 / 255, -5)
