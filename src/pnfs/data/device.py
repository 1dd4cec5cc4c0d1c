"""Training crops cut on the device: the loader draws and labels, Lightning's batch hook cuts.

Draws, joints and matrices are the loader's own, whatever cuts the crops. The pixels differ by interpolation alone:
OpenCV's places are multiples of 1/32 pixel.
"""

import math
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from rich.progress import track
from torch import Tensor
from torch.nn import functional as F

from pnfs.data.cache import CachedCrops
from pnfs.data.crops import CropDataset, PoseBatch
from pnfs.data.geometry import compose, invert
from pnfs.data.images import DataError
from pnfs.data.persons import Persons
from pnfs.errors import PnfsError

SAMPLING, CACHED = "sampling", "cached_crop"


class UncutCrops(CropDataset):
    """Samples with what `cut_crops` makes "image" of, in its place.

    "sampling" (2, 3) takes pixels of the crop to those of the cached crop, "cached_crop" (H, W, 3) is that one,
    which does not come along where it is `resident` on the device. Options are those of `CropDataset`.

    Raises:
        PnfsError: The images are not `CachedCrops`, or the augmentation changes more than geometry.
    """

    def __init__(self, persons: Persons, *, resident: bool = False, **options: Any) -> None:
        super().__init__(persons, **options)
        if not isinstance(persons.images, CachedCrops):
            raise PnfsError(f"{persons.name}: crops are cut on the device from a crop cache only")
        self.crops, self.resident = persons.images, resident
        require_geometry_alone(self.augmentation)

    def pixels(self, index: int, matrix: np.ndarray, random: Any) -> dict[str, np.ndarray]:
        row = int(self.persons.image_index[index])
        found: dict[str, np.ndarray] = {}
        if self.resident:
            place = self.crops.place(row)
        else:
            cached, place = self.crops.view(row, 1.0)
            found[CACHED] = np.require(cached, requirements="W")
        found[SAMPLING] = compose(invert(place), invert(matrix)).astype(np.float32)
        return found


def require_geometry_alone(augmentation: Any) -> None:
    """Raises PnfsError for an `Augmentation` that changes colours, blurs or blots out."""
    for name in ("colour", "blur", "occlusion"):
        if getattr(augmentation, name, 0) > 0:
            raise PnfsError(
                f"augmentation.{name}={getattr(augmentation, name)} is made by the loader alone: "
                f"set data.augment=loader, or augmentation.{name}=0"
            )


def cut_crops(
    batch: dict[str, Tensor],
    input_size: tuple[int, int],
    resident: UInt8[Tensor, "N H W 3"] | None = None,
) -> PoseBatch:
    """The batch with its crops of `input_size`, on its device: bilinear, black outside of the cached crop.

    `batch` are samples of `UncutCrops`, collated; `resident` cached crops of all persons, on the same device, for
    samples without their own.
    """
    rest = {name: value for name, value in batch.items() if name not in (SAMPLING, CACHED)}
    sampling: Float[Tensor, "B 2 3"] = batch[SAMPLING]
    if CACHED in batch:
        cached = batch[CACHED]
    else:
        assert resident is not None
        cached = resident[batch["sample_index"]]
    y, x = (torch.arange(side, device=cached.device, dtype=torch.float32) for side in input_size)
    # Written out: a matrix product may run in reduced precision, half a pixel off.
    rows = sampling[:, :, :, None, None]
    place = rows[:, :, 0] * x + rows[:, :, 1] * y[:, None] + rows[:, :, 2]
    sides = (cached.shape[2] - 1, cached.shape[1] - 1)
    grid = torch.stack([2 * place[:, axis] / sides[axis] - 1 for axis in (0, 1)], -1)
    pixels = cached.permute(0, 3, 1, 2).float()
    image = F.grid_sample(pixels, grid, padding_mode="zeros", align_corners=True)
    image = image.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()
    return {"image": image, **rest}  # type: ignore[typeddict-item, return-value]


def resident_shape(persons: Persons) -> tuple[int, int, int, int]:
    """(N, H, W, 3) of the cached crops of persons."""
    assert isinstance(persons.images, CachedCrops)
    return (len(persons), *persons.images.settings.crop_size, 3)


def fits(persons: Persons, device: torch.device) -> bool:
    """Whether the cached crops take less than 60 % of a CUDA device's free memory; False on other devices."""
    if device.type != "cuda":
        return False
    return math.prod(resident_shape(persons)) < 0.6 * torch.cuda.mem_get_info(device)[0]


def load_resident(
    persons: Persons, device: torch.device, threads: int = 1
) -> UInt8[Tensor, "N H W 3"]:
    """The cached crops of all persons on a device, each checked against its checksum on the way.

    Raises:
        DataError: A crop is damaged, or the device has too little memory.
    """
    crops, shape = persons.images, resident_shape(persons)
    assert isinstance(crops, CachedCrops)
    try:
        pixels = torch.empty(shape, dtype=torch.uint8, device=device)
    except (torch.OutOfMemoryError, RuntimeError):
        raise DataError(
            f"{crops.path}: its crops take {math.prod(shape) / 1e9:.1f} GB of memory, which "
            f"{device} does not have; set data.resident=false"
        ) from None
    # Some at a time: what is read, and waits for its transfer, takes memory of the host.
    starts = track(range(0, len(persons), 256), f"crops to {device}", transient=True)
    with ThreadPoolExecutor(max(1, threads)) as pool:
        for start in starts:
            rows = persons.image_index[start : start + 256].tolist()
            read = list(pool.map(lambda row: crops.view(row, 1.0)[0], rows))
            pixels[start : start + 256] = torch.from_numpy(np.stack(read)).to(device)
    return pixels
