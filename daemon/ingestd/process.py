"""Containing processes: what the supervisor does to a worker's whole family, and what a worker does to stay in it.

Linux only, through `/proc` and signals. Nothing here needs a privilege. Several functions wait for the kernel: call
`destroy` and `sweep` from a thread when the event loop must not stand still for some milliseconds.
"""

from __future__ import annotations

import os
import random
import resource
import signal
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from ingestd.kernel import prctl

TOKEN = "INGESTD_WORKER"
"""Environment variable that a worker and everything it starts carries."""

_MARK = resource.RLIMIT_RTTIME
_MARK_LINE = b"Max realtime timeout"
_PAGE = os.sysconf("SC_PAGE_SIZE")
_FREEZE_ROUNDS = 16
_EMPTY_PASSES = 32
_TAIL_BITS = 30
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


class Stat(NamedTuple):
    """What `/proc/PID/stat` says of a process."""

    state: str
    """One letter: R, S, D (uninterruptible), T, Z (dead, not yet reaped), ..."""
    parent: int
    group: int
    session: int
    threads: int
    started: int
    """Clock ticks after boot; pid and start together name a process for ever."""

    @property
    def dead(self) -> bool:
        """A dead leader whose other threads still run is not dead."""
        return self.state in "ZX" and self.threads <= 1


