"""What `sandbox.limit` holds, in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

MACHINE = os.uname().machine
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="cannot be had: only root may lower the score")


def run(code: str, *arguments: str) -> str:
    """What the code prints, in a process of its own."""
    head = "import os, sys\nfrom ingestd import sandbox\n"
    command = [sys.executable, "-P", "-c", head + code, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd="/", check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_limits_fail_softly_and_reach_children(tmp_path: Path) -> None:
    code = """
import errno, resource, subprocess
sandbox.limit(memory=256 << 20, file_size=1 << 20, open_files=64)
os.chdir(sys.argv[1])
try:
    bytearray(1 << 30)
except MemoryError:
    print("memory")
try:
    with open("big", "wb", buffering=0) as file:
        file.write(b"x" * (1 << 20))
        file.write(b"x")
except OSError as error:
    print(errno.errorcode[error.errno])
try:
    files = [open("/dev/null") for _ in range(65)]
except OSError as error:
    print(errno.errorcode[error.errno])
files = None
import mmap
mmap.mmap(-1, 1 << 30, prot=mmap.PROT_READ).close()
print(resource.getrlimit(resource.RLIMIT_CORE), os.nice(0), open("/proc/self/oom_score_adj").read().strip())
print(subprocess.run([sys.executable, "-c", "bytearray(1 << 30)"], stderr=subprocess.DEVNULL).returncode)
"""
    nice = os.nice(0) + 5
    assert run(code, str(tmp_path)).splitlines() == ["memory", "EFBIG", "EMFILE", f"(0, 0) {nice} 800", "1"]


def test_limits_cannot_be_raised_again() -> None:
    code = """
import resource
sandbox.limit(memory=1 << 30, file_size=1 << 20)
sandbox.limit(memory=2 << 30)
sandbox.enter(sandbox.Policy())
for kind in (resource.RLIMIT_DATA, resource.RLIMIT_FSIZE):
    try:
        resource.setrlimit(kind, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    except (OSError, ValueError) as error:
        print(type(error).__name__, resource.getrlimit(kind)[1])
"""
    assert run(code).splitlines() == [f"ValueError {1 << 30}", f"ValueError {1 << 20}"]


def test_the_disk_class_is_idle() -> None:
    numbers = {"x86_64": 252, "aarch64": 31}
    code = f"""
from ingestd.kernel import syscall
sandbox.limit()
print(syscall({numbers[MACHINE]}, 1, 0) >> 13)
"""
    assert run(code) == "3"


@needs_root
def test_the_supervisor_asks_to_be_spared() -> None:
    answer = run("sandbox.low_oom_score()\nprint(open('/proc/self/oom_score_adj').read())")
    assert int(answer) <= 0
