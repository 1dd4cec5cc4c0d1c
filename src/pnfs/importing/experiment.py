"""The experiment YAMLs of the public code whose checkpoints `pnfs import` takes, read as plain data."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, TypeAdapter, ValidationError

from pnfs.errors import PnfsError
from pnfs.models.network import ChannelOrder

_LARGEST = 1_000_000
"""Bytes of a YAML file that are read; theirs have five thousand."""

_Positive = Annotated[float, Field(gt=0)]


@dataclass(frozen=True)
class Experiment:
    """What a YAML says; None where it says nothing.

    Attributes:
        source: The file, for messages.
        dataset: "mpii" or "coco".
        input_size: (height, width).
        operators: Operations of the subnetworks, in their names.
        backbone_operators: Operations of a fabric backbone.
        channel_order: Order of the images' colours.
        sigma: Standard deviation of the targets, heatmap pixels.
        padding: Factor on the sides of person boxes.
        flip_shift: Pixels by which mirrored maps move in the flip test.
        content: The part of the YAML that describes the network.
    """

    source: str = ""
    dataset: str | None = None
    input_size: tuple[int, int] | None = None
    operators: list[str] | None = None
    backbone_operators: list[str] | None = None
    channel_order: ChannelOrder | None = None
    sigma: float | None = None
    padding: float | None = None
    flip_shift: Literal[0, 1] | None = None
    content: Mapping[str, Any] = field(default_factory=dict)

    def stated(self, key: str) -> int | None:
        """The number at a dotted key, which the checkpoint's entries say too."""
        return _at(self.content, self.source, key)


def read_experiment(path: str, posenfs: bool) -> Experiment:
    """What an experiment's YAML says, in the keys of the authors' code, or of HRNet and SimpleBaseline.

    Raises:
        PnfsError: The file cannot be read, lacks the part that describes a network, has a key of the wrong
            kind, or describes what cannot be built here.
    """
    file = Path(path).expanduser()
    if not file.is_file() or file.stat().st_size > _LARGEST:
        raise PnfsError(f"config: {path} is not a file of at most a megabyte")
    try:
        content = yaml.safe_load(file.read_text())
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise PnfsError(f"config: {path} is not a readable YAML file ({error})") from error
    if not isinstance(content, dict):
        raise PnfsError(f"config: {path} holds no keys")
    return _of_posenfs(content, path) if posenfs else _of_public(content, path)


def _at(content: Mapping[str, Any], path: str, key: str, kind: Any = int) -> Any:
    """The value of a dotted key, None where there is none."""
    value: Any = content
    for name in key.split("."):
        if not isinstance(value, dict):
            raise PnfsError(f"config: {path}: {key}: {name} should be below a key, found {value!r}")
        value = value.get(name)
        if value is None:
            return None
    try:
        return TypeAdapter(kind).validate_python(value)
    except ValidationError as error:
        raise PnfsError(f"config: {path}: {key}: {error.errors()[0]['msg']}") from error


def _of_posenfs(content: dict[str, Any], path: str) -> Experiment:
    # Newer files have what describes the network below `model`; records of it have it at the top.
    model = content.get("model", content)
    if not isinstance(model, dict) or not {"subnetwork_config", "cell_config"} & set(model):
        raise PnfsError(f"config: {path}: model has neither subnetwork_config nor cell_config")
    if "cell_config" in model:
        model = model | {"subnetwork_config": {**model, "dataset_name": model.get("dataset")}}
    backbones = (model.get(key) for key in ("backbone_config", "backbone"))
    model = model | {"backbone": next((x for x in backbones if isinstance(x, dict)), {})}
    at, cell = partial(_at, model, path), "subnetwork_config.cell_config"
    for place in (cell, "backbone"):
        if at(f"{place}.input_nodes_num") not in (None, 1):
            raise PnfsError(
                f"config: {path}: {place}.input_nodes_num: cells with two input nodes (the paper's have one) "
                "cannot be built here"
            )
        if at(f"{place}.size_types", list[int]) not in (None, [4, 8, 16, 32]):
            raise PnfsError(f"config: {path}: {place}.size_types: only [4, 8, 16, 32] can be built")
    size, vectors = (at("input_size.h"), at("input_size.w")), at(f"{cell}.vector_in_pixel", bool)
    if vectors and at(f"{cell}.vector_dim") == 1:
        raise PnfsError(f"config: {path}: vector_in_pixel with vector_dim 1 cannot be built here")
    if vectors is False:
        model["subnetwork_config"]["cell_config"]["vector_dim"] = 1
    return Experiment(
        source=path,
        dataset=at("subnetwork_config.dataset_name", str) or at("dataset_name", str),
        input_size=None if None in size else size,
        operators=at(f"{cell}.operators", list[str]),
        backbone_operators=at("backbone.operators", list[str]),
        sigma=_at(content, path, "train.heatmap_peak_sigma_factor", _Positive),
        padding=at("margin_to_border", _Positive),
        content=model,
    )


def _of_public(content: dict[str, Any], path: str) -> Experiment:
    at = partial(_at, content, path)
    if not isinstance(content.get("MODEL"), dict):
        raise PnfsError(f"config: {path}: MODEL is missing")
    if at("MODEL.STYLE", str) not in (None, "pytorch"):
        raise PnfsError(
            f"config: {path}: MODEL.STYLE is not pytorch; ResNets that reduce the map in a block's first "
            "convolution cannot be built here"
        )
    width_height = at("MODEL.IMAGE_SIZE", tuple[int, int])
    rgb, shift = at("DATASET.COLOR_RGB", bool), at("TEST.SHIFT_HEATMAP", bool)
    sigmas = (at(key, _Positive) for key in ("MODEL.SIGMA", "MODEL.EXTRA.SIGMA"))
    return Experiment(
        source=path,
        dataset=at("DATASET.DATASET", str),
        input_size=width_height and width_height[::-1],
        channel_order=None if rgb is None else "rgb" if rgb else "bgr",
        sigma=next(filter(None, sigmas), None),
        flip_shift=None if shift is None else 1 if shift else 0,
        content=content,
    )
