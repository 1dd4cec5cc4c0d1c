"""`pnfs import`: public checkpoints become runs of other commands, and what is refused."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

from pnfs.body import COCO, MPII, skeleton_by_name
from pnfs.commands.building import build_network
from pnfs.commands.configuration import UsageError, plain
from pnfs.errors import PnfsError
from pnfs.importing.networks import import_state
from pnfs.importing.posenfs import OPERATION_NAMES, PARTS, posenfs_model
from pnfs.training.checkpoints import CONFIG_KEY, load_network_state, read_checkpoint
from tiny import randomise_statistics
from tiny_runs import call, composed

FOUR = ["Zero", "skip_connect", "Atr_Conv_3x3", "Sep_Conv_3x3"]
SIX = ["Zero", "skip_connect", "Sep_Conv_3x3", "Atr_Conv_3x3", "avg_pool_3x3", "max_pool_3x3"]
NAMES = {"operators": FOUR, "backbone_operators": SIX}
SIZE = 64
SETTINGS = plain(composed("import", "checkpoint=any", f"input_size=[{SIZE},{SIZE}]"))

# --- PoseNFS: a recorded checkpoint, P = 3 on a fabric backbone (its maps: test_recorded.py)


def recorded() -> dict[str, Tensor]:
    with np.load(Path(__file__).parents[1] / "fixtures/arch/fabric_P3_H1_d8_mpii_weights.npz") as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays}


def with_parts(parts: Mapping[str, Sequence[int]], vector_dim: int) -> dict[str, Tensor]:
    """The recorded entries with other parts, each with the head's fabric."""
    state = {name: value for name, value in recorded().items() if name.startswith("backbone.")}
    head = {name.partition(".")[2]: v for name, v in recorded().items() if name.startswith("head_part.")}
    for part, joints in parts.items():
        last = {"final_layer.1.weight": torch.zeros(len(joints) * vector_dim, 8, 1, 1)}
        state |= {f"{part}.{name}": value for name, value in (head | last).items()}
    return state


def described(state: dict[str, Tensor], **given: Any) -> dict[str, Any]:
    return posenfs_model(SETTINGS | NAMES | {"skeleton": None} | given, state)


def test_operations_without_entries_must_be_listed() -> None:
    for names in (SIX, ["skip_connect", "Zero", *SIX[2:-2], SIX[-1], SIX[-2]]):
        told = described(recorded(), backbone_operators=names)["backbone"]["fabrics"]["operations"]
        assert list(told) == [OPERATION_NAMES[name] for name in names]
    exchanged = [*SIX[:2], "Atr_Conv_3x3", "Sep_Conv_3x3", *SIX[4:]]
    for names in (None, FOUR, ["Zero", "Zero", *SIX[2:]], exchanged, ["conv_3x3", *SIX[1:]]):
        with pytest.raises(PnfsError, match=r"backbone_operators .*6 columns of alpha are Zero or skip_connect"):
            described(recorded(), backbone_operators=names)


@pytest.mark.parametrize("skeleton", PARTS)
def test_the_dataset_is_told_by_the_parts_channels(skeleton: str) -> None:
    joints = skeleton_by_name(skeleton).joints
    for parts in PARTS[skeleton]:
        told = described(with_parts(parts, vector_dim=3))
        assert (told["skeleton"], told["vector_dim"]) == (skeleton, 3)
        assert list(told["parts"].items()) == [(part, [joints[i] for i in ids]) for part, ids in parts.items()]


