"""`pnfs import`: public checkpoints become runs that give the maps of slow computations of their networks."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import public_networks
import pytest
import torch
from public_networks import PUBLIC_MPII, Fabric, PoseNFSWeights, posenfs, simple_baseline
from torch import Tensor

from pnfs.body import COCO, MPII, skeleton_by_name
from pnfs.commands.building import build_network
from pnfs.commands.configuration import UsageError, plain
from pnfs.errors import PnfsError
from pnfs.importing.networks import import_state
from pnfs.importing.posenfs import PARTS, posenfs_model
from pnfs.training.checkpoints import CONFIG_KEY, load_network_state, read_checkpoint
from tiny_runs import call, composed

FOUR = ("Zero", "skip_connect", "Atr_Conv_3x3", "Sep_Conv_3x3")
SIX = ("Zero", "skip_connect", "Sep_Conv_3x3", "Atr_Conv_3x3", "avg_pool_3x3", "max_pool_3x3")
FIVES = ("skip_connect", "Sep_Conv_5x5", "max_pool_3x3", "Atr_Conv_5x5", "Zero")
BACKBONE = Fabric(depth=6, first=0, last=2, hidden_states_num=1, factor=1, operators=FOUR)
SUBNETWORK = Fabric(depth=6, first=3, last=5, hidden_states_num=1, factor=2, operators=FOUR)
SIZE = 64
SETTINGS = plain(composed("import", "checkpoint=any", f"input_size=[{SIZE},{SIZE}]"))
NAMES = {"operators": FOUR, "backbone_operators": FOUR}

# --- PoseNFS


def made(
    backbone: Fabric = BACKBONE,
    subnetwork: Fabric = SUBNETWORK,
    skeleton: str = "mpii",
    mode: int = 1,
    vector_dim: int = 8,
    images: Tensor | None = None,
) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """A state dict in their names, images, and the score maps that their network makes of them."""
    weights = PoseNFSWeights()
    if images is None:
        images = torch.randn(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
    options = {"parts": PARTS[skeleton][mode], "vector_dim": vector_dim}
    with torch.no_grad():
        maps = posenfs(weights, images, backbone=backbone, subnetwork=subnetwork, **options)
    return weights.state, images, maps


def described(state: dict[str, Tensor], **given: Any) -> dict[str, Any]:
    return posenfs_model(SETTINGS | NAMES | {"skeleton": None} | given, state)


@pytest.mark.parametrize(
    "given",
    [{"subnetwork": replace(SUBNETWORK, hidden_states_num=3, one_alpha_a_cell=True)},
     {"backbone": replace(BACKBONE, hidden_states_num=2, one_alpha_a_cell=True, operators=SIX)},
     {"subnetwork": replace(SUBNETWORK, operators=FIVES)}, {"subnetwork": replace(SUBNETWORK, first=4)},
     {"subnetwork": replace(SUBNETWORK, first=5)}, {"subnetwork": replace(SUBNETWORK, factor=1)},
     {"vector_dim": 1, "mode": 0}, {"skeleton": "coco", "mode": 3, "vector_dim": 4},
     {"backbone": replace(BACKBONE, depth=9, last=3)}],
)  # fmt: skip
def test_the_imported_network_gives_their_maps(given: dict) -> None:
    state, images, expected = made(**given)
    backbone, subnetwork = given.get("backbone", BACKBONE), given.get("subnetwork", SUBNETWORK)
    names = {"operators": subnetwork.operators, "backbone_operators": backbone.operators}
    found = import_state(SETTINGS | names, state, build_network)
    network = found.network.eval()
    with torch.no_grad():
        maps = network.merged(network(images))
    torch.testing.assert_close(maps, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))
    assert {name.split(".")[1] for name in found.unread if not name.startswith("reduce.")} == {"stem"}
    # n layers read the pyramid up to the level below their own.
    levels = {int(name.split(".")[2]) for name in found.unread if name.startswith("reduce.")}
    adapted = backbone.factor != subnetwork.factor
    assert levels == ({3: set(), 4: {3}, 5: {2, 3}}[subnetwork.first] if adapted else set())


def test_operations_without_entries_must_be_listed() -> None:
    state = made(subnetwork=replace(SUBNETWORK, operators=SIX))[0]
    swapped = ("skip_connect", "Zero", *SIX[2:])
    for names in (SIX, swapped):
        operations = list(described(state, operators=names)["fabrics"]["operations"])
        assert operations[:2] == (["zero", "skip"] if names is SIX else ["skip", "zero"])
    told = described(made(subnetwork=replace(SUBNETWORK, operators=FOUR[2:]))[0], operators=None)
    assert list(told["fabrics"]["operations"]) == ["dil_conv_3x3", "sep_conv_3x3"]
    exchanged = (*SIX[:2], "Atr_Conv_3x3", "Sep_Conv_3x3", *SIX[4:])
    for names in (None, FOUR, ("Zero", "Zero", *SIX[2:]), exchanged, ("conv_3x3", *SIX[1:])):
        with pytest.raises(PnfsError, match=r"operators .*6 columns of alpha are Zero or skip_connect"):
            described(state, operators=names)


@pytest.mark.parametrize("skeleton", PARTS)
def test_the_dataset_is_told_by_the_parts_channels(skeleton: str) -> None:
    joints = skeleton_by_name(skeleton).joints
    for mode, parts in enumerate(PARTS[skeleton]):
        told = described(made(skeleton=skeleton, mode=mode, vector_dim=3)[0])
        assert (told["skeleton"], told["vector_dim"]) == (skeleton, 3)
        assert list(told["parts"].items()) == [(part, [joints[i] for i in ids]) for part, ids in parts.items()]


def test_a_part_mode_that_fits_both_or_none_needs_a_key() -> None:
    state, three = made(mode=0, vector_dim=17)[0], made()[0]
    assert [described(state, skeleton=name)["vector_dim"] for name in ("mpii", "coco")] == [17, 16]
    own = {name.replace("head_part", "top"): value for name, value in three.items()}
    for wrong, skeleton, message in (
        (state, None, r"dataset is needed.*whole_body \(272\)"), (three, "coco", "no part mode of coco"),
        (own, None, r"top \(24\).*no part mode"),
    ):  # fmt: skip
        with pytest.raises(PnfsError, match=message):
            described(wrong, skeleton=skeleton)


HEAD = "head_part.cell_3_0"


@pytest.mark.parametrize(
    ("added", "without", "message"),
    [
        ({"head_part.betas": (5, 3)}, None, r"head_part.*betas of \(5, 3\)"),
        ({"head_part.alphas": (4, 1, 4)}, None, r"head_part: alphas of shape \(4, 1, 4\)"),
        ({"head_part.alphas": (1, 5)}, None, "not alike"),
        ({"head_part.cell_4_0.propress_list.3.bn.bias": (1,)}, None, "two input nodes"),
        ({"head_part.cell_6_0.channel_keep.weight": (8, 8, 1, 1)}, None, "missing: cell_3_3"),
        ({"head_part.cell_9999999_0.channel_keep.weight": (8, 8, 1, 1)}, None, "cell_9999999_0"),
        ({f"{HEAD}.channel_keep.weight": ()}, None, r"channel_keep\.weight has shape \(\)"),
        ({"head_part.final_layer.1.weight": ()}, None, r"final_layer\.1\.weight has shape \(\)"),
        ({f"{HEAD}.cell_arch.0.ops.2.weight": (8, 8, 3, 3)}, ".ops.2.", r"head_part.*ops\.2.*weight"),
        ({}, "backbone.", "backbone"),
        ({"backbone.layer4.0.conv1.weight": (1,)}, "backbone.", "depths 50, 101 and 152|backbone_operators"),
        # A backbone whose last layer lacks a scale is no pyramid.
        ({}, "backbone.cell_2_3", r"backbone.*cell_2_3"),
        # Entries that fit nothing, are missing, or have another shape.
        ({f"{HEAD}.extra.weight": (1,)}, None, r"head_part\.cell_3_0\.extra\.weight"),
        ({"backbone.stem.7.weight": (1,)}, None, r"backbone\.stem\.7\.weight"),
        ({"reduce.3.0.weight": (1,)}, None, r"reduce\.3\.0\.weight"),
        ({}, "lower_limb_part.cell_5_0.channel_keep.bias", r"cell_5_0\.channel_keep\.bias"),
        ({"backbone.stem.0.weight": (64, 1, 3, 3)}, None, r"stem\.0\.weight.*\(64, 1, 3, 3\)"),
        ({"head_part.cell_5_0.channel_keep.weight": (8, 9, 1, 1)}, None, r"head_part\.cell_5_0"),
    ],
)
def test_entries_that_describe_no_network_are_refused(added, without, message) -> None:
    state = {k: v for k, v in made()[0].items() if without is None or without not in k}
    state |= {name: torch.zeros(shape) for name, shape in added.items()}
    with pytest.raises(PnfsError, match=message):
        import_state(SETTINGS | NAMES, state, build_network)


# --- the command

SIZED = f"input_size=[{SIZE},{SIZE}]"
OPERATORS = (f"operators=[{','.join(FOUR)}]", f"backbone_operators=[{','.join(SIX)}]")
LARGE = {
    "backbone": replace(BACKBONE, operators=SIX),
    "subnetwork": replace(SUBNETWORK, hidden_states_num=2, one_alpha_a_cell=True),
}
# Two noisy RGB crops, one with the black that stands for what lies outside an image.
CROPS = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, SIZE, SIZE, 3), dtype=np.uint8))
CROPS[0, :, : SIZE // 4] = 0


def public_input(bgr: bool) -> Tensor:
    """The crops as the public loaders normalise them: the numbers of RGB in either order."""
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    crops = CROPS.flip(-1) if bgr else CROPS
    return ((crops / 255 - mean) / std).permute(0, 3, 1, 2)


def imported(checkpoint: Path, out: Path, *overrides: str) -> dict[str, Any]:
    """The configuration in the checkpoint that `pnfs import` writes."""
    call("import", f"checkpoint={checkpoint}", f"out={out}", SIZED, *overrides)
    return read_checkpoint(out)[CONFIG_KEY]


@pytest.fixture(scope="module")
def reference_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("posenfs") / "best.pth"
    state = {f"module.{name}": value for name, value in made(**LARGE)[0].items()}
    torch.save({"epoch": 199, "model": state, "optimizer": {"state": {}}}, path)
    return path


@pytest.fixture(scope="module")
def reference_run(reference_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run")
    imported(reference_file, out, *OPERATORS)
    return out


def score_maps(run: Path) -> Tensor:
    """What the run's network makes of RGB crops."""
    content = read_checkpoint(run)
    network = build_network(content[CONFIG_KEY]["model"])
    load_network_state(network, content, "")
    return network.eval().heatmaps(CROPS).detach()


