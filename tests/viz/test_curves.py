"""Curves: reading a metrics.csv, and that lines, bars and labels are the numbers they stand for."""

import re
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes

from pnfs import body
from pnfs.data.images import DataError
from pnfs.evaluation.pck import Errors
from pnfs.evaluation.person_metric import Criterion
from pnfs.viz import curves
from pnfs.viz.curves import plot_curves, plot_joint_rates, read_metrics

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
        ("", "no epoch"),
        (METRICS.replace("0.018", "O.018"), "O.018"),
        (METRICS.replace("0.018,,,", "0.018,,,,,,"), "line 4"),
        (METRICS.replace("epoch,", "age,"), "no epoch"),
        ("epoch,step,val/score\n\xff\n", "utf-8"),
    ],
)
def test_damaged_files_are_named(metrics_csv, content, named):
    metrics_csv.write_bytes(content.encode("latin-1"))
    with pytest.raises(DataError, match=named) as error:
        read_metrics(metrics_csv)
    assert str(metrics_csv) in str(error.value)


def test_losses_and_scores_have_axes_of_their_own(metrics_csv, tmp_path, drawn):
    plot_curves(metrics_csv, tmp_path / "new" / "curves.svg")
    text = re.findall(r"<text[^>]*>([^<]*)</text>", (tmp_path / "new/curves.svg").read_text())
    assert {
        "train/loss: best 0.0145, epoch 1", "val/loss: best 0.012, epoch 1",
        "val/score: best 31.2, epoch 1",
    } <= set(text)  # fmt: skip
    assert [axes.get_yscale() for axes in drawn] == ["log", "linear"]
    metrics_csv.write_text("epoch,step,val/loss\n0,1,-1\n1,2,2\n")
    plot_curves(metrics_csv, tmp_path / "curves.png")
    assert drawn[2].get_yscale() == "linear"


# --- errors

CRITERION = Criterion("PCK@0.5", "torso size", np.full(14, 0.5), tuple(range(14)))


@pytest.fixture
def errors() -> Errors:
    """Ten persons; joint k is right in the first k + 1, the last has no label."""
    wrong = np.arange(10)[:, None] >= (np.arange(14) + 1)[None]
    visibility = np.full((10, 14), 2)
    visibility[:, 13] = 0
    relative = np.where(visibility > 0, np.where(wrong, 3.0, 0.2), np.nan)
    return Errors(body.LSP, relative, visibility, np.ones(10, bool))


@pytest.fixture
def drawn(monkeypatch) -> list[Axes]:
    """The axes of each saved figure."""
    found: list[Axes] = []
    save = curves.save_figure
    monkeypatch.setattr(
        curves, "save_figure", lambda figure, path: (found.extend(figure.axes), save(figure, path))
    )
    return found


def test_bars_are_the_rates(errors: Errors, drawn: list[Axes], tmp_path: Path) -> None:
    plot_joint_rates(tmp_path / "new/joints.png", errors, CRITERION, "title")
    widths = [bar.get_width() for bar in drawn[0].patches]
    assert widths == pytest.approx([min(10 * (k + 1), 100) for k in range(13)] + [0])
    texts = [text.get_text() for text in drawn[0].texts]
    assert (texts[0], texts[13]) == ("10.0  (10)", "no labels")