def test_a_part_mode_that_fits_both_or_none_needs_a_key() -> None:
    state = with_parts(PARTS["mpii"][0], vector_dim=17)
    assert [described(state, skeleton=name)["vector_dim"] for name in ("mpii", "coco")] == [17, 16]
    own = {name.replace("head_part", "top"): value for name, value in recorded().items()}
    for wrong, skeleton, message in (
        (state, None, r"dataset is needed.*whole_body \(272\)"), (recorded(), "coco", "no part mode of coco"),
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
    state = {k: v for k, v in recorded().items() if without is None or without not in k}
    state |= {name: torch.zeros(shape) for name, shape in added.items()}
    with pytest.raises(PnfsError, match=message):
        import_state(SETTINGS | NAMES, state, build_network)


# --- the command

SIZED = f"input_size=[{SIZE},{SIZE}]"
OPERATORS = (f"operators=[{','.join(FOUR)}]", f"backbone_operators=[{','.join(SIX)}]")
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
    state = {f"module.{name}": value for name, value in recorded().items()}
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
    found = import_state(SETTINGS | NAMES, recorded(), build_network).network.eval()
    with torch.no_grad():
        expected = found.merged(found(public_input(bgr=True)))
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
    [("input_size=[60,64]", "input_size"), ("input_size=null", "input_size"), ("dataset=coco", "coco"),
     ("channel_order=gbr", "channel_order"), ("backbone_operators=[Zero]", "backbone_operators"),
     ("backbone_operators=null", "backbone_operators")],
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
    call("derive", checkpoint, f"out={tmp_path / 'less'}")
    # The derived network keeps the order of the colours.
    torch.testing.assert_close(score_maps(tmp_path / "less"), score_maps(reference_run), rtol=1e-3, atol=1e-4)


# The order in which the public code's MPII networks give their 16 maps.
PUBLIC_MPII = [
    "right_ankle", "right_knee", "right_hip", "left_hip",
    "left_knee", "left_ankle", "pelvis", "thorax",
    "upper_neck", "head_top", "right_wrist", "right_elbow",
    "right_shoulder", "left_shoulder", "left_elbow", "left_wrist",
]  # fmt: skip


Public = tuple[dict[str, Tensor], Callable[[Tensor], Tensor]]
"""The state dict of a public network with random weights, and what makes heatmaps of normalised images."""


def simple_baseline(joints: int) -> Public:
    """On ResNet-50."""
    net = torchvision.models.resnet50()
    net.deconv_layers = nn.Sequential()
    for channels in (2048, 256, 256):
        deconv = nn.ConvTranspose2d(channels, 256, 4, 2, 1, bias=False)
        net.deconv_layers.extend([deconv, nn.BatchNorm2d(256), nn.ReLU()])
    net.final_layer = nn.Conv2d(256, joints, 1)
    randomise_statistics(net.eval())
    state = {name: value for name, value in net.state_dict().items() if not name.startswith("fc.")}
    return state, nn.Sequential(*(m for name, m in net.named_children() if name not in ("avgpool", "fc")))


def hrnet(joints: int) -> Public:
    """HRNet-W32; the last module of the public pose networks makes the finest map alone."""
    net = timm.create_model("hrnet_w32")
    net.final_layer = nn.Conv2d(32, joints, 1)
    randomise_statistics(net.eval())
    stem = nn.Sequential(net.conv1, net.bn1, net.act1, net.conv2, net.bn2, net.act2)
    others = "incre", "downsamp", "classifier", *(f"stage4.2.fuse_layers.{n}" for n in (1, 2, 3))
    state = {name: value for name, value in net.state_dict().items() if not name.startswith(others)}
    return state, lambda images: net.final_layer(net.stages(stem(images))[0])


@pytest.mark.parametrize("joints", [16, pytest.param(17, marks=pytest.mark.slow)])
@pytest.mark.parametrize("public", [simple_baseline, hrnet])
def test_an_imported_baseline_gives_its_maps(tmp_path: Path, public: Callable[[int], Public], joints: int) -> None:
    state, network = public(joints)
    torch.save(state, tmp_path / "pose.pth")
    config = imported(tmp_path / "pose.pth", tmp_path / "run")
    assert config["model"]["channel_order"] == ("rgb" if public is hrnet else "bgr")
    assert config["codec"]["flip_shift"] == 1
    skeleton, order = (MPII, PUBLIC_MPII) if joints == 16 else (COCO, list(COCO.joints))
    assert config["model"]["skeleton"] == skeleton.name
    with torch.no_grad():
        theirs = network(public_input(bgr=public is not hrnet))
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
    assert [path.name[:5] for path in folders] == ["pose_", "pose_"]
    (folders[0] / "state.json").write_text("{}")
    with pytest.raises(UsageError, match="out"):
        imported(file, folders[0])
