"""Part modes: how the joints are grouped into the P parts that each get a fabric (section III-E, Table I)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

from pnfs.body.skeleton import Skeleton
from pnfs.errors import PnfsError


@dataclass(frozen=True)
class PartMode:
    """A grouping of a skeleton's joints into P parts: name -> joints, of which one may belong to several parts.

    Raises:
        PnfsError: A part name that is no identifier, an unknown joint, a joint named twice in one
            part, an empty part, or a joint that is in no part.
    """

    skeleton: Skeleton
    parts: Mapping[str, Sequence[str]]

    def __post_init__(self) -> None:
        where = f"part mode for skeleton {self.skeleton.name}"
        for part, joints in self.parts.items():
            if not part.isidentifier():
                raise PnfsError(f"{where}: part {part!r} needs a name of letters, digits and _")
            unknown = set(joints).difference(self.skeleton.joints)
            if not joints or len(set(joints)) != len(joints) or unknown:
                text = f"part {part!r} needs joints of the skeleton, each named once"
                raise PnfsError(f"{where}: {text}, not {', '.join(sorted(unknown) or joints)}")
        covered = set(chain(*self.parts.values()))
        if missing := [joint for joint in self.skeleton.joints if joint not in covered]:
            raise PnfsError(f"{where}: in no part: {', '.join(missing)}")

    def __len__(self) -> int:
        """P, the number of parts."""
        return len(self.parts)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.parts)

    @property
    def joint_counts(self) -> tuple[int, ...]:
        """J_p for each part."""
        return tuple(len(joints) for joints in self.parts.values())

    @property
    def joint_indices(self) -> tuple[int, ...]:
        """For each of the sum(J_p) part-joint maps, part after part, the skeleton's joint."""
        return tuple(self.skeleton.indices([*chain(*self.parts.values())]))
