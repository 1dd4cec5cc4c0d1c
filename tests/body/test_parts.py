"""Part modes against Table I of the paper."""

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from pnfs.body import LSP, MPII, PartMode, skeleton_by_name

FOLDER = Path(__file__).parents[2] / "conf" / "parts"

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


def configured(skeleton: str, count: int) -> PartMode:
    parts = OmegaConf.to_container(OmegaConf.load(FOLDER / f"p{count}.yaml"))
    return PartMode(skeleton_by_name(skeleton), parts[skeleton])


@pytest.mark.parametrize(("skeleton", "count"), TABLE)
def test_the_configured_parts_are_those_of_table_one(skeleton: str, count: int) -> None:
    mode = configured(skeleton, count)
    assert len(mode) == len(mode.names) == count
    table = TABLE[skeleton, count]
    found, rest = [], list(mode.joint_indices)
    for joints in mode.parts.values():
        found.append(set(rest[: len(joints)]))
        rest = rest[len(joints) :]
    assert found == [set(numbers) for numbers in table]
    assert mode.joint_counts == tuple(len(numbers) for numbers in table)
    assert rest == []


@pytest.mark.parametrize("skeleton", ["mpii", "coco", "lsp"])
def test_a_parts_name_says_on_which_side_it_is(skeleton: str) -> None:
    for count in (5, 8):
        for part, joints in configured(skeleton, count).parts.items():
            side = part.split("_")[0]
            if side in ("left", "right"):
                assert all(joint.startswith(side) for joint in joints)


def test_maps_stand_part_after_part_in_the_order_of_their_names() -> None:
    mode = PartMode(LSP, {"b": ["head_top", "neck"], "a": list(LSP.joints[:13])})
    assert mode.names == ("b", "a")
    assert mode.joint_counts == (2, 13)
    assert mode.joint_indices == (13, 12, *range(13))


REST = {"rest": list(MPII.joints[1:])}


@pytest.mark.parametrize(
    ("parts", "culprits"),
    [
        ({"skull": ["head_top", "nose", "chin"], **REST}, ["'skull'", "'nose', 'chin'"]),
        ({"skull": [], "all": list(MPII.joints)}, ["'skull' is empty"]),
        (REST, ["in no part: head_top"]),
        ({"few": list(MPII.joints[:13])}, ["in no part: left_ankle, right_ankle, pelvis"]),
        ({}, ["there are no parts"]),
        ({"left.arm": list(MPII.joints)}, ["'left.arm' needs a name of letters"]),
        ({"": list(MPII.joints)}, ["'' needs a name of letters"]),
        ({"skull": ["head_top", "head_top"], **REST}, ["'skull' names a joint twice: head_top"]),
    ],
)
def test_a_wrong_grouping_is_refused_by_name(parts: dict, culprits: list[str]) -> None:
    with pytest.raises(ValueError, match="part mode for skeleton mpii") as caught:
        PartMode(MPII, parts)
    for culprit in culprits:
        assert culprit in str(caught.value)


def test_a_joint_may_belong_to_several_parts() -> None:
    mode = PartMode(MPII, {"skull": ["head_top"], "all": list(MPII.joints)})
    assert mode.joint_indices == (0, *range(16))
