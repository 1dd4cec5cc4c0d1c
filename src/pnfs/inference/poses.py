"""Pictures with boxes, and the poses found in them."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, Int64, UInt8

from pnfs.body import Skeleton
from pnfs.data.images import DataError
from pnfs.evaluation.coco_eval import oks_nms, similarity_sigmas


class ImageWithBoxes:
    """A picture (RGB) and its N persons.

    `boxes` are x, y, width, height in pixels, tight around each person; None: one person fills the image.
    `box_scores` say how sure each box is, in (0, 1]; None: 1.

    Raises:
        DataError: Not an RGB image of bytes, or boxes that are no boxes in it.
    """

    def __init__(
        self,
        image: UInt8[np.ndarray, "H W 3"],
        boxes: Float[np.ndarray, "N 4"] | None = None,
        box_scores: Float[np.ndarray, " N"] | None = None,
    ) -> None:
        image = np.asarray(image)
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
            got = f"shape {image.shape} and type {image.dtype}"
            raise DataError(f"an image is RGB, uint8 (H, W, 3); this one has {got}")
        self.image, self.whole_image = image, boxes is None
        size = np.array(image.shape[1::-1])
        self.boxes = _checked_boxes([[0, 0, *size]] if boxes is None else boxes, size)
        scores = np.ones(len(self.boxes)) if box_scores is None else np.asarray(box_scores)
        if scores.shape != (len(self.boxes),) or not np.isfinite(scores).all():
            wanted = f"{len(self.boxes)} finite numbers, one a box"
            raise DataError(f"box_scores must be {wanted}; their shape is {scores.shape}")
        self.box_scores: Float32[np.ndarray, " N"] = scores.astype(np.float32)


def _checked_boxes(boxes: Any, size: Int64[np.ndarray, " 2"]) -> Float32[np.ndarray, "N 4"]:
    """Boxes that reach into an image of (width, height)."""
    try:
        table: np.ndarray = np.asarray(boxes if len(boxes) else np.empty((0, 4)), np.float32)
    except (TypeError, ValueError):
        table = np.empty(())
    if table.ndim != 2 or table.shape[1] != 4:
        raise DataError(f"boxes must be numbers of shape (N, 4), x, y, width, height; not {boxes!r:.80}")
    low, extent = table[:, :2], table[:, 2:]
    usable = np.isfinite(table) & (np.hstack([extent, low + extent]) > 0)
    usable[:, :2] &= low < size
    for row in np.flatnonzero(~usable.all(-1))[:1].tolist():
        raise DataError(
            f"box {row}, {table[row].tolist()} (x, y, width, height), is empty or lies outside the image of "
            f"{size[0]}x{size[1]} px"
        )
    return table


@dataclass(frozen=True)
class PersonMaps:
    """What the network saw and answered for N persons; maps are h/4 × w/4."""

    crops: UInt8[np.ndarray, "N h w 3"]  # RGB, as the network saw them.
    to_image: Float32[np.ndarray, "N 2 3"]  # Affine maps from crop pixels to image pixels.
    joint_maps: Float32[np.ndarray, "N K h/4 w/4"]
    """Heatmaps the joints were read from, after the flip test."""
    part_maps: Float32[np.ndarray, "N J h/4 w/4"]  # Heatmaps of the parts' joints, without the flip test.
    names: tuple[str, ...]  # Names of the J part maps, "part: joint".
    vectors: Float32[np.ndarray, "N J d h/4 w/4"] | None = None  # Raw vectors behind `part_maps`, if asked for.


@dataclass(frozen=True)
class Prediction:
    """The poses of N persons in one picture, in the order of the boxes."""

    joints: Float32[np.ndarray, "N K 2"]
    """x, y in pixels of the image; 0 is the centre of the first pixel."""
    scores: Float32[np.ndarray, "N K"]  # Scores of the joints.
    person_scores: Float32[np.ndarray, " N"]
    """Box score × mean of the joint scores above 0.2; 0 where no joint scores more."""
    boxes: Float32[np.ndarray, "N 4"]  # x, y, width, height.
    box_scores: Float32[np.ndarray, " N"]
    skeleton: Skeleton
    maps: PersonMaps | None = None  # Only if asked for.
    track_ids: Int64[np.ndarray, " N"] | None = None
    """Who they are from frame to frame, counted from 1; None: not a frame of a video that is followed."""

    def __len__(self) -> int:
        return len(self.joints)

    def of_persons(self, rows: Int64[np.ndarray, " M"]) -> "Prediction":
        """The poses of some of the persons."""
        maps = None if self.maps is None else _rows_of(self.maps, rows)
        return replace(_rows_of(self, rows), maps=maps)

    def without_duplicates(self, threshold: float = 0.9) -> "Prediction":
        """Without the poses that are too similar to a better one, as of boxes around one person.

        `threshold` is the highest OKS that two poses which stay may have. Where the skeleton's benchmark
        defines no OKS, its joints are compared as COCO's.
        """
        # Where no joint is sure all poses score 0: the surer box is the better one then, or the first.
        order = np.lexsort((-np.arange(len(self)), self.box_scores, self.person_scores))
        areas = self.boxes[:, 2:].astype(np.float64).prod(-1)
        poses = self.joints.astype(np.float64), np.argsort(order), areas
        kept = oks_nms(*poses, threshold, similarity_sigmas(self.skeleton))
        return self if len(kept) == len(self) else self.of_persons(np.sort(kept))


def _rows_of(record: Any, rows: Int64[np.ndarray, " M"]) -> Any:
    """The record with the chosen rows of all arrays."""
    columns = {name: value for name, value in vars(record).items() if isinstance(value, np.ndarray)}
    return replace(record, **{name: value[rows] for name, value in columns.items()})
