"""The workspace as code: built without a network, saved nowhere."""

import pytest

from pnfs.viz.workspace import build_workspace

pytest.importorskip("wandb_workspaces")


def test_workspace_shows_what_runs_log() -> None:
    view = build_workspace("team", "pnfs")
    # What would be sent.
    sent = view._to_model().model_dump_json(by_alias=True)
    for wanted in (
        "val/score", "train/loss_epoch", "val/loss", "final/score", "cost/macs",
        "cost/live_parameters", "architecture/.*/alpha_entropy", "architecture/.*/beta/.*",
        "media/predictions", "media/architecture",
    ):  # fmt: skip
        assert wanted in sent, wanted
    assert (view.entity, view.project) == ("team", "pnfs")
    assert [section.name for section in view.sections][2] == "Architecture: α and β"
