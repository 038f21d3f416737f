"""Starting to write dirty pages before fsync has to wait for them (sync_file_range(2), Linux)."""

from __future__ import annotations

import ctypes

_SYNC_FILE_RANGE_WRITE = 2
_libc = ctypes.CDLL(None, use_errno=True)


def start_writeback(descriptor: int) -> None:
    """Ask the kernel to begin writing a file's dirty pages; no promise, no error: fsync still decides."""
    function = getattr(_libc, "sync_file_range", None)
    if function is not None:
        function(ctypes.c_int(descriptor), ctypes.c_int64(0), ctypes.c_int64(0), ctypes.c_uint(_SYNC_FILE_RANGE_WRITE))
