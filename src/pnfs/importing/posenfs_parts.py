"""Part modes of the authors' public code (PoseNFS): plain data."""

from collections.abc import Mapping, Sequence

PARTS: Mapping[str, Sequence[Mapping[str, Sequence[int]]]] = {
    "mpii": (
        {"whole_body": range(16)},
        {"upper_limb_part": range(3, 9), "head_part": range(3), "lower_limb_part": range(9, 16)},
        {
            "left_arm_part": (5, 7), "right_arm_part": (6, 8), "legs_part": range(11, 15),
            "head_shoulder_part": range(5), "hips_part": (15, 9, 10),
        },
        {
            "left_upper_arm_part": (3, 5), "right_upper_arm_part": (4, 6),
            "left_lower_arm_part": (5, 7), "right_lower_arm_part": (6, 8),
            "left_lower_leg_part": (11, 13), "right_lower_leg_part": (12, 14),
            "head_shoulder_part": range(5), "upper_legs_part": (9, 15, 10, 11, 12),
        },
    ),
    "coco": (
        {"whole_body": range(17)},
        {"upper_limb_part": range(5, 11), "head_part": range(5), "lower_limb_part": range(11, 17)},
        {
            "left_arm_part": (7, 9), "right_arm_part": (8, 10), "legs_part": range(13, 17),
            "head_shoulder_part": range(7), "hips_part": (11, 12),
        },
        {
            "left_upper_arm_part": (5, 7), "right_upper_arm_part": (6, 8),
            "left_lower_arm_part": (7, 9), "right_lower_arm_part": (8, 10),
            "left_lower_leg_part": (13, 15), "right_lower_leg_part": (14, 16),
            "head_shoulder_part": range(7), "upper_legs_part": range(11, 15),
        },
    ),
}  # fmt: skip
"""Their part modes, P = 1, 3, 5, 8: part -> its joints, both in the order of their construction. Their joints'
numbers are those of our skeletons."""
