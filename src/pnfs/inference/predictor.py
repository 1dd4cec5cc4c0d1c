"""Poses of the persons in pictures."""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

import cv2
import numpy as np
import torch
from jaxtyping import Float, Float32, Int64, UInt8
from torch import Tensor

from pnfs.body import Skeleton
from pnfs.codec.decode import DecodeMethod, decode, to_image
from pnfs.data.geometry import crop_extent, crop_matrix, fit_box, heatmap_stride, invert
from pnfs.data.persons import DataError
from pnfs.evaluation.flip import average_with_flip
from pnfs.evaluation.oks import mean_joint_score, oks_nms, similarity_sigmas
from pnfs.inference.runtime import Runtime, TorchRuntime

JOINT_THRESHOLD = 0.2
"""A person's score is the mean over joints that score more (HRNet's in_vis_thre)."""


class ImageWithBoxes:
    """A picture and the persons in it.

    Args:
        image: RGB.
        boxes: x, y, width, height in pixels of the image, tight around each person; None: one person
            fills the whole image.
        box_scores: How sure each box is, in (0, 1]; None: 1.

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
            raise DataError(
                f"an image is RGB, uint8 (H, W, 3); this one has shape {image.shape} and type "
                f"{image.dtype}"
            )
        height, width = image.shape[:2]
        self.image = image
        self.whole_image = boxes is None
        self.boxes: Float32[np.ndarray, "N 4"] = (
            np.array([[0, 0, width, height]], np.float32)
            if boxes is None
            else _checked_boxes(boxes, (height, width))
        )
        scores = np.ones(len(self.boxes)) if box_scores is None else np.asarray(box_scores)
        if scores.shape != (len(self.boxes),) or not np.isfinite(scores).all():
            raise DataError(
                f"box_scores must be {len(self.boxes)} finite numbers, one a box; their shape is "
                f"{scores.shape}"
            )
        self.box_scores: Float32[np.ndarray, " N"] = scores.astype(np.float32)


@dataclass(frozen=True)
class PersonMaps:
    """What the network saw and answered for N persons; maps are h/4 × w/4."""

    crops: UInt8[np.ndarray, "N h w 3"]
    """RGB, as the network saw them."""
    to_image: Float32[np.ndarray, "N 2 3"]
    """Affine maps from crop pixels to image pixels."""
    joint_maps: Float32[np.ndarray, "N K h/4 w/4"]
    """Score maps the joints were read from, after the flip test."""
    part_maps: Float32[np.ndarray, "N J h/4 w/4"] | None
    """Score maps of the parts' joints, without the flip test; None unless PyTorch is the runtime."""
    vectors: Float32[np.ndarray, "N J d h/4 w/4"] | None
    """Raw vectors behind `part_maps`; None unless asked for."""
    names: tuple[str, ...]
    """Of the J part maps, "part: joint"."""

    def of_persons(self, rows: Int64[np.ndarray, " M"]) -> "PersonMaps":
        """Those of some of the persons."""
        return replace(
            self,
            crops=self.crops[rows],
            to_image=self.to_image[rows],
            joint_maps=self.joint_maps[rows],
            part_maps=None if self.part_maps is None else self.part_maps[rows],
            vectors=None if self.vectors is None else self.vectors[rows],
        )


