"""Keeps freed memory inside the process: training frees and asks for the same large tensors at every step."""

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3  # malloc.h of glibc
_BYTES = {_M_MMAP_THRESHOLD: 1 << 30, _M_TRIM_THRESHOLD: 2_000_000_000, _M_TOP_PAD: 100_000_000}


def keep_freed_memory() -> bool:
    """Tells glibc not to give large blocks back to the system; True if it listened, False on other systems.

    Otherwise every tensor over 32 MiB is mapped, zeroed page by page and unmapped again, step after step.
    """
    if sys.platform != "linux":
        return False
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallopt"):  # musl
        return False
    return all(libc.mallopt(option, size) == 1 for option, size in _BYTES.items())
