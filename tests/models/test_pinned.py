"""Initial values, outputs and losses against those that were recorded before the models were rebuilt."""

from pathlib import Path

import numpy as np
import pytest
from pinned import CASES, Case, observe

# The rest, which says little more, takes minutes.
QUICK = {"p3/paper/h1/fabric", "p8/reference/h1/fabric", "p3/reference/h1/fabric"}

# Here the rounding of one step is larger in each later one: after 15 steps the losses differ by 2e-5.
ILL_CONDITIONED = {"p1/paper/h2/fabric"}
FIRST_STEPS = 10


@pytest.mark.fixtures("pinned.npz")
@pytest.mark.parametrize(
    "case",
    [pytest.param(c, id=c.name, marks=[] if c.name in QUICK else pytest.mark.slow) for c in CASES],
)
def test_the_numbers_are_the_recorded_ones(case: Case, fixture_file: Path) -> None:
    with np.load(fixture_file) as recorded:
        expected = {name: recorded[name] for name in recorded if name.startswith(f"{case.name}/")}
    found = observe(case)
    assert sorted(found) == sorted(expected)
    for name, value in found.items():
        kind = name.removeprefix(f"{case.name}/")
        if kind in ("architecture", "draw"):
            assert value.tolist() == expected[name].tolist(), name
        else:
            # Sums of equal values in another order; steps in double precision.
            tolerance = 1e-12 if kind == "initial" else 1e-5
            if case.name in ILL_CONDITIONED and kind in ("losses", "trained"):
                np.testing.assert_allclose(
                    value, expected[name], rtol=1e-4, atol=1e-5, err_msg=name
                )
                value, expected[name] = value[:FIRST_STEPS], expected[name][:FIRST_STEPS]
                if kind == "trained":
                    continue
            np.testing.assert_allclose(
                value, expected[name], rtol=tolerance, atol=1e-7, err_msg=name
            )
