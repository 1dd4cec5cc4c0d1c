"""Pictures of scores: every bar and curve shows the number that it stands for."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from matplotlib.axes import Axes

from pnfs import body
from pnfs.evaluation.errors import Errors
from pnfs.evaluation.person_metric import Criterion
from pnfs.viz import scores
from pnfs.viz.scores import plot_error_curve, plot_error_histogram, plot_joint_rates

CRITERION = Criterion("PCK@0.5", "torso size", np.full(14, 0.5), tuple(range(14)))


@pytest.fixture
def errors() -> Errors:
    """Ten persons, four of them occluded; joint k is right in the first k + 1, the last has no label."""
    wrong = np.arange(10)[:, None] >= (np.arange(14) + 1)[None]
    visibility = np.full((10, 14), 2)
    visibility[:4], visibility[:, 13] = 1, 0
    relative = np.where(visibility > 0, np.where(wrong, 3.0, 0.2), np.nan)
    return Errors(body.LSP, relative, visibility, np.ones(10, bool))


@pytest.fixture
def drawn(monkeypatch) -> list[Axes]:
    """The axes of each saved figure."""
    found: list[Axes] = []
    save = scores.save_figure

    def kept(figure, path) -> None:
        found.extend(figure.axes)
        save(figure, path)

    monkeypatch.setattr(scores, "save_figure", kept)
    return found


def test_bars_are_the_rates(errors: Errors, drawn: list[Axes], tmp_path: Path) -> None:
    plot_joint_rates(tmp_path / "new/joints.png", errors, CRITERION, "title")
    widths = [bar.get_width() for bar in drawn[0].patches]
    assert widths == pytest.approx([min(10 * (k + 1), 100) for k in range(13)] + [0])
    texts = [text.get_text() for text in drawn[0].texts]
    assert (texts[0], texts[13]) == ("10.0  (10)", "no labels")
    assert cv2.imread(str(tmp_path / "new/joints.png")) is not None


def test_bars_by_visibility(errors: Errors, drawn: list[Axes], tmp_path: Path) -> None:
    plot_joint_rates(tmp_path / "v.png", errors, CRITERION, by_visibility=True)
    visible, occluded = drawn[0].containers
    # The occluded persons come first, so that they are right first.
    assert occluded[1].get_width() == pytest.approx(50)
    assert [visible[k].get_width() for k in (1, 6)] == pytest.approx([0, 50])
    labels = [bars.get_label() for bars in (visible, occluded)]
    assert labels == ["visible (78 labels)", "occluded (52 labels)"]


def test_curves_end_at_the_rates(errors: Errors, drawn: list[Axes], tmp_path: Path) -> None:
    plot_error_curve(tmp_path / "c.png", errors, CRITERION)
    x, y = (np.asarray(values) for values in drawn[0].lines[-1].get_data())
    right = 100 * sum(min(k + 1, 10) for k in range(13)) / 130
    assert (x[0], x[-1]) == (0, pytest.approx(0.5))
    # All errors are 0.2 or 3 times the reference length.
    assert y[x < 0.199].max() == 0
    assert y[x > 0.201] == pytest.approx(right, abs=1e-3)


def test_histogram_counts_the_persons(drawn: list[Axes], tmp_path: Path) -> None:
    plot_error_histogram(tmp_path / "h.png", np.array([0.1] * 60 + [0.2] * 38 + [90.0] * 2), "x")
    assert sum(bar.get_height() for bar in drawn[0].patches) == 100
    assert "median 0.100" in drawn[0].get_legend().get_texts()[0].get_text()
    plot_error_histogram(tmp_path / "empty.png", np.zeros(0), "x")
    assert (tmp_path / "empty.png").is_file()
