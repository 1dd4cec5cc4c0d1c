"""Networks of public checkpoints, built and filled; what `pnfs import` saves."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from pnfs.body import Skeleton, skeleton_by_name
from pnfs.errors import PnfsError
from pnfs.importing.experiment import Experiment
from pnfs.importing.posenfs import PoseNFSFabric, PoseNFSModel, describe_posenfs
from pnfs.importing.posenfs_names import load_posenfs_state_dict, ours_of
from pnfs.importing.public import PublicNetwork, load_public_state
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
    flip_shift: Literal[0, 1]  # Shift of the mirrored maps in that code's flip test.
    unread: Sequence[str] = ()  # Entries that no output depends on.

    @property
    def skeleton(self) -> Skeleton:
        return self.network.parts.skeleton


def import_posenfs(
    settings: Mapping[str, Any],
    state: Mapping[str, Tensor],
    skeleton: str | None,
    experiment: Experiment,
    build: Build,
) -> Imported:
    """A checkpoint of the authors' code (PoseNFS): settings of the command, their state dict, the skeleton of the
    dataset that the user chose, and their YAML.

    Raises PnfsError if these contradict each other, leave something open, or describe what cannot be built here.
    """
    parts = settings["parts"]
    if parts is not None and skeleton is not None:
        joints = skeleton_by_name(skeleton)
        parts = {str(part): joints.indices(list(names)) for part, names in parts.items()}
    described = describe_posenfs(state, skeleton or experiment.dataset, parts)
    fabric, backbone = described.fabric, described.backbone_fabric
    cell = {
        "depth": fabric.last_layer,
        "cut_layers_num": fabric.first_layer - 1,
        "hidden_states_num": fabric.nodes,
        "factor": fabric.channels,
        "vector_dim": described.vector_dim,
    }
    told = {f"subnetwork_config.cell_config.{key}": value for key, value in cell.items()}
    told |= {
        "keypoints_num": len(described.skeleton),
        "subnetwork_config.parts_num": len(described.parts),
    }
    if backbone is not None:
        told["backbone.reserve_layers_num"] = backbone.last_layer
        told["backbone.hidden_states_num"] = backbone.nodes
        told["backbone.factor"] = backbone.channels
    experiment.compare(told)
    operators = _chosen(fabric, settings, "operators", experiment)
    backbone_operators: tuple[str, ...] = ()
    if backbone is not None:
        backbone_operators = _chosen(backbone, settings, "backbone_operators", experiment)
    elif settings["backbone_operators"] is not None:
        raise PnfsError("backbone_operators: the checkpoint's backbone is no fabric")
    layers = {
        "layers": fabric.last_layer,
        "last_layers": fabric.last_layer - fabric.first_layer + 1,
    }
    model: dict[str, Any] = {
        "_target_": "pnfs.models.PoseFabricNetwork",
        "backbone": _backbone(settings, described, backbone_operators),
        "skeleton": described.skeleton.name,
        "parts": {part: list(joints) for part, joints in described.parts.items()},
        "fabrics": _fabric(settings, fabric, operators, list(described.parts)) | layers,
        "vector_dim": described.vector_dim,
        # They were trained on images as OpenCV reads them.
        "channel_order": settings["channel_order"] or experiment.channel_order or "bgr",
    }
    network = build(model)
    assert isinstance(network, PoseFabricNetwork)
    names = list(described.parts)
    unread = load_posenfs_state_dict(network, state, names, operators, backbone_operators)
    return Imported("PoseNFS", model, network, 0, unread)


def _chosen(
    fabric: PoseNFSFabric, settings: Mapping[str, Any], key: str, experiment: Experiment
) -> tuple[str, ...]:
    """The operations that a user lists, else the YAML's, else the entries'."""
    if settings[key] is not None:
        return fabric.chosen(settings[key], key)
    names = getattr(experiment, key)
    return fabric.chosen(names, key if names is None else f"config: {experiment.source}: {key}")


def _fabric(
    settings: Mapping[str, Any],
    fabric: PoseNFSFabric,
    operators: Sequence[str],
    part_names: Sequence[str],
) -> dict[str, Any]:
    return {
        "_target_": "pnfs.models.NeuralFabrics",
        "part_names": part_names,
        "channels": fabric.channels,
        "nodes": fabric.nodes,
        # In the order of alpha's columns.
        "operations": {name: settings["operations"][name] for name in ours_of(operators)},
        "alpha_per_cell": fabric.alpha_per_cell,
        "rules": settings["variant"]["rules"],
    }


def _backbone(settings: Mapping[str, Any], described: PoseNFSModel, operators: Sequence[str]) -> dict[str, Any]:
    fabric, size = described.backbone_fabric, described.backbone_size
    if fabric is not None:
        relu = settings["variant"]["rules"]["stem_relu"]
        # How many layers the whole fabric had makes no difference to those that are kept.
        layers = {"layers": fabric.last_layer + 3, "first_layers": fabric.last_layer}
        return {
            "_target_": f"{_BACKBONES}.FabricBackbone",
            "stem": {"_target_": f"{_BACKBONES}.Stem", "channels": fabric.channels, "relu": relu},
            "fabrics": _fabric(settings, fabric, operators, ["backbone"]) | {**layers, "input_scales": [4]},
            "weights": "none",
        }
    made = {
        "resnet": {"_target_": f"{_BACKBONES}.ResNet", "depth": size},
        "hrnet": {"_target_": f"{_BACKBONES}.HRNet", "width": size, "last_stage": 3},
        "mobilenet_v2": {"_target_": f"{_BACKBONES}.MobileNetV2"},
    }
    return made[described.backbone] | {"weights": "none"}


def import_public(
    settings: Mapping[str, Any],
    state: Mapping[str, Tensor],
    public: PublicNetwork,
    skeleton: str | None,
    experiment: Experiment,
    build: Build,
) -> Imported:
    """A pose checkpoint of the public HRNet or SimpleBaseline code; see `import_posenfs`."""
    for key in ("operators", "backbone_operators", "parts"):
        if settings[key] is not None:
            raise PnfsError(f"{key} is for checkpoints of PoseNFS; this one is a {public.kind}")
    experiment.compare({"MODEL.NUM_JOINTS": public.joints})
    name = skeleton or experiment.dataset or _SKELETONS.get(public.joints)
    if name is None or len(skeleton_by_name(name)) != public.joints:
        raise PnfsError(f"dataset: the checkpoint makes {public.joints} maps, which are not {name}'s")
    if public.kind == "hrnet":
        kind, usual, head = "HRNet", "rgb", {"_target_": "pnfs.models.baselines.HRNetPose"}
        backbone = {"_target_": f"{_BACKBONES}.HRNet", "width": public.size, "last_stage": 4}
        backbone |= {"finest_only": True}
    else:
        experiment.compare({"MODEL.EXTRA.NUM_LAYERS": public.size})
        kind, usual, head = "SimpleBaseline", "bgr", {"filters": public.filters}
        head |= {"_target_": "pnfs.models.baselines.SimpleBaseline"}
        backbone = {"_target_": f"{_BACKBONES}.ResNet", "depth": public.size}
    model: dict[str, Any] = {
        **head,
        "skeleton": name,
        "vector_dim": 1,
        "backbone": backbone | {"weights": "none"},
        "channel_order": settings["channel_order"] or experiment.channel_order or usual,
    }
    network = build(model)
    load_public_state(network, state, public.kind)
    return Imported(kind, model, network, 1)
