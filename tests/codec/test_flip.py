"""The flip test: the mean of an image's heatmaps and those of its mirror image."""

import pytest
import torch

from pnfs.body import LSP, MPII
from pnfs.codec import Codec


def test_mirrored_maps_are_mirrored_back_with_left_and_right_exchanged() -> None:
    maps = torch.zeros(len(MPII), 4, 6)
    left, right, pelvis = MPII.indices(["left_knee", "right_knee", "pelvis"])
    maps[left, 1, 0] = maps[pelvis, 2, 2] = 1
    average = Codec(flip_shift=0).flip_averaged(torch.zeros_like(maps), maps, MPII.flip_permutation)
    assert average[right, 1, 5] == average[pelvis, 2, 3] == 0.5
    assert average.sum() == 1


@pytest.mark.parametrize("shift", [0, 1])
def test_the_average_matches_an_index_by_index_computation(shift: int) -> None:
    maps, mirrored = torch.rand(2, 2, len(LSP), 3, 5)
    average = Codec(flip_shift=shift).flip_averaged(maps, mirrored, LSP.flip_permutation)  # type: ignore[arg-type]
    for joint, partner in enumerate(LSP.flip_permutation.tolist()):
        for x in range(5):
            source = max(x - 1, 0) if shift else x
            expected = (maps[:, joint, :, x] + mirrored[:, partner, :, 4 - source]) / 2
            torch.testing.assert_close(average[:, joint, :, x], expected)


def test_the_shift_brings_the_mirrored_opinion_closer() -> None:
    x, width = 102.0, 256
    size = (64, width // 4)

    def located(maps: torch.Tensor) -> float:
        """Centre of mass along x, in crop pixels."""
        profile = maps[0, 0].sum(0)
        return (4 * (profile * torch.arange(width // 4)).sum() / profile.sum()).item()

    errors = []
    for shift in (0, 1):
        codec = Codec(quantised=False, flip_shift=shift)  # type: ignore[arg-type]
        maps, mirrored = (
            codec.targets(torch.tensor([[[place, 80.0]]]), torch.tensor([[True]]), size)[0]
            for place in (x, width - 1 - x)
        )
        average = codec.flip_averaged(maps, mirrored, torch.tensor([0]).numpy())
        errors.append(abs(located(average) - x))
    # Half of 3/4 and of 1/4 of a heatmap pixel, since the other half of the mean is right.
    assert errors == pytest.approx([1.5, 0.5], abs=0.02)
