"""Containment with real processes: whatever a worker starts is found, counted and killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ingestd import process


def spawn(code: str, token: str, *arguments: str) -> subprocess.Popen[str]:
    """A worker: its own session, the token in its environment, "ready" printed when `code` is through."""
    tail = "\nprint('ready', *made, flush=True)\nsignal.pause()\n"
    head = "import os, signal, subprocess, sys, time\nfrom ingestd import process\nmade = []\n"
    return subprocess.Popen(
        [sys.executable, "-P", "-c", head + code + tail, *arguments],
        stdout=subprocess.PIPE,
        text=True,
        cwd="/",
        start_new_session=True,
        env={**os.environ, process.TOKEN: token},
    )


def made(worker: subprocess.Popen[str]) -> list[int]:
    """Pids that the worker says it started."""
    assert worker.stdout is not None
    words = worker.stdout.readline().split()
    assert words[:1] == ["ready"], words
    return [int(word) for word in words[1:]]


@pytest.fixture
def token() -> Iterator[str]:
    token = uuid.uuid4().hex
    yield token
    process.sweep(token, prefix=True)


@pytest.fixture
def worker(token: str) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []

    def start(code: str, *arguments: str, token: str = token) -> subprocess.Popen[str]:
        started.append(spawn(code, token, *arguments))
        return started[-1]

    yield start
    for one in started:
        process.destroy(one.pid, token)
        one.kill()
        one.wait()
        assert one.stdout is not None
        one.stdout.close()


def alive(pid: int) -> bool:
    known = process.stat(pid)
    return known is not None and not known.dead


SLEEP = "['/bin/sleep', '1000']"
DOUBLE_FORK = """
def double_fork(environment, session=True):
    read, write = os.pipe()
    if not (child := os.fork()):
        if session:
            os.setsid()
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if not os.fork():
            os.set_inheritable(write, False)
            os.write(write, str(os.getpid()).encode())
            os.execve('/bin/sleep', ['sleep', '1000'], environment)
        os._exit(0)
    os.waitpid(child, 0)
    made.append(int(os.read(read, 20)))
"""


# --- killing --------------------------------------------------------------------------------------------------


def test_destroy_leaves_nothing_of_a_worker(worker: Callable[..., subprocess.Popen[str]], token: str) -> None:
    code = f"""
process.become_subreaper()
signal.signal(signal.SIGTERM, signal.SIG_IGN)
made.append(subprocess.Popen({SLEEP}).pid)
made.append(subprocess.Popen({SLEEP}, env={{}}, start_new_session=True).pid)
{DOUBLE_FORK}
double_fork(os.environ)
double_fork({{}})
double_fork({{}}, session=False)
"""
    victim = worker(code)
    bystander = worker("", token=token + "0")
    family = made(victim)
    made(bystander)
    assert len(family) == 5
    assert set(process.descendants(victim.pid)) == set(family)
    assert process.destroy(victim.pid, token) == []
    assert [pid for pid in (victim.pid, *family) if alive(pid)] == []
    assert alive(bystander.pid)
    assert victim.wait() == -signal.SIGKILL


def test_destroy_finds_the_children_of_a_dead_worker(worker: Callable[..., subprocess.Popen[str]], token: str) -> None:
    code = f"""
made.append(subprocess.Popen({SLEEP}, env={{}}).pid)
{DOUBLE_FORK}
double_fork(os.environ)
"""
    victim = worker(code)
    family = made(victim)
    victim.kill()
    victim.wait()
    assert [alive(pid) for pid in family] == [True, True]
    assert process.destroy(victim.pid, token) == []
    assert [pid for pid in family if alive(pid)] == []


def test_destroy_spares_a_stranger_that_got_the_number_of_a_dead_worker(
    worker: Callable[..., subprocess.Popen[str]], token: str
) -> None:
    code = f"made.append(subprocess.Popen({SLEEP}, env={{}}, start_new_session=True).pid)"
    stranger = made(worker(code))[0]
    assert process.destroy(stranger, "another" + token) == []
    assert alive(stranger)


def test_destroy_wins_against_a_process_that_forks_away(
    worker: Callable[..., subprocess.Popen[str]], token: str
) -> None:
    code = """
