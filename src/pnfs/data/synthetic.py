"""Synthetic people: a dataset that needs no download and that pose networks can learn from.

Person `index` of a split is a pure function of (seed, split, index): the table of joints is
computed for all persons at once, the pictures are drawn when they are read, and both come out the
same in every process and in every order. What the poses look like is in `synthetic_body`, how
they are drawn in `synthetic_render`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int8, Int64, UInt8
from numpy.random import Generator

from pnfs.body import Skeleton, skeleton_by_name
from pnfs.data.persons import OCCLUDED, UNLABELLED, VISIBLE, DataError, Persons
from pnfs.data.readers import require_split
from pnfs.data.synthetic_body import LANDMARKS, POSE_DRAWS, Draws, Figures, pose_people
from pnfs.data.synthetic_render import (
    background,
    draw_person,
    fill,
    lit,
    random_appearance,
    random_color,
    turned_shape,
)
from pnfs.evaluation.pck import PCK

SPLITS = ("train", "val")
SKELETON_NAMES = ("mpii", "coco")

_PADDING = 1.25
"""By which the loaders of MPII and COCO enlarge a person's box."""
_ROWS_AT_ONCE = 4096
_SCENE_DRAWS = POSE_DRAWS + 14 + len(LANDMARKS)
_HIDEABLE = tuple(
    f"{side}_{joint}"
    for side in ("left", "right")
    for joint in ("elbow", "wrist", "hip", "knee", "ankle")
)

# Independent streams of random numbers of one picture; bystander d takes _BYSTANDERS + d.
_PERSON, _BACKGROUND, _LOOKS, _LIGHT, _BYSTANDERS = range(5)


@dataclass(frozen=True)
class Occluders:
    """At most one shape per person that lies over the picture; lengths in pixels."""

    present: Bool[np.ndarray, " N"]
    center: Float64[np.ndarray, "N 2"]
    half: Float64[np.ndarray, "N 2"]
    """Half axes."""
    angle: Float64[np.ndarray, " N"]
    """Radians, from x towards y."""
    ellipse: Bool[np.ndarray, " N"]
    """An ellipse, otherwise a rectangle."""

    def cover(self, at: Float64[np.ndarray, "N L 2"]) -> Bool[np.ndarray, "N L"]:
        """Whether the shape of person n lies over the points of row n."""
        c, s = np.cos(self.angle)[:, None], np.sin(self.angle)[:, None]
        dx, dy = np.moveaxis(at - self.center[:, None], 2, 0)
        across = np.abs([c * dx + s * dy, c * dy - s * dx]) / self.half.T[..., None]
        round_shape, box = np.hypot(*across) <= 1, across.max(axis=0) <= 1
        return self.present[:, None] & np.where(self.ellipse[:, None], round_shape, box)

    def outline(self, row: int) -> Float64[np.ndarray, "P 2"]:
        """Corners of the shape of one person."""
        return turned_shape(
            self.center[row], self.half[row], float(self.angle[row]), bool(self.ellipse[row])
        )


