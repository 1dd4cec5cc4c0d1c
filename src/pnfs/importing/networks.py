"""Networks of public checkpoints, built and filled; what `pnfs import` saves."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import PositiveFloat, TypeAdapter, ValidationError
from torch import Tensor

from pnfs.body import skeleton_by_name
from pnfs.errors import PnfsError
from pnfs.importing.posenfs import PoseNFSFabric, PoseNFSModel, describe_posenfs
from pnfs.importing.weights import (
    OPERATION_NAMES,
    PublicNetwork,
    describe_public,
    load_posenfs_state_dict,
    load_public_state,
)
from pnfs.models import PoseFabricNetwork, PoseNetwork

Build = Callable[[Mapping[str, Any]], PoseNetwork]
"""Makes a network of its configuration."""

# What the public baselines' maps are of, by their number.
_SKELETONS = {16: "mpii", 17: "coco"}
_BACKBONES = "pnfs.models.backbones"


@dataclass(frozen=True)
class Imported:
    """A checkpoint in this package's terms."""

    kind: str  # Whose code it is from.
    model: dict[str, Any]  # Configuration of the network.
    network: PoseNetwork  # With its weights.
    choices: Mapping[str, Any]
    """What the user, else the YAML, else that code's habit says: input_size, padding, sigma, flip_shift."""
    unread: Sequence[str] = ()  # Entries that no output depends on.


def import_state(settings: Mapping[str, Any], state: Mapping[str, Tensor], build: Build) -> Imported:
    """The network of a state dict of the authors' code (PoseNFS), HRNet or SimpleBaseline.

    `settings` are the command's. Raises PnfsError if it is none of these, or if it, the YAML and the settings
    contradict each other, leave something open, or describe what cannot be built here.
    """
    if any(name.startswith("network.") for name in state):
        raise PnfsError("has the names of this package's own checkpoints, which need no import")
    for name, value in state.items():
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise PnfsError(f"{name} holds numbers that are not finite")
    given = {**settings, **settings["codec"], "skeleton": settings["dataset"].get("skeleton")}
    if any(name.endswith(".alphas") for name in state):
        # They were trained on images as OpenCV reads them; their flip test moves nothing.
        said = read_experiment(settings["config"]) if settings["config"] else {"stated": {}}
        given = _filled(given, said, {"channel_order": "bgr", "flip_shift": 0, "sigma": 2.0})
        return _posenfs(given, state, build)
    public = describe_public(state)
    if public is None:
        raise PnfsError(f"has names of neither PoseNFS, HRNet nor SimpleBaseline, such as {next(iter(state))!r}")
    for key in ("config", "operators", "backbone_operators"):
        if given[key] is not None:
            raise PnfsError(f"{key} is for checkpoints of PoseNFS; this one is a {public.kind}")
    usual = {"channel_order": "rgb" if public.kind == "hrnet" else "bgr", "flip_shift": 1, "sigma": 2.0}
    return _public(_filled(given, {"skeleton": _SKELETONS.get(public.joints)}, usual), state, public, build)


def _filled(given: Mapping[str, Any], *others: Mapping[str, Any]) -> dict[str, Any]:
    """`given` with what the others say of keys that are null or missing."""
    filled = dict(given)
    for other in others:
        filled |= {key: value for key, value in other.items() if filled.get(key) is None}
    return filled


