"""Calls of the kernel that the standard library does not offer, by ctypes, which is imported on first use."""

from __future__ import annotations

import os


def prctl(option: int, second: int = 0, third: int = 0, fourth: int = 0, fifth: int = 0) -> int:
    """`prctl(2)`. Raises `OSError`."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    words = [ctypes.c_ulong(value) for value in (second, third, fourth, fifth)]
    result = int(libc.prctl(ctypes.c_int(option), *words))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def syscall(number: int, *arguments: int) -> int:
    """`syscall(2)`; the arguments go over as unsigned words. Raises `OSError`."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    result = int(libc.syscall(ctypes.c_long(number), *[ctypes.c_ulong(value) for value in arguments]))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result
