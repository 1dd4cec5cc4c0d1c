"""Finds the poses of the persons in pictures; and what runs the network, crops in, heatmaps out."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice, tee
from typing import Any

import cv2
import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from pnfs.body import Skeleton
from pnfs.codec import Codec, to_image
from pnfs.data.geometry import crop_extent, crop_matrix, fit_box, invert
from pnfs.errors import PnfsError
from pnfs.evaluation.coco_eval import mean_joint_score
from pnfs.inference.poses import ImageWithBoxes, PersonMaps, Prediction
from pnfs.models import PoseNetwork
from pnfs.models.network import Stage

JOINT_THRESHOLD = 0.2
"""A person's score is the mean over joints that score more (HRNet's in_vis_thre)."""

Images = UInt8[np.ndarray, "B h w 3"]
Runtime = Callable[[Images], Float[Tensor, "B K h/4 w/4"] | Float[np.ndarray, "B K h/4 w/4"]]
"""From RGB crops to heatmaps, joints in the skeleton's order."""


class TorchRuntime:
    """The network in PyTorch, set to evaluation mode and moved to `device`.

    `names` holds part and joint of each of the parts' heatmaps.
    """

    def __init__(self, network: PoseNetwork, device: torch.device | str = "cpu") -> None:
        self.network = network.eval().to(device)
        self.device = torch.device(device)
        parts = network.parts.parts.items()
        self.names = tuple(f"{part}: {joint}" for part, joints in parts for joint in joints)

    @torch.inference_mode()
    def __call__(self, images: Images) -> Float[Tensor, "B K h/4 w/4"]:
        return self.network.heatmaps(torch.as_tensor(images).to(self.device))

    @torch.inference_mode()
    def of_parts(self, images: Images, stage: Stage = "heatmaps") -> Float[Tensor, "B J ..."]:
        """The heatmaps of all parts' joints, part after part, J = sum(J_p) >= K; or the raw vectors."""
        return self.network(torch.as_tensor(images).to(self.device), stage)


class ExportedNetwork(PoseNetwork):
    """What executes an exported file, in the place of a network that is scored; on the CPU."""

    def __init__(self, runtime: Runtime, skeleton: Skeleton) -> None:
        super().__init__(skeleton)
        self.runtime = runtime

    def forward(self, images: Tensor, until: Stage = "heatmaps") -> Float[Tensor, "B K h/4 w/4"]:
        return torch.as_tensor(self.runtime(images.numpy()))


def choose_device(device: str) -> torch.device:
    """The device a user names; "auto" is the first accelerator, else the CPU.

    Raises:
        PnfsError: There is no such device on this machine.
    """
    if device == "auto":
        found = torch.accelerator.current_accelerator(check_available=True)
        return found or torch.device("cpu")
    try:
        # Constructing a tensor is the only check that holds for every kind of device.
        return torch.empty(1, device=device).device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        text = f"device {device!r} cannot be used here ({reason}); take auto, cpu or cuda"
        raise PnfsError(text) from error