def test_an_imported_posenfs_network_gives_their_maps_of_bgr_images(reference_run: Path) -> None:
    expected = made(**LARGE, images=public_input(bgr=True))[2]
    torch.testing.assert_close(score_maps(reference_run), expected, rtol=1e-3, atol=1e-4)
    config = read_checkpoint(reference_run)[CONFIG_KEY]
    assert config["input_size"] == [SIZE, SIZE]
    assert config["dataset"]["_target_"] == "pnfs.data.datasets.mpii.MPII"
    # Their flip test moves nothing.
    assert (config["codec"]["sigma"], config["codec"]["flip_shift"]) == (2, 0)
    assert list(config["model"]["fabrics"]["operations"]) == ["zero", "skip", "dil_conv_3x3", "sep_conv_3x3"]
    assert not (reference_run / "result.json").exists()


@pytest.mark.parametrize(
    ("overrides", "key"),
    [("input_size=[60,64]", "input_size"), ("dataset=coco", "coco"), ("channel_order=gbr", "channel_order"),
     ("backbone_operators=[Zero]", "backbone_operators"), ("backbone_operators=null", "backbone_operators")],
)  # fmt: skip
def test_what_is_missing_or_wrong_is_named_by_its_key(
    reference_file: Path, tmp_path: Path, overrides: str, key: str
) -> None:
    with pytest.raises(UsageError, match=key):
        imported(reference_file, tmp_path / "run", *OPERATORS, overrides)
    assert not (tmp_path / "run").exists()


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
    call("derive", checkpoint, f"out={tmp_path / 'less'}", "evaluate=false")
    # The derived network keeps the order of the colours.
    torch.testing.assert_close(score_maps(tmp_path / "less"), score_maps(reference_run), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("joints", [16, pytest.param(17, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", ["simple_baseline", "hrnet"])
def test_an_imported_baseline_gives_its_maps(tmp_path: Path, name: str, joints: int) -> None:
    state, network = getattr(public_networks, name)(joints)
    torch.save(state, tmp_path / "pose.pth")
    config = imported(tmp_path / "pose.pth", tmp_path / "run")
    assert config["model"]["channel_order"] == ("bgr" if name == "simple_baseline" else "rgb")
    assert config["codec"]["flip_shift"] == 1
    skeleton, order = (MPII, PUBLIC_MPII) if joints == 16 else (COCO, list(COCO.joints))
    assert config["model"]["skeleton"] == skeleton.name
    with torch.no_grad():
        theirs = network(public_input(name == "simple_baseline"))
    expected = theirs[:, [order.index(joint) for joint in skeleton.joints]]
    difference = (score_maps(tmp_path / "run") - expected).abs().max()
    assert difference < 1e-4 * max(1.0, float(expected.abs().max()))


def test_files_that_are_no_such_checkpoints_are_refused(tmp_path: Path) -> None:
    file, zeros, state = tmp_path / "odd.pth", torch.zeros(1), simple_baseline(16)[0]
    for content in (
        {"fc.weight": zeros}, {"network.head.weight": zeros}, {"epoch": 3}, b"nothing", None,
        state | {"bn1.bias": torch.full((64,), float("nan"))}, {k: v for k, v in state.items() if k != "bn1.bias"},
        {k: v for k, v in state.items() if "conv3" not in k},
        state | {"final_layer.weight": torch.zeros(16, 256, 3, 3)},
        state | {"stage4.weight": zeros, "transition1.0.0.weight": torch.zeros(18, 256, 3, 3)},
    ):  # fmt: skip
        file.unlink(missing_ok=True)
        if isinstance(content, bytes):
            file.write_bytes(content)
        elif content is not None:
            torch.save(content, file)
        with pytest.raises(ValueError, match=r"odd\.pth"):
            imported(file, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_folders_are_named_by_what_was_imported_and_trained_runs_are_not_overwritten(tmp_path: Path) -> None:
    file = tmp_path / "pose.pth.tar"
    torch.save(simple_baseline(16)[0], file)
    for size in ("[64,64]", "[96,64]", "[64,64]"):
        call("import", f"checkpoint={file}", f"run_root={tmp_path}", f"input_size={size}")
    folders = sorted((tmp_path / "imported").iterdir())
    assert [path.name[:5] for path in folders] == ["pose-", "pose-"]
    (folders[0] / "state.json").write_text("{}")
    with pytest.raises(UsageError, match="out"):
        imported(file, folders[0])
