"""The C library's allocator, told to keep what a training step frees for the next step."""

import ctypes
import platform

# From glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_LARGEST = 2**31 - 1


def keep_freed_memory() -> bool:
    """Keeps freed memory in this process, and in those that it forks; False where there is no glibc.

    glibc returns large blocks when they are freed, and activations are large: the next training step, or the
    next picture, then waits for the system to hand out and clear the same pages again.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(_M_MMAP_THRESHOLD, _LARGEST)) and bool(mallopt(_M_TRIM_THRESHOLD, _LARGEST))
