"""Augmented crops of a whole batch, cut from cached ones on the device.

What is drawn has the loader's distribution (`Augmentation`) and is a function of (seed, epoch,
person) alone. Draws and matrices of an epoch are computed at once on the CPU in double precision,
so that nothing in the hot loop waits for the device or depends on its arithmetic.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int64, UInt8
from torch import Tensor
from torch.nn import functional as F

from pnfs.data.augmentation import AffineDraw, Augmentation
from pnfs.data.cache import CachedCrops
from pnfs.data.dataset import PoseBatch
from pnfs.data.geometry import apply, compose, crop_extent, crop_matrix, fit_box
from pnfs.data.persons import Persons

Columns = dict[str, Tensor]
"""Name -> one row for each person of a batch, or of an epoch."""

_HOLES = 3
# Numbers that are drawn for each person; a hole takes seven: height, width, y, x, three colours.
_ROTATION, _SCALE, _FLIP = 0, 1, 2
_COLOUR, _FACTORS, _ORDER = 3, slice(4, 8), slice(8, 12)
_BLUR, _SIGMA, _KERNEL = 12, 13, 14
_OCCLUSION, _HOLE_COUNT, _FIRST_HOLE = 15, 16, 17
_DRAWS = _FIRST_HOLE + 7 * _HOLES


def uniform_draws(
    seed: int, epoch: int, index: Int64[np.ndarray, " N"], count: int
) -> Float64[np.ndarray, "N count"]:
    """Numbers in [0, 1) that depend on (seed, epoch, index) and nothing else (SplitMix64)."""
    # Mixed one after the other, so that no two of them can stand for each other.
    state = _mix(_mix(np.uint64(seed % 2**64)) ^ np.uint64(epoch))
    rows = _mix(state ^ np.asarray(index).astype(np.uint64))
    with np.errstate(over="ignore"):
        steps = rows[:, None] + _GOLDEN * np.arange(1, count + 1, dtype=np.uint64)
    return (_mix(steps) >> np.uint64(11)).astype(np.float64) * 2.0**-53


_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def _mix(value: Any) -> Any:
    with np.errstate(over="ignore"):
        value = value + _GOLDEN
        value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return value ^ (value >> np.uint64(31))


@dataclass(frozen=True)
class Draws:
    """The geometry drawn for N persons."""

    rotation_degrees: Float64[np.ndarray, " N"]
    scale: Float64[np.ndarray, " N"]
    flip: Bool[np.ndarray, " N"]

    def __getitem__(self, row: int) -> AffineDraw:
        return AffineDraw(
            float(self.rotation_degrees[row]), float(self.scale[row]), bool(self.flip[row])
        )


class BatchCropper:
    """Cuts and augments the crops of a batch of persons of one split.

    Args:
        persons: The persons; their images are `CachedCrops`.
        input_size: (height, width) of the crops.
        augmentation: None for the plain crop.
        seed: Of the draws.
        unbiased: See `crop_matrix`.
    """

    def __init__(
        self,
        persons: Persons,
        *,
        input_size: tuple[int, int],
        augmentation: Augmentation | None = None,
        seed: int = 0,
        unbiased: bool = False,
    ) -> None:
        if not isinstance(persons.images, CachedCrops):
            raise ValueError(f"{persons.name}: crops are cut on the device from a crop cache only")
        self.persons = persons
        self.crops = persons.images
        self.input_size = input_size
        self.augmentation = augmentation
        self.seed = seed
        self._permutation = persons.skeleton.flip_permutation
        width, height = crop_extent(input_size, unbiased)
        boxes = fit_box(persons.box_size, width / height)
        self._plain = np.stack(
            [
                crop_matrix(center, box, 0.0, input_size, unbiased=unbiased)
                for center, box in zip(persons.center, boxes, strict=True)
            ]
        )
        self._pivot = apply(self._plain[0], persons.center[0].astype(np.float64))

    def draws(self, epoch: int, index: Int64[np.ndarray, " N"]) -> Draws:
        """The geometry of persons in an epoch."""
        return self._geometry(uniform_draws(self.seed, epoch, index, _FLIP + 1))

    def _geometry(self, uniforms: Float64[np.ndarray, "N draws"]) -> Draws:
        augmentation = self.augmentation
        if augmentation is None:
            zeros = np.zeros(len(uniforms))
            return Draws(zeros, zeros + 1, zeros > 0)
        low, high = augmentation.scale
        return Draws(
            rotation_degrees=(2 * uniforms[:, _ROTATION] - 1) * augmentation.rotation,
            scale=low + (high - low) * uniforms[:, _SCALE],
            flip=uniforms[:, _FLIP] < augmentation.flip,
        )

    def columns(self, epoch: int, index: Int64[np.ndarray, " N"]) -> Columns:
        """Everything but pixels: labels in the crops, where to sample, what else is drawn.

        Args:
            epoch: Number of the epoch.
            index: Rows of the persons, any number.

        Returns:
            The entries of a `PoseBatch` apart from "image"; "image_index" (N,), rows of the cache;
            "sampling" (N, 2, 3), crop pixels to cached crop's pixels; what `change_pixels` needs.
        """
        index = np.asarray(index)
        uniforms = uniform_draws(self.seed, epoch, index, _DRAWS)
        draws = self._geometry(uniforms)
        persons = self.persons
        matrix = compose(self._augmenting(draws), self._plain[index])
        to_image = _invert(matrix)
        image_index = persons.image_index[index]
        columns = {
            "to_image": to_image.astype(np.float32),
            "sampling": compose(_invert(self.crops.to_image[image_index]), to_image).astype(
                np.float32
            ),
            "reference_length": persons.reference_length[index].astype(np.float32),
            "sample_index": index.astype(np.int64),
            "image_index": image_index.astype(np.int64),
            **self._labels(index, matrix, draws.flip),
            **self._pixel_draws(uniforms),
        }
        return {name: torch.from_numpy(np.ascontiguousarray(v)) for name, v in columns.items()}

    def _labels(
        self,
        index: Int64[np.ndarray, " N"],
        matrix: Float64[np.ndarray, "N 2 3"],
        flip: Bool[np.ndarray, " N"],
    ) -> dict[str, np.ndarray]:
        """Joints in the crop and in the image; left and right exchanged where mirrored."""
        order = np.where(flip[:, None], self._permutation, np.arange(len(self._permutation)))
        target = np.take_along_axis(self.persons.joints[index], order[..., None], 1)
        visibility = np.take_along_axis(self.persons.visibility[index], order, 1)
        joints = target @ matrix[..., :2].swapaxes(1, 2) + matrix[:, None, :, 2]
        return {
            "joints": joints.astype(np.float32),
            "labelled": visibility > 0,
            "target": target,
        }

    def _augmenting(self, draws: Draws) -> Float64[np.ndarray, "N 2 3"]:
        """From pixels of the plain crop to those of the augmented one (see `crop_matrix`)."""
        angle = np.radians(draws.rotation_degrees)
        cosine, sine = np.cos(angle) / draws.scale, np.sin(angle) / draws.scale
        linear = np.stack([np.stack([cosine, sine], -1), np.stack([-sine, cosine], -1)], -2)
        matrix = np.concatenate([linear, (self._pivot - linear @ self._pivot)[..., None]], -1)
        mirrored = matrix[draws.flip]
        mirrored[:, 0] *= -1
        mirrored[:, 0, 2] += self.input_size[1] - 1
        matrix[draws.flip] = mirrored
        return matrix

    def _pixel_draws(self, uniforms: Float64[np.ndarray, "N draws"]) -> dict[str, np.ndarray]:
        """What `Augmentation.change_pixels` draws: of albumentations' transforms, as it sets them."""
        augmentation, drawn = self.augmentation, {}
        if augmentation is None:
            return drawn
        if augmentation.colour > 0:
            # Brightness, contrast, saturation, hue; no change where the transform is not drawn.
            low, high = np.array([0.7, 0.7, 0.7, -0.05]), np.array([1.3, 1.3, 1.3, 0.05])
            factors = low + (high - low) * uniforms[:, _FACTORS]
            on = uniforms[:, _COLOUR, None] < augmentation.colour
            drawn["colour"] = np.where(on, factors, [1.0, 1.0, 1.0, 0.0]).astype(np.float32)
            drawn["colour_order"] = uniforms[:, _ORDER].argsort(-1).astype(np.int64)
        if augmentation.blur > 0:
            # One draw in three makes a kernel of 3 pixels, the others one of 5.
            offsets = np.arange(-2, 3)
            sigma = 0.5 + 2.5 * uniforms[:, _SIGMA, None]
            kernel = np.exp(-0.5 * (offsets / sigma) ** 2)
            kernel[(uniforms[:, _KERNEL] < 1 / 3)[:, None] & (np.abs(offsets) == 2)] = 0
            kernel[uniforms[:, _BLUR] >= augmentation.blur] = offsets == 0
            drawn["blur"] = (kernel / kernel.sum(-1, keepdims=True)).astype(np.float32)
        if augmentation.occlusion > 0:
            drawn |= self._holes(uniforms, augmentation.occlusion)
        return drawn

    def _holes(
        self, uniforms: Float64[np.ndarray, "N draws"], probability: float
    ) -> dict[str, np.ndarray]:
        """One to three rectangles: first and last row and column (the last outside), and colour."""
        hole = uniforms[:, _FIRST_HOLE:].reshape(-1, _HOLES, 7)
        sides = np.array(self.input_size)
        extent = np.floor(sides * (0.1 + 0.2 * hole[..., :2]))
        first = np.floor(hole[..., 2:4] * (sides - extent + 1))
        count = 1 + np.floor(_HOLES * uniforms[:, _HOLE_COUNT])
        count = np.where(uniforms[:, _OCCLUSION] < probability, count, 0)
        extent[np.arange(_HOLES) >= count[:, None]] = 0
        return {
            "holes": np.concatenate([first, first + extent], -1).astype(np.int64),
            "hole_colour": np.floor(256 * hole[..., 4:]).astype(np.uint8),
        }

    def batch(self, pixels: UInt8[Tensor, "B H W 3"], columns: Columns) -> PoseBatch:
        """The batch of cached crops and the columns of the same persons, both on one device."""
        image = sample(pixels, columns["sampling"], self.input_size)
        image = change_pixels(image, columns)
        return {
            "image": _to_bytes(image),
            "joints": columns["joints"],
            "labelled": columns["labelled"],
            "to_image": columns["to_image"],
            "target": columns["target"],
            "reference_length": columns["reference_length"],
            "sample_index": columns["sample_index"],
        }


