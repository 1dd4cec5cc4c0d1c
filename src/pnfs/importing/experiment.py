"""The experiment YAMLs of the public code whose checkpoints `pnfs import` takes, read as plain data."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pnfs.errors import PnfsError
from pnfs.models.network import ChannelOrder

_LARGEST = 1_000_000
"""Bytes of a YAML file that are read; theirs have five thousand."""


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
        stated: What the checkpoint's entries tell too: name of the key -> its value.
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
    stated: Mapping[str, Any] = field(default_factory=dict)


class _Read(BaseModel):
    """Their files have many keys more."""

    model_config = ConfigDict(extra="ignore")


class _Fabric(_Read):
    operators: list[str] | None = None
    depth: int | None = None
    cut_layers_num: int | None = None
    reserve_layers_num: int | None = None
    hidden_states_num: int | None = None
    factor: int | None = None
    input_nodes_num: int | None = None
    size_types: list[int] | None = None
    vector_in_pixel: bool | None = None
    vector_dim: int | None = None


class _Subnetworks(_Read):
    dataset: str | None = Field(None, alias="dataset_name")
    parts_num: int | None = None
    cell_config: _Fabric = _Fabric()


class _Size(_Read):
    w: int
    h: int


class _Network(_Read):
    dataset_name: str | None = None
    keypoints_num: int | None = None
    input_size: _Size | None = None
    margin_to_border: float | None = Field(None, gt=0)
    backbone: _Fabric | str | None = None
    subnetwork_config: _Subnetworks = _Subnetworks()  # pyright: ignore[reportCallIssue]


class _Targets(_Read):
    heatmap_peak_sigma_factor: float | None = Field(None, gt=0)


class _PoseNFS(_Read):
    model: _Network
    train: _Targets = _Targets()  # pyright: ignore[reportCallIssue]


class _PublicExtra(_Read):
    sigma: float | None = Field(None, alias="SIGMA", gt=0)
    num_layers: int | None = Field(None, alias="NUM_LAYERS")


class _PublicModel(_Read):
    image_size: tuple[int, int] | None = Field(None, alias="IMAGE_SIZE")
    sigma: float | None = Field(None, alias="SIGMA", gt=0)
    num_joints: int | None = Field(None, alias="NUM_JOINTS")
    style: str = Field("pytorch", alias="STYLE")
    extra: _PublicExtra = Field(_PublicExtra(), alias="EXTRA")  # pyright: ignore[reportCallIssue]


class _PublicDataset(_Read):
    name: str | None = Field(None, alias="DATASET")
    color_rgb: bool | None = Field(None, alias="COLOR_RGB")


class _PublicTest(_Read):
    shift_heatmap: bool | None = Field(None, alias="SHIFT_HEATMAP")


class _Public(_Read):
    model: _PublicModel = Field(alias="MODEL")
    dataset: _PublicDataset = Field(_PublicDataset(), alias="DATASET")  # pyright: ignore[reportCallIssue]
    test: _PublicTest = Field(_PublicTest(), alias="TEST")  # pyright: ignore[reportCallIssue]


def read_experiment(path: str, posenfs: bool) -> Experiment:
    """What an experiment's YAML says.

    Args:
        path: The file.
        posenfs: In the keys of the authors' code; else in those of HRNet and SimpleBaseline.

    Raises:
        ValueError: The file cannot be read, lacks the part that describes a network, has a key of the wrong
            kind, or describes what cannot be built here.
    """
    content = _load(Path(path).expanduser())
    try:
        if posenfs:
            return _of_posenfs(_PoseNFS.model_validate(_nested(content)), path)
        return _of_public(_Public.model_validate(content), path)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise PnfsError(f"config: {path}: {key}: {first['msg']}") from error


def _load(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise PnfsError(f"config: {path} is not a file")
    if path.stat().st_size > _LARGEST:
        raise PnfsError(f"config: {path} is larger than a megabyte: no YAML of an experiment")
    try:
        content = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise PnfsError(f"config: {path} is not a readable YAML file ({error})") from error
    if not isinstance(content, dict):
        raise PnfsError(f"config: {path} holds no keys")
    return content


def _nested(content: dict[str, Any]) -> dict[str, Any]:
    """Their newer files have what describes the network below `model`; records of it have it at the top."""
    model = content.get("model", content)
    if not isinstance(model, dict) or not {"subnetwork_config", "cell_config"} & set(model):
        return {"model": model if "model" in content else None}
    if "cell_config" in model:
        model = model | {"subnetwork_config": {**model, "dataset_name": model.get("dataset")}}
    if isinstance(model.get("backbone_config"), dict):
        model = model | {"backbone": model["backbone_config"]}
    return {"model": model, "train": content.get("train") or {}}


def _of_posenfs(read: _PoseNFS, path: str) -> Experiment:
    model, parts = read.model, read.model.subnetwork_config
    cell = parts.cell_config
    backbone = model.backbone if isinstance(model.backbone, _Fabric) else _Fabric()
    for name, fabric in (("cell_config", cell), ("backbone", backbone)):
        if fabric.input_nodes_num not in (None, 1):
            raise PnfsError(
                f"config: {path}: {name}.input_nodes_num is {fabric.input_nodes_num}: cells with two input "
                "nodes (the paper's have one) cannot be built here"
            )
        if fabric.size_types not in (None, [4, 8, 16, 32]):
            raise PnfsError(
                f"config: {path}: {name}.size_types is {fabric.size_types}; only [4, 8, 16, 32] can be built"
            )
    if cell.vector_in_pixel and cell.vector_dim == 1:
        raise PnfsError(
            f"config: {path}: vectors of one number (vector_in_pixel with vector_dim 1) cannot be built here"
        )
    return Experiment(
        source=path,
        dataset=parts.dataset or model.dataset_name,
        input_size=None if model.input_size is None else (model.input_size.h, model.input_size.w),
        operators=cell.operators,
        backbone_operators=backbone.operators,
        sigma=read.train.heatmap_peak_sigma_factor,
        padding=model.margin_to_border,
        stated={
            "keypoints_num": model.keypoints_num,
            "parts_num": parts.parts_num,
            "cell_config.depth": cell.depth,
            "cell_config.cut_layers_num": cell.cut_layers_num,
            "cell_config.hidden_states_num": cell.hidden_states_num,
            "cell_config.factor": cell.factor,
            "cell_config.vector_dim": 1 if cell.vector_in_pixel is False else cell.vector_dim,
            "backbone.reserve_layers_num": backbone.reserve_layers_num,
            "backbone.hidden_states_num": backbone.hidden_states_num,
            "backbone.factor": backbone.factor,
        },
    )


def _of_public(read: _Public, path: str) -> Experiment:
    model = read.model
    if model.style != "pytorch":
        raise PnfsError(
            f"config: {path}: MODEL.STYLE is {model.style}; ResNets of that style, which reduce the map in a "
            "block's first convolution, cannot be built here"
        )
    rgb, shift = read.dataset.color_rgb, read.test.shift_heatmap
    return Experiment(
        source=path,
        dataset=read.dataset.name,
        input_size=None if model.image_size is None else (model.image_size[1], model.image_size[0]),
        channel_order=None if rgb is None else "rgb" if rgb else "bgr",
        sigma=model.sigma or model.extra.sigma,
        flip_shift=None if shift is None else 1 if shift else 0,
        stated={
            "MODEL.NUM_JOINTS": model.num_joints,
            "MODEL.EXTRA.NUM_LAYERS": model.extra.num_layers,
        },
    )
