import pytest
import torch

from pnfs.bench.evaluation import ScoreMapCase, bench_evaluation, decoding_errors


@pytest.mark.parametrize(
    "loop", [ScoreMapCase.evaluate_in_numpy_loop, ScoreMapCase.evaluate_in_torch_loop]
)
def test_the_loops_and_the_suite_find_the_same_scores(loop) -> None:
    case = ScoreMapCase.random(30, 5, (24, 16), seed=1)
    ours = case.evaluate()
    assert ours == pytest.approx(loop(case), abs=1e-3)
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
    assert list(result["loops"]) == ["NumPy", "PyTorch"]
    for loop in result["loops"].values():
        assert loop["ratio"] == pytest.approx(loop["seconds"] / result["seconds"])
    assert list(result["scores"]) == ["PCKh@0.5", "PCKh@0.1", "PCKh@0.11"]
    assert (result["persons"], result["joints"], result["size"]) == (40, 4, [16, 12])


def test_disagreement_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ScoreMapCase, "evaluate_in_torch_loop", lambda _: [0.0, 0.0, 0.0])
    with pytest.raises(RuntimeError, match="PyTorch"):
        bench_evaluation(persons=4, joints=2, size=(16, 16), rounds=1)


def test_the_accuracy_table_ranks_the_decoders() -> None:
    errors = decoding_errors(count=300, size=(32, 24), noise=(0.0, 0.05))
    assert list(errors) == ["argmax", "quarter", "dark"]
    for noise in ("0", "0.05"):
        assert errors["dark"][noise] < errors["quarter"][noise] < errors["argmax"][noise]
    assert errors["dark"]["0"] < 0.3