def _invert(matrix: Float64[np.ndarray, "N 2 3"]) -> Float64[np.ndarray, "N 2 3"]:
    """`pnfs.data.geometry.invert` of many maps."""
    linear = np.linalg.inv(matrix[..., :2])
    return np.concatenate([linear, -linear @ matrix[..., 2:]], -1)


def sample(
    pixels: UInt8[Tensor, "B H W 3"],
    sampling: Float[Tensor, "B 2 3"],
    input_size: tuple[int, int],
) -> Float[Tensor, "B 3 h w"]:
    """Crops by bilinear interpolation, black outside of the cached crop, 0 to 255.

    Args:
        pixels: Cached crops.
        sampling: From pixels of the crop to those of the cached crop, as `cv2.warpAffine` has it
            with WARP_INVERSE_MAP.
        input_size: (height, width) of the crops.
    """
    device, (height, width) = pixels.device, input_size
    x = torch.arange(width, device=device, dtype=torch.float32)
    y = torch.arange(height, device=device, dtype=torch.float32)[:, None]
    # Written out: a matrix product may run in reduced precision, half a pixel off.
    rows = sampling[:, :, :, None, None]
    place = rows[:, :, 0] * x + rows[:, :, 1] * y + rows[:, :, 2]
    sides = (pixels.shape[2] - 1, pixels.shape[1] - 1)
    grid = torch.stack([2 * place[:, axis] / sides[axis] - 1 for axis in (0, 1)], -1)
    return F.grid_sample(
        pixels.permute(0, 3, 1, 2).float(), grid, padding_mode="zeros", align_corners=True
    )


