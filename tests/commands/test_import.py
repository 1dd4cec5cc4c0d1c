"""`pnfs import`: public checkpoints become runs that the other commands take."""

import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import pytest
import torch
import yaml
from torch import Tensor

import public_networks
from pnfs.body import COCO, MPII
from pnfs.commands.building import build_network
from pnfs.commands.configuration import UsageError
from pnfs.importing.posenfs import PARTS
from pnfs.training.checkpoints import CONFIG_KEY, load_network_state, read_checkpoint
from posenfs_network import Fabric, PoseNFSWeights, posenfs
from public_networks import PUBLIC_MPII, Weights, crops_with_border, public_input
from tiny_runs import call

SIZE = 64
OPERATORS = ["Zero", "skip_connect", "Atr_Conv_3x3", "Sep_Conv_3x3"]
BACKBONE_OPERATORS = ["Zero", "skip_connect", "Sep_Conv_3x3", "Atr_Conv_3x3", "avg_pool_3x3", "max_pool_3x3"]
BACKBONE = Fabric(6, 0, 2, 1, 1, tuple(BACKBONE_OPERATORS))
SUBNETWORK = Fabric(6, 3, 5, 2, 2, tuple(OPERATORS), one_alpha_a_cell=True)
PARTS_3 = {part: list(joints) for part, joints in PARTS["mpii"][1].items()}
CROPS = crops_with_border(size=SIZE)
SIZED = f"input_size=[{SIZE},{SIZE}]"
CELL = "subnetwork_config.cell_config"
THEIR_YAML: Mapping[str, Any] = {
    "model": {
        "dataset_name": "mpii", "keypoints_num": 16, "input_size": {"w": SIZE, "h": SIZE},
        "margin_to_border": 1.15,
        "backbone": {
            "operators": BACKBONE_OPERATORS, "reserve_layers_num": 3, "depth": 6,
            "size_types": [4, 8, 16, 32], "hidden_states_num": 1, "factor": 1, "input_nodes_num": 1,
        },
        "subnetwork_config": {
            "dataset_name": "mpii",
            "parts_num": 3,
            "cell_config": {
                "vector_in_pixel": True, "vector_dim": 8, "operators": OPERATORS, "depth": 6, "cut_layers_num": 3,
                "size_types": [4, 8, 16, 32], "hidden_states_num": 2, "factor": 2, "input_nodes_num": 1,
            },
        },
    },
    "train": {"heatmap_peak_sigma_factor": 3, "LR_STEP": [90, 120, 150]},
}  # fmt: skip


def imported(checkpoint: Path, out: Path, *overrides: str) -> dict[str, Any]:
    """The checkpoint that `pnfs import` writes."""
    call("import", f"checkpoint={checkpoint}", f"out={out}", *overrides)
    return read_checkpoint(out)


def posenfs_maps(weights: PoseNFSWeights, images: Tensor) -> Tensor:
    return posenfs(weights, images, backbone=BACKBONE, subnetwork=SUBNETWORK, parts=PARTS_3, vector_dim=8)


@pytest.fixture(scope="module")
def reference() -> PoseNFSWeights:
    weights = PoseNFSWeights()
    posenfs_maps(weights, torch.zeros(1, 3, 32, 32))
    return weights


