"""Skeletons against the datasets' own tables."""

import numpy as np
import pytest
from pycocotools.cocoeval import Params

from pnfs.body import COCO, LSP, MPII, SKELETONS, Skeleton, skeleton_by_name

ALL = [pytest.param(skeleton, id=skeleton.name) for skeleton in (MPII, COCO, LSP)]

# The paper's section IV-A, the COCO annotation format, and the README of LSP.
ORDERS = {
    "mpii": (
        "head_top upper_neck thorax left_shoulder right_shoulder left_elbow right_elbow left_wrist "
        "right_wrist left_hip right_hip left_knee right_knee left_ankle right_ankle pelvis"
    ),
    "coco": (
        "nose left_eye right_eye left_ear right_ear left_shoulder right_shoulder left_elbow "
        "right_elbow left_wrist right_wrist left_hip right_hip left_knee right_knee left_ankle "
        "right_ankle"
    ),
    "lsp": (
        "right_ankle right_knee right_hip left_hip left_knee left_ankle right_wrist right_elbow "
        "right_shoulder left_shoulder left_elbow left_wrist neck head_top"
    ),
}


@pytest.mark.parametrize("skeleton", ALL)
def test_joints_stand_in_the_datasets_order(skeleton: Skeleton) -> None:
    assert list(skeleton.joints) == ORDERS[skeleton.name].split()
    assert len(skeleton) == {"mpii": 16, "coco": 17, "lsp": 14}[skeleton.name]


@pytest.mark.parametrize("skeleton", ALL)
def test_mirroring_exchanges_left_and_right_and_nothing_else(skeleton: Skeleton) -> None:
    permutation = skeleton.flip_permutation
    mirrored = [skeleton.joints[row] for row in permutation]
    for joint, partner in zip(skeleton.joints, mirrored, strict=True):
        side, _, stem = joint.partition("_")
        expected = {"left": f"right_{stem}", "right": f"left_{stem}"}.get(side, joint)
        assert partner == expected
    np.testing.assert_array_equal(permutation[permutation], np.arange(len(skeleton)))


def test_the_oks_sigmas_are_those_of_the_coco_evaluation() -> None:
    np.testing.assert_allclose(COCO.oks_sigmas, Params("keypoints").kpt_oks_sigmas)


@pytest.mark.parametrize("skeleton", ALL)
def test_limbs_connect_all_joints(skeleton: Skeleton) -> None:
    reached = {"left_hip"}
    for _ in skeleton.limbs:
        for limb in skeleton.limbs:
            if reached & set(limb):
                reached |= set(limb)
    # COCO's face is a piece of its own.
    face = {"nose", "left_eye", "right_eye", "left_ear", "right_ear"} & set(skeleton.joints)
    assert reached | face == set(skeleton.joints)
    assert len(set(map(frozenset, skeleton.limbs))) == len(skeleton.limbs)
    assert all(a != b for a, b in skeleton.limbs)


@pytest.mark.parametrize("skeleton", ALL)
def test_limbs_are_the_same_on_both_sides(skeleton: Skeleton) -> None:
    other = {"left": "right", "right": "left"}

    def mirror(joint: str) -> str:
        side, separator, stem = joint.partition("_")
        return f"{other[side]}_{stem}" if side in other and separator else joint

    limbs = set(map(frozenset, skeleton.limbs))
    assert {frozenset(mirror(joint) for joint in limb) for limb in limbs} == limbs


@pytest.mark.parametrize("skeleton", ALL)
def test_rows_of_a_score_table_are_pairs_of_a_joint(skeleton: Skeleton) -> None:
    assert list(skeleton.groups) == ["head", "shoulder", "elbow", "wrist", "hip", "knee", "ankle"]
    for label, joints in list(skeleton.groups.items())[1:]:
        assert set(joints) == {f"left_{label}", f"right_{label}"}
    assert MPII.groups["head"] == ("head_top",)


@pytest.mark.parametrize("skeleton", ALL)
def test_names_become_positions(skeleton: Skeleton) -> None:
    names = list(skeleton.joints[::-3])
    assert [skeleton.joints[i] for i in skeleton.indices(names)] == names
    assert skeleton_by_name(skeleton.name) is skeleton


def test_an_unknown_joint_is_named() -> None:
    with pytest.raises(ValueError, match="skeleton lsp has no joint 'nose', 'tail'; its joints"):
        LSP.indices(["neck", "nose", "tail"])


def test_an_unknown_skeleton_is_named() -> None:
    with pytest.raises(ValueError, match="unknown skeleton 'octopus'; there are mpii, coco, lsp"):
        skeleton_by_name("octopus")
    assert list(SKELETONS) == ["mpii", "coco", "lsp"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"joints": ("a", "b", "a")}, "skeleton toy: a joint name occurs twice"),
        ({"flip_pairs": (("a", "z"),)}, "skeleton toy has no joint 'z'"),
        ({"limbs": (("y", "b"),)}, "skeleton toy has no joint 'y'"),
        ({"groups": {"head": ("a", "x")}}, "skeleton toy has no joint 'x'"),
        ({"oks_sigmas": (0.1, 0.2)}, "skeleton toy: 2 OKS sigmas for 3 joints"),
    ],
)
def test_a_skeleton_that_does_not_fit_together_is_refused(change: dict, message: str) -> None:
    fields = {"name": "toy", "joints": ("a", "b", "c"), "flip_pairs": (), "limbs": (), "groups": {}}
    assert len(Skeleton(**fields)) == 3
    with pytest.raises(ValueError, match=message):
        Skeleton(**{**fields, **change})
