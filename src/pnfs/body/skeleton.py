"""Skeletons: which joints a dataset labels, in which order, and how they relate."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Int64

from pnfs.errors import PnfsError


@dataclass(frozen=True)
class Skeleton:
    """The joints of one dataset: of persons, hands, animals, anything. Lists, as YAML gives them, become tuples.

    Raises:
        PnfsError: A name is unknown or occurs twice, a pair is not two joints, sigmas are not K positive numbers.
    """

    name: str  # How configurations refer to the skeleton.
    joints: tuple[str, ...]  # The K names; their order is the order of every (K, ...) array.
    flip_pairs: tuple[tuple[str, str], ...]  # Joints that change places when the image is mirrored.
    limbs: tuple[tuple[str, str], ...] = ()  # Pairs of joints that a drawing connects.
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # Rows of a score table: label -> joints.
    oks_sigmas: tuple[float, ...] | None = None  # COCO's standard deviations (K,); None without a benchmark's.

    def __post_init__(self) -> None:
        for key in ("joints", "flip_pairs", "limbs", "oks_sigmas"):
            value = getattr(self, key)
            inner = (tuple(v) if isinstance(v, (list, tuple)) else v for v in value or ())
            object.__setattr__(self, key, value if value is None else tuple(inner))
        groups = {name: tuple(joints) for name, joints in self.groups.items()}
        object.__setattr__(self, "groups", groups)
        pairs, sigmas, count = (*self.flip_pairs, *self.limbs), self.oks_sigmas, len(self.joints)
        for needed, holds in {
            "joints are names": count and all(isinstance(joint, str) for joint in self.joints),
            "flip_pairs and limbs are pairs of joints": all(len(pair) == 2 for pair in pairs),
            "each joint has one name": len({str(joint) for joint in self.joints}) == count,
            "oks_sigmas has one number a joint": sigmas is None or len(sigmas) == count,
            "oks_sigmas are positive": all(sigma > 0 for sigma in sigmas or ()),
        }.items():
            if not holds:
                raise PnfsError(f"skeleton {self.name}: must hold, but does not: {needed}")
        for names in (*pairs, *self.groups.values()):
            self.indices(names)

    def __len__(self) -> int:
        return len(self.joints)

    def indices(self, names: Sequence[str]) -> list[int]:
        """Positions of the named joints in `joints`."""
        unknown = [name for name in names if name not in self.joints]
        if unknown:
            missing, known = ", ".join(map(repr, unknown)), ", ".join(self.joints)
            raise PnfsError(f"skeleton {self.name} has no joint {missing}; its joints are {known}")
        return [self.joints.index(name) for name in names]

    @property
    def flip_permutation(self) -> Int64[np.ndarray, " K"]:
        """Row k of a mirrored person is row `flip_permutation[k]` of the original."""
        permutation = np.arange(len(self.joints))
        for left, right in self.flip_pairs:
            i, j = self.indices((left, right))
            permutation[[i, j]] = j, i
        return permutation


def _pairs(*stems: str) -> tuple[tuple[str, str], ...]:
    return tuple((f"left_{stem}", f"right_{stem}") for stem in stems)


def _both_sides(*links: tuple[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple((f"{side}_{a}", f"{side}_{b}") for side in ("left", "right") for a, b in links)


_ARMS_AND_LEGS = _both_sides(("shoulder", "elbow"), ("elbow", "wrist"), ("hip", "knee"), ("knee", "ankle"))
_LIMB_JOINTS = ("shoulder", "elbow", "wrist", "hip", "knee", "ankle")
_LIMB_PAIRS = _pairs(*_LIMB_JOINTS)
_LIMB_GROUPS = dict(zip(_LIMB_JOINTS, _LIMB_PAIRS, strict=True))

MPII_FILE_JOINTS = (
    "right_ankle", "right_knee", "right_hip", "left_hip", "left_knee", "left_ankle",
    "pelvis", "thorax", "upper_neck", "head_top",
    "right_wrist", "right_elbow", "right_shoulder", "left_shoulder", "left_elbow", "left_wrist",
)  # fmt: skip
"""The joint order of MPII's files and of public networks; `MPII` has the paper's (section IV-A)."""

MPII = Skeleton(
    name="mpii",
    joints=(
        "head_top", "upper_neck", "thorax",
        "left_shoulder", "right_shoulder", "left_elbow", "right_elbow", "left_wrist", "right_wrist",
        "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle", "right_ankle", "pelvis",
    ),
    flip_pairs=_LIMB_PAIRS,
    limbs=(
        ("head_top", "upper_neck"), ("upper_neck", "thorax"), ("thorax", "pelvis"),
        ("thorax", "left_shoulder"), ("thorax", "right_shoulder"),
        ("pelvis", "left_hip"), ("pelvis", "right_hip"), *_ARMS_AND_LEGS,
    ),
    # "Head" is the head top alone, as in the public evaluation code of HRNet and SimpleBaseline.
    groups={"head": ("head_top",), **_LIMB_GROUPS},
)  # fmt: skip

COCO = Skeleton(
    name="coco",
    joints=(
        "nose", "left_eye", "right_eye", "left_ear", "right_ear",
        "left_shoulder", "right_shoulder", "left_elbow", "right_elbow", "left_wrist", "right_wrist",
        "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle", "right_ankle",
    ),
    flip_pairs=_pairs("eye", "ear", "shoulder", "elbow", "wrist", "hip", "knee", "ankle"),
    limbs=(
        ("nose", "left_eye"), ("nose", "right_eye"),
        ("left_eye", "left_ear"), ("right_eye", "right_ear"),
        ("left_shoulder", "right_shoulder"), ("left_hip", "right_hip"),
        ("left_shoulder", "left_hip"), ("right_shoulder", "right_hip"), *_ARMS_AND_LEGS,
    ),
    groups={
        "head": ("nose", "left_eye", "right_eye", "left_ear", "right_ear"), **_LIMB_GROUPS,
    },
    # The constants of the COCO keypoint evaluation.
    oks_sigmas=(
        0.026, 0.025, 0.025, 0.035, 0.035, 0.079, 0.079, 0.072, 0.072, 0.062, 0.062,
        0.107, 0.107, 0.087, 0.087, 0.089, 0.089,
    ),
)  # fmt: skip

LSP = Skeleton(
    name="lsp",
    joints=(
        "right_ankle", "right_knee", "right_hip", "left_hip", "left_knee", "left_ankle",
        "right_wrist", "right_elbow", "right_shoulder",
        "left_shoulder", "left_elbow", "left_wrist", "neck", "head_top",
    ),
    flip_pairs=_LIMB_PAIRS,
    limbs=(
        ("head_top", "neck"), ("neck", "left_shoulder"), ("neck", "right_shoulder"),
        ("left_shoulder", "left_hip"), ("right_shoulder", "right_hip"), ("left_hip", "right_hip"),
        *_ARMS_AND_LEGS,
    ),
    groups={"head": ("neck", "head_top"), **_LIMB_GROUPS},
)  # fmt: skip

SKELETONS: Mapping[str, Skeleton] = {skeleton.name: skeleton for skeleton in (MPII, COCO, LSP)}


def skeleton_by_name(skeleton: "str | Mapping[str, Any] | Skeleton") -> Skeleton:
    """The skeleton that a configuration names, or describes by the arguments of `Skeleton`."""
    if isinstance(skeleton, Skeleton):
        return skeleton
    if isinstance(skeleton, Mapping):
        try:
            return Skeleton(**{key: value for key, value in skeleton.items() if key[:1] != "_"})
        except TypeError as error:
            raise PnfsError(f"skeleton {skeleton.get('name')!r}: {error}") from None
    if skeleton not in SKELETONS:
        raise PnfsError(
            f"unknown skeleton {skeleton!r}; there are {', '.join(SKELETONS)}, or describe it: name, "
            "joints, flip_pairs, limbs, groups, oks_sigmas"
        )
    return SKELETONS[skeleton]
