"""Colours that drawings share."""

from pnfs.models.operations import BACKBONE_OPERATIONS
from pnfs.viz.style import operation_colours


def test_every_operation_has_a_colour_of_its_own() -> None:
    paper = operation_colours(BACKBONE_OPERATIONS)
    many = operation_colours([*(f"mine_{n}" for n in range(30)), *BACKBONE_OPERATIONS])
    assert len(set(many.values())) == 36
    # Whatever else there is, the paper's look as always, and so does the first of one's own.
    assert {name: many[name] for name in paper} == paper
    assert operation_colours(["skip", "other"])["other"] == many["mine_0"]