@dataclass(frozen=True)
class Scenes:
    """The labelled people of N pictures, in pixels."""

    figures: Figures
    occluders: Occluders
    labelled: Bool[np.ndarray, "N L"]
    """By landmark, in the order of `LANDMARKS`."""

    def visibility(self, size: tuple[int, int]) -> Int8[np.ndarray, "N L"]:
        """0 unlabelled, 1 hidden behind the occluder or the person's own body, 2 visible."""
        height, width = size
        figures = self.figures
        at = figures.landmarks()
        hidden = figures.self_occluded() | self.occluders.cover(at)
        labelled = self.labelled & ((at >= 0) & (at <= (width - 1, height - 1))).all(axis=2)
        for name in ("nose", "left_eye", "right_eye", "left_ear", "right_ear"):
            hidden[:, LANDMARKS.index(name)] |= ~figures.face_turned_to_camera(name)
        for name in ("nose", "left_eye", "right_eye"):
            # Nobody can say where the face of a person seen from behind is.
            labelled[:, LANDMARKS.index(name)] &= figures.facing()
        visibility = np.where(hidden, OCCLUDED, VISIBLE)
        return np.where(labelled, visibility, UNLABELLED).astype(np.int8)


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
    occluder: float
    bystanders: int
    clutter: int
    noise: int
    side_cue: bool

    def describe(self, index: int) -> str:
        return f"synthetic {SPLITS[self.split]} picture {index} of seed {self.seed}"

    def read(self, index: int) -> UInt8[np.ndarray, "H W 3"]:
        """The picture of person `index` in RGB."""
        return self.draw(index)

    def draw(self, index: int, with_person: bool = True) -> UInt8[np.ndarray, "H W 3"]:
        """The picture of person `index`, or what it would be without that person.

        Raises:
            DataError: There is no such picture.
        """
        if not 0 <= index < self.count:
            raise DataError(f"{self.describe(index)}: there are only {self.count}")
        scene = self.scenes([index])
        looks = self._stream(index, _LOOKS)
        own_look, shape_color = random_appearance(looks, self.side_cue), random_color(looks)
        image = background(self._stream(index, _BACKGROUND), self.size, self.clutter)
        self._draw_bystanders(image, index, scene.figures)
        if with_person:
            draw_person(image, scene.figures, 0, own_look)
        if scene.occluders.present[0]:
            fill(image, scene.occluders.outline(0), shape_color)
        return lit(self._stream(index, _LIGHT), image, self.noise)

    def scenes(self, indices: Sequence[int]) -> Scenes:
        """The labelled people of these pictures."""
        draws = Draws(
            np.stack([self._stream(index, _PERSON).random(_SCENE_DRAWS) for index in indices])
        )
        figures = self._placed(pose_people(draws, self.turned_away), draws)
        occluders = self._occluders(figures, draws)
        labelled = np.stack([~draws.chance(self.unlabelled) for _ in LANDMARKS], axis=1)
        return Scenes(figures, occluders, labelled)

    def _stream(self, index: int, stream: int) -> Generator:
        return np.random.default_rng([self.seed, self.split, index, stream])

    def _placed(self, figures: Figures, draws: Draws) -> Figures:
        """The people at varied sizes and places, few of them cut by the picture's edge."""
        # From the first to the last pixel.
        room = np.array(self.size[::-1]) - 1.0
        low, high = figures.bounds()
        unit = draws.uniform(0.62, 0.92) * min(room[1], 1.2 * room[0])
        unit = np.minimum(unit, (0.98 * room / (high - low)).min(axis=1))
        extent = unit[:, None] * (high - low)
        slack = (room - extent) / 2
        shift = draws.pairs(-0.9, 0.9) * slack
        # Cut off on the left, on the right or at the feet.
        away = np.array([(-1.0, 0.0), (1.0, 0.0), (0.0, 1.0)])[(3 * draws.unit()).astype(int)]
        outside = away * (slack + draws.uniform(0.1, 0.35)[:, None] * extent)
        cut = draws.chance(self.truncated)[:, None] & (away != 0)
        center = room / 2 + np.where(cut, outside, shift)
        return figures.placed(unit, center - unit[:, None] * (low + high) / 2)

    def _occluders(self, figures: Figures, draws: Draws) -> Occluders:
        """Shapes near a limb joint, so that they hide something."""
        joints = figures.landmarks()[:, [LANDMARKS.index(name) for name in _HIDEABLE]]
        chosen = (draws.unit() * len(_HIDEABLE)).astype(int)
        unit = figures.unit[:, None]
        return Occluders(
            present=draws.chance(self.occluder),
            center=joints[np.arange(len(chosen)), chosen] + draws.pairs(-0.08, 0.08) * unit,
            half=draws.pairs(0.04, 0.13) * unit,
            angle=draws.uniform(0, np.pi),
            ellipse=draws.chance(0.5),
        )

    def _draw_bystanders(self, image: np.ndarray, index: int, main: Figures) -> None:
        """Other people behind the labelled one, to its left or right."""
        for number in range(self.bystanders):
            rng = self._stream(index, _BYSTANDERS + number)
            if rng.random() < 0.5:
                continue
            figures = pose_people(Draws(rng.random((1, POSE_DRAWS))), self.turned_away)
            aside = rng.choice((-1, 1)) * rng.uniform(0.45, 0.8) * main.unit
            shift = np.stack([aside, rng.uniform(-0.1, 0.1) * main.unit], axis=1)
            origin = main.at("pelvis")[:, :2] + shift
            figures = figures.placed(rng.uniform(0.6, 1.0) * main.unit, origin)
            draw_person(image, figures, 0, random_appearance(rng, self.side_cue))


