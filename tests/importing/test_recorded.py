"""Our models against recorded outputs of the authors' public implementation."""

import json
import math
import re
import zlib
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from pnfs.body import skeleton_by_name
from pnfs.importing.posenfs import describe_posenfs
from pnfs.importing.weights import OPERATION_NAMES, load_posenfs_state_dict
from pnfs.models import POSENFS, PoseFabricNetwork
from pnfs.models.backbones import Backbone, HRNet, MobileNetV2, ResNet
from pnfs.models.cost import measure_cost
from pnfs.models.operations import BACKBONE_OPERATIONS, OperationFactory, SeparableConv
from tiny import fabric_backbone, fabric_network

OPERATIONS: Mapping[str, OperationFactory] = {
    **BACKBONE_OPERATIONS,
    "sep_conv_5x5": partial(SeparableConv, kernel_size=5),
    "dil_conv_5x5": partial(SeparableConv, kernel_size=5, dilation=2, repeats=1),
}


def options(fabric: dict, config: dict, prefix: str) -> dict:
    """Keys of the public code's fabrics as ours."""
    names = [OPERATION_NAMES[name] for name in fabric["operators"]]
    return {
        "channels": fabric["factor"],
        "nodes": fabric["hidden_states_num"],
        "operations": {name: OPERATIONS[name] for name in names},
        "alpha_per_cell": len(config.get("state", {}).get(f"{prefix}.alphas", ())) == 3,
        "rules": POSENFS,
    }


def backbone_of(config: dict) -> Backbone:
    name = config["backbone"]
    if name == "mobilenet_v2":
        return MobileNetV2(weights="none")
    if sized := re.fullmatch(r"(resnet|hrnet_w)(\d+)", name):
        made = ResNet if sized[1] == "resnet" else HRNet
        return made(int(sized[2]), weights="none")  # type: ignore[arg-type]
    fabric = config["backbone_config"]
    layers = {"layers": fabric["depth"], "first_layers": fabric["reserve_layers_num"]}
    return fabric_backbone(**layers, **options(fabric, config, "backbone"))


def network_of(config: dict) -> PoseFabricNetwork:
    subnetworks = config.get("subnetwork_config", config)
    cell = subnetworks["cell_config"]
    skeleton = skeleton_by_name(subnetworks.get("dataset_name") or config["dataset"])
    return fabric_network(
        backbone=backbone_of(config),
        skeleton=skeleton.name,
        parts={name: [skeleton.joints[i] for i in ids] for name, ids in config["parts"].items()},
        layers=cell["depth"],
        last_layers=cell["depth"] - cell["cut_layers_num"],
        vector_dim=cell["vector_dim"] if cell["vector_in_pixel"] else 1,
        **options(cell, config, next(iter(config["parts"]))),
    ).eval()


def load_case(config_file: Path) -> tuple[dict, PoseFabricNetwork, dict[str, np.ndarray]]:
    """A case's configuration, our network with its weights, and its recorded arrays."""
    config, state = json.loads(config_file.read_text()), {}
    with np.load(str(config_file).replace("_config.json", "_io.npz")) as arrays:
        io = dict(arrays)
    for name in config.get("weight_files", ()):
        with np.load(config_file.parent / name) as arrays:
            state.update({key: torch.from_numpy(arrays[key]) for key in arrays})
    network, state = network_of(config), state or variant_state(config, io)
    operators = config.get("subnetwork_config", config)["cell_config"]["operators"]
    of_backbone = config.get("backbone_config", {}).get("operators", ())
    load_posenfs_state_dict(network, state, list(config["parts"]), operators, of_backbone)
    return config, network, io


def variant_state(config: dict, io: Mapping[str, np.ndarray]) -> dict[str, torch.Tensor]:
    """The state dict of a recorded variant: what is stored, and the rest by the rule of its README."""
    state = {}
    for name, shape in config["state"].items():
        if f"state.{name}" in io:
            state[name] = torch.from_numpy(io[f"state.{name}"])
            assert list(state[name].shape) == shape
            continue
        r = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape)
        if len(shape) == 4:
            r = r * math.sqrt(2 / math.prod(shape[1:]))
        elif not name.endswith(("alphas", "betas")):
            r = 1 + 0.1 * r if name.endswith("weight") else 0.05 * r
        state[name] = torch.from_numpy(np.asarray(r).astype(np.float32))
    return state