def change_pixels(image: Float[Tensor, "B 3 h w"], columns: Columns) -> Float[Tensor, "B 3 h w"]:
    """Colour, blur and occlusion as they are drawn in `columns`, in `Augmentation`'s order."""
    if "colour" in columns:
        image = change_colours(image, columns["colour"], columns["colour_order"])
    if "blur" in columns:
        image = blur(image, columns["blur"])
    if "holes" in columns:
        image = blot_out(image, columns["holes"], columns["hole_colour"])
    return image


def change_colours(
    image: Float[Tensor, "B 3 h w"], factors: Float[Tensor, "B 4"], order: Int64[Tensor, "B 4"]
) -> Float[Tensor, "B 3 h w"]:
    """Brightness, contrast, saturation and hue in each crop's own order; 0 to 255 is kept.

    Args:
        image: 0 to 255.
        factors: Of brightness, contrast, saturation; and the turn of the hue, in turns.
        order: Which of the four comes first, second, …
    """
    brightness, contrast, saturation, turn = factors[:, :, None, None, None].unbind(1)
    for step in range(4):
        now = order[:, step, None, None, None]
        gray = _gray(image)
        # All four are mixtures with something; where it is not an operation's turn, its factor is 1.
        mean = gray.mean((2, 3), keepdim=True)
        other = torch.where(now == 1, mean, torch.where(now == 2, gray, torch.zeros_like(gray)))
        factor = torch.where(now == 0, brightness, torch.where(now == 1, contrast, saturation))
        mixed = (image * factor + other * (1 - factor)).clamp(0, 255)
        image = torch.where(now == 3, _turn_hue(image, turn), mixed)
    return image


