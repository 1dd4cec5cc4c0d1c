"""Curves: reading a metrics.csv, and that lines, bars and labels are the numbers they stand for."""

import re

import pandas as pd
import pytest

from pnfs.data.images import DataError
from pnfs.viz.curves import plot_curves, plot_mean, plot_seeds, read_metrics
from pnfs.viz.style import new_figure

METRICS = """\
epoch,lr-Adam,step,train/loss_epoch,train/loss_step,val/empty,val/loss,val/score
,0.001,0,,,,,
0,,9,,0.02,,,
0,,19,,0.018,,,
0,,19,,,,0.019,9.5
0,,19,0.0195,,,,
,0.0005,20,,,,,
1,,39,,,,0.012,31.25
1,,39,0.0145,,,,
"""


@pytest.fixture
def metrics_csv(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text(METRICS)
    return path


def test_each_metric_has_its_own_rows(metrics_csv):
    expected = {
        # A row without an epoch counts to the next.
        "lr-Adam": ([0, 1], [0.001, 0.0005]),
        "train/loss": ([0, 1], [0.0195, 0.0145]),
        "train/loss_step": ([0], [0.018]),
        "val/loss": ([0, 1], [0.019, 0.012]),
        "val/score": ([0, 1], [9.5, 31.25]),
    }
    for cut in ("", "2,,49,,0.0"):
        metrics_csv.write_text(METRICS + cut)
        found = read_metrics(metrics_csv)
        assert {name: (list(c.index), list(c)) for name, c in found.items()} == expected
    assert list(read_metrics(metrics_csv, ["val/loss", "other"])) == ["val/loss"]


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("", "No columns"), (METRICS.replace("0.018", "O.018"), "O.018"),
        (METRICS.replace("epoch,", "age,"), "epoch"), ("epoch,step,val/score\n\xff\n", "utf-8"),
    ],
)  # fmt: skip
def test_damaged_files_are_named(metrics_csv, content, named):
    metrics_csv.write_bytes(content.encode("latin-1"))
    with pytest.raises(DataError, match=f"{metrics_csv}.*{named}"):
        read_metrics(metrics_csv)


def test_losses_and_scores_have_axes_of_their_own(metrics_csv, tmp_path):
    plot_curves(metrics_csv, tmp_path / "new" / "curves.svg")
    text = re.findall(r"<text[^>]*>([^<]*)</text>", (tmp_path / "new/curves.svg").read_text())
    assert {
        "train/loss: best 0.0145, epoch 1", "val/loss: best 0.012, epoch 1",
        "val/score: best 31.2, epoch 1",
    } <= set(text)  # fmt: skip


@pytest.mark.parametrize(("seeds", "dashed"), [([[4, 2, 1], [2, 1]], False), ([[4, 2, 1]], True)])
def test_seeds_are_a_mean_with_a_range_and_a_single_one_is_dashed(seeds, dashed) -> None:
    axes = new_figure(3, 3).subplots()
    mean = plot_seeds(axes, [pd.Series(each, dtype=float) for each in seeds], "blue", "d=8")
    # Over the epochs that all seeds have.
    assert list(mean) == ([4, 2, 1] if dashed else [3, 1.5])
    (line,) = axes.lines
    assert (line.get_linestyle() == "--", len(axes.collections)) == (dashed, 0 if dashed else 1)
    for deviation in (None, 1.0):
        bar = plot_mean(axes, 1.0, 50.0, ("#0072b2", "o"), std={"yerr": deviation})[0]
        assert (bar.get_markerfacecolor() == "white") == (deviation is None)
