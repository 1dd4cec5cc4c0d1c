"""Person crops kept in one file, so that an epoch decodes what it needs and no more.

A cached crop shows the person's box, upright, with room around it for every rotation and scale that
augmentation may draw; crops for training are cut from it as they would be from the image. Cached training
crops have half as many pixels a side again as plain ones, since they are interpolated twice, into the cache and
out of it: at equal resolution training saw softer pictures than validation, which cost 4 points of PCK@0.2 on
LSPET at 64 pixels. Splits that are not augmented are kept pixel by pixel. Labels are not in the cache: joints,
boxes and metrics stay in pixels of the image.

A cache is a folder:
  crops.bin      JPEG files, or raw RGB pixels, one crop after the other
  index.npy      for each person where the crop lies, its checksum, and its place in the image
  manifest.json  settings, fingerprint of the persons, counts; written last
"""

import hashlib
import json
import math
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from jaxtyping import Float64, UInt8

from pnfs.data.augmentation import Augmentation
from pnfs.data.geometry import compose, crop_matrix, fit_box, invert
from pnfs.data.persons import DataError, ImageSource, Persons, view_of

Format = Literal["jpeg", "raw"]

FORMAT_VERSION = 1
CROPS, INDEX, MANIFEST = "crops.bin", "index.npy", "manifest.json"
ENTRY = np.dtype(
    [
        ("offset", "<i8"),
        ("length", "<i8"),
        ("crc32", "<u4"),
        ("image_height", "<i4"),
        ("image_width", "<i4"),
        ("to_image", "<f8", (2, 3)),
    ]
)
"""A row of the index: bytes in crops.bin; the image's size; crop pixels to image pixels."""

PROBES = 4
"""Images whose pixels are compared when a cache is opened."""


@dataclass(frozen=True)
class CacheSettings:
    """What a cached crop looks like.

    Args:
        input_size: (height, width) of the crops that are cut from the cached ones.
        rotation: There is room to rotate by this many degrees either way.
        largest_scale: There is room to enlarge the box by this factor.
        resolution: Pixels of the cached crop per pixel of the plain crop of `input_size`.
        format: jpeg, or raw: about ten times the size, and nothing to decode.
        quality: Of JPEG, 1 to 100.
    """

    input_size: tuple[int, int]
    rotation: float = 0.0
    largest_scale: float = 1.0
    resolution: float = 1.5
    format: Format = "jpeg"
    quality: int = 95

    def __post_init__(self) -> None:
        object.__setattr__(self, "input_size", tuple(self.input_size))
        if self.format not in ("jpeg", "raw"):
            raise ValueError(f"the cache's format is jpeg or raw, not {self.format!r}")
        if not (isinstance(self.quality, int) and 1 <= self.quality <= 100):
            raise ValueError(f"JPEG quality must be a whole number from 1 to 100: {self.quality}")
        if not 0 < self.resolution < math.inf:
            raise ValueError(f"the cache's resolution must be positive, got {self.resolution}")

    def with_room_for(self, augmentation: Augmentation | None) -> "CacheSettings":
        """The same with room for what an augmentation may draw; None: for the plain crop, as it is."""
        if augmentation is None:
            return replace(self, rotation=0.0, largest_scale=1.0, resolution=1.0)
        return replace(
            self, rotation=float(augmentation.rotation), largest_scale=float(augmentation.scale[1])
        )

    @property
    def crop_size(self) -> tuple[int, int]:
        """(height, width) of a cached crop."""
        height, width = self.input_size
        return self._side(height, width), self._side(width, height)

    def _side(self, along: int, across: int) -> int:
        """Side that holds the box when it is turned and enlarged; a box of along x across."""
        # Furthest out is a corner; beyond the turn that brings it on the axis it comes back.
        turn = min(math.radians(self.rotation), math.atan2(across, along))
        extent = along * math.cos(turn) + across * math.sin(turn)
        # One pixel more on each side for the interpolation; even as `along` is, which puts the
        # pixels of a plain crop on those of the cached one.
        return 2 * math.ceil(self.resolution * self.largest_scale * extent / 2 + 1) + along % 2

    def serves(self, needed: "CacheSettings") -> bool:
        """Whether crops that need `needed` can be cut from this cache; format and quality aside."""
        return (
            self.input_size == needed.input_size
            and self.resolution >= needed.resolution
            and self.rotation >= needed.rotation
            and self.largest_scale >= needed.largest_scale
        )

    def differences(self, needed: "CacheSettings") -> str:
        """What keeps this cache from serving, for messages."""
        mine, theirs = asdict(self), asdict(needed)
        return ", ".join(
            f"{name} is {mine[name]}, needed {theirs[name]}"
            for name in mine
            if mine[name] != theirs[name]
        )

    def matrix(self, persons: Persons, row: int) -> Float64[np.ndarray, "2 3"]:
        """The map from pixels of the image to pixels of the cached crop."""
        height, width = self.input_size
        crop_height, crop_width = self.crop_size
        box = fit_box(persons.box_size[row], width / height)
        enlarged = box * (crop_width / (self.resolution * width))
        return crop_matrix(persons.center[row], enlarged, 0.0, (crop_height, crop_width))


