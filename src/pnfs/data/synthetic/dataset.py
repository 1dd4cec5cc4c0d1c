"""The dataset of drawn people.

Person `index` of a split is a pure function of (seed, split, index): the table of joints is computed for all
persons at once, the pictures are drawn when they are read, and both come out the same in every process and in
every order.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int8, UInt8
from numpy.random import Generator

from pnfs.body import skeleton_by_name
from pnfs.data.datasets.base import PoseDataset
from pnfs.data.images import DataError
from pnfs.data.persons import OCCLUDED, UNLABELLED, VISIBLE, Persons
from pnfs.data.synthetic.body import FACE, LANDMARKS, Draws, Figures, pose_people
from pnfs.data.synthetic.drawing import (
    background,
    draw_person,
    lit,
    random_appearance,
)
from pnfs.evaluation.pck import PCK

SPLITS = ("train", "val")
SKELETON_NAMES = ("mpii", "coco")

_DRAWS = 80
"""Random numbers of a person, more than are used."""
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
    noise: int

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
        image = background(self._stream(index, _BACKGROUND), self.size, self.clutter)
        if with_person:
            figures, _ = self.people([index])
            draw_person(image, figures, 0, random_appearance(self._stream(index, _LOOKS)))
        return lit(self._stream(index, _LIGHT), image, self.noise)

    def people(self, indices: Sequence[int]) -> tuple[Figures, Int8[np.ndarray, "N L"]]:
        """The people of these pictures, and the visibility of their `LANDMARKS`.

        0 unlabelled, 1 hidden on the far side of the head, 2 visible.
        """
        draws = Draws(np.stack([self._stream(index, _PERSON).random(_DRAWS) for index in indices]))
        figures = self._placed(pose_people(draws, self.turned_away), draws)
        at, (height, width) = figures.points[..., :2], self.size
        labelled = np.stack([~draws.chance(self.unlabelled) for _ in LANDMARKS], axis=1)
        labelled &= ((at >= 0) & (at <= (width - 1, height - 1))).all(axis=2)
        visibility = np.full(labelled.shape, VISIBLE)
        for name in FACE:
            column = LANDMARKS.index(name)
            visibility[~figures.face_turned_to_camera(name), column] = OCCLUDED
            if not name.endswith("ear"):
                # Nobody can say where the face of a person seen from behind is.
                labelled[:, column] &= figures.facing()
        return figures, np.where(labelled, visibility, UNLABELLED).astype(np.int8)

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
        shift = draws.pairs(-0.9, 0.9) * slack
        # Cut off on the left, on the right or at the feet.
        away = np.array([(-1.0, 0.0), (1.0, 0.0), (0.0, 1.0)])[(3 * draws.uniform()).astype(int)]
        outside = away * (slack + draws.uniform(0.1, 0.35)[:, None] * extent)
        cut = draws.chance(self.truncated)[:, None] & (away != 0)
        center = room / 2 + np.where(cut, outside, shift)
        return figures.placed(unit, center - unit[:, None] * (low + high) / 2)


class Synthetic(PoseDataset):
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
        clutter: Number of bars and discs in the background.
        noise: Sensor noise, at most this many grey levels up or down.

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
        noise: int = 5,
    ) -> None:
        super().__init__()
        if skeleton not in SKELETON_NAMES:
            raise DataError(f"synthetic: skeleton is mpii or coco, not {skeleton!r}")
        if len(image_size) != 2 or min(image_size) < 32:
            raise DataError(
                "synthetic: image_size must be (height, width) of at least 32 pixels, not "
                f"{tuple(image_size)}"
            )
        shares = {"turned_away": turned_away, "truncated": truncated, "unlabelled": unlabelled}
        counts = {"clutter": clutter, "noise": noise}
        for name, value in {**shares, **counts, "seed": seed}.items():
            most = 1 if name in shares else 100 if name == "noise" else np.inf
            if not 0 <= value <= most:
                raise DataError(f"synthetic: {name} must be from 0 to {most}, it is {value}")
        self.skeleton = skeleton_by_name(skeleton)
        self._counts = {"train": train, "val": val}
        self._knobs = {
            **shares,
            **counts,
            "seed": seed,
            "size": (int(image_size[0]), int(image_size[1])),
        }

    def load(self, split: str) -> Persons:
        """The people of a split, row n standing in picture n."""
        images = SyntheticImages(
            split=SPLITS.index(split), count=self._counts[split], **self._knobs
        )
        if images.count < 1:
            raise DataError(f"synthetic {split}: there are no persons; set dataset.{split} above 0")
        figures, visibility = images.people(range(images.count))
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
            ids=np.array([f"{split}-{row:06d}" for row in range(images.count)]),
            image_index=np.arange(images.count, dtype=np.int64),
            joints=np.where(visibility[..., None] > UNLABELLED, joints, 0).astype(np.float32),
            visibility=visibility,
            center=((low + high) / 2).astype(np.float32),
            box_size=(self.padding * box).astype(np.float32),
            reference_length=figures.head_size().astype(np.float32),
        )

    def metric(self, split: str) -> PCK:
        """PCKh at 0.5, 0.1 and 0.11 of the head size, as MPII's: pelvis and thorax are not in the mean."""
        self.require_split(split)
        uncounted = ("pelvis", "thorax")
        return PCK(
            joints=self.skeleton.joints,
            groups=self.skeleton.groups,
            thresholds=(0.5, 0.1, 0.11),
            name="PCKh",
            mean_excludes=tuple(name for name in uncounted if name in self.skeleton.joints),
        )
