"""The experiment YAMLs of the public code whose checkpoints `pnfs import` takes, read as plain data."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import PositiveFloat, TypeAdapter, ValidationError

from pnfs.errors import PnfsError
from pnfs.models.network import ChannelOrder

_LARGEST = 1_000_000
"""Bytes of a YAML file that are read; theirs have five thousand."""

_CELL = "subnetwork_config.cell_config"
_FABRIC: Mapping[str, Any] = {
    **dict.fromkeys(("depth", "hidden_states_num", "factor", "input_nodes_num"), int),
    "operators": list[str],
    "size_types": list[int],
}
_POSENFS: Mapping[str, Any] = {
    **{f"{place}.{key}": kind for place in (_CELL, "backbone") for key, kind in _FABRIC.items()},
    **{f"{_CELL}.cut_layers_num": int, f"{_CELL}.vector_dim": int, f"{_CELL}.vector_in_pixel": bool},
    "backbone.reserve_layers_num": int, "subnetwork_config.parts_num": int, "keypoints_num": int,
    "subnetwork_config.dataset_name": str, "dataset_name": str,
    "input_size.h": int, "input_size.w": int, "margin_to_border": PositiveFloat,
    "train.heatmap_peak_sigma_factor": PositiveFloat,
}  # fmt: skip
_PUBLIC: Mapping[str, Any] = {
    "MODEL.NUM_JOINTS": int, "MODEL.EXTRA.NUM_LAYERS": int, "MODEL.IMAGE_SIZE": tuple[int, int],
    # ResNets that reduce the map in a block's first convolution cannot be built here.
    "MODEL.STYLE": Literal["pytorch"], "MODEL.SIGMA": PositiveFloat, "MODEL.EXTRA.SIGMA": PositiveFloat,
    "DATASET.DATASET": str, "DATASET.COLOR_RGB": bool, "TEST.SHIFT_HEATMAP": bool,
}  # fmt: skip
"""Dotted keys that are read -> what they hold."""


@dataclass(frozen=True)
class Experiment:
    """What a YAML says; None where it says nothing."""

    source: str = ""  # The file, for messages.
    dataset: str | None = None  # "mpii" or "coco".
    input_size: tuple[int, int] | None = None  # (height, width).
    operators: list[str] | None = None  # Operations of the subnetworks, in their names.
    backbone_operators: list[str] | None = None  # Operations of a fabric backbone.
    channel_order: ChannelOrder | None = None  # Order of the images' colours.
    sigma: float | None = None  # Standard deviation of the targets, heatmap pixels.
    padding: float | None = None  # Factor on the sides of person boxes.
    flip_shift: Literal[0, 1] | None = None  # Pixels by which mirrored maps move in the flip test.
    stated: Mapping[str, Any] = field(default_factory=dict)  # Dotted key -> value, or None.

    def compare(self, told: Mapping[str, int]) -> None:
        """Raises PnfsError if the checkpoint's entries say something else: the YAML is another one's."""
        for key, value in told.items():
            if self.stated.get(key) not in (None, value):
                raise PnfsError(
                    f"config: {self.source}: {key} is {self.stated[key]}, but the checkpoint's entries say "
                    f"{value}; it is another experiment's"
                )


def read_experiment(path: str, posenfs: bool) -> Experiment:
    """What an experiment's YAML says, in the keys of the authors' code, or of HRNet and SimpleBaseline.

    Raises PnfsError if the file cannot be read, lacks the part that describes a network, has a key of the wrong
    kind, or describes what cannot be built here.
    """
    file = Path(path).expanduser()
    if not file.is_file() or file.stat().st_size > _LARGEST:
        raise PnfsError(f"config: {path} is not a file of at most a megabyte")
    try:
        content = yaml.safe_load(file.read_text())
        if not isinstance(content, dict):
            raise PnfsError("it holds no keys")
        return (_of_posenfs if posenfs else _of_public)(content, path)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise PnfsError(f"config: {path}: {error}") from error


def _read(content: Any, kinds: Mapping[str, Any]) -> dict[str, Any]:
    """The values of dotted keys, None where there is none."""
    found: dict[str, Any] = {}
    for key, kind in kinds.items():
        value = content
        for name in key.split("."):
            value = value.get(name) if isinstance(value, dict) else None
        try:
            found[key] = None if value is None else TypeAdapter(kind).validate_python(value)
        except ValidationError as error:
            reason = f"{error.errors()[0]['msg']}; other networks cannot be built here"
            raise PnfsError(f"{key}={value!r:.60}: {reason}") from None
    return found


def _of_posenfs(content: dict[str, Any], path: str) -> Experiment:
    # Newer files have what describes the network below `model`; records of it have it at the top.
    model = content.get("model", content)
    if not isinstance(model, dict) or not {"subnetwork_config", "cell_config"} & set(model):
        raise PnfsError("model has neither subnetwork_config nor cell_config")
    if "cell_config" in model:
        model = model | {"subnetwork_config": {**model, "dataset_name": model.get("dataset")}}
    backbone = model.get("backbone_config", model.get("backbone"))
    said = _read(model | {"backbone": backbone, "train": content.get("train")}, _POSENFS)
    for place in (_CELL, "backbone"):
        if said[f"{place}.input_nodes_num"] not in (None, 1):
            raise PnfsError(
                f"{place}.input_nodes_num: cells with two input nodes (the paper's have one) cannot be built here"
            )
        if said[f"{place}.size_types"] not in (None, [4, 8, 16, 32]):
            raise PnfsError(f"{place}.size_types: only [4, 8, 16, 32] can be built")
    if said[f"{_CELL}.vector_in_pixel"] and said[f"{_CELL}.vector_dim"] == 1:
        raise PnfsError("vector_in_pixel with vector_dim 1 cannot be built here")
    if said[f"{_CELL}.vector_in_pixel"] is False:
        said[f"{_CELL}.vector_dim"] = 1
    size = (said["input_size.h"], said["input_size.w"])
    return Experiment(
        source=path,
        dataset=said["subnetwork_config.dataset_name"] or said["dataset_name"],
        input_size=None if None in size else size,
        operators=said[f"{_CELL}.operators"],
        backbone_operators=said["backbone.operators"],
        sigma=said["train.heatmap_peak_sigma_factor"],
        padding=said["margin_to_border"],
        stated=said,
    )


def _of_public(content: dict[str, Any], path: str) -> Experiment:
    if not isinstance(content.get("MODEL"), dict):
        raise PnfsError("MODEL is missing")
    said = _read(content, _PUBLIC)
    size, rgb, shift = (said[key] for key in ("MODEL.IMAGE_SIZE", "DATASET.COLOR_RGB", "TEST.SHIFT_HEATMAP"))
    return Experiment(
        source=path,
        dataset=said["DATASET.DATASET"],
        input_size=size and size[::-1],
        channel_order=None if rgb is None else "rgb" if rgb else "bgr",
        sigma=said["MODEL.SIGMA"] or said["MODEL.EXTRA.SIGMA"],
        flip_shift=None if shift is None else 1 if shift else 0,
        stated=said,
    )
