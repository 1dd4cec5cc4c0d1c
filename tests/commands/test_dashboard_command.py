"""`pnfs dashboard` from folders of runs."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from pnfs.commands import dashboard
from pnfs.commands.configuration import UsageError, configuration_folder


def composed(*overrides: str) -> DictConfig:
    with initialize_config_dir(version_base="1.3", config_dir=str(configuration_folder())):
        return compose("dashboard", list(overrides))


def write_run(root: Path, folder: str, *, score: float | None, **config: Any) -> Path:
    path = root / folder
    path.mkdir(parents=True)
    settings = {
        "name": path.parent.name,
        "dataset": {"_target_": "pnfs.data.datasets.lsp.LSP", "root": "/somewhere"},
        "model": {"_target_": "pnfs.models.PoseFabricNetwork", "parts": {"head": ["neck"]}},
        "strategy": {"_target_": "pnfs.search.Synchronous"},
    } | config
    if score is None:
        state = {"state": "failed", "cause": "out of <memory>", "config": settings}
        (path / "state.json").write_text(json.dumps(state))
        return path
    record = {
        "score": score, "scores": {"PCK@0.2": score}, "seconds": 10.0, "config": settings,
        "cost": {"parameters": 10, "live_parameters": 9, "macs": 1000},
    }  # fmt: skip
    (path / "result.json").write_text(json.dumps(record))
    (path / "metrics.csv").write_text("epoch,step,train/loss_epoch,val/score\n0,3,0.5,12.5\n")
    return path


def test_page_from_run_folders(tmp_path: Path) -> None:
    write_run(tmp_path, "grid/aaaaaaaa", score=61.5, seed=0)
    write_run(tmp_path, "grid/bbbbbbbb", score=None, seed=1)
    dashboard.run(composed(f"run_root={tmp_path}"))
    page = (tmp_path / "dashboard.html").read_text()
    assert "grid/aaaaaaaa" in page
    assert "61.5" in page
    assert "out of &lt;memory&gt;" in page
    assert "<code>seed=0</code>" in page
    assert "<code>seed=1</code>" in page
    # The trade-off, the scores, and the losses under the name that Lightning gives epoch means.
    assert page.count("<svg") == 3


def test_filter_leaves_runs_out(tmp_path: Path) -> None:
    write_run(tmp_path, "grid/aaaaaaaa", score=61.5, seed=0)
    write_run(tmp_path, "grid/bbbbbbbb", score=62.5, seed=1)
    dashboard.run(composed(f"run_root={tmp_path}", "+filter={seed:1}", f"out={tmp_path}/a.html"))
    page = (tmp_path / "a.html").read_text()
    assert "bbbbbbbb" in page
    assert "aaaaaaaa" not in page


def test_many_differences_show_what_is_unusual(tmp_path: Path) -> None:
    usual = {f"key{n}": 0 for n in range(9)} | {"seed": 0}
    for run in range(10):
        write_run(tmp_path, f"grid/{run:08x}", score=1.0, **(usual | {f"key{run}": run + 5}))
    runs = dashboard.find_runs(tmp_path)
    cards = dashboard.cards_of(runs, tmp_path)
    assert [dict(card.differences) for card in cards[:2]] == [{"key0": "5"}, {"key1": "6"}]


def test_runs_that_differ_in_their_seed_are_one_row(tmp_path: Path) -> None:
    for n, (seed, depth, workers) in enumerate([(0, 1, 4), (1, 1, 8), (0, 2, 4)]):
        settings = {"seed": seed, "depth": depth, "workers": workers}
        write_run(tmp_path, f"grid/{n:08x}", score=1.0, **settings)
    write_run(tmp_path, "other/00000004", score=1.0, seed=0, depth=1)
    rows = [card.row for card in dashboard.cards_of(dashboard.find_runs(tmp_path), tmp_path)]
    # The number of workers does not make another run.
    assert rows[0] == rows[1]
    assert len(set(rows)) == 3


def test_unreadable_metrics_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_run(tmp_path, "grid/aaaaaaaa", score=61.5)
    (folder / "metrics.csv").write_text("epoch,step,val/score\n0,1,many\n")
    dashboard.run(composed(f"run_root={tmp_path}"))
    assert "metrics.csv" in capsys.readouterr().out
    assert (tmp_path / "dashboard.html").is_file()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["run_root=/nowhere/at/all"], "no such folder"),
        (["wandb=pnfs"], "expected <user or team>/<project>"),
        (["wandb=a/b/c"], "expected <user or team>/<project>"),
    ],
)
def test_wrong_usage(overrides: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        dashboard.run(composed(*overrides))


def test_no_runs(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no run"):
        dashboard.run(composed(f"run_root={tmp_path}"))


def test_workspace_needs_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb_workspaces", None)
    monkeypatch.setitem(sys.modules, "wandb_workspaces.reports.v2", None)
    monkeypatch.setitem(sys.modules, "wandb_workspaces.workspaces", None)
    with pytest.raises(UsageError, match=r"pip install \"pnfs\[wandb\]\""):
        dashboard.run(composed("wandb=team/pnfs"))
