"""Finds the poses of the persons in pictures, with a checkpoint or an exported file."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice, tee
from pathlib import Path
from typing import Any, Literal, cast, get_args

import cv2
import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from pnfs.body import Skeleton
from pnfs.codec import Codec, DecodeMethod, to_image
from pnfs.data.geometry import crop_extent, crop_matrix, fit_box, invert
from pnfs.errors import PnfsError
from pnfs.evaluation.coco_eval import mean_joint_score
from pnfs.export.runtimes import OnnxRuntime, OpenVinoRuntime, Precision
from pnfs.inference.poses import ImageWithBoxes, PersonMaps, Prediction
from pnfs.models import PoseNetwork
from pnfs.models.network import Stage
from pnfs.training import checkpoints
from pnfs.training.checkpoints import CONFIG_KEY, CheckpointError

JOINT_THRESHOLD = 0.2  # A person's score is the mean over joints that score more (HRNet's in_vis_thre).
DEFAULT_PADDING = 1.25  # Factor on person boxes, as the datasets' loaders have it.

RuntimeName = Literal["torch", "onnx", "openvino"]
BuildNetwork = Callable[[Mapping[str, Any]], PoseNetwork]


class ExportedNetwork(PoseNetwork):
    """What executes an exported file, RGB crops (B, h, w, 3) to one heatmap a joint, in a network's place."""

    def __init__(self, runtime: Callable[[np.ndarray], Any], skeleton: Skeleton) -> None:
        super().__init__(skeleton)
        self.runtime = runtime

    def forward(self, images: Tensor, until: Stage = "heatmaps") -> Float[Tensor, "B K h/4 w/4"]:
        if until != "heatmaps":
            raise PnfsError("vectors can be had from a checkpoint (runtime=torch) only")
        return torch.as_tensor(self.runtime(images.numpy()))


def choose_device(device: str) -> torch.device:
    """The device a user names; "auto" is the first accelerator, else the CPU; PnfsError where there is none."""
    if device == "auto":
        return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    try:
        # Constructing a tensor is the only check that holds for every kind of device.
        return torch.empty(1, device=device).device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        text = f"device {device!r} cannot be used here ({reason}); take auto, cpu or cuda"
        raise PnfsError(text) from error


class Predictor:
    """Finds the joints of persons in pictures with a network on a device, `batch_size` persons at once.

    `input_size` is the (height, width) of the crops that the network was trained on, `codec` how it was trained to
    be read (None: the paper's way), `padding` the factor on the sides of a given box, as in training; the whole
    image gets none.
    """

    def __init__(
        self,
        network: PoseNetwork,
        *,
        input_size: tuple[int, int],
        codec: Codec | None = None,
        padding: float = 1.25,
        batch_size: int = 16,
        device: torch.device | str = "cpu",
    ) -> None:
        if batch_size < 1:
            raise PnfsError(f"batch_size must be at least 1, not {batch_size}")
        if not (np.isfinite(padding) and padding > 0):
            raise PnfsError(f"padding must be a positive factor, not {padding}")
        self.network, self.device, self.input_size = network.eval().to(device), device, input_size
        self.skeleton = network.parts.skeleton
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
            PnfsError: Vectors asked of an exported file.
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

    @torch.inference_mode()
    def _read(
        self, crops: UInt8[np.ndarray, "B h w 3"], matrices: Float[Tensor, "B 2 3"], flip: bool, *keep: bool
    ) -> dict[str, Tensor]:
        """From crops, and the maps from their pixels to the images', to joints, scores, and what to keep."""
        keep_maps, keep_vectors = keep
        images = torch.from_numpy(crops).to(self.device)
        part_maps = self.network(images)
        maps = self.network.merged(part_maps)
        if flip:
            mirrored = self.network.heatmaps(images.flip(-2))
            maps = self.codec.flip_averaged(maps, mirrored, self.skeleton.flip_permutation)
        locations, scores = self.codec.decode(maps)
        found = {"joints": to_image(locations, matrices.to(locations.device)), "scores": scores}
        if keep_maps:
            found |= {"part_maps": part_maps, "joint_maps": maps, "crops": images, "to_image": matrices}
        return found | ({"vectors": self.network(images, "vectors")} if keep_vectors else {})

    def _prediction(self, query: ImageWithBoxes, rows: Sequence[dict[str, np.ndarray]]) -> Prediction:
        found: dict[str, Any] = {name: np.stack([row[name] for row in rows]) for row in rows[:1] for name in row}
        joints = found.pop("joints", np.zeros((0, len(self.skeleton), 2), np.float32))
        scores = found.pop("scores", np.zeros((0, len(self.skeleton)), np.float32))
        sure, parts = mean_joint_score(scores, JOINT_THRESHOLD), self.network.parts.parts.items()
        names = tuple(f"{part}: {joint}" for part, joints in parts for joint in joints)
        return Prediction(
            joints=joints,
            scores=scores,
            person_scores=(query.box_scores * sure).astype(np.float32),
            boxes=query.boxes,
            box_scores=query.box_scores,
            skeleton=self.skeleton,
            maps=PersonMaps(names=names, **found) if found else None,
        )


