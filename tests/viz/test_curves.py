"""Reading and drawing a metrics.csv in the form that Lightning's CSVLogger writes."""

import re

import cv2
import matplotlib
import matplotlib.pyplot
import numpy as np
import pytest
from lightning.pytorch.loggers import CSVLogger
from matplotlib.colors import to_rgb

from pnfs.data.images import DataError
from pnfs.viz.curves import plot_curves, read_metrics
from pnfs.viz.style import COLOURS

METRICS = """\
epoch,lr-Adam,step,train/loss_epoch,train/loss_step,val/empty,val/loss,val/score
,0.001,0,,,,,
0,,9,,0.02,,,
0,,19,,0.018,,,
0,,19,,,,0.019,9.5
0,,19,0.0195,,,,
,0.0005,20,,,,,
1,,29,,nan,,,
1,,39,,,,0.012,31.25
1,,39,0.0145,,,,
"""


@pytest.fixture
def metrics_csv(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text(METRICS)
    return path


def test_each_metric_has_its_own_rows(metrics_csv):
    curves = read_metrics(metrics_csv)
    expected = {
        # A row without an epoch counts to the next.
        "lr-Adam": ([0, 1], [0.001, 0.0005]),
        "train/loss_epoch": ([0, 1], [0.0195, 0.0145]),
        "train/loss_step": ([0, 0, 1], [0.02, 0.018, np.nan]),
        "val/loss": ([0, 1], [0.019, 0.012]),
        "val/score": ([0, 1], [9.5, 31.25]),
    }
    assert curves.keys() == expected.keys()
    for name, (epochs, values) in expected.items():
        np.testing.assert_array_equal(curves[name].index, epochs)
        np.testing.assert_array_equal(curves[name].to_numpy(), values)
    metrics_csv.write_text(METRICS + ",0.0001,40,,,,,\n")
    np.testing.assert_array_equal(read_metrics(metrics_csv)["lr-Adam"].index, [0, 1, 1])


def test_a_last_line_cut_short_is_left_out(metrics_csv):
    whole = read_metrics(metrics_csv)
    metrics_csv.write_text(METRICS + "2,,49,,0.0")
    cut = read_metrics(metrics_csv)
    assert cut.keys() == whole.keys()
    assert all(cut[name].equals(whole[name]) for name in whole)


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("", "epoch"),
        (METRICS.replace("0.018", "O.018"), "O.018"),
        (METRICS.replace("1,,29,,nan,,,", "1,,29"), "line 8"),
        ("epoch,step,val/score\n,1,2\n,2,3\n", "epoch"),
        ("epoch,step,val/score\n\xff", "CSV"),
    ],
)
def test_damaged_files_are_named(tmp_path, content, named):
    path = tmp_path / "metrics.csv"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(DataError, match=named) as error:
        read_metrics(path)
    assert str(path) in str(error.value)


def test_files_without_values(tmp_path):
    path = tmp_path / "metrics.csv"
    with pytest.raises(DataError, match=r"metrics\.csv"):
        read_metrics(path)
    path.write_text("epoch,step,val/score\n")
    assert read_metrics(path) == {}
    with pytest.raises(DataError, match=r"metrics\.csv"):
        plot_curves(path, tmp_path / "curves.png")


def drawn_text(path):
    return re.findall(r"<text[^>]*>([^<]*)</text>", path.read_text())


def test_losses_and_scores_have_axes_of_their_own(metrics_csv, tmp_path):
    plot_curves(metrics_csv, tmp_path / "new" / "curves.svg")
    text = drawn_text(tmp_path / "new" / "curves.svg")
    assert {"loss (log scale)", "score (%)"} <= set(text)
    assert text.count("epoch (from 0)") == 2
    # The bare name stands for the epoch means, 0.0195 and 0.0145.
    assert "train/loss: best 0.0145, epoch 1" in text
    assert "val/loss: best 0.012, epoch 1" in text
    assert "val/score: best 31.2 %, epoch 1" in text


def test_fractions_and_losses_below_zero_get_fitting_axes(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text("epoch,step,val/score,val/loss,train/loss\n0,1,0.5,-1,nan\n1,2,0.7089,2,nan\n")
    plot_curves(path, tmp_path / "a.svg")
    text = drawn_text(tmp_path / "a.svg")
    assert {"score (fraction)", "loss", "train/loss: nan throughout"} <= set(text)
    assert "val/score: best 0.709, epoch 1" in text


def test_png_curves_leave_matplotlib_alone(metrics_csv, tmp_path):
    before = dict(matplotlib.rcParams), matplotlib.get_backend(), matplotlib.pyplot.get_fignums()
    plot_curves(metrics_csv, tmp_path / "curves.png")
    after = dict(matplotlib.rcParams), matplotlib.get_backend(), matplotlib.pyplot.get_fignums()
    assert before == after
    pixels = cv2.imread(str(tmp_path / "curves.png"))[..., ::-1]
    for colour in COLOURS[:2]:
        assert (pixels == np.array(to_rgb(colour)) * 255).all(-1).any()


def test_it_reads_what_lightning_writes(tmp_path):
    logger = CSVLogger(tmp_path, name="run", version=0)
    logger.log_metrics({"lr": 0.1}, step=0)
    logger.log_metrics({"epoch": 0, "train/loss": 0.5}, step=4)
    logger.save()
    logger.log_metrics({"epoch": 1, "train/loss": 0.25, "val/score": 62.0}, step=9)
    logger.save()
    curves = read_metrics(tmp_path / "run" / "version_0" / "metrics.csv")
    assert {name: [*curve.index, *curve] for name, curve in curves.items()} == {
        "lr": [0, 0.1],
        "train/loss": [0, 1, 0.5, 0.25],
        "val/score": [1, 62],
    }
