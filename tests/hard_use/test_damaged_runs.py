"""Our own files, damaged: the result is the same, or one sentence names the file."""

import io
import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from conftest import FEW, Tally, only, refused
from train_server import TrainServer, assert_same_training

Damage = Callable[[bytes], bytes]


def changed(content: bytes, place: int, value: bytes) -> bytes:
    return content[:place] + value + content[place + len(value) :]


def other_archive(content: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("weights.txt", "none")
    return file.getvalue()


def plain_tensor(content: bytes) -> bytes:
    file = io.BytesIO()
    torch.save({"weights": torch.zeros(3)}, file)
    return file.getvalue()


DAMAGES: dict[str, Damage] = {
    "empty": lambda content: b"",
    "half": lambda content: content[: len(content) // 2],
    "last byte missing": lambda content: content[:-1],
    "first kilobyte missing": lambda content: content[1024:],
    "a bit flipped": lambda content: changed(content, len(content) // 2, bytes([content[len(content) // 2] ^ 1])),
    "a block of zeros": lambda content: changed(content, len(content) // 3, bytes(4096)),
    "all zeros": lambda content: bytes(len(content)),
    "text": lambda content: b"not a checkpoint",
    "a pickle": lambda content: pickle.dumps({"state_dict": {}}),
    "another archive": other_archive,
    "another file of torch": plain_tensor,
}
SENTENCE = "the file, what is wrong; goes on from the epoch before, or says that restart=true does"


@pytest.mark.parametrize("kind", [pytest.param(k, marks=[] if k == "half" else pytest.mark.slow) for k in DAMAGES])
def test_damaged_last_checkpoint(
    server: TrainServer, runs: dict[str, Path], tmp_path: Path, tally: Tally, kind: str
) -> None:
    root, log = tmp_path / "runs", tmp_path / "log.txt"
    shutil.copytree(runs["stopped"], root)
    last = only(root) / "checkpoints" / "last.ckpt"
    last.write_bytes(DAMAGES[kind](last.read_bytes()))
    if kind.startswith("another"):
        # Its bytes are as they were written: no accident, which nothing repairs.
        refused(server.run(tmp_path, "train", *FEW, f"run_root={root}"), "last.ckpt")
    else:
        server.train([*FEW, f"run_root={root}"], log)
        assert "last.ckpt is damaged" in log.read_text()
        assert_same_training(only(runs["whole"]), only(root))
    for name in ("last.ckpt", "previous.ckpt"):
        path = only(root) / "checkpoints" / name
        path.write_bytes(DAMAGES[kind](path.read_bytes()))
    (only(root) / "result.json").unlink(missing_ok=True)
    refused(server.run(tmp_path, "train", *FEW, f"run_root={root}"), "last.ckpt")
    tally("damaged checkpoints on resume", 2, SENTENCE)


READERS = {
    "evaluate checkpoint": [], "predict checkpoint": ["input=picture.png"],
    "derive checkpoint": ["method=exact"], "export checkpoint": [], "show checkpoint": [], "train initial": FEW,
    "train ckpt_path": FEW, "train architecture": [*FEW, "strategy=frozen"],
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("kind", DAMAGES)
def test_damaged_checkpoint_in_every_command(
    server: TrainServer, runs: dict[str, Path], tmp_path: Path, tally: Tally, kind: str
) -> None:
    path = tmp_path / "some.ckpt"
    path.write_bytes(DAMAGES[kind]((only(runs["whole"]) / "checkpoints" / "best.ckpt").read_bytes()))
    (tmp_path / "picture.png").touch()
    for command, arguments in READERS.items():
        name, key = command.split()
        refused(server.run(tmp_path, name, f"{key}={path}", *arguments), "some.ckpt")
    tally("damaged checkpoints in other commands", len(READERS), "the checkpoint's file and what is wrong")


CONTENTS = [
    "", "{", "[]", "null", "1", '"text"', "{}", '{"kind": 1}', '{"kind": "train"}',
    '{"kind": "train", "config": []}', '{"kind": "train", "config": {}, "scores": 3}', "\udcff",
    '{"kind": "train", "config": {"name": {}}, "identity": 4}', '{"scores": {"PCK": "x"}}',
    '{"kind": "train", "config": {"run_dir": 3}, "scores": {"a": 1}, "score": "b"}', "NaN", "[" * 100_000,
    '{"state": "running"}', '{"state": 7, "config": {}, "cause": []}',
    '{"state": "failed", "config": 1, "cause": null}',
]  # fmt: skip
"""What a record or a state may hold in place of what we wrote."""


@pytest.mark.parametrize("name", ["result.json", "state.json"])
def test_damaged_records(
    server: TrainServer, runs: dict[str, Path], tmp_path: Path, tally: Tally, name: str
) -> None:
    good = only(runs["whole"])
    shutil.copytree(good, tmp_path / "runs" / "tiny" / good.name)
    for number, content in enumerate(CONTENTS):
        bad = tmp_path / "runs" / "bad" / f"{number:08}"
        bad.mkdir(parents=True)
        (bad / name).write_bytes(content.encode(errors="surrogateescape"))
    for arguments in ([], ["format=json"], ["html=page.html"]):
        done = server.run(tmp_path, "runs", "run_root=runs", *arguments)
        said = done.stdout + done.stderr
        assert "Traceback" not in said, said[-2000:]
        assert done.returncode == 0, said
        if not arguments:
            # The whole one is listed, and each other file named.
            assert good.name in done.stdout
            missing = [n for n in range(len(CONTENTS)) if f"{n:08}" not in said]
            assert missing == [], [CONTENTS[n] for n in missing]
    tally(
        "damaged records and states of runs",
        len(CONTENTS),
        "the list, the page and the tables without it, and its file's name",
    )
