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
from pnfs.models.network import ChannelOrder

Build = Callable[[Mapping[str, Any]], PoseNetwork]
"""Makes a network of its configuration."""

# What the public baselines' maps are of, by their number.
_SKELETONS = {16: "mpii", 17: "coco"}


@dataclass(frozen=True)
class Imported:
    """A checkpoint in this package's terms.

    Attributes:
        kind: Whose code it is from.
        model: Configuration of the network.
        network: The network with its weights.
        flip_shift: Shift of the mirrored maps in that code's flip test.
        unread: Entries that no output depends on.
    """

    kind: str
    model: dict[str, Any]
    network: PoseNetwork
    flip_shift: Literal[0, 1]
    unread: Sequence[str] = ()

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
    """A checkpoint of the authors' code (PoseNFS).

    Args:
        settings: The command's configuration.
        state: Their state dict.
        skeleton: Skeleton of the dataset that the user chose.
        experiment: Their YAML.
        build: Makes the network.

    Raises:
        PnfsError: The entries, the YAML and the keys contradict each other, leave something open, or describe
            what cannot be built here.
    """
    described = describe_posenfs(
        state, skeleton or experiment.dataset, _parts(settings["parts"], skeleton)
    )
    _compare(experiment, _told_by_entries(described))
    operators = described.fabric.chosen(*_listed(settings, "operators", experiment))
    backbone_operators: Sequence[str] = ()
    if described.backbone_fabric is not None:
        chosen = _listed(settings, "backbone_operators", experiment)
        backbone_operators = described.backbone_fabric.chosen(*chosen)
    elif settings["backbone_operators"] is not None:
        raise PnfsError("backbone_operators: the checkpoint's backbone is no fabric")
    model: dict[str, Any] = {
        "_target_": "pnfs.models.PoseFabricNetwork",
        "backbone": _backbone(settings, described, backbone_operators),
        "skeleton": described.skeleton.name,
        "parts": {part: list(joints) for part, joints in described.parts.items()},
        "fabrics": _fabric(settings, described.fabric, operators, list(described.parts))
        | {
            "layers": described.fabric.last_layer,
            "last_layers": described.fabric.last_layer - described.fabric.first_layer + 1,
        },
        "vector_dim": described.vector_dim,
        # They were trained on images as OpenCV reads them.
        "channel_order": settings["channel_order"] or experiment.channel_order or "bgr",
    }
    network = build(model)
    assert isinstance(network, PoseFabricNetwork)
    names = {part: part for part in described.parts}
    unread = load_posenfs_state_dict(network, state, names, operators, backbone_operators)
    return Imported("PoseNFS", model, network, 0, unread)


def _listed(
    settings: Mapping[str, Any], key: str, experiment: Experiment
) -> tuple[Sequence[str] | None, str]:
    """The operations that a user lists, else the YAML's, and where they are from."""
    if settings[key] is not None:
        return settings[key], key
    names = experiment.operators if key == "operators" else experiment.backbone_operators
    return names, key if names is None else f"config: {experiment.source}: {key}"


def _parts(
    parts: Mapping[str, Sequence[str]] | None, skeleton: str | None
) -> Mapping[str, Sequence[int]] | None:
    if parts is None:
        return None
    if skeleton is None:
        raise PnfsError("parts of your own need their dataset too: dataset=mpii or dataset=coco")
    joints = skeleton_by_name(skeleton)
    return {str(part): joints.indices(list(names)) for part, names in parts.items()}


def _told_by_entries(described: PoseNFSModel) -> dict[str, int]:
    """What the YAML says too, by its keys."""
    fabric, backbone, place = described.fabric, described.backbone_fabric, "subnetwork_config"
    cell = {
        "depth": fabric.last_layer,
        "cut_layers_num": fabric.first_layer - 1,
        "hidden_states_num": fabric.nodes,
        "factor": fabric.channels,
        "vector_dim": described.vector_dim,
    }
    told = {f"{place}.cell_config.{key}": value for key, value in cell.items()}
    told |= {"keypoints_num": len(described.skeleton), f"{place}.parts_num": len(described.parts)}
    if backbone is not None:
        told["backbone.reserve_layers_num"] = backbone.last_layer
        told["backbone.hidden_states_num"] = backbone.nodes
        told["backbone.factor"] = backbone.channels
    return told


def _compare(experiment: Experiment, told: Mapping[str, int]) -> None:
    """Refuses a YAML that is another checkpoint's."""
    for key, value in told.items():
        stated = experiment.stated(key)
        if stated is not None and stated != value:
            raise PnfsError(
                f"config: {experiment.source}: {key} is {stated}, but the checkpoint's entries say {value}; "
                "it is another experiment's"
            )


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


def _backbone(
    settings: Mapping[str, Any], described: PoseNFSModel, operators: Sequence[str]
) -> dict[str, Any]:
    home = "pnfs.models.backbones"
    fabric = described.backbone_fabric
    if fabric is not None:
        relu = settings["variant"]["rules"]["stem_relu"]
        made = {
            "_target_": f"{home}.FabricBackbone",
            "stem": {"_target_": f"{home}.Stem", "channels": fabric.channels, "relu": relu},
            # How many layers the whole fabric had makes no difference to those that are kept.
            "fabrics": _fabric(settings, fabric, operators, ["backbone"])
            | {
                "layers": fabric.last_layer + 3,
                "first_layers": fabric.last_layer,
                "input_scales": [4],
            },
        }
    elif described.backbone == "resnet":
        made = {"_target_": f"{home}.ResNet", "depth": described.backbone_size}
    elif described.backbone == "hrnet":
        made = {"_target_": f"{home}.HRNet", "width": described.backbone_size, "last_stage": 3}
    else:
        made = {"_target_": f"{home}.MobileNetV2"}
    return made | {"weights": "none"}


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
    _compare(experiment, {"MODEL.NUM_JOINTS": public.joints})
    name = skeleton or experiment.dataset or _SKELETONS.get(public.joints)
    if name is None or len(skeleton_by_name(name)) != public.joints:
        raise PnfsError(
            f"dataset: the checkpoint makes {public.joints} maps, which are not {name}'s"
        )
    home, backbones = "pnfs.models.baselines", "pnfs.models.backbones"
    if public.kind == "hrnet":
        usual: ChannelOrder = "rgb"
        model: dict[str, Any] = {"_target_": f"{home}.HRNetPose"}
        backbone = {"_target_": f"{backbones}.HRNet", "width": public.size}
        backbone |= {"last_stage": 4, "finest_only": True}
    else:
        usual = "bgr"
        _compare(experiment, {"MODEL.EXTRA.NUM_LAYERS": public.size})
        model = {"_target_": f"{home}.SimpleBaseline", "filters": public.filters}
        backbone = {"_target_": f"{backbones}.ResNet", "depth": public.size}
    model |= {
        "skeleton": name,
        "vector_dim": 1,
        "backbone": backbone | {"weights": "none"},
        "channel_order": settings["channel_order"] or experiment.channel_order or usual,
    }
    network = build(model)
    load_public_state(network, state, public.kind)
    return Imported("HRNet" if usual == "rgb" else "SimpleBaseline", model, network, 1)
