"""A GPU of its own for each job of a sweep."""

import functools
import getpass
import os
import tempfile
import time
from pathlib import Path

from filelock import FileLock, Timeout

from pnfs.commands.configuration import UsageError

GPUS = "PNFS_GPUS"
"""Environment variable that `hydra/launcher=joblib_gpus` sets: how many GPUs the jobs share out."""


def take_gpu_if_asked() -> None:
    """Where PNFS_GPUS says so, lets this process see one GPU only; before anything else looks for one."""
    asked = os.environ.get(GPUS)
    if asked is None:
        return
    if not asked.isdigit() or int(asked) < 1:
        raise UsageError(
            f"{GPUS}={asked}: say how many GPUs the jobs share out, hydra.launcher.n_jobs=4"
        )
    _take(int(asked))


@functools.cache
def _take(count: int) -> FileLock:
    """Takes the first free of `count` GPUs for the life of this process, whichever jobs it runs.

    Not by the job's number: a process cannot change its GPU once it has used one, and jobs of unequal length would
    meet on one GPU while another is idle.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    named = list(map(str, range(count))) if visible is None else visible.replace(" ", "").split(",")
    gpus = [name for name in named if name]
    if len(gpus) < count:
        raise UsageError(
            f"{count} jobs with a GPU each, but CUDA_VISIBLE_DEVICES={visible} names {len(gpus)}: "
            f"hydra.launcher.n_jobs={max(1, len(gpus))}"
        )
    folder = Path(tempfile.gettempdir()) / f"pnfs-gpus-{getpass.getuser()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    locks = {gpu: FileLock(folder / f"{gpu}.lock") for gpu in gpus[:count]}
    while True:
        for gpu, lock in locks.items():
            try:
                lock.acquire(timeout=0)
            except Timeout:
                continue
            os.environ |= {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": gpu}
            return lock
        # Another sweep of the same user has them.
        time.sleep(1.0)
