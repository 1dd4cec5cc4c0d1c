"""Builds the workspace of a Weights & Biases project: scores, losses, cost, alpha and beta, pictures.

    python tools/wandb_workspace.py TEAM/PROJECT [KEY ...]

Every run is a line of its own, unless keys of the configuration are named by which the rows of a sweep
differ, such as model.vector_dim: then runs that share their values, the seeds of a row, are one line.
Needs `pip install "pnfs[wandb]"` and `wandb login`.
"""

import sys
from collections.abc import Sequence

import wandb_workspaces.reports.v2 as panels
import wandb_workspaces.workspaces as workspaces


def build_workspace(
    entity: str, project: str, *, rows: Sequence[str] = (), name: str = "Pose fabrics"
) -> workspaces.Workspace:
    """Panels for scores, losses, the trade-off, α and β, and sample predictions; saves nothing.

    Args:
        entity: User or team.
        project: Where the runs were logged.
        rows: Keys of the configuration by which rows differ.
        name: Name of the view.
    """
    x, score = "epoch", panels.SummaryMetric("final/score")
    scores = workspaces.Section(
        name="Scores and losses",
        is_open=True,
        panels=[
            panels.LinePlot(title="validation score (%)", x=x, y=["val/score"]),
            panels.LinePlot(title="training loss", x=x, y=["train/loss_epoch"], log_y=True),
            panels.LinePlot(title="validation loss", x=x, y=["val/loss"], log_y=True),
            panels.BarPlot(title="final score (%), flip test", metrics=[score]),
        ],
    )
    trade_off = workspaces.Section(
        name="Score against cost",
        is_open=True,
        panels=[
            panels.ScatterPlot(
                title=f"final score against {cost}", x=panels.SummaryMetric(f"cost/{cost}"), y=score, log_x=True
            )
            for cost in ("macs", "live_parameters")
        ],
    )
    samples = workspaces.Section(
        name="Sample predictions and architectures",
        is_open=True,
        panels=[
            panels.MediaBrowser(title=what, media_keys=[f"media/{what}"], num_columns=2)
            for what in ("predictions", "architecture")
        ],
    )
    compared = workspaces.Section(name="What differs", panels=[panels.RunComparer(diff_only="split")])
    return workspaces.Workspace(
        entity=entity,
        project=project,
        name=name,
        sections=[scores, trade_off, _mixing_section(), samples, compared],
        settings=workspaces.WorkspaceSettings(x_axis=x),
        runset_settings=workspaces.RunsetSettings(
            groupby=[workspaces.Config(key) for key in rows],
            order=[workspaces.Ordering(workspaces.Summary("final/score"), ascending=False)],
        ),
    )


def _mixing_section() -> workspaces.Section:
    """How far the search has moved the mixing weights: α of operations, β of neighbours."""
    wanted = (
        ("α: entropy (nats)", "alpha_entropy"),
        ("β: entropy (nats)", "beta_entropy"),
        ("α: largest distance from uniform", "alpha_travel"),
        ("β: largest distance from uniform", "beta_travel"),
        ("α: mean weight of each operation", "alpha/.*"),
        ("β: mean weight of each neighbour", "beta/.*"),
    )
    return workspaces.Section(
        name="Architecture: α and β",
        is_open=True,
        panels=[
            panels.LinePlot(title=title, x="epoch", metric_regex=f"architecture/.*/{pattern}")
            for title, pattern in wanted
        ],
    )


def main() -> None:
    place, *rows = sys.argv[1:] or [""]
    entity, _, project = place.partition("/")
    if not entity or not project or "/" in project:
        sys.exit("usage: python tools/wandb_workspace.py TEAM/PROJECT [KEY ...]")
    view = build_workspace(entity, project, rows=rows)
    view.save()
    print(view.url)


if __name__ == "__main__":
    main()