@pytest.fixture(scope="module")
def reference_file(reference: PoseNFSWeights, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("posenfs") / "best.pth"
    state = {f"module.{name}": value for name, value in reference.state.items()}
    torch.save({"epoch": 199, "model": state, "optimizer": {"state": {}}}, path)
    return path


@pytest.fixture(scope="module")
def reference_run(reference_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run")
    imported(reference_file, out, f"config={written_yaml(out / 'cfg.yaml')}")
    return out


def written_yaml(path: Path, place: str = "", value: Any = None) -> Path:
    """Their YAML, with another value at a dotted path below `model` if one is given."""
    content = json.loads(json.dumps(THEIR_YAML))
    if place:
        *above, last = place.split(".")
        functools.reduce(dict.__getitem__, above, content["model"])[last] = value
    path.write_text(yaml.safe_dump(content))
    return path


def score_maps(run: Path) -> Tensor:
    """What the run's network makes of RGB crops."""
    content = read_checkpoint(run)
    network = build_network(content[CONFIG_KEY]["model"])
    load_network_state(network, content, "")
    return network.eval().heatmaps(CROPS).detach()


# --- PoseNFS


def test_an_imported_posenfs_network_gives_their_maps_of_bgr_images(
    reference: PoseNFSWeights, reference_run: Path
) -> None:
    with torch.no_grad():
        expected = posenfs_maps(reference, public_input(CROPS, bgr=True))
    torch.testing.assert_close(score_maps(reference_run), expected, rtol=1e-3, atol=1e-4)
    # The YAML says what the entries do not; their flip test moves nothing.
    config = read_checkpoint(reference_run)[CONFIG_KEY]
    assert config["input_size"] == [SIZE, SIZE]
    assert config["dataset"]["_target_"] == "pnfs.data.datasets.mpii.MPII"
    assert (config["dataset"]["padding"], config["codec"]["sigma"], config["codec"]["flip_shift"]) == (1.15, 3, 0)
    operations = list(config["model"]["fabrics"]["operations"])
    assert operations == ["zero", "skip", "dil_conv_3x3", "sep_conv_3x3"]
    assert not (reference_run / "result.json").exists()


@pytest.mark.parametrize(
    ("overrides", "key"),
    [("input_size=[60,64]", "input_size"), ("dataset=coco", "coco"), ("padding=0", "padding"),
     ("channel_order=gbr", "channel_order"), ("operators=[Zero,Zero,Atr_Conv_3x3,Sep_Conv_3x3]", "operators"),
     (f"config=null {SIZED} operators=[{','.join(OPERATORS)}]", "backbone_operators")],
)  # fmt: skip
def test_what_is_missing_or_wrong_is_named_by_its_key(
    reference_file: Path, tmp_path: Path, overrides: str, key: str
) -> None:
    asked = [f"config={written_yaml(tmp_path / 'cfg.yaml')}", *overrides.split()]
    with pytest.raises(UsageError, match=key):
        imported(reference_file, tmp_path / "run", *asked)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("place", "value", "key"),
    [("input_size", None, "input_size"), ("subnetwork_config.parts_num", 5, "parts_num"),
     ("backbone.reserve_layers_num", 4, "reserve_layers_num"),
     ("backbone.operators", ["Zero", "conv_3x3"], "backbone_operators"), (f"{CELL}.factor", 10, "factor"),
     (f"{CELL}.vector_in_pixel", False, "vector_dim"), (f"{CELL}.input_nodes_num", 2, "input_nodes_num"),
     (f"{CELL}.depth", None, "depth"), ("margin_to_border", "wide", "margin_to_border")],
)  # fmt: skip
def test_the_yaml_of_another_experiment_is_refused(
    reference_file: Path, tmp_path: Path, place: str, value: Any, key: str
) -> None:
    file = written_yaml(tmp_path / "other.yaml", place, value)
    with pytest.raises(UsageError, match=key):
        imported(reference_file, tmp_path / "run", f"config={file}")


@pytest.mark.slow
def test_the_other_commands_take_an_imported_run(reference_run: Path, tmp_path: Path) -> None:
    picture = tmp_path / "photo.png"
    cv2.imwrite(str(picture), CROPS[1].numpy())
    checkpoint = f"checkpoint={reference_run}"
    call("predict", checkpoint, f"input={picture}", f"out={tmp_path / 'out'}", "device=cpu")
    found = json.loads((tmp_path / "out" / "keypoints.json").read_text())
    assert len(found["annotations"][0]["keypoints"]) == 3 * 16
    call("show", checkpoint, f"out={tmp_path / 'show'}")
    drawn = {path.name for path in (tmp_path / "show").iterdir()}
    assert drawn == {"architecture.png", "architecture_backbone.png"}
    call("derive", checkpoint, f"out={tmp_path / 'less'}")
    # The derived network keeps the order of the colours.
    torch.testing.assert_close(score_maps(tmp_path / "less"), score_maps(reference_run), rtol=1e-3, atol=1e-4)


# --- HRNet and SimpleBaseline


@pytest.mark.parametrize("joints", [16, pytest.param(17, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", ["simple_baseline", "hrnet"])
def test_an_imported_baseline_gives_its_maps(tmp_path: Path, name: str, joints: int) -> None:
    weights = Weights()
    weights.state = public_networks.state(name, joints)
    torch.save(weights.state, tmp_path / "pose.pth")
    config = imported(tmp_path / "pose.pth", tmp_path / "run", SIZED)[CONFIG_KEY]
    assert config["model"]["channel_order"] == ("bgr" if name == "simple_baseline" else "rgb")
    assert config["codec"]["flip_shift"] == 1
    skeleton, order = (MPII, PUBLIC_MPII) if joints == 16 else (COCO, list(COCO.joints))
    assert config["model"]["skeleton"] == skeleton.name
    with torch.no_grad():
        images = public_input(CROPS, bgr=name == "simple_baseline")
        theirs = getattr(public_networks, name)(weights, images, joints)
    expected = theirs[:, [order.index(joint) for joint in skeleton.joints]]
    difference = (score_maps(tmp_path / "run") - expected).abs().max()
    assert difference < 1e-4 * max(1.0, float(expected.abs().max()))


# --- files that are none of these


def test_files_that_are_no_public_checkpoints_are_refused(tmp_path: Path) -> None:
    file, zeros, state = tmp_path / "odd.pth", torch.zeros(1), public_networks.state("simple_baseline", 16)
    for content in (
        {"fc.weight": zeros}, {"network.head.weight": zeros}, {"epoch": 3}, b"nothing", None,
        state | {"bn1.bias": torch.full((64,), float("nan"))}, {k: v for k, v in state.items() if k != "bn1.bias"},
    ):  # fmt: skip
        file.unlink(missing_ok=True)
        if isinstance(content, bytes):
            file.write_bytes(content)
        elif content is not None:
            torch.save(content, file)
        with pytest.raises(ValueError, match=r"odd\.pth"):
            imported(file, tmp_path / "run", SIZED)
    assert not (tmp_path / "run").exists()


def test_folders_are_named_by_what_was_imported_and_trained_runs_are_not_overwritten(tmp_path: Path) -> None:
    file = tmp_path / "pose.pth.tar"
    torch.save(public_networks.state("simple_baseline", 16), file)
    for size in ("[64,64]", "[96,64]", "[64,64]"):
        call("import", f"checkpoint={file}", f"run_root={tmp_path}", f"input_size={size}")
    folders = sorted((tmp_path / "imported").iterdir())
    assert [path.name[:5] for path in folders] == ["pose-", "pose-"]
    (folders[0] / "state.json").write_text("{}")
    with pytest.raises(UsageError, match="out"):
        imported(file, folders[0], SIZED)