class Predictor:
    """Finds the joints of persons in pictures, `batch_size` persons at once.

    `input_size` is the (height, width) of the crops that the network was trained on, `codec` how it was trained to
    be read (None: the paper's way), `padding` the factor on the sides of a given box, as in training; the whole
    image gets none.
    """

    def __init__(
        self,
        forward: Runtime,
        *,
        skeleton: Skeleton,
        input_size: tuple[int, int],
        codec: Codec | None = None,
        padding: float = 1.25,
        batch_size: int = 16,
    ) -> None:
        if batch_size < 1:
            raise PnfsError(f"batch_size must be at least 1, not {batch_size}")
        if not (np.isfinite(padding) and padding > 0):
            raise PnfsError(f"padding must be a positive factor, not {padding}")
        self.forward, self.skeleton, self.input_size = forward, skeleton, input_size
        self.codec, self.padding, self.batch_size = codec or Codec(), padding, batch_size

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
        """The poses in one picture; for `image`, `boxes` and `box_scores` see `ImageWithBoxes`.

        The flip test averages with the mirrored crops, which takes twice the time. `maps` keeps crops and heatmaps
        in `Prediction.maps`, `vectors` the vectors behind them too.

        Raises:
            DataError: Not an RGB image of bytes, or boxes that are no boxes in it.
            PnfsError: Vectors asked of a runtime that has heatmaps only.
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
        """One `Prediction` a picture, as of `predict`, in their order; batches are filled across pictures.

        Up to `batch_size` pictures are taken from `images` before the first result comes out.
        """
        if vectors and not isinstance(self.forward, TorchRuntime):
            raise PnfsError("vectors can be had from a checkpoint (runtime=torch) only")
        shown, ahead = tee(images)
        crops = (crop for query in ahead for crop in self._crops(query))

        def persons() -> Iterator[dict[str, np.ndarray]]:
            while batch := list(islice(crops, self.batch_size)):
                pixels, matrices = (np.stack(x) for x in zip(*batch, strict=True))
                to_image = torch.from_numpy(matrices.astype(np.float32))
                found = self._read(pixels, to_image, flip_test, maps or vectors, vectors)
                columns = [value.cpu().numpy() for value in found.values()]
                for row in zip(*columns, strict=True):
                    yield dict(zip(found, row, strict=True))

        rows = persons()
        for query in shown:
            yield self._prediction(query, list(islice(rows, len(query.boxes))))

    def _crops(self, query: ImageWithBoxes) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Each person's crop, and the map (2, 3) from its pixels to the image's."""
        height, width = self.input_size
        unbiased, padding = self.codec.unbiased, 1.0 if query.whole_image else self.padding
        extent = crop_extent(self.input_size, unbiased)
        for corner, sides in query.boxes.astype(np.float64).reshape(-1, 2, 2):
            size = fit_box(sides * padding, extent[0] / extent[1])
            center = corner + sides / 2
            matrix = crop_matrix(center, size, 0.0, self.input_size, unbiased=unbiased)
            crop = cv2.warpAffine(query.image, matrix, (width, height), flags=cv2.INTER_LINEAR)
            yield crop, invert(matrix)

    def _read(
        self,
        crops: Images,
        matrices: Float[Tensor, "B 2 3"],
        flip_test: bool,
        keep_maps: bool = False,
        keep_vectors: bool = False,
    ) -> dict[str, Tensor]:
        """From crops, and the maps from their pixels to the images', to joints, scores and what is kept."""
        kept: dict[str, Tensor] = {}
        if keep_maps and isinstance(self.forward, TorchRuntime):
            kept["part_maps"] = self.forward.of_parts(crops)
            maps = self.forward.network.merged(kept["part_maps"])
            if keep_vectors:
                kept["vectors"] = self.forward.of_parts(crops, "vectors")
        else:
            maps = torch.as_tensor(self.forward(crops))
        if flip_test:
            mirrored = torch.as_tensor(self.forward(np.ascontiguousarray(crops[:, :, ::-1])))
            maps = self.codec.flip_averaged(maps, mirrored, self.skeleton.flip_permutation)
        locations, scores = self.codec.decode(maps)
        joints = to_image(locations, matrices.to(locations.device))
        if keep_maps:
            kept |= {"joint_maps": maps, "crops": torch.from_numpy(crops), "to_image": matrices}
        return {"joints": joints, "scores": scores, **kept}

    def _prediction(self, query: ImageWithBoxes, rows: Sequence[dict[str, np.ndarray]]) -> Prediction:
        found: dict[str, Any] = {name: np.stack([row[name] for row in rows]) for row in rows[:1] for name in row}
        joints = found.pop("joints", np.zeros((0, len(self.skeleton), 2), np.float32))
        scores = found.pop("scores", np.zeros((0, len(self.skeleton)), np.float32))
        sure, names = mean_joint_score(scores, JOINT_THRESHOLD), getattr(self.forward, "names", ())
        without = {"part_maps": None, "vectors": None, "names": names}
        return Prediction(
            joints=joints,
            scores=scores,
            person_scores=(query.box_scores * sure).astype(np.float32),
            boxes=query.boxes,
            box_scores=query.box_scores,
            skeleton=self.skeleton,
            maps=PersonMaps(**without | found) if found else None,
        )