def _read(path: str) -> bytes:
    """The whole file; empty where the process is gone or is not ours to look at."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        pieces = []
        while piece := os.read(descriptor, 65536):
            pieces.append(piece)
        return b"".join(pieces)
    except OSError:
        return b""
    finally:
        os.close(descriptor)


def stat(pid: int) -> Stat | None:
    """None: there is no such process."""
    return _parse(_read(f"/proc/{pid}/stat"))


def _parse(line: bytes) -> Stat | None:
    # The name may hold spaces and parentheses; the last one closes it.
    fields = line[line.rfind(b")") + 2 :].split()
    if len(fields) < 20:
        return None
    numbers = [int(fields[n]) for n in (1, 2, 3, 17, 19)]
    return Stat(fields[0].decode("ascii", "replace"), *numbers)


def _numbers(directory: str) -> list[int]:
    """The entries that are numbers: processes, or threads; none where the directory is gone."""
    try:
        with os.scandir(directory) as entries:
            return [int(entry.name) for entry in entries if entry.name.isdecimal()]
    except OSError:
        return []


# --- looking --------------------------------------------------------------------------------------------------


def descendants(pid: int) -> list[int]:
    """Pids of the children of `pid`, their children, and so on; empty where there is no such process.

    A child whose parents died is here only if an ancestor below `pid`, or `pid`, is a subreaper.
    """
    if not os.path.exists("/proc/thread-self/children"):
        return _descendants_by_scan(pid)
    found: dict[int, None] = {}
    waiting = [pid]
    while waiting:
        for child in _children(waiting.pop()):
            if child not in found and child != pid:
                found[child] = None
                waiting.append(child)
    return list(found)


def _children(pid: int) -> list[int]:
    tasks = _numbers(f"/proc/{pid}/task")
    return [int(child) for task in tasks for child in _read(f"/proc/{pid}/task/{task}/children").split()]


def _descendants_by_scan(pid: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for other in _numbers("/proc"):
        if known := stat(other):
            children.setdefault(known.parent, []).append(other)
    found: list[int] = []
    waiting = [pid]
    while waiting:
        below = children.pop(waiting.pop(), [])
        found += below
        waiting += below
    return found


def ancestors(pid: int) -> Iterator[int]:
    """The parent of `pid`, its parent, and so on; tells whether a peer on a socket runs below a worker."""
    seen = {pid}
    known = stat(pid)
    while known and known.parent and known.parent not in seen:
        seen.add(known.parent)
        yield known.parent
        known = stat(known.parent)


def group_rss(pid: int) -> int:
    """Bytes resident in `pid` and its descendants; a page that several share counts for each; 0: it is gone.

    A worker is a subreaper, so its process group and its session are among its descendants.
    """
    total = 0
    for member in (pid, *descendants(pid)):
        fields = _read(f"/proc/{member}/statm").split()
        if len(fields) > 1:
            total += int(fields[1]) * _PAGE
    return total


def peak_rss(pid: int) -> int:
    """The most bytes that were ever resident in the process itself; 0: it is gone."""
    status = _read(f"/proc/{pid}/status")
    begin = status.find(b"VmHWM:")
    return int(status[begin + 6 :].split(None, 1)[0]) * 1024 if begin >= 0 else 0


def run_delay(pid: int) -> int:
    """Nanoseconds that the main thread of a process was ready to run but got no processor; 0 where unknown."""
    fields = _read(f"/proc/{pid}/schedstat").split()
    return int(fields[1]) if len(fields) > 1 else 0


def awake(pid: int) -> int:
    """Nanoseconds that the main thread of a process ran, or was ready to run; 0 where unknown. Else it waits."""
    fields = _read(f"/proc/{pid}/schedstat").split()
    return int(fields[0]) + int(fields[1]) if len(fields) > 1 else 0


def is_alive(pid: int) -> bool:
    """Whether the process exists and is not just waiting to be reaped."""
    known = stat(pid)
    return known is not None and not known.dead


def is_stuck(pid: int) -> bool:
    """Whether a thread of `pid` sleeps uninterruptibly (state D), where SIGKILL does not reach it.

    Any disk access looks so for a moment: ask only of a process that has been killed.
    """
    threads = (_parse(_read(f"/proc/{pid}/task/{task}/stat")) for task in _numbers(f"/proc/{pid}/task"))
    return any(thread.state == "D" for thread in threads if thread)


def exit_reason(returncode: int) -> str:
    """A return code as `subprocess` and asyncio give it, in words: "exit code 3", "SIGSEGV"."""
    if returncode >= 0:
        return f"exit code {returncode}"
    try:
        return signal.Signals(-returncode).name
    except ValueError:
        return f"signal {-returncode}"


# --- killing --------------------------------------------------------------------------------------------------


def kill_group(pid: int) -> None:
    """SIGKILL to the process group `pid`; nothing happens where it is gone.

    Raises `ValueError` for a group that no worker can have: 0, 1, negative, and the caller's own.
    """
    if pid <= 1 or pid == os.getpgrp():
        raise ValueError(f"{pid} is not a worker's process group")
    try:
        os.killpg(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass


def sweep(token: str, *, prefix: bool = False, patience: float = 1.0) -> int:
    """Kill every process that carries `token`, in its environment or by its mark; with `prefix`, whose token starts so.

    Marks know whole tokens and, as a prefix, their first part with its dot ("NAME."). Repeats until none is left, for
    `patience` seconds at most. Never the caller itself, nor other users' processes. Returns how many were killed.
    """
    if not token:
        raise ValueError("an empty token would match every worker of this machine")
    return _slay(lambda: _carriers(token, prefix), patience)[0]


def destroy(pid: int, token: str, *, patience: float = 1.0) -> list[int]:
    """Kill the worker `pid`: itself, all below it, its process group and session, and all that carry its token.

    They are stopped first and killed when no new one turns up, so that none can fork away in between. Works as well
    on a worker that is dead already; then a child that left the group, emptied its environment and outlived its
    parent is found only by its mark, so without `mark` call it while the worker lives. Returns the survivors after
    `patience` seconds (in state D, as a rule; see `is_stuck`); empty: none is left.
    """
    if pid <= 1 or pid == os.getpid() or not token:
        raise ValueError(f"{pid} is not a worker")
    return _slay(lambda: _family(pid, token), patience)[1]


def _carriers(token: str, prefix: bool) -> dict[int, int]:
    """Pid and start of each living process with the token."""
    own = os.getpid()
    found = {}
    for pid in _numbers("/proc"):
        if pid != own and _carries(pid, token, prefix) and (known := stat(pid)) and not known.dead:
            found[pid] = known.started
    return found


def _carries(pid: int, token: str, prefix: bool) -> bool:
    environment = _read(f"/proc/{pid}/environ")
    wanted = f"{TOKEN}={token}".encode()
    if wanted in environment and any(
        entry.startswith(wanted) if prefix else entry == wanted  # an entry of a longer name may end in this one
        for entry in environment.split(b"\0")
    ):
        return True
    if not (found := _marked(pid)):
        return False
    if prefix:
        return token.count(".") == 1 and token.endswith(".") and found >> _TAIL_BITS == _number(token) >> _TAIL_BITS
    return found == _number(token)


def _marked(pid: int) -> int:
    """The number that `mark` left on a process; 0: none."""
    limits = _read(f"/proc/{pid}/limits")
    begin = limits.find(_MARK_LINE)
    if begin < 0:
        return 0
    value = limits[begin + len(_MARK_LINE) :].split(None, 2)[1]  # the hard limit
    return int(value) if value.isdigit() else 0


def _number(token: str) -> int:
    """62 bits: a one, 31 of the token's first part, 30 of what follows its first dot."""
    head, _, tail = token.partition(".")
    low = zlib.crc32(tail.encode()) & ((1 << _TAIL_BITS) - 1)
    return 1 << 61 | (zlib.crc32(head.encode()) & 0x7FFFFFFF) << _TAIL_BITS | low


