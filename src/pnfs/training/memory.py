"""The C library's allocator, told to keep what a training step frees for the next step."""

import ctypes
import sys

# Of glibc's malloc.h.
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_LARGEST = 2**31 - 1


def keep_freed_memory() -> bool:
    """Keeps freed memory in this process, and in those that it forks, in place of returning it to the system.

    glibc returns large blocks when they are freed, and activations are large: the next training step, or the
    next picture, then waits for the system to hand out and clear the same pages again.

    Returns:
        Whether the allocator took it; False where there is no glibc.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, _LARGEST)) and bool(mallopt(_M_TRIM_THRESHOLD, _LARGEST))