def _gray(image: Float[Tensor, "B 3 h w"]) -> Float[Tensor, "B 1 h w"]:
    red, green, blue = image.split(1, 1)
    return 0.299 * red + 0.587 * green + 0.114 * blue


def _turn_hue(
    image: Float[Tensor, "B 3 h w"], turn: Float[Tensor, "B 1 1 1"]
) -> Float[Tensor, "B 3 h w"]:
    """Turns the hue of the hexagonal HSV model; saturation and value stay."""
    red, green, blue = image.split(1, 1)
    value, largest = image.max(1, keepdim=True)
    chroma = value - image.min(1, keepdim=True).values
    safe = chroma.clamp(min=1e-6)
    sixth = torch.where(
        largest == 0,
        (green - blue) / safe,
        torch.where(largest == 1, (blue - red) / safe + 2, (red - green) / safe + 4),
    )
    offsets = torch.tensor([5.0, 3.0, 1.0], device=image.device)[:, None, None]
    place = (sixth + 6 * turn + offsets).remainder(6)
    return value - chroma * torch.minimum(place, 4 - place).clamp(0, 1)


def blur(image: Float[Tensor, "B 3 h w"], kernel: Float[Tensor, "B 5"]) -> Float[Tensor, "B 3 h w"]:
    """Each crop smoothed by its own kernel along both axes, mirrored at the edges."""
    height, width = image.shape[-2:]
    weights = kernel[:, :, None, None, None]
    padded = F.pad(image, (2, 2, 2, 2), mode="reflect")
    across = sum(weights[:, i] * padded[..., i : i + width] for i in range(5))
    assert isinstance(across, Tensor)
    down = sum(weights[:, i] * across[..., i : i + height, :] for i in range(5))
    assert isinstance(down, Tensor)
    return down


def blot_out(
    image: Float[Tensor, "B 3 h w"], holes: Int64[Tensor, "B n 4"], colour: UInt8[Tensor, "B n 3"]
) -> Float[Tensor, "B 3 h w"]:
    """Rectangles of one colour each; `holes` are first row, first column, last row, last column."""
    height, width = image.shape[-2:]
    y = torch.arange(height, device=image.device)[:, None]
    x = torch.arange(width, device=image.device)
    for number in range(holes.shape[1]):
        top, left, bottom, right = holes[:, number, :, None, None].unbind(1)
        inside = (y >= top) & (y < bottom) & (x >= left) & (x < right)
        image = torch.where(inside[:, None], colour[:, number, :, None, None].float(), image)
    return image


def _to_bytes(image: Float[Tensor, "B 3 h w"]) -> UInt8[Tensor, "B h w 3"]:
    return image.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()