class CachedCrops:
    """The crops of one finished cache, as the images of a `Persons`: row n is person n.

    `view` gives the cached crop and where it lies in the image. `read` gives the image itself; where
    that is gone, what the cache has of it, on black.

    Args:
        folder: The cache.
        originals: The images that it was made from.
        original_index: Row of `originals` for each person.
        ids: The persons' ids, for messages.

    Raises:
        DataError: The cache is damaged or of another version.
    """

    def __init__(
        self,
        folder: Path | str,
        *,
        originals: ImageSource,
        original_index: np.ndarray,
        ids: np.ndarray,
    ) -> None:
        self.folder = Path(folder)
        manifest = read_manifest(self.folder)
        self.settings = settings_of(manifest)
        self.originals = originals
        self._original_index = original_index
        self._ids = ids
        self._index = self._read_index(manifest)
        # The cheap half of every check; the other is made once for each crop that is read.
        size = (self.folder / CROPS).stat().st_size if (self.folder / CROPS).is_file() else -1
        if size != manifest["bytes"]:
            raise DataError(
                f"{self.folder / CROPS}: has {size} bytes where {manifest['bytes']} were written; "
                f"{_ANEW.format(folder=self.folder)}"
            )
        self._checked = np.zeros(len(self._index), bool)

    def __len__(self) -> int:
        return len(self._index)

    def __getstate__(self) -> dict[str, Any]:
        # A memory map would travel to a spawned worker with all that it maps.
        return {name: value for name, value in self.__dict__.items() if name != "_bytes"}

    @cached_property
    def _bytes(self) -> np.memmap:
        return np.memmap(self.folder / CROPS, np.uint8, mode="r")

    def crop(self, index: int) -> UInt8[np.ndarray, "H W 3"]:
        """The cached crop of person `index` in RGB.

        Raises:
            DataError: It is not what was written; the message names the person.
        """
        entry = self._index[index]
        start = int(entry["offset"])
        content = self._bytes[start : start + int(entry["length"])]
        if not self._checked[index]:
            if zlib.crc32(content.data) != int(entry["crc32"]):
                raise self._damage(index)
            self._checked[index] = True
        if self.settings.format == "raw":
            return content.reshape(*self.settings.crop_size, 3)
        crop = cv2.imdecode(content, cv2.IMREAD_COLOR_RGB)
        if crop is None:
            raise self._damage(index)
        return crop

    def _damage(self, index: int) -> DataError:
        return DataError(
            f"{self.folder / CROPS}: the crop of person {self._ids[index]} is damaged (its checksum "
            f"is another one than was written); {_ANEW.format(folder=self.folder)}"
        )

    def view(
        self, index: int, zoom: float
    ) -> tuple[UInt8[np.ndarray, "H W 3"], Float64[np.ndarray, "2 3"]]:
        """The cached crop, whatever the zoom, and the map of its pixels to those of the image."""
        return self.crop(index), self._index["to_image"][index]

    @property
    def to_image(self) -> Float64[np.ndarray, "N 2 3"]:
        """Pixels of the cached crops to pixels of the images."""
        return self._index["to_image"]

    def read(self, index: int) -> UInt8[np.ndarray, "H W 3"]:
        try:
            return self.originals.read(int(self._original_index[index]))
        except DataError:
            pass  # Absent, as on a machine that only the cache was carried to.
        entry = self._index[index]
        size = int(entry["image_width"]), int(entry["image_height"])
        return cv2.warpAffine(self.crop(index), entry["to_image"], size)

    def describe(self, index: int) -> str:
        return self.originals.describe(int(self._original_index[index]))

    def damaged(self) -> list[str]:
        """Ids of the persons whose crops are not what was written; reads everything."""
        found = []
        for row in range(len(self)):
            try:
                self.crop(row)
            except DataError:
                found.append(str(self._ids[row]))
        return found

    def _read_index(self, manifest: Mapping[str, Any]) -> np.ndarray:
        path = self.folder / INDEX
        try:
            content = path.read_bytes()
            if hashlib.sha256(content).hexdigest() != manifest["index_sha256"]:
                raise ValueError("its checksum is another one than was written")
            index = np.load(path, allow_pickle=False)
        except (OSError, ValueError) as error:
            raise DataError(f"{path}: {error}; {_ANEW.format(folder=self.folder)}") from None
        if index.dtype != ENTRY or len(index) != len(self._ids):
            raise DataError(f"{path}: is not an index of {len(self._ids)} persons")
        return index


