"""Ordinary file names; and what is said of Ctrl-C, a package that is not installed, and a place that is full."""

import sys
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from pnfs.commands import launch
from pnfs.commands.configuration import UsageError
from pnfs.commands.keys import checked
from pnfs.commands.launch import quoted
from tiny_runs import composed


@pytest.mark.parametrize(
    "name", ["my photo (1).jpg", "照片.jpg", "a,b.jpg", 'it\'s "x".jpg', "a=b#1.jpg", "x.jpg"]
)
def test_names_of_files_are_what_they_seem(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(name).touch()
    for value in (name, str(tmp_path / name)):
        (argument,) = quoted([f"input={value}"])
        override = OverridesParser.create().parse_override(argument)
        assert (override.key_or_group, override.value()) == ("input", value)


def test_other_arguments_stay_and_unreadable_ones_tell_the_quotes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    same = ["-m", "--cfg", "job", "seed=0,1", "model=pnfs", "~trainer.x", "+a.b=[1,2]", "x='a b'"]
    assert quoted(same) == same
    with pytest.raises(UsageError) as caught:
        quoted(["input=photo (2).jpg"])
    (hint,) = [word for word in str(caught.value).split("'") if word.startswith('input="')]
    assert OverridesParser.create().parse_override(hint).value() == "photo (2).jpg"


@pytest.mark.parametrize(
    ("command", "key", "value"),
    [("evaluate", "decode_method", "best"), ("evaluate", "flip_shift", "2"),
     ("predict", "nms_threshold", "1.5"), ("predict", "box_threshold", "much"),
     ("predict", "runtime", "tpu"), ("export", "outputs", "poses"), ("export", "int8.crops", "0"),
     ("export", "int8.max_moved", "2")],
)  # fmt: skip
def test_values_that_say_nothing_are_named(command: str, key: str, value: str) -> None:
    with pytest.raises(UsageError, match=f"{key}={value}"):
        checked(command, composed(command, f"{key}={value}"))
    needed = {"predict": ["checkpoint=a.ckpt", "input=a.jpg"], "export": ["checkpoint=a.ckpt"]}
    checked(command, composed(command, *needed.get(command, [])))


def test_an_interruption_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(sys, "argv", ["pnfs predict"])
    monkeypatch.setattr(launch.hydra, "main", lambda **_: lambda task: interrupted)
    with pytest.raises(SystemExit) as caught:
        launch.start("predict")
    assert caught.value.code == 130
    assert "interrupted" in capsys.readouterr().err


def test_a_missing_package_names_the_extra() -> None:
    error = ModuleNotFoundError("Neither `tensorboard` nor `tensorboardX` is available.")
    assert "pnfs[tensorboard]" in str(launch.user_error(error))
    assert launch.user_error(ModuleNotFoundError("no torch")) is None


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError) as caught:  # noqa: PT011
        (tmp_path / "file" / "below").mkdir()
    assert str(tmp_path / "file") in str(launch.user_error(caught.value))
    assert launch.user_error(OSError(28, "No space left on device")) is not None
