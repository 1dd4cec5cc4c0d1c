import pytest
import torch

from pnfs.bench.evaluation import ScoreMapCase, bench_evaluation, decoding_errors


def test_the_loop_and_the_suite_find_the_same_scores() -> None:
    case = ScoreMapCase.random(30, 5, (24, 16), seed=1)
    ours, loop = case.evaluate(), case.evaluate_in_a_loop()
    assert ours == pytest.approx(loop, abs=1e-3)
    assert 20 < ours[0] < 95  # a case in which joints are right and wrong
    assert ours[0] > ours[2] >= ours[1]


def test_evaluation_is_timed_on_one_thread_and_threads_come_back() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        result = bench_evaluation(persons=40, joints=4, size=(16, 12), rounds=2)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert next(iter(result)) == "ratio"
    assert result["ratio"] == pytest.approx(result["loop_seconds"] / result["seconds"])
    assert 0 < result["seconds_fastest"] <= result["seconds"]
    assert list(result["scores"]) == ["PCKh@0.5", "PCKh@0.1", "PCKh@0.11"]
    assert (result["persons"], result["joints"], result["size"]) == (40, 4, [16, 12])


def test_whole_maps_beat_a_loop_over_joints() -> None:
    # Far below what the full benchmark shows, so that a busy machine does not fail it.
    assert bench_evaluation(persons=300, rounds=2)["ratio"] > 8


def test_disagreement_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ScoreMapCase, "evaluate_in_a_loop", lambda _: [0.0, 0.0, 0.0])
    with pytest.raises(RuntimeError, match="disagree"):
        bench_evaluation(persons=4, joints=2, size=(16, 16), rounds=1)


def test_the_accuracy_table_ranks_the_decoders() -> None:
    errors = decoding_errors(count=300, size=(32, 24), noise=(0.0, 0.05))
    assert list(errors) == ["argmax", "quarter", "dark"]
    for noise in ("0", "0.05"):
        assert errors["dark"][noise] < errors["quarter"][noise] < errors["argmax"][noise]
    assert errors["dark"]["0"] < 0.3
