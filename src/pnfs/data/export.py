"""Writing labelled persons to disk in the layouts of MPII and COCO users."""

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import scipy.io
from jaxtyping import Float64
from rich.progress import track

from pnfs.body import COCO, MPII, Skeleton
from pnfs.data.coco_format import AREA_SHARE
from pnfs.data.datasets.mpii import FILE_JOINTS, PIXELS_PER_SCALE
from pnfs.data.persons import UNLABELLED, DataError, Persons
from pnfs.evaluation.pck import HEAD_SIZE_FACTOR

# The names of `pnfs.data.datasets.mpii.FILE_JOINTS` in gt_valid.mat.
_MPII_SHORT_NAMES = (
    "rank", "rkne", "rhip", "lhip", "lkne", "lank", "pelv", "thor", "neck", "head",
    "rwri", "relb", "rsho", "lsho", "lelb", "lwri",
)  # fmt: skip
_MPII_FILES = {"train": "train.json", "val": "valid.json"}
_COCO_SPLITS = {"train": "train2017", "val": "val2017"}

PADDING = 1.25
"""The loaders enlarge the boxes in the files by this factor; the writers take it off again."""

_LONG = 200
"""Images from which on a progress bar is shown."""


def write_mpii(
    persons_by_split: Mapping[str, Persons], folder: Path | str, image_format: str = "png"
) -> None:
    """Writes an MPII dataset in the JSON form that HRNet's and SimpleBaseline's users have.

    `images/`, `annot/train.json`, `annot/valid.json` and, for "val", `annot/gt_valid.mat`: pixels
    1-based, joints in the files' order. Reading it back gives the same joints, the same boxes
    (a box that is no square becomes one, with the longer side) and, for "val", the same reference
    lengths. The format knows labelled and unlabelled joints only, not occluded ones.

    Args:
        persons_by_split: Persons with the MPII skeleton under "train" and "val"; both readers
            and the format need both.
        folder: New or empty.
        image_format: "png" (exact) or "jpg" (smaller, quality 95).

    Raises:
        DataError: The folder is not empty, a split or skeleton does not fit, a person to be
            scored has no reference length, or an image cannot be read or written.
    """
    folder = _prepared(persons_by_split, folder, MPII, image_format)
    (folder / "annot").mkdir(parents=True)
    (folder / "images").mkdir()
    for split, persons in persons_by_split.items():
        if split == "val":
            _write_mpii_truth(persons, folder / "annot" / "gt_valid.mat")
        names, _ = _write_images(persons, folder / "images", f"{split}_", 0, image_format)
        records = [_mpii_record(persons, row, names) for row in range(len(persons))]
        _write_json(records, folder / "annot" / _MPII_FILES[split])


def write_coco(
    persons_by_split: Mapping[str, Persons], folder: Path | str, image_format: str = "png"
) -> None:
    """Writes a COCO keypoint dataset: `annotations/person_keypoints_*2017.json` and `images/`.

    Reading it back gives the same joints and visibility flags and, for boxes that lie inside the
    image, the same boxes. Boxes are written one pixel wider and taller than from their first to
    their last pixel, as COCO counts. Outlines are unknown: `segmentation` is empty and `area`,
    which the evaluation needs, is 0.53 of the box.

    Args:
        persons_by_split: Persons with the COCO skeleton under "train" and "val".
        folder: New or empty.
        image_format: "png" (exact) or "jpg" (smaller, quality 95).

    Raises:
        DataError: The folder is not empty, a split or skeleton does not fit, or an image cannot
            be read or written.
    """
    folder = _prepared(persons_by_split, folder, COCO, image_format)
    (folder / "annotations").mkdir(parents=True)
    images_before = persons_before = 0
    for split, persons in persons_by_split.items():
        target = folder / "images" / _COCO_SPLITS[split]
        target.mkdir(parents=True)
        names, sizes = _write_images(persons, target, "", images_before + 1, image_format)
        ids = {index: images_before + 1 + number for number, index in enumerate(names)}
        content = {
            "info": {"description": persons.name},
            "licenses": [],
            "categories": [_coco_category()],
            "images": [
                {"id": ids[i], "file_name": names[i], "width": sizes[i][1], "height": sizes[i][0]}
                for i in names
            ],
            "annotations": [
                _coco_annotation(persons, row, persons_before + 1 + row, ids)
                for row in range(len(persons))
            ],
        }
        _write_json(
            content, folder / "annotations" / f"person_keypoints_{_COCO_SPLITS[split]}.json"
        )
        images_before += len(names)
        persons_before += len(persons)


def _prepared(
    persons_by_split: Mapping[str, Persons],
    folder: Path | str,
    skeleton: Skeleton,
    image_format: str,
) -> Path:
    """The folder, once everything that can be wrong beforehand has been checked."""
    folder = Path(folder)
    if image_format not in ("png", "jpg"):
        raise DataError(f'image format must be "png" or "jpg", not {image_format!r}')
    if set(persons_by_split) != {"train", "val"}:
        raise DataError(
            f"{folder}: a dataset has the splits train and val, not "
            f"{', '.join(persons_by_split) or 'none'}"
        )
    for persons in persons_by_split.values():
        if persons.skeleton.name != skeleton.name:
            raise DataError(
                f"{persons.name}: has skeleton {persons.skeleton.name}, files of this kind hold "
                f"{skeleton.name}; write it in the other format"
            )
    if folder.exists() and not folder.is_dir():
        raise DataError(f"{folder}: is a file; name a folder")
    if folder.is_dir() and any(folder.iterdir()):
        raise DataError(f"{folder}: is not empty; name a new folder, or empty this one")
    return folder


