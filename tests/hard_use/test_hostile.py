"""Files of people who mean harm: none runs code, each is refused in a sentence that names it."""

import io
import pickle
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from conftest import FEW, Tally, refused
from train_server import TrainServer


class Harm:
    """Writes a file when it is unpickled."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.made = function, arguments

    def __reduce__(self) -> Any:
        return self.made


def pickles(marker: Path) -> Iterator[tuple[str, bytes]]:
    """Files that run code where they are unpickled."""
    harms = [Harm(exec, f"open({str(marker)!r}, 'w')"), Harm(open, str(marker), "w")]
    harms += [Harm(shutil.copy, __file__, str(marker)), Harm(np.save, f"{marker}.npy", np.zeros(1))]
    for number, harm in enumerate(harms):
        for protocol in (0, 2, 4):
            yield f"pickle {number} {protocol}", pickle.dumps(harm, protocol)
        for name, content in {"alone": harm, "in state_dict": {"state_dict": {"a": harm}, "epoch": 1}}.items():
            file = io.BytesIO()
            torch.save(content, file)
            yield f"torch {number} {name}", file.getvalue()
            file = io.BytesIO()
            torch.save(content, file, _use_new_zipfile_serialization=False)
            yield f"old torch {number} {name}", file.getvalue()
            file = io.BytesIO()
            with zipfile.ZipFile(file, "w") as archive:
                archive.writestr("archive/data.pkl", pickle.dumps(content))
                archive.writestr("archive/version", "3")
            yield f"zip {number} {name}", file.getvalue()
        array = np.empty(1, object)
        array[0] = harm
        file = io.BytesIO()
        np.save(file, array, allow_pickle=True)
        yield f"npy {number}", file.getvalue()


READ_BY = {
    "evaluate": ["checkpoint={}"], "predict": ["checkpoint={}", "input=person.png"], "derive": ["checkpoint={}"],
    "export": ["checkpoint={}"], "show": ["checkpoint={}"], "import": ["checkpoint={}", "input_size=[64,64]"],
    "train": [*FEW, "initial={}"],
}  # fmt: skip
WEIGHTS = [*FEW, "backbone=mobilenet_v2", "backbone.weights={}", "~backbone.fabrics"]


@pytest.mark.slow
def test_pickles_run_no_code(server: TrainServer, tmp_path: Path, tally: Tally) -> None:
    cv2.imwrite(str(tmp_path / "person.png"), np.full((64, 64, 3), 128, np.uint8))
    marker, tried = tmp_path / "harm", 0
    commands = list(READ_BY.items())
    for number, (name, content) in enumerate(pickles(marker)):
        path = tmp_path / f"hostile_{number}.ckpt"
        path.write_bytes(content)
        for command, arguments in (commands[number % len(commands)], commands[(number + 3) % len(commands)]):
            done = server.run(tmp_path, command, *(a.format(path.name) for a in arguments))
            refused(done, path.name)
            assert not list(tmp_path.glob("harm*")), (name, command)
            tried += 1
    tally(
        "hostile pickles in place of checkpoints and weights", tried, "the file, and that pickles are never loaded"
    )