@dataclass(frozen=True)
class Prediction:
    """The poses of N persons in one picture, in the order of the boxes."""

    joints: Float32[np.ndarray, "N K 2"]
    """x, y in pixels of the image; 0 is the centre of the first pixel."""
    scores: Float32[np.ndarray, "N K"]
    """Of the joints."""
    person_scores: Float32[np.ndarray, " N"]
    """Box score × mean of the joint scores above 0.2; 0 where no joint scores more."""
    boxes: Float32[np.ndarray, "N 4"]
    """x, y, width, height."""
    box_scores: Float32[np.ndarray, " N"]
    skeleton: Skeleton
    maps: PersonMaps | None = None
    """Only if asked for."""

    def __len__(self) -> int:
        """N."""
        return len(self.joints)

    def without_duplicates(self, threshold: float = 0.9) -> "Prediction":
        """Without the poses that are too similar to a better one, as of boxes around one person.

        Args:
            threshold: The highest OKS that two poses which stay may have. Where the skeleton's benchmark
                defines no OKS, its joints are compared as COCO's.

        Returns:
            The others, still in the order of the boxes.
        """
        # Where no joint is sure all poses score 0: the surer box is the better one then, or the first.
        order = np.lexsort((-np.arange(len(self)), self.box_scores, self.person_scores))
        kept = oks_nms(
            self.joints.astype(np.float64),
            np.argsort(order),
            self.boxes[:, 2:].astype(np.float64).prod(-1),
            threshold,
            similarity_sigmas(self.skeleton),
        )
        if len(kept) == len(self):
            return self
        rows = np.sort(kept)
        return replace(
            self,
            joints=self.joints[rows],
            scores=self.scores[rows],
            person_scores=self.person_scores[rows],
            boxes=self.boxes[rows],
            box_scores=self.box_scores[rows],
            maps=None if self.maps is None else self.maps.of_persons(rows),
        )


@dataclass(frozen=True)
class _Persons:
    """Outputs of one batch, or of one picture: rows are persons."""

    joints: Tensor
    scores: Tensor
    maps: dict[str, Tensor]

    def __getitem__(self, rows: slice) -> "_Persons":
        return _Persons(
            self.joints[rows], self.scores[rows], {n: m[rows] for n, m in self.maps.items()}
        )

    def __len__(self) -> int:
        return len(self.joints)


