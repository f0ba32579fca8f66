from __future__ import annotations

import errno
import os

import pytest

from ingestd.kernel import prctl, syscall


def test_results_come_back() -> None:
    assert syscall({"x86_64": 39, "aarch64": 172}[os.uname().machine]) == os.getpid()
    assert prctl(3) in (0, 1, 2)  # PR_GET_DUMPABLE


def test_failures_are_errors_with_a_cause() -> None:
    with pytest.raises(OSError, match="Invalid argument") as caught:
        prctl(123456)
    assert caught.value.errno == errno.EINVAL
    with pytest.raises(OSError, match="not implemented") as caught:
        syscall(100000)
    assert caught.value.errno == errno.ENOSYS
