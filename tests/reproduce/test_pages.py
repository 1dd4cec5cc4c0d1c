"""Pages from hand-written records: every number in them is worked out by hand here."""

import json
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from PIL import Image
from records import record, results_of, settings, target_of, write_run

from pnfs.errors import PnfsError
from pnfs.reproduce.page import cells, draw_figures, draw_table, page
from pnfs.reproduce.results import Results, Target, compared, groups, kept_results
from pnfs.runs.record import write_result


@pytest.fixture
def target(tmp_path: Path) -> Target:
    return target_of(tmp_path, notes={"smoke": "do not believe it"}, questions={"lonely": "Is it better?"})


@pytest.fixture
def results(tmp_path: Path, target: Target) -> Results:
    """Two seeds of one row; the other row has none."""
    for seed, score in ((0, 10.0), (1, 14.0)):
        write_run(tmp_path / "runs", "seeded", seed, score)
    return results_of(tmp_path / "runs", target)


def test_ours_stand_beside_the_papers(target: Target, results: Results) -> None:
    table = cells(target, results, "smoke").fillna("–")
    # Mean of 10 and 14; deviation sqrt(((10-12)^2 + (14-12)^2) / (2-1)). Half a day on two devices.
    assert table.loc["seeded"].to_dict() == {
        "published as": "the paper's own",
        "paper: PCKh@0.5": "87.1 ± 0.2",
        "ours (smoke): PCKh@0.5": "12.0 ± 2.8",
        "ours (smoke): PCKh@0.1 (true 0.10)": "10.0 ± 0.0",
        'ours (smoke): PCKh@0.11 (the paper\'s "PCKh@0.1")': "11.0 ± 0.0",
        "paper: parameters (M)": "3.3",
        "paper: MACs (G)": "1.2",
        "ours: live parameters (M)": "2.89",
        "ours: all parameters (M)": "3.30",
        "ours: MACs (G, 10^9)": "1.250",
        "ours: MACs (G, counted as the paper's)": "1.500",
        "ours: search time": "1 GPU-days (H100)",
        "seeds": "2 of 2",
    }
    lonely = table.loc["lonely", ["ours (smoke): PCKh@0.5", "seeds", "ours: search time"]]
    assert list(lonely) == ["missing", "0 of 2", "–"]
    text = page(target, results, "smoke", "worth nothing.")
    assert text.startswith("# Table IX: numbers (profile smoke)\n")
    for part in (
        "Does it add up?", "a book", "worth nothing.", "data MPII", "input 64×32", "epochs 3",
        "do not believe it", "- lonely, seed 0, 1: not run", "- Is it better? Not run.\n",
        "PROFILE=smoke SEEDS=0,1",
    ):  # fmt: skip
        assert part in text, part


def test_what_is_not_finished_says_why(tmp_path: Path, target: Target) -> None:
    config = settings("lonely", 0)
    state = {
        "state": "failed",
        "cause": "DataError: no images",
        "config": config,
        "started": 0,
        "pid": 1,
    }
    (tmp_path / "runs" / "a").mkdir(parents=True)
    state["identity"] = record(config, 0.0)["identity"]
    (tmp_path / "runs" / "a" / "state.json").write_text(json.dumps(state))
    found = results_of(tmp_path / "runs", target).runs.set_index("row")["state"]
    assert found.to_dict() == {"seeded": "not run", "lonely": "failed (DataError: no images)"}


def test_runs_that_only_their_data_tell_apart_are_not_taken(tmp_path: Path, target: Target) -> None:
    other = record(settings("seeded", 0), 2.0)["identity"] | {"persons": {"train": "others"}}
    write_run(tmp_path / "runs" / "a", "seeded", 0, 1.0)
    write_run(tmp_path / "runs" / "b", "seeded", 0, 2.0, identity=other)
    results = results_of(tmp_path / "runs", target)
    assert len(results.finished) == 0
    assert str(tmp_path / "runs" / "b") in results.runs["state"][0]