class Predictor:
    """Finds the joints of persons in pictures, many persons at once.

    Args:
        forward: Runs the network.
        skeleton: Whose joints come out.
        input_size: (height, width) of the crops that the network was trained on.
        unbiased: The crops' geometry in training; see `crop_matrix`.
        padding: Factor on the sides of a given box, as in training; the whole image gets none.
        decode_method: From score maps to locations.
        sigma: Of the target Gaussians in score-map pixels, which the decoding "dark" needs.
        flip_shift: Pixels by which mirrored maps move to the right in the flip test, 0 or 1.
        batch_size: Persons that go through the network at once.
    """

    def __init__(
        self,
        forward: Runtime,
        *,
        skeleton: Skeleton,
        input_size: tuple[int, int],
        unbiased: bool = False,
        padding: float = 1.25,
        decode_method: DecodeMethod = "quarter",
        sigma: float = 2.0,
        flip_shift: Literal[0, 1] = 1,
        batch_size: int = 16,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, not {batch_size}")
        if not (np.isfinite(padding) and padding > 0):
            raise ValueError(f"padding must be a positive factor, not {padding}")
        self.forward = forward
        self.skeleton = skeleton
        self.input_size = input_size
        self.unbiased = unbiased
        self.padding = padding
        self.decode_method: DecodeMethod = decode_method
        self.sigma = sigma
        self.flip_shift: Literal[0, 1] = flip_shift
        self.batch_size = batch_size

    def predict(
        self,
        image: UInt8[np.ndarray, "H W 3"],
        boxes: Float[np.ndarray, "N 4"] | None = None,
        *,
        box_scores: Float[np.ndarray, " N"] | None = None,
        flip_test: bool = True,
        maps: bool = False,
        vectors: bool = False,
    ) -> Prediction:
        """The poses in one picture.

        Args:
            image: RGB.
            boxes: x, y, width, height of each person in pixels; None: one person fills the image.
            box_scores: How sure each box is; None: 1.
            flip_test: Average with the mirrored crops, which takes twice the time.
            maps: Keep crops and score maps, see `Prediction.maps`.
            vectors: Keep the vectors behind the score maps too.

        Raises:
            DataError: Not an RGB image of bytes, or boxes that are no boxes in it.
            ValueError: Vectors asked of a runtime that has score maps only.
        """
        query = ImageWithBoxes(image, boxes, box_scores)
        return next(self.predict_each([query], flip_test=flip_test, maps=maps, vectors=vectors))

    def predict_each(
        self,
        images: Iterable[ImageWithBoxes],
        *,
        flip_test: bool = True,
        maps: bool = False,
        vectors: bool = False,
    ) -> Iterator[Prediction]:
        """One `Prediction` a picture, in their order; batches are filled across pictures.

        Up to `batch_size` pictures are taken from `images` before the first result comes out.
        The other arguments are those of `predict`.
        """
        keep = _Kept(joint_maps=maps or vectors, vectors=vectors)
        if keep.vectors and not isinstance(self.forward, TorchRuntime):
            raise ValueError("vectors can be had from a checkpoint (runtime=torch) only")
        waiting: deque[ImageWithBoxes] = deque()
        crops: list[tuple[np.ndarray, np.ndarray]] = []
        done: list[_Persons] = []
        for query in images:
            waiting.append(query)
            crops += self._crops(query)
            while len(crops) >= self.batch_size:
                done.append(self._run(crops[: self.batch_size], flip_test, keep))
                del crops[: self.batch_size]
            yield from self._finished(waiting, done, keep)
        if crops:
            done.append(self._run(crops, flip_test, keep))
        yield from self._finished(waiting, done, keep)

    def locate(
        self,
        crops: UInt8[np.ndarray, "B h w 3"],
        to_image: Float[Tensor, "B 2 3"],
        *,
        flip_test: bool = True,
    ) -> tuple[Float[Tensor, "B K 2"], Float[Tensor, "B K"]]:
        """Joints of persons whose crops are cut already, as an evaluation's loader does.

        Args:
            crops: RGB, of `input_size`.
            to_image: Affine maps from pixels of the crops to pixels of the images.
            flip_test: Average with the mirrored crops.

        Returns:
            x, y in pixels of the images, and scores.
        """
        persons = self._read(crops, to_image, flip_test, _Kept(joint_maps=False, vectors=False))
        return persons.joints, persons.scores

    def _crops(
        self, query: ImageWithBoxes
    ) -> Iterator[tuple[UInt8[np.ndarray, "h w 3"], Float[np.ndarray, "2 3"]]]:
        """Each person's crop, and the map from its pixels to the image's."""
        height, width = self.input_size
        padding = 1.0 if query.whole_image else self.padding
        for x, y, box_width, box_height in query.boxes.astype(np.float64):
            center = np.array([x + box_width / 2, y + box_height / 2])
            extent = crop_extent(self.input_size, self.unbiased)
            size = fit_box(np.array([box_width, box_height]) * padding, extent[0] / extent[1])
            matrix = crop_matrix(center, size, 0.0, self.input_size, unbiased=self.unbiased)
            crop = cv2.warpAffine(query.image, matrix, (width, height), flags=cv2.INTER_LINEAR)
            yield crop, invert(matrix)

    def _run(
        self, crops: list[tuple[np.ndarray, np.ndarray]], flip_test: bool, keep: "_Kept"
    ) -> _Persons:
        images = np.stack([crop for crop, _ in crops])
        matrices = torch.from_numpy(np.stack([matrix for _, matrix in crops]).astype(np.float32))
        return self._read(images, matrices, flip_test, keep)

    def _read(
        self,
        images: UInt8[np.ndarray, "B h w 3"],
        matrices: Float[Tensor, "B 2 3"],
        flip_test: bool,
        keep: "_Kept",
    ) -> _Persons:
        """From crops, and the maps from their pixels to the images', to joints and scores."""
        found: dict[str, Tensor] = {}
        if keep.joint_maps and isinstance(self.forward, TorchRuntime):
            details = self.forward.details(images)
            maps, found["part_maps"] = details.joint_maps, details.part_maps
            if keep.vectors:
                found["vectors"] = details.vectors
        else:
            maps = torch.as_tensor(self.forward(images))
        if flip_test:
            mirrored = torch.as_tensor(self.forward(np.ascontiguousarray(images[:, :, ::-1])))
            permutation = self.skeleton.flip_permutation
            maps = average_with_flip(maps, mirrored, permutation, self.flip_shift)
        locations, scores = decode(maps, self.decode_method, sigma=self.sigma)
        stride = heatmap_stride(self.input_size, (maps.shape[-2], maps.shape[-1]), self.unbiased)
        joints = to_image(locations, matrices.to(locations.device), stride)
        if keep.joint_maps:
            found |= {"joint_maps": maps, "crops": torch.from_numpy(images), "to_image": matrices}
        return _Persons(joints.cpu(), scores.cpu(), {n: m.cpu() for n, m in found.items()})

    def _finished(
        self, waiting: deque[ImageWithBoxes], done: list[_Persons], keep: "_Kept"
    ) -> Iterator[Prediction]:
        """Takes the pictures whose persons are all done off the queue, and their persons off `done`."""
        while waiting and len(waiting[0].boxes) <= sum(map(len, done)):
            query = waiting.popleft()
            yield self._prediction(query, _take(done, len(query.boxes)), keep)

    def _prediction(
        self, query: ImageWithBoxes, persons: list[_Persons], keep: "_Kept"
    ) -> Prediction:
        joint_count = len(self.skeleton)
        joints = _joined([p.joints for p in persons], (0, joint_count, 2))
        scores = _joined([p.scores for p in persons], (0, joint_count))
        return Prediction(
            joints=joints,
            scores=scores,
            person_scores=(query.box_scores * mean_joint_score(scores, JOINT_THRESHOLD)).astype(
                np.float32
            ),
            boxes=query.boxes,
            box_scores=query.box_scores,
            skeleton=self.skeleton,
            maps=self._maps(persons) if keep.joint_maps and persons else None,
        )

    def _maps(self, persons: list[_Persons]) -> PersonMaps:
        found = {
            name: torch.cat([person.maps[name] for person in persons]).numpy()
            for name in persons[0].maps
        }
        names = self.forward.names if isinstance(self.forward, TorchRuntime) else ()
        return PersonMaps(
            **{"part_maps": None, "vectors": None, **found},  # type: ignore[arg-type]
            names=tuple(names),
        )


@dataclass(frozen=True)
class _Kept:
    """What is handed out besides the joints."""

    joint_maps: bool
    vectors: bool


def _checked_boxes(
    boxes: Float[np.ndarray, "N 4"], image_size: tuple[int, int]
) -> Float32[np.ndarray, "N 4"]:
    try:
        table: np.ndarray = np.asarray(boxes, np.float32)
    except (TypeError, ValueError):
        raise DataError("boxes must be numbers, x, y, width, height for each person") from None
    if table.ndim != 2 or table.shape[1] != 4:
        raise DataError(
            f"boxes must be numbers of shape (N, 4), x, y, width, height; theirs is {table.shape}"
        )
    height, width = image_size
    low, size = table[:, :2], table[:, 2:]
    usable = np.isfinite(table).all(-1) & (size > 0).all(-1)
    usable &= (low < (width, height)).all(-1) & (low + size > 0).all(-1)
    if not usable.all():
        row = int(np.flatnonzero(~usable)[0])
        raise DataError(
            f"box {row}, {table[row].tolist()} (x, y, width, height), is empty or lies outside the "
            f"image of {width}x{height} px"
        )
    return table


def _take(done: list[_Persons], count: int) -> list[_Persons]:
    """Removes the first `count` persons from the batches."""
    taken = []
    while count:
        first = done.pop(0)
        taken.append(first[slice(0, count)])
        if len(first) > count:
            done.insert(0, first[slice(count, None)])
        count -= len(taken[-1])
    return taken


def _joined(rows: list[Tensor], empty: tuple[int, ...]) -> Float32[np.ndarray, "N ..."]:
    return torch.cat(rows).numpy() if rows else np.zeros(empty, np.float32)