process.become_subreaper()
if not os.fork():
    os.setsid()
    end = time.monotonic() + 30  # whatever becomes of the test, the chain does not outlive it for long
    while time.monotonic() < end:
        if os.fork():
            os._exit(0)
        time.sleep(0.001)
"""
    victim = worker(code)
    made(victim)
    assert process.destroy(victim.pid, token, patience=10) == []
    assert process.sweep(token) == 0
    assert process.descendants(victim.pid) == []


def test_destroy_and_kill_group_refuse_what_is_no_worker(token: str) -> None:
    for pid in (-1, 0, 1, os.getpid()):
        with pytest.raises(ValueError, match="is not a worker"):
            process.destroy(pid, token)
    for pid in (-5, 0, 1, os.getpgrp()):
        with pytest.raises(ValueError, match="is not a worker's process group"):
            process.kill_group(pid)
    with pytest.raises(ValueError, match="is not a worker"):
        process.destroy(2**22 + 1, "")


def test_kill_group(worker: Callable[..., subprocess.Popen[str]]) -> None:
    victim = worker(f"made.append(subprocess.Popen({SLEEP}, env={{}}).pid)")
    child = made(victim)[0]
    process.kill_group(victim.pid)
    assert victim.wait() == -signal.SIGKILL
    wait_until(lambda: not alive(child))
    process.kill_group(victim.pid)


def test_sweep_is_by_whole_token_or_by_prefix(worker: Callable[..., subprocess.Popen[str]], token: str) -> None:
    one = worker(f"made.append(subprocess.Popen({SLEEP}, start_new_session=True).pid)", token=token + "-1")
    other = worker("", token=token + "-12")
    child = made(one)[0]
    made(other)
    assert process.sweep(token) == 0
    assert process.sweep(token + "-1") == 2
    assert not alive(one.pid)
    assert not alive(child)
    assert alive(other.pid)
    assert process.sweep(token, prefix=True) == 1
    assert not alive(other.pid)
    with pytest.raises(ValueError, match="empty token"):
        process.sweep("", prefix=True)


@pytest.mark.parametrize("sandboxed", [False, True])
def test_a_mark_cannot_be_left_behind(
    worker: Callable[..., subprocess.Popen[str]], token: str, tmp_path: Path, sandboxed: bool
) -> None:
    lift = """
import resource
try:
    resource.setrlimit(resource.RLIMIT_RTTIME, (5, 5))
except (OSError, ValueError):
    pass
assert resource.getrlimit(resource.RLIMIT_RTTIME)[0] > 5
"""
    enter = f"""
from ingestd import sandbox
sandbox.limit()
sandbox.enter(sandbox.Policy(write=[{str(tmp_path)!r}]))
{lift}
"""
    code = f"""
{enter if sandboxed else "process.mark(os.environ[process.TOKEN])"}
{DOUBLE_FORK}
double_fork({{}})
"""
    name = f"{token}.1.load.7"
    victim, neighbour = worker(code, token=name), worker(code, token=name + "0")
    orphan, other = made(victim)[0], made(neighbour)[0]
    for one in (victim, neighbour):
        one.kill()
        one.wait()
    assert process.destroy(victim.pid, name) == []
    assert (alive(orphan), alive(other)) == (False, True)
    assert process.sweep("x" + token + ".", prefix=True) == process.sweep(token + ".1", prefix=True) == 0
    assert process.sweep(token + ".", prefix=True) == 1
    assert not alive(other)


def test_sweep_spares_its_caller(token: str) -> None:
    code = "print(process.sweep(os.environ[process.TOKEN]), flush=True)\nsys.exit(3)"
    caller = spawn(code, token)
    assert caller.communicate()[0] == "0\n"
    assert caller.returncode == 3


# --- looking --------------------------------------------------------------------------------------------------


def test_descendants_without_the_kernel_s_list_of_children(worker: Callable[..., subprocess.Popen[str]]) -> None:
    code = """
