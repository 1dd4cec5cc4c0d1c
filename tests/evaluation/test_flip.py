import pytest
import torch

from pnfs.body import LSP, MPII
from pnfs.codec import gaussian_targets
from pnfs.evaluation import average_with_flip, flip_maps


def test_flipping_mirrors_and_exchanges_left_and_right() -> None:
    maps = torch.zeros(len(MPII), 4, 6)
    left, right, pelvis = MPII.indices(["left_knee", "right_knee", "pelvis"])
    maps[left, 1, 0] = 1
    maps[pelvis, 2, 2] = 1
    flipped = flip_maps(maps, MPII.flip_permutation)
    assert flipped[right, 1, 5] == 1
    assert flipped[pelvis, 2, 3] == 1
    assert flipped.sum() == 2


@pytest.mark.parametrize("shift", [0, 1])
def test_the_average_matches_an_index_by_index_computation(shift: int) -> None:
    maps, mirrored = torch.rand(2, 2, len(LSP), 3, 5)
    average = average_with_flip(maps, mirrored, LSP.flip_permutation, shift)
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

    def target(x: float) -> torch.Tensor:
        joints, labelled = torch.tensor([[[x, 80.0]]]), torch.tensor([[True]])
        return gaussian_targets(joints, labelled, heatmap_size=size, quantised=False)[0]

    single = torch.tensor([0])
    mirrored = target(width - 1 - x)
    errors = [
        abs(located(average_with_flip(target(x), mirrored, single, shift)) - x) for shift in (0, 1)
    ]
    # Half of 3/4 and of 1/4 of a heatmap pixel, since the other half of the mean is right.
    assert errors == pytest.approx([1.5, 0.5], abs=0.02)


def test_another_shift_is_refused() -> None:
    maps = torch.zeros(1, 1, 2, 2)
    with pytest.raises(ValueError, match="0 or 1"):
        average_with_flip(maps, maps, torch.tensor([0]), 2)  # pyright: ignore[reportArgumentType]