def _write_images(
    persons: Persons, folder: Path, prefix: str, first: int, image_format: str
) -> tuple[dict[int, str], dict[int, tuple[int, int]]]:
    """Writes each image once; row of `persons.images` -> file name, and (height, width)."""
    names, sizes = {}, {}
    used = np.unique(persons.image_index).tolist()
    quality = [cv2.IMWRITE_JPEG_QUALITY, 95] if image_format == "jpg" else []
    numbered = track(
        list(enumerate(used)), description=persons.name, transient=True, disable=len(used) < _LONG
    )
    for number, index in numbered:
        names[index] = f"{prefix}{first + number:012d}.{image_format}"
        image = persons.images.read(index)
        sizes[index] = image.shape[0], image.shape[1]
        encoded = cv2.imencode(f".{image_format}", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), quality)
        _write_bytes(encoded[1].tobytes(), folder / names[index])
    return names, sizes


def _write_json(content: Any, path: Path) -> None:
    _write_bytes(json.dumps(content, allow_nan=False).encode(), path)


def _write_bytes(content: bytes, path: Path) -> None:
    try:
        path.write_bytes(content)
    except OSError as error:
        raise DataError(
            f"{path}: cannot be written ({error.strerror}); make room, empty the folder, repeat"
        ) from None


def _mpii_order() -> list[int]:
    return MPII.indices(FILE_JOINTS)


def _mpii_record(persons: Persons, row: int, names: Mapping[int, str]) -> dict[str, Any]:
    labelled = persons.visibility[row, _mpii_order()] > UNLABELLED
    joints = persons.joints[row, _mpii_order()].astype(np.float64) + 1
    center, scale = _mpii_center_scale(persons.center[row], persons.box_size[row])
    return {
        "image": names[int(persons.image_index[row])],
        "center": center.tolist(),
        "scale": scale,
        "joints": np.where(labelled[:, None], joints, -1.0).tolist(),
        "joints_vis": labelled.astype(int).tolist(),
    }


def _mpii_center_scale(
    center: np.ndarray, box_size: np.ndarray
) -> tuple[Float64[np.ndarray, " 2"], float]:
    """What the loaders' rules (y + 15 scale, scale x 1.25, minus 1) turn into this box."""
    scale = float(box_size.max()) / (PADDING * PIXELS_PER_SCALE)
    return center.astype(np.float64) + 1 - (0, 15 * scale), scale


def _write_mpii_truth(persons: Persons, path: Path) -> None:
    """The arrays that the public PCKh evaluation reads."""
    unknown = ~np.isfinite(persons.reference_length)
    if unknown.any():
        raise DataError(
            f"{persons.name}: person {persons.ids[np.flatnonzero(unknown)[0]]} has no head size, "
            "so that MPII's PCKh could not score it; leave such persons out"
        )
    joints = persons.joints[:, _mpii_order()].astype(np.float64)
    missing = persons.visibility[:, _mpii_order()] == UNLABELLED
    head, neck = (joints[:, FILE_JOINTS.index(name)] for name in ("head_top", "upper_neck"))
    # Only the size of the head box counts in the score: a square around the middle of the head.
    half = persons.reference_length.astype(np.float64) / HEAD_SIZE_FACTOR / np.sqrt(8)
    corners = (head + neck) / 2 + 1 + np.stack([-half, half])[..., None]
    file = io.BytesIO()
    scipy.io.savemat(
        file,
        {
            "dataset_joints": np.array([_MPII_SHORT_NAMES], dtype=object),
            "jnt_missing": missing.T.astype(np.uint8),
            "pos_gt_src": np.where(missing[..., None], 0, joints + 1).transpose(1, 2, 0),
            "headboxes_src": corners.transpose(0, 2, 1),
        },
    )
    _write_bytes(file.getvalue(), path)


def _coco_category() -> dict[str, Any]:
    skeleton = [[index + 1 for index in COCO.indices(limb)] for limb in COCO.limbs]
    return {
        "supercategory": "person",
        "id": 1,
        "name": "person",
        "keypoints": list(COCO.joints),
        "skeleton": skeleton,
    }


def _coco_annotation(
    persons: Persons, row: int, annotation_id: int, image_ids: Mapping[int, int]
) -> dict[str, Any]:
    size = persons.box_size[row].astype(np.float64) / PADDING
    low = persons.center[row].astype(np.float64) - size / 2
    # From the first to the last pixel the box is one less than its width.
    width, height = size + 1
    visibility = persons.visibility[row].astype(int)
    joints = persons.joints[row].astype(np.float64) * (visibility > UNLABELLED)[:, None]
    keypoints = np.concatenate([joints, visibility[:, None]], axis=1)
    return {
        "id": annotation_id,
        "image_id": image_ids[int(persons.image_index[row])],
        "category_id": 1,
        "iscrowd": 0,
        "bbox": [*low.tolist(), width, height],
        "area": AREA_SHARE * width * height,
        "segmentation": [],
        "num_keypoints": int((visibility > UNLABELLED).sum()),
        "keypoints": [
            int(value) if column % 3 == 2 else value
            for column, value in enumerate(keypoints.ravel().tolist())
        ],
    }