def _posenfs(given: Mapping[str, Any], state: Mapping[str, Tensor], build: Build) -> Imported:
    described = describe_posenfs(state, given["skeleton"])
    fabric, backbone = described.fabric, described.backbone_fabric
    told = {
        f"{_CELL}.depth": fabric.last_layer,
        f"{_CELL}.cut_layers_num": fabric.first_layer - 1,
        f"{_CELL}.hidden_states_num": fabric.nodes,
        f"{_CELL}.factor": fabric.channels,
        f"{_CELL}.vector_dim": described.vector_dim,
        "keypoints_num": len(described.skeleton),
        "subnetwork_config.parts_num": len(described.parts),
    }
    operators, backbone_operators = fabric.chosen(given["operators"], "operators"), ()
    if backbone is not None:
        told["backbone.reserve_layers_num"] = backbone.last_layer
        told["backbone.hidden_states_num"] = backbone.nodes
        told["backbone.factor"] = backbone.channels
        backbone_operators = backbone.chosen(given["backbone_operators"], "backbone_operators")
    elif given["backbone_operators"] is not None:
        raise PnfsError("backbone_operators: the checkpoint's backbone is no fabric")
    for key, value in told.items():
        if given["stated"].get(key) not in (None, value):
            raise PnfsError(
                f"config: {key} is {given['stated'][key]}, but {value} in the checkpoint: another one's"
            )
    model: dict[str, Any] = {
        "_target_": "pnfs.models.PoseFabricNetwork",
        "backbone": _backbone(given, described, backbone_operators),
        "skeleton": described.skeleton.name,
        "parts": {part: list(joints) for part, joints in described.parts.items()},
        "fabrics": {
            **_fabric(given, fabric, operators, list(described.parts)),
            "layers": fabric.last_layer,
            "last_layers": fabric.last_layer - fabric.first_layer + 1,
        },
        "vector_dim": described.vector_dim,
        "channel_order": given["channel_order"],
    }
    network = build(model)
    assert isinstance(network, PoseFabricNetwork)
    unread = load_posenfs_state_dict(network, state, list(described.parts), operators, backbone_operators)
    return Imported("PoseNFS", model, network, given, unread)


def _fabric(
    given: Mapping[str, Any], fabric: PoseNFSFabric, operators: Sequence[str], parts: Sequence[str]
) -> dict[str, Any]:
    return {
        "_target_": "pnfs.models.NeuralFabrics",
        "part_names": parts,
        "channels": fabric.channels,
        "nodes": fabric.nodes,
        # In the order of alpha's columns.
        "operations": {OPERATION_NAMES[name]: given["operations"][OPERATION_NAMES[name]] for name in operators},
        "alpha_per_cell": fabric.alpha_per_cell,
        "rules": given["variant"]["rules"],
    }


def _backbone(given: Mapping[str, Any], described: PoseNFSModel, operators: Sequence[str]) -> dict[str, Any]:
    fabric, size = described.backbone_fabric, described.backbone_size
    if fabric is not None:
        relu = given["variant"]["rules"]["stem_relu"]
        # How many layers the whole fabric had makes no difference to those that are kept.
        layers = {"layers": fabric.last_layer + 3, "first_layers": fabric.last_layer}
        return {
            "_target_": f"{_BACKBONES}.FabricBackbone",
            "stem": {"_target_": f"{_BACKBONES}.Stem", "channels": fabric.channels, "relu": relu},
            "fabrics": _fabric(given, fabric, operators, ["backbone"]) | {**layers, "input_scales": [4]},
            "weights": "none",
        }
    made = {
        "resnet": {"_target_": f"{_BACKBONES}.ResNet", "depth": size},
        "hrnet": {"_target_": f"{_BACKBONES}.HRNet", "width": size, "last_stage": 3},
        "mobilenet_v2": {"_target_": f"{_BACKBONES}.MobileNetV2"},
    }
    return made[described.backbone] | {"weights": "none"}


def _public(
    given: Mapping[str, Any], state: Mapping[str, Tensor], public: PublicNetwork, build: Build
) -> Imported:
    name = given["skeleton"]
    if name is None or len(skeleton_by_name(name)) != public.joints:
        raise PnfsError(f"dataset: the checkpoint makes {public.joints} maps, which are not {name}'s")
    model: dict[str, Any] = {"skeleton": name, "vector_dim": 1, "channel_order": given["channel_order"]}
    if public.kind == "hrnet":
        backbone = {"_target_": f"{_BACKBONES}.HRNet", "width": public.size, "last_stage": 4, "finest_only": True}
        model |= {"_target_": "pnfs.models.baselines.HRNetPose"}
    else:
        backbone = {"_target_": f"{_BACKBONES}.ResNet", "depth": public.size}
        model |= {"_target_": "pnfs.models.baselines.SimpleBaseline", "filters": public.filters}
    model["backbone"] = backbone | {"weights": "none"}
    network = build(model)
    load_public_state(network, state, public.kind)
    return Imported({"hrnet": "HRNet"}.get(public.kind, "SimpleBaseline"), model, network, given)