made.append(subprocess.Popen(['/bin/sh', '-c', 'sleep 1000 & wait']).pid)
while not process.descendants(made[0]): pass
made += process.descendants(made[0])
"""
    parent = worker(code)
    family = made(parent)
    assert len(family) == 2
    assert set(process.descendants(parent.pid)) == set(process._descendants_by_scan(parent.pid)) == set(family)
    assert process.descendants(2**22 + 1) == process._descendants_by_scan(2**22 + 1) == []


def test_ancestors_tell_whose_process_a_peer_is(worker: Callable[..., subprocess.Popen[str]]) -> None:
    parent = worker(f"made.append(subprocess.Popen({SLEEP}, start_new_session=True).pid)")
    child = made(parent)[0]
    assert list(process.ancestors(child))[:2] == [parent.pid, os.getpid()]
    assert list(process.ancestors(2**22 + 1)) == []


def test_memory_is_that_of_the_whole_family(worker: Callable[..., subprocess.Popen[str]]) -> None:
    code = """
hold = b"x" * (40 << 20)
tail = "hold = b'x' * (80 << 20); print('up', flush=True); import signal; signal.pause()"
child = subprocess.Popen([sys.executable, '-c', tail], stdout=subprocess.PIPE, start_new_session=True)
child.stdout.readline()
made.append(child.pid)
"""
    parent = worker(code)
    made(parent)
    both = process.group_rss(parent.pid)
    assert 120 << 20 < both < 220 << 20
    assert process.group_rss(2**22 + 1) == 0
    assert process.destroy(parent.pid, "none") == []
    parent.wait()
    assert process.group_rss(parent.pid) == 0


def test_a_name_with_parentheses_does_not_confuse(tmp_path: Path) -> None:
    program = tmp_path / "a) Z 1 (b"
    program.symlink_to("/bin/sleep")
    with subprocess.Popen([str(program), "1000"]) as running:
        wait_until(lambda: (Path(f"/proc/{running.pid}/comm").read_text()) == "a) Z 1 (b\n")
        known = process.stat(running.pid)
        running.kill()
    assert known is not None
    assert known.parent == os.getpid()
    assert not known.dead


def test_a_zombie_is_dead_and_nobody_is_stuck() -> None:
    running = subprocess.Popen(["/bin/true"])
    os.waitid(os.P_PID, running.pid, os.WEXITED | os.WNOWAIT)
    known = process.stat(running.pid)
    assert known is not None
    assert known.dead
    assert not process.is_stuck(running.pid)
    assert not process.is_stuck(2**22 + 1)
    running.wait()
    assert process.stat(running.pid) is None


def test_stuck_is_state_d(token: str) -> None:
    # A parent that waits in vfork for its child sleeps uninterruptibly.
    command = [sys.executable, "-c", VFORK]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, process.TOKEN: token}) as running:
        wait_until(lambda: process.is_stuck(running.pid))
        running.kill()
        process.sweep(token)


VFORK = """
import ctypes, os
libc = ctypes.PyDLL(None)
if libc.vfork() == 0:
    libc.pause()
"""


@pytest.mark.parametrize(
    ("code", "words"),
    [(0, "exit code 0"), (3, "exit code 3"), (-9, "SIGKILL"), (-11, "SIGSEGV"), (-40, "signal 40")],
)
def test_exit_reason(code: int, words: str) -> None:
    assert process.exit_reason(code) == words


# --- what a worker does ---------------------------------------------------------------------------------------


def test_a_worker_dies_with_its_parent(worker: Callable[..., subprocess.Popen[str]]) -> None:
    child = "from ingestd import process; process.set_parent_death_signal(int(sys.argv[1])); print('up', flush=True)"
    code = f"""
child = subprocess.Popen([sys.executable, '-P', '-c', "import sys, signal; {child}; signal.pause()", str(os.getpid())],
    stdout=subprocess.PIPE)
child.stdout.readline()
made.append(child.pid)
"""
    parent = worker(code)
    child_pid = made(parent)[0]
    assert alive(child_pid)
    parent.kill()
    parent.wait()
    wait_until(lambda: not alive(child_pid))


def test_a_worker_whose_parent_is_gone_already_does_not_start() -> None:
    code = "from ingestd import process; process.set_parent_death_signal(1); print('started')"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, cwd="/", check=False)
    assert (done.returncode, done.stdout) == (1, "")


def test_a_subreaper_keeps_orphans(worker: Callable[..., subprocess.Popen[str]]) -> None:
    parent = worker(f"process.become_subreaper()\n{DOUBLE_FORK}\ndouble_fork({{}})")
    orphan = made(parent)[0]
    wait_until(lambda: process.descendants(parent.pid) == [orphan])


def wait_until(true: Callable[[], bool], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.001)