def test_rows_with_another_backbone_stand_apart() -> None:
    made = {label: settings(label, 0, label[:3]) for label in ("one a", "one b", "two")}
    assert groups(Results(None, made), made) == {"one": ["one a", "one b"], "two": ["two"]}  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("scores", "difference", "interval", "says"),
    [
        ([12.0, 15.0], "+1.5 ± 0.7 (2 seeds)", "-4.9 to +7.9", "inside"),
        # t of two degrees of freedom is 4.303; 4.303 * 0.1 / sqrt(3) = 0.25.
        ([12.0, 16.1, 21.9], "+2.0 ± 0.1 (3 seeds)", "+1.8 to +2.2", "more than"),
        ([12.0], "+2.0 (1 seed)", "–", "one seed"),
        ([], "–", "–", "no seed in common"),
    ],
)
def test_rows_are_compared_by_seed(
    tmp_path: Path, target: Target, scores: list[float], difference: str, interval: str, says: str
) -> None:
    for seed, (first, second) in enumerate(zip((10.0, 14.0, 20.0), scores, strict=False)):
        write_run(tmp_path / "runs", "seeded", seed, first)
        write_run(tmp_path / "runs", "lonely", seed, second)
    if not scores:
        write_run(tmp_path / "runs", "seeded", 0, 1.0)
        write_run(tmp_path / "runs", "lonely", 1, 1.0)
    results = results_of(tmp_path / "runs", target)
    (line,) = compared(target, results).to_numpy().tolist()
    assert line[:3] == ["seeded", difference, interval]
    assert says in line[3]
    text = page(target, results, "smoke")
    (answer,) = [line for line in text.splitlines() if line.startswith("- Is it better?")]
    assert all(words in answer for words in (difference, says))


def test_kept_records_are_taken_as_they_are(tmp_path: Path) -> None:
    target = target_of(tmp_path, against="lonely")
    for row, seed, score in (("seeded", 3, 5.0), ("lonely", 3, 2.0)):
        config = settings(row, seed) | {"of an older version": 1}
        write_result(tmp_path / "kept" / row / "3", record(config, score, identity=None))
    results = kept_results(target, tmp_path / "kept")
    assert list(results.finished["seed"]) == [3, 3]
    assert list(compared(target, results).iloc[0, :2]) == ["lonely", "+3.0 (1 seed)"]
    write_result(tmp_path / "kept" / "lonely" / "again", record(settings("lonely", 3), 2.0))
    with pytest.raises(PnfsError, match="lonely"):
        kept_results(target, tmp_path / "kept")


# --- figures


@pytest.mark.parametrize(("scores", "bars"), [([50.0], 0), ([50.0, 54.0], 1)])
def test_table_is_drawn_of_the_rows_that_have_runs(
    scores: list[float], bars: int, tmp_path: Path, target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed, score in enumerate(scores):
        write_run(tmp_path / "runs", "seeded", seed, score)
    drawn: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda self, *a, **k: drawn.append(self))
    draw_table(target, results_of(tmp_path / "runs", target), tmp_path, "title")
    (axes,) = drawn[0].axes
    assert [text.get_text() for text in axes.get_yticklabels()] == ["seeded"]
    seeds, mean, *_ = axes.lines
    (paper,) = [line for line in axes.lines if line.get_label() == "the paper's"]
    assert list(seeds.get_xdata()) == scores
    assert (mean.get_markerfacecolor() == "white") == (len(scores) == 1)
    assert sum(container.has_xerr for container in axes.containers) == bars
    assert list(paper.get_xdata()) == [87.1]


def test_figures_of_the_paper(tmp_path: Path, target: Target, results: Results) -> None:
    def drawn(kind: str, results: Results) -> list[str]:
        of_kind = target.model_copy(update={"kind": kind})
        return [path.name for path in draw_figures(of_kind, results, tmp_path, "title")]

    kinds = ("table", "trade_off", "loss_curves", "poses")
    none = results_of(tmp_path / "none", target)
    assert [drawn(kind, none) for kind in kinds] == [[]] * 4
    folders = list(results.finished["folder"])
    for folder, losses in zip(folders, ([4.0, 2.0, 1.0], [2.0, 1.0]), strict=True):
        lines = ["epoch,step,train/loss_epoch,val/loss"]
        lines += [f"{n},{n},{loss},{2 * loss}" for n, loss in enumerate(losses)]
        (folder / "metrics.csv").write_text("\n".join(lines) + "\n")
    with pytest.raises(PnfsError, match="predictions_val"):
        drawn("poses", results)
    Image.new("RGB", (80, 40), "red").save(folders[0] / "predictions_val.png")
    names = [drawn(kind, results) for kind in kinds]
    beside = ["figure.png"], ["figure.png"], ["figure.jpg"]
    assert names == [["table.png"], *(["table.png", *more] for more in beside)]
    with Image.open(tmp_path / "figure.jpg") as picture:
        red, green, _ = picture.getpixel((800, 400))
        assert red > 200 > 50 > green