_ANEW = "delete the folder {folder}, or run `pnfs cache` with rebuild=true, to write it anew"


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a finished cache.

    Raises:
        DataError: It cannot be read, or is of another version of this package.
    """
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        version = manifest["version"]
        settings_of(manifest)
        for name in ("fingerprint", "probes", "bytes", "index_sha256", "persons", "count"):
            manifest[name]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path}: is not the manifest of a crop cache ({type(error).__name__}: {error}); "
            f"{_ANEW.format(folder=folder)}"
        ) from None
    if version != FORMAT_VERSION:
        raise DataError(
            f"{path}: is of version {version}, this is {FORMAT_VERSION}; "
            f"{_ANEW.format(folder=folder)}"
        )
    return manifest


def settings_of(manifest: Mapping[str, Any]) -> CacheSettings:
    """The settings that a cache was written with."""
    settings = dict(manifest["settings"])
    return CacheSettings(**settings)


def fingerprint(persons: Persons) -> str:
    """A digest of what the crops depend on: who the persons are and where their boxes lie."""
    digest = hashlib.sha256()
    digest.update("\n".join(persons.ids.tolist()).encode())
    for column in (persons.center, persons.box_size):
        digest.update(np.ascontiguousarray(column, "<f4").tobytes())
    return digest.hexdigest()


def probe_images(persons: Persons) -> dict[str, int]:
    """Checksums of the pixels of a few images, by person's id; images that are not there left out."""
    found = {}
    for row in np.unique(np.linspace(0, len(persons) - 1, PROBES).astype(int)).tolist():
        try:
            image = persons.images.read(int(persons.image_index[row]))
        except DataError:
            continue
        found[str(persons.ids[row])] = zlib.crc32(np.ascontiguousarray(image).data)
    return found


def cache_folder(root: Path, persons: Persons, settings: CacheSettings) -> Path:
    """Where a cache of these persons with these settings lies below `root`."""
    key = json.dumps([FORMAT_VERSION, fingerprint(persons), asdict(settings)], sort_keys=True)
    name = "".join(c if c.isalnum() else "_" for c in persons.name.lower())
    return root / f"{name}-{hashlib.sha256(key.encode()).hexdigest()[:8]}"


def find_cache(
    root: Path, persons: Persons, needed: CacheSettings, any_format: bool
) -> tuple[Path | None, list[str]]:
    """A finished cache of these persons that serves.

    Args:
        root: Folder that holds caches.
        persons: The persons.
        needed: What their crops must have room for.
        any_format: Take a cache of another format or quality than `needed` names.

    Returns:
        The cache's folder, None if there is none; and why others of the same name do not fit.

    Raises:
        DataError: A cache that should serve was made from other images.
    """
    reasons = []
    exact = cache_folder(root, persons, needed)
    for folder in sorted(root.glob(f"*/{MANIFEST}"), key=lambda path: path.parent != exact):
        manifest = read_manifest(folder.parent)
        if manifest["persons"] != persons.name:
            continue
        settings = settings_of(manifest)
        if manifest["fingerprint"] != fingerprint(persons):
            reasons.append(f"{folder.parent}: the persons or their boxes are others")
        elif settings.serves(needed) and (
            any_format or (settings.format, settings.quality) == (needed.format, needed.quality)
        ):
            _check_images(folder.parent, manifest, persons)
            return folder.parent, reasons
        else:
            reasons.append(f"{folder.parent}: {settings.differences(needed)}")
    return None, reasons


def _check_images(folder: Path, manifest: Mapping[str, Any], persons: Persons) -> None:
    now = probe_images(persons)
    changed = [id_ for id_, crc in now.items() if manifest["probes"].get(id_, crc) != crc]
    if changed:
        raise DataError(
            f"{folder}: the image of person {changed[0]} is not the one that this cache was made "
            f"from; {_ANEW.format(folder=folder)}"
        )


def with_crops(persons: Persons, folder: Path) -> Persons:
    """The same persons with the crops of a finished cache in place of their images."""
    crops = CachedCrops(
        folder, originals=persons.images, original_index=persons.image_index, ids=persons.ids
    )
    return replace(persons, images=crops, image_index=np.arange(len(persons), dtype=np.int64))


def cut(
    persons: Persons, row: int, settings: CacheSettings
) -> tuple[UInt8[np.ndarray, "H W 3"], Float64[np.ndarray, "2 3"], tuple[int, int]]:
    """A crop to keep, the map of its pixels to the image's, and the image's (height, width).

    Raises:
        DataError: The image cannot be read.
    """
    matrix = settings.matrix(persons, row)
    image_index = int(persons.image_index[row])
    image, to_image = view_of(persons.images, image_index, 1 / math.hypot(*matrix[0, :2]))
    height, width = settings.crop_size
    crop = cv2.warpAffine(image, compose(matrix, to_image), (width, height))
    size = tuple(round(side * to_image[0, 0]) for side in image.shape[:2])
    return crop, invert(matrix), (size[0], size[1])