@pytest.mark.fixtures("arch/*_config.json")
def test_a_recorded_architecture_agrees(fixture_file: Path) -> None:
    config, network, io = load_case(fixture_file)
    images = torch.from_numpy(io["input"])
    with torch.no_grad():
        pyramid, part_maps = network.backbone(images), network(images)
    for level, features in enumerate(pyramid):
        np.testing.assert_allclose(features, io[f"backbone_feature_{level}"], atol=1e-4, rtol=1e-4)
    np.testing.assert_allclose(network.merged(part_maps), io["output"], atol=1e-4, rtol=0)
    sizes = [len(joints) for joints in config["parts"].values()]
    parts = zip(part_maps.split(sizes, 1), config["parts"].items(), strict=True)
    for found, (part, joints) in parts:
        output = io[f"part_output.{part}"]
        # Recorded for its own joints only, or for all of them.
        expected = output if output.shape[1] == len(joints) else output[:, joints]
        np.testing.assert_allclose(found, expected, atol=1e-4, rtol=0, err_msg=part)
    assert measure_cost(network, tuple(config["input_hw"])).live_parameters == config["live_parameters"]


@pytest.mark.fixtures("variants/*_config.json")
def test_a_recorded_variant_agrees_and_its_entries_tell_its_configuration(fixture_file: Path) -> None:
    config, network, io = load_case(fixture_file)
    images = torch.from_numpy(io["input"])
    with torch.no_grad():
        pyramid, maps = network.backbone(images), network.merged(network(images))
    for level, features in enumerate(pyramid):
        np.testing.assert_allclose(features.abs().mean(), io[f"feature_abs_mean_{level}"], rtol=1e-4)
    assert maps.shape[1] == config["keypoints_num"]
    np.testing.assert_allclose(maps, io["output"], atol=1e-4, rtol=0)

    subnetworks = config.get("subnetwork_config", config)
    told = describe_posenfs({name: torch.empty(shape) for name, shape in config["state"].items()})
    fabric, cell = told.fabric, subnetworks["cell_config"]
    joints = {part: told.skeleton.indices(list(names)) for part, names in told.parts.items()}
    assert list(joints.items()) == list(config["parts"].items())
    assert len(joints) == subnetworks["parts_num"]
    assert told.skeleton.name == network.parts.skeleton.name
    assert told.vector_dim == network.head.vector_dim
    assert fabric[:5] == (cell["cut_layers_num"] + 1, cell["depth"], cell["hidden_states_num"], cell["factor"],
                          not cell["one-shot-search"])  # fmt: skip
    assert fabric.chosen(cell["operators"], "operators") == tuple(cell["operators"])
    assert (told.backbone_fabric is None) == ("backbone_config" not in config)
    if told.backbone != "fabric":
        size = {"resnet": "", "hrnet": "_w"}.get(told.backbone, "") + str(told.backbone_size or "")
        assert told.backbone + size == config["backbone"]


# --- counts at the paper's scale


def config_of_row(row: dict) -> dict:
    file = Path(__file__).parents[2] / f"conf/parts/p{row['parts_num']}.yaml"
    parts = OmegaConf.to_container(OmegaConf.load(file))[row["dataset"]]
    skeleton = skeleton_by_name(row["dataset"])
    return {
        "backbone": row["backbone"],
        "parts": {part: skeleton.indices(joints) for part, joints in parts.items()},
        "subnetwork_config": {
            "dataset_name": row["dataset"],
            "cell_config": row | {"vector_in_pixel": row["vector_dim"] > 1},
        },
    }


@pytest.mark.fixtures("arch/counts*.json")
@pytest.mark.parametrize("step", [16, pytest.param(1, marks=pytest.mark.slow)])
def test_costs_at_the_papers_scale_agree(fixture_file: Path, step: int) -> None:
    for row in json.loads(fixture_file.read_text())[::step]:
        with torch.device("meta"):
            network = network_of(config_of_row(row))
        cost = measure_cost(network, tuple(row["input_hw"]))
        backbone = cost.parts["backbone"]
        assert cost.live_parameters == row["live_parameters"], row
        assert backbone.live_parameters == row["of_which_backbone"], row
        assert cost.architecture_parameters == row["of_which_architecture_parameters"], row
        assert cost.macs == pytest.approx(row["conv_macs"], rel=0.01), row
        assert backbone.macs == pytest.approx(row["of_which_backbone_conv_macs"], rel=0.01), row
