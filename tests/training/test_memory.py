import platform
import subprocess
import sys

import pytest

# Prints how many pages the system handed out for the last of some equal sequences of allocations.
_COUNT_FAULTS = """
import resource, sys, torch
from pnfs.training.memory import keep_freed_memory

if sys.argv[1] == "keep":
    assert keep_freed_memory()
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(6):
    before = faults()
    for size in (90, 40, 60):
        torch.zeros(size, 2**18).add_(1)
print(faults() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="there is no glibc to ask")
def test_freed_memory_is_used_again() -> None:
    def faults(how: str) -> int:
        command = [sys.executable, "-c", _COUNT_FAULTS, how]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return int(done.stdout)

    # 190 MiB are 48,640 pages of 4 KiB, or fewer of a larger kind.
    assert faults("keep") < 0.1 * faults("return")