def load_predictor(
    checkpoint: str | Path,
    device: str = "auto",
    *,
    build: BuildNetwork,
    runtime: RuntimeName | None = None,
    precision: Precision | None = None,
    padding: float | None = None,
    decode_method: DecodeMethod | None = None,
    flip_shift: Literal[0, 1] | None = None,
    batch_size: int = 16,
    trust: bool = False,
) -> Predictor:
    """See `pnfs.load`; `build` goes from the model's part of a checkpoint's configuration to the network."""
    path = checkpoints.find_checkpoint(checkpoint)
    runtime = chosen_runtime(path, runtime, precision)
    if runtime == "torch":
        content = checkpoints.read_checkpoint(path, builds=("model",), trust=trust)
        trained = checkpoints.without_downloads(content[CONFIG_KEY])
        network, codec = build(trained["model"]), Codec(**trained.get("codec", {}))
        checkpoints.load_network_state(network, content, path)
        usual = trained["dataset"].get("padding", DEFAULT_PADDING)
        match trained.get("input_size"):
            case [int(height), int(width)]:
                input_size = height, width
            case other:
                raise CheckpointError(f"{path}: its input_size is {other!r}, not [height, width]")
    else:
        openvino = runtime == "openvino"
        exported = OpenVinoRuntime(path, precision=precision) if openvino else OnnxRuntime(path)
        known = exported.metadata
        # Not the built-in skeleton of this name: another one may be called so too.
        described = known.skeleton, known.joints, known.flip_pairs, known.limbs
        network = ExportedNetwork(exported, Skeleton(*described, oks_sigmas=known.oks_sigmas))
        input_size, codec, usual = known.input_size, known.codec, known.padding
    asked = {"decode_method": decode_method, "flip_shift": flip_shift}
    chosen = choose_device(device)
    if runtime != "torch" and device != "auto" and chosen.type != "cpu":
        raise PnfsError(f"device={device}: runtime={runtime} computes on the CPU")
    return Predictor(
        network,
        device=chosen if runtime == "torch" else "cpu",
        input_size=input_size,
        codec=replace(codec, **{key: value for key, value in asked.items() if value is not None}),
        padding=usual if padding is None else padding,
        batch_size=batch_size,
    )


def chosen_runtime(path: Path, runtime: str | None, precision: str | None) -> RuntimeName:
    """The runtime that is asked for, or else the file's own; PnfsError where it cannot take the file."""
    exported = path.suffix == ".onnx"
    chosen = runtime or ("onnx" if exported else "torch")
    if chosen not in get_args(RuntimeName):
        raise PnfsError(f"unknown runtime {chosen!r}; there are {', '.join(get_args(RuntimeName))}")
    if (chosen == "torch") == exported:
        text = "torch takes a checkpoint, onnx and openvino a file that `pnfs export` wrote (.onnx)"
        raise PnfsError(f"runtime={chosen} cannot take {path}: {text}")
    if precision is not None and chosen != "openvino":
        text = "computes in the precision of what it is given; the key is for runtime=openvino"
        raise PnfsError(f"precision={precision}: runtime={chosen} {text}")
    return cast(RuntimeName, chosen)


def runtime_of(predictor: Predictor) -> dict[str, str]:
    """Runtime and precision, as they stand beside scores."""
    kinds = {OnnxRuntime: "onnx", OpenVinoRuntime: "openvino"}
    runtime = getattr(predictor.network, "runtime", None)
    return {"runtime": kinds.get(type(runtime), "torch"), "precision": getattr(runtime, "precision", "f32")}