class Synthetic:
    """Drawn people in varied poses, clothes and surroundings, one labelled person per picture.

    Args:
        skeleton: "mpii" (16 joints) or "coco" (17 joints); the pictures are the same.
        train: Number of persons to train on.
        val: Number of persons to validate on; different people than those of "train".
        seed: Another seed gives other people.
        image_size: Height and width of the pictures in pixels.
        turned_away: Probability that a person shows the back.
        truncated: Probability that a person is cut off by the picture's edge.
        unlabelled: Probability that a joint has no label.
        occluder: Probability that a shape hides a part of the person.
        bystanders: Up to how many other, unlabelled people stand behind the person.
        clutter: Number of random shapes in the background.
        noise: Sensor noise, at most this many grey levels up or down.
        side_cue: Whether everybody's clothes are darker on the person's right arm and leg.
            A help for short trainings that real people do not give.

    Raises:
        DataError: An argument is out of range.
    """

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
        occluder: float = 0.2,
        bystanders: int = 1,
        clutter: int = 8,
        noise: int = 5,
        side_cue: bool = False,
    ) -> None:
        if skeleton not in SKELETON_NAMES:
            raise DataError(
                f"synthetic data: skeleton must be one of {', '.join(SKELETON_NAMES)}, "
                f"not {skeleton!r}"
            )
        if len(image_size) != 2 or min(image_size) < 32:
            raise DataError(
                f"synthetic data: image_size must be (height, width) of at least 32 pixels, "
                f"not {tuple(image_size)}"
            )
        shares = {"turned_away": turned_away, "truncated": truncated, "occluder": occluder,
                  "unlabelled": unlabelled}  # fmt: skip
        counts = {"seed": seed, "bystanders": bystanders, "clutter": clutter, "noise": noise}
        for name, share in shares.items():
            if not 0 <= share <= 1:
                raise DataError(f"synthetic data: {name} is a probability, not {share}")
        for name, count in counts.items():
            if count < 0:
                raise DataError(f"synthetic data: {name} must not be negative, it is {count}")
        if noise > 100:
            raise DataError(f"synthetic data: noise must be at most 100 grey levels, not {noise}")
        self.skeleton: Skeleton = skeleton_by_name(skeleton)
        self._counts = {"train": train, "val": val}
        self._size = (int(image_size[0]), int(image_size[1]))
        self._seed = seed
        self._knobs = {**shares, "bystanders": bystanders, "clutter": clutter, "noise": noise}
        self._side_cue = side_cue

    def images(self, split: str) -> SyntheticImages:
        """Where the pictures of a split come from.

        Raises:
            DataError: There is no such split.
        """
        require_split("synthetic data", split, self.splits)
        return SyntheticImages(
            seed=self._seed,
            split=SPLITS.index(split),
            count=self._counts[split],
            size=self._size,
            side_cue=self._side_cue,
            **self._knobs,
        )

    def persons(self, split: str) -> Persons:
        """The people of a split, row n standing in picture n.

        Raises:
            DataError: There is no such split, or it has no persons.
        """
        images = self.images(split)
        index = np.arange(images.count)
        chunks = [self._table(images, rows) for rows in _chunks(index)]
        if not chunks:
            raise DataError(f"synthetic {split}: there are no persons; set dataset.{split} above 0")
        joints, visibility, center, box_size, head_size = (
            np.concatenate(column) for column in zip(*chunks, strict=True)
        )
        return Persons(
            name=f"synthetic {split}",
            skeleton=self.skeleton,
            images=images,
            ids=np.array([f"{split}-{row:06d}" for row in index]),
            image_index=index.astype(np.int64),
            joints=joints,
            visibility=visibility,
            center=center,
            box_size=box_size,
            reference_length=head_size,
        )

    def _table(
        self, images: SyntheticImages, rows: Int64[np.ndarray, " n"]
    ) -> tuple[Float32[np.ndarray, "n ..."] | Int8[np.ndarray, "n K"], ...]:
        """Joints, visibility, box centre, box size and head size of these persons."""
        scenes = images.scenes(rows.tolist())
        columns = [LANDMARKS.index(name) for name in self.skeleton.joints]
        visibility = scenes.visibility(images.size)[:, columns]
        joints = np.where(
            visibility[..., None] > UNLABELLED, scenes.figures.landmarks()[:, columns], 0
        )
        low, high = scenes.figures.bounds()
        limit = np.array(images.size[::-1]) - 1
        low, high = np.clip(low, 0, limit), np.clip(high, 0, limit)
        box = high - low
        if self.skeleton.name == "mpii":
            # MPII gives one scale per person, not a box of the person's shape.
            box = np.repeat(box.max(axis=1, keepdims=True), 2, axis=1)
        columns_out = (joints, (low + high) / 2, _PADDING * box, scenes.figures.head_size())
        joints, center, box, head = (column.astype(np.float32) for column in columns_out)
        return joints, visibility, center, box, head

    def metric(self, split: str) -> PCK:
        """PCKh at 0.5, 0.1 and 0.11 of the head size, as MPII's: pelvis and thorax are not in the mean.

        Raises:
            DataError: There is no such split.
        """
        require_split("synthetic data", split, self.splits)
        uncounted = ("pelvis", "thorax")
        return PCK(
            joints=self.skeleton.joints,
            groups=self.skeleton.groups,
            thresholds=(0.5, 0.1, 0.11),
            name="PCKh",
            mean_excludes=tuple(name for name in uncounted if name in self.skeleton.joints),
        )


def _chunks(index: Int64[np.ndarray, " N"]) -> list[Int64[np.ndarray, " n"]]:
    return [index[start : start + _ROWS_AT_ONCE] for start in range(0, len(index), _ROWS_AT_ONCE)]