# --- their YAML

_LARGEST = 1_000_000
"""Bytes of a YAML file that are read; theirs have five thousand."""

_CELL = "subnetwork_config.cell_config"
_FABRIC: Mapping[str, Any] = {
    **dict.fromkeys(("depth", "hidden_states_num", "factor"), int),
    "operators": list[str],
    # Cells with two input nodes (the paper's have one), and other scales, cannot be built here.
    "input_nodes_num": Literal[1],
    "size_types": tuple[Literal[4], Literal[8], Literal[16], Literal[32]],
}
_POSENFS: Mapping[str, Any] = {
    **{f"{place}.{key}": kind for place in (_CELL, "backbone") for key, kind in _FABRIC.items()},
    **{f"{_CELL}.cut_layers_num": int, f"{_CELL}.vector_dim": int, f"{_CELL}.vector_in_pixel": bool},
    "backbone.reserve_layers_num": int, "subnetwork_config.parts_num": int, "keypoints_num": int,
    "subnetwork_config.dataset_name": str, "dataset_name": str,
    "input_size.h": int, "input_size.w": int, "margin_to_border": PositiveFloat,
    "train.heatmap_peak_sigma_factor": PositiveFloat,
}  # fmt: skip
"""Dotted keys that are read -> what they hold."""


def read_experiment(path: str) -> dict[str, Any]:
    """What an experiment's YAML of the authors' code says of the keys of `pnfs import`, and under "stated" of its
    own dotted keys; None where it says nothing.

    Raises PnfsError if the file cannot be read, describes no network, has a key of the wrong kind, or describes
    what cannot be built here.
    """
    file = Path(path).expanduser()
    if not file.is_file() or file.stat().st_size > _LARGEST:
        raise PnfsError(f"config: {path} is not a file of at most a megabyte")
    try:
        content = yaml.safe_load(file.read_text())
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise PnfsError(f"config: {path}: {error}") from error
    # Newer files have what describes the network below `model`; records of it have it at the top.
    content = content if isinstance(content, dict) else {}
    model = content.get("model", content)
    if isinstance(model, dict):
        if "cell_config" in model:
            model = model | {"subnetwork_config": {**model, "dataset_name": model.get("dataset")}}
        backbone = model.get("backbone_config", model.get("backbone"))
        model = model | {"backbone": backbone, "train": content.get("train")}
    said: dict[str, Any] = {}
    for key, kind in _POSENFS.items():
        value = model
        for name in key.split("."):
            value = value.get(name) if isinstance(value, dict) else None
        try:
            said[key] = None if value is None else TypeAdapter(kind).validate_python(value)
        except ValidationError as error:
            reason = f"{error.errors()[0]['msg']}; other networks cannot be built here"
            raise PnfsError(f"config: {path}: {key}={value!r:.60}: {reason}") from None
    if said[f"{_CELL}.depth"] is None:
        raise PnfsError(f"config: {path}: there is no {_CELL}.depth")
    if said[f"{_CELL}.vector_in_pixel"] and said[f"{_CELL}.vector_dim"] == 1:
        raise PnfsError("config: vector_in_pixel with vector_dim 1 cannot be built here")
    if said[f"{_CELL}.vector_in_pixel"] is False:
        said[f"{_CELL}.vector_dim"] = 1
    size = (said["input_size.h"], said["input_size.w"])
    return {
        "skeleton": said["subnetwork_config.dataset_name"] or said["dataset_name"],
        "input_size": None if None in size else size,
        "operators": said[f"{_CELL}.operators"],
        "backbone_operators": said["backbone.operators"],
        "sigma": said["train.heatmap_peak_sigma_factor"],
        "padding": said["margin_to_border"],
        "stated": said,
    }
