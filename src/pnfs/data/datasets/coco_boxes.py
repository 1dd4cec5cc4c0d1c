"""Boxes of COCO's persons: which persons have one, where it lies in the image, and what it is called."""

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64

from pnfs.data.coco_format import CROWD, EMPTY_BOX, NO_JOINTS, STATED_ZERO, Annotations
from pnfs.data.images import DataError
from pnfs.data.persons import UNLABELLED, Persons


def image_table(read: Annotations) -> dict[int, tuple[str, tuple[int, int]]]:
    """Image id -> file name, (width, height)."""
    table = {}
    for row, image in enumerate(read.images):
        match image:
            case {"id": int(id_), "width": int(w), "height": int(h), "file_name": str(name)}:
                table[id_] = name, (w, h)
            case _:
                raise DataError(
                    f"{read.where}: image {image.get('id', row)}: needs id, width and height as "
                    "whole numbers and file_name as text"
                )
    return table


def usable_persons(
    read: Annotations, size: Float[np.ndarray, "N 2"], fewest: int
) -> tuple[Bool[np.ndarray, " N"], dict[str, int]]:
    """Which persons stay, and how many do not, by the first reason that applies."""
    labelled = (read.visibility > UNLABELLED).sum(-1)
    keep, counts = np.ones(len(read.ids), dtype=bool), dict(read.left_out)
    for reason, wrong in (
        (CROWD, read.crowd),
        (NO_JOINTS, labelled == 0),
        (STATED_ZERO, ~read.usable),
        (EMPTY_BOX, ~(size > 0).all(-1)),
        (f"with fewer than {fewest} labelled joints", labelled < fewest),
    ):
        if (keep & wrong).any():
            counts[reason] = int((keep & wrong).sum())
        keep &= ~wrong
    return keep, counts


def numbered(image_ids: Int64[np.ndarray, " N"]) -> np.ndarray:
    """An id for each box: its image and its number among the image's boxes, from 0."""
    order = np.argsort(image_ids, kind="stable")
    number = np.empty(len(order), np.int64)
    number[order] = np.arange(len(order)) - np.searchsorted(image_ids[order], image_ids[order])
    pairs = zip(image_ids.tolist(), number.tolist(), strict=True)
    return np.array([f"{image_id}/{count}" for image_id, count in pairs], dtype=np.str_)


def corners(persons: Persons) -> torch.Tensor:
    """(N, 4) x, y of the upper left and the lower right corner."""
    half = persons.box_size.astype(np.float64) / 2
    return torch.from_numpy(np.hstack([persons.center - half, persons.center + half]))


def clipped(
    boxes: Float[np.ndarray, "N 4"], image_sizes: Float[np.ndarray, "N 2"]
) -> tuple[Float[np.ndarray, "N 2"], Float[np.ndarray, "N 2"]]:
    """Centre and (width, height) of boxes (x, y, w, h) clipped to the image, by HRNet's rules.

    HRNet measures a box from its first to its last pixel: one less than its width.
    """
    low = np.maximum(boxes[:, :2], 0)
    high = np.minimum(image_sizes - 1, low + np.maximum(boxes[:, 2:] - 1, 0))
    return (low + high) / 2, high - low
