"""Skeletons against the datasets' own tables, part modes against Table I of the paper."""

import numpy as np
import pytest
from pycocotools.cocoeval import Params

from pnfs.body import COCO, LSP, MPII, PartMode, Skeleton, skeleton_by_name
from pnfs.errors import PnfsError
from tiny import table_one

ALL = pytest.mark.parametrize("skeleton", [MPII, COCO, LSP], ids=lambda skeleton: skeleton.name)

# The paper's section IV-A, the COCO annotation format, and the README of LSP; l and r are left and right.
ORDERS = {
    "mpii": "head_top upper_neck thorax l_shoulder r_shoulder l_elbow r_elbow l_wrist r_wrist l_hip r_hip "
    "l_knee r_knee l_ankle r_ankle pelvis",
    "coco": "nose l_eye r_eye l_ear r_ear l_shoulder r_shoulder l_elbow r_elbow l_wrist r_wrist l_hip r_hip "
    "l_knee r_knee l_ankle r_ankle",
    "lsp": "r_ankle r_knee r_hip l_hip l_knee l_ankle r_wrist r_elbow r_shoulder l_shoulder l_elbow l_wrist "
    "neck head_top",
}


# Table I by joint numbers, in the paper's order of parts.
TABLE = {
    ("mpii", 1): [range(16)],
    ("mpii", 3): [range(3), range(3, 9), range(9, 16)],
    ("mpii", 5): [range(5), (5, 7), (6, 8), (9, 10, 15), range(11, 15)],
    ("mpii", 8): [
        range(5), (3, 5), (5, 7), (4, 6), (6, 8), (9, 10, 11, 12, 15), (11, 13), (12, 14),
    ],
    ("coco", 1): [range(17)],
    ("coco", 3): [range(5), range(5, 11), range(11, 17)],
    ("coco", 5): [range(7), (7, 9), (8, 10), (11, 12), range(13, 17)],
    ("coco", 8): [
        range(7), (5, 7), (7, 9), (6, 8), (8, 10), (11, 12, 13, 14), (13, 15), (14, 16),
    ],
    # LSP is not in the paper; the joints' numbers are those of its files.
    ("lsp", 1): [range(14)],
    ("lsp", 3): [(12, 13), (6, 7, 8, 9, 10, 11), range(6)],
    ("lsp", 5): [(8, 9, 12, 13), (10, 11), (6, 7), (2, 3), (0, 1, 4, 5)],
    ("lsp", 8): [
        (8, 9, 12, 13), (9, 10), (10, 11), (7, 8), (6, 7), (1, 2, 3, 4), (4, 5), (0, 1),
    ],
}  # fmt: skip

PARTS = {
    1: "whole_body", 3: "head upper_limb lower_limb",
    5: "head_shoulder left_lower_arm right_lower_arm thigh lower_limb",
    8: "head_shoulder left_upper_arm left_lower_arm right_upper_arm right_lower_arm thigh left_lower_leg "
       "right_lower_leg",
}  # fmt: skip


def mirror(joint: str) -> str:
    side, _, stem = joint.partition("_")
    return {"left": f"right_{stem}", "right": f"left_{stem}"}.get(side, joint)


@ALL
def test_joints_and_their_mirror_images(skeleton: Skeleton) -> None:
    names = " ".join(skeleton.joints).replace("left_", "l_").replace("right_", "r_")
    assert names == ORDERS[skeleton.name]
    mirrored = [skeleton.joints[row] for row in skeleton.flip_permutation]
    assert mirrored == list(map(mirror, skeleton.joints))
    assert skeleton_by_name(skeleton.name) is skeleton
    for label, joints in list(skeleton.groups.items())[1:]:
        assert set(joints) == {f"left_{label}", f"right_{label}"}
    np.testing.assert_allclose(COCO.oks_sigmas, Params("keypoints").kpt_oks_sigmas)
    limbs = set(map(frozenset, skeleton.limbs))
    assert len(limbs) == len(skeleton.limbs)
    assert {frozenset(map(mirror, limb)) for limb in limbs} == limbs


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"joints": ("a", "b", "a")}, "toy: .*one name"),
        ({"flip_pairs": (("a", "z"),)}, "toy has no joint 'z'; its joints are a, b, c"),
        ({"flip_pairs": (("a", "b", "c"),)}, "toy: .*flip_pairs"),
        ({"groups": {"head": ("a", "x")}}, "toy has no joint 'x'"),
        ({"oks_sigmas": ()}, "toy: .*oks_sigmas"),
        ({"oks_sigmas": (0.1, 0.2, float("nan"))}, "toy: .*oks_sigmas"),
    ],
)
def test_a_skeleton_that_does_not_fit_together_is_refused(change: dict, message: str) -> None:
    fields = {"name": "toy", "joints": ("a", "b", "c"), "flip_pairs": (), "limbs": (), "groups": {}}
    assert len(Skeleton(**fields)) == 3
    with pytest.raises(PnfsError, match=message):
        Skeleton(**{**fields, **change})
    with pytest.raises(PnfsError, match=r"octopus.*mpii, coco, lsp"):
        skeleton_by_name("octopus")


@pytest.mark.parametrize(("skeleton", "count"), TABLE)
def test_the_configured_parts_are_those_of_table_one(skeleton: str, count: int) -> None:
    mode = PartMode(skeleton_by_name(skeleton), table_one(skeleton, count))
    assert mode.names == tuple(PARTS[count].split())
    found, rest = [], list(mode.joint_indices)
    for joints in mode.parts.values():
        found.append(set(rest[: len(joints)]))
        rest = rest[len(joints) :]
    assert found == [set(numbers) for numbers in TABLE[skeleton, count]]
    assert mode.joint_counts == tuple(map(len, TABLE[skeleton, count]))
    assert rest == []


REST = {"rest": list(MPII.joints[1:])}


@pytest.mark.parametrize(
    ("parts", "culprit"),
    [
        ({"skull": ["head_top", "nose", "chin"], **REST}, "'skull' .*chin, nose"),
        ({"skull": [], "all": list(MPII.joints)}, "'skull'"),
        (REST, "in no part: head_top$"),
        ({}, "in no part: head_top, "),
        ({"left.arm": list(MPII.joints)}, "'left.arm' needs a name"),
        ({"skull": ["head_top", "head_top"], **REST}, "'skull'"),
    ],
)
def test_a_wrong_grouping_is_refused_by_name(parts: dict, culprit: str) -> None:
    with pytest.raises(PnfsError, match=f"part mode for skeleton mpii: .*{culprit}"):
        PartMode(MPII, parts)