def _family(pid: int, token: str) -> dict[int, int]:
    """Pid and start of each living process that belongs to the worker `pid`."""
    own = os.getpid()
    everybody = {other: known for other in _numbers("/proc") if other != own and (known := stat(other))}
    marked = {other for other in everybody if _carries(other, token, False)}
    leader = everybody.get(pid)
    # The kernel keeps a number while a group or session has it: a stranger with this pid means that ours are gone.
    if leader is None or leader.parent == own or pid in marked:
        marked |= {other for other, known in everybody.items() if pid in (other, known.group, known.session)}
    children: dict[int, list[int]] = {}
    for other, known in everybody.items():
        children.setdefault(known.parent, []).append(other)
    waiting = list(marked)
    while waiting:
        below = [child for child in children.get(waiting.pop(), ()) if child not in marked]
        marked.update(below)
        waiting += below
    return {other: everybody[other].started for other in marked if not everybody[other].dead}


def _slay(find: Callable[[], dict[int, int]], patience: float) -> tuple[int, list[int]]:
    """Stop, then kill what `find` finds until it finds nothing. Returns how many there were, and the survivors.

    Finding nothing counts only if no process was born meanwhile, or after several times: one that forks away again and
    again, its parent gone each time, is between two passes over `/proc` as often as not.
    """
    deadline = time.monotonic() + patience
    seen: set[tuple[int, int]] = set()
    rounds = nothing = quiet = 0
    pause = 0.001
    while True:
        born = _last_born()
        found = find()
        if not found:
            nothing += 1
            # Twice, since a number is taken a moment before its process can be seen.
            quiet = quiet + 1 if born == _last_born() else 0
            if nothing == _EMPTY_PASSES or quiet == 2:
                return len(seen), []
            time.sleep(random.uniform(0.0, 0.002))  # out of step with whatever it does
            continue
        nothing = quiet = 0
        fresh = found.items() - seen
        seen |= fresh
        if fresh and rounds < _FREEZE_ROUNDS:
            rounds += 1
            _signal_all(fresh, signal.SIGSTOP)
            continue
        _signal_all(found.items(), signal.SIGKILL)
        if time.monotonic() > deadline:
            return len(seen), sorted(found)
        time.sleep(pause)
        pause = min(pause * 2, 0.02)


def _last_born() -> bytes:
    """Number of the process or thread that was born last."""
    return _read("/proc/loadavg").rpartition(b" ")[2]


def _signal_all(processes: Iterable[tuple[int, int]], number: int) -> None:
    for pid, started in processes:
        _signal(pid, started, number)


def _signal(pid: int, started: int, number: int) -> None:
    """Signal the process that had `pid` when it was looked at, never a later one with the same number."""
    try:
        descriptor = os.pidfd_open(pid)
    except OSError:
        return
    try:
        known = stat(pid)
        if known and known.started == started:
            signal.pidfd_send_signal(descriptor, number)
    except OSError:
        pass
    finally:
        os.close(descriptor)


# --- what a worker does ---------------------------------------------------------------------------------------


def set_parent_death_signal(parent: int | None = None) -> None:
    """Have this process killed when the *thread* that started it ends.

    `parent`: the supervisor's pid; where it died before this call, this process exits at once.
    """
    prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if parent is not None and os.getppid() != parent:
        os._exit(1)


def mark(token: str) -> None:
    """Mark this process, and all that it will ever start, for `sweep` and `destroy`.

    The mark is a resource limit that means nothing here (`RLIMIT_RTTIME`, of real-time scheduling), set to a number
    made of the token. Unlike an environment, a group or a parent, it cannot be left behind, and the sandbox keeps it
    from being changed. Where the limit is lower already, for an ordinary user, there is no mark.
    """
    number = _number(token)
    try:
        resource.setrlimit(_MARK, (number, number))
    except (ValueError, OSError):
        pass


def become_subreaper() -> None:
    """Adopt the orphans among the descendants, so that no double fork leaves the family.

    The caller becomes their parent: what it does not wait for stays a zombie until it ends.
    """
    prctl(_PR_SET_CHILD_SUBREAPER, 1)
