"""What is said about the machine a run is to start on."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from pnfs.commands import machine
from pnfs.commands.machine import (
    check_devices,
    check_disk,
    check_libraries,
    check_memory,
    check_wandb,
)

GIB = 2**30


def room(monkeypatch: pytest.MonkeyPatch, free: int, total: int = 100 * GIB) -> None:
    usage = SimpleNamespace(free=free, total=total)
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda _: usage)


@pytest.mark.parametrize(
    ("free", "severity"), [(50 * GIB, "note"), (2 * GIB, "warning"), (2**20, "error")]
)
def test_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, severity: str) -> None:
    room(monkeypatch, free)
    [finding] = check_disk(tmp_path / "runs" / "of" / "tomorrow")
    assert finding.severity == severity
    assert list(tmp_path.iterdir()) == []


def test_runs_below_a_file_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    [finding] = check_disk(tmp_path / "file" / "runs")
    assert finding.severity == "error"
    assert "cannot be written to" in finding.problem


def test_little_shared_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    room(monkeypatch, 0, total=64 * 2**20)
    [finding] = check_memory(tmp_path)
    assert (finding.severity, "64 MiB" in finding.problem) == ("warning", True)
    room(monkeypatch, 0, total=8 * GIB)
    assert check_memory(tmp_path) == []
    assert check_memory(tmp_path / "none") == []


def test_compromised_release_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    assert {finding.severity for finding in check_libraries()} == {"note"}
    monkeypatch.setattr(machine, "_version", lambda name: "2.6.3")
    errors = [finding for finding in check_libraries() if finding.severity == "error"]
    assert [finding.where for finding in errors] == ["lightning 2.6.3"]


def test_gpu_that_torch_cannot_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine.torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(machine.torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(machine.shutil, "which", lambda name: f"/usr/bin/{name}")
    severities = [finding.severity for finding in check_devices()]
    assert severities == ["note", "warning"]


def test_wandb_key_is_found_but_never_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "_version", lambda name: "0.19.1")
    monkeypatch.setattr(machine, "find_spec", lambda name: object())
    file = tmp_path / "netrc"
    file.write_text("machine api.wandb.ai\n  login user\n  password verysecret\n")
    file.chmod(0o600)
    nowhere = {"NETRC": str(tmp_path / "none")}
    cases = (
        ({"WANDB_API_KEY": "verysecret", **nowhere}, "a key is stored"),
        ({"NETRC": str(file)}, "a key is stored"),
        ({"NETRC": str(file), "WANDB_BASE_URL": "https://other.example"}, "not logged in"),
        ({**nowhere, "WANDB_MODE": "offline"}, "not logged in, WANDB_MODE=offline"),
    )
    for variables, said in cases:
        [finding] = check_wandb(variables)
        assert finding.problem == said
        assert "verysecret" not in str(finding)


def test_wandb_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_version", lambda name: None)
    [finding] = check_wandb({})
    assert "pnfs[wandb]" in finding.advice
