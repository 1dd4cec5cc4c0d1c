"""`acceleration.compile`: a strategy says whether its steps can be compiled."""

import pytest

from pnfs.commands.trainer import compile_steps
from pnfs.search import SecondOrder, Synchronous


class Swapping(Synchronous):
    compilable = False


class Plain(Synchronous):
    pass


class Recorder:
    mode: str | None = None

    def compile_training(self, mode: str) -> None:
        self.mode = mode


@pytest.mark.parametrize(
    ("strategy", "compiled"),
    [(Synchronous, True), (Plain, True), (SecondOrder, False), (Swapping, False)],
)
def test_a_strategy_says_whether_its_steps_can_be_compiled(strategy, compiled, caplog) -> None:
    caplog.set_level("INFO")
    module = Recorder()
    target = f"{strategy.__module__}.{strategy.__qualname__}"
    settings = {"acceleration": {"compile": "default"}, "strategy": {"_target_": target}}
    compile_steps(module, settings)  # type: ignore[arg-type]
    assert module.mode == ("default" if compiled else None)
    assert (strategy.__name__ in caplog.text) is not compiled
