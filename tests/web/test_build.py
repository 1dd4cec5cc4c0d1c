"""What web/build.py tells the page about a model, and what it refuses."""

from dataclasses import replace
from pathlib import Path

import pytest

from pnfs.body import MPII
from pnfs.export.metadata import ExportError, ModelMetadata
from pnfs.viz.style import side_hex

PARTS = (("upper", MPII.joints[:9]), ("lower", MPII.joints[7:]))
METADATA = ModelMetadata(
    (96, 64), 4, "mpii", MPII.joints, MPII.limbs, MPII.flip_pairs, "maps", parts=PARTS
)


def test_joints_and_limbs_know_their_side_and_part(builder) -> None:
    model = builder.describe(METADATA, Path("model.onnx"))
    joints = {joint["name"]: joint for joint in model["joints"]}
    assert list(joints) == list(MPII.joints)
    # A joint of two parts has the colour of the first.
    assert joints["left_wrist"] == {"name": "left_wrist", "side": "left", "part": 0}
    assert joints["pelvis"] == {"name": "pelvis", "side": "centre", "part": 1}
    limbs = {tuple(MPII.joints[k] for k in limb["joints"]): limb for limb in model["limbs"]}
    assert list(limbs) == list(MPII.limbs)
    # One part holds both ends of the first two, none those of the last.
    assert [
        (limbs[ends]["side"], limbs[ends]["part"])
        for ends in (
            ("left_elbow", "left_wrist"),
            ("pelvis", "right_hip"),
            ("thorax", "pelvis"),
        )
    ] == [("left", 0), ("right", 1), ("centre", None)]
    assert model["sideColours"]["left"] == side_hex("left")
    assert [part["joints"] for part in model["parts"]] == [list(range(9)), list(range(7, 16))]


def test_a_file_without_parts_has_one(builder) -> None:
    (part,) = builder.describe(replace(METADATA, parts=()), Path("old.onnx"))["parts"]
    assert part["joints"] == list(range(16))


def test_what_no_page_can_be_built_of(builder, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"absent\.onnx"):
        builder.build(tmp_path / "absent.onnx", tmp_path / "dist")
    with pytest.raises(ExportError, match=r"joints\.onnx.*outputs=maps"):
        builder.describe(replace(METADATA, outputs="joints"), Path("joints.onnx"))


def test_every_part_has_a_colour_of_its_own(builder) -> None:
    colours = [colour for colour, _ in zip(builder.part_colours(), range(16), strict=False)]
    assert len(set(colours)) == 16
    assert "#000000" not in colours
