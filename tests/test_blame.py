"""Limits and blame, with the time passed in: who is struck, who is interrupted, and what is nobody's fault."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest

from ingestd import blame, process
from ingestd.blame import ALIKE, AT_ONCE, PAUSES, Attempt, CommonCause, Watchman, scratch_size
from ingestd.config import LoaderLimits
from ingestd.journal import Row
from ingestd.supervisor import Worker

LIMITS = LoaderLimits(deadline=60, deadline_per_mb=10, idle_deadline=20, memory=1 << 40)


def row(number: int) -> Row:
    empty: dict[str, Any] = dict.fromkeys(Row.__struct_fields__)
    return msgspec.structs.replace(Row(**empty), id=number, source="docs", path=b"f%d" % number)


@dataclass
class Place:
    """What the watchman sees of a worker."""

    pid: int
    scratch: Path
    steps: int = 0
    stacks: int = 0
    killed: str = ""
    still: bool = False

    def progress(self) -> tuple[int, str]:
        return self.steps, f"page {self.steps}"

    def capture_stack(self) -> None:
        self.stacks += 1

    def kill(self, cause: str, reason: str) -> None:
        self.killed = f"{cause}: {reason}"


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(os.getpid(), tmp_path)


def attempt(place: Place, *, size: int = 0, limits: LoaderLimits = LIMITS, number: int = 1) -> Attempt:
    return Attempt(
        row=row(number), worker=cast(Worker, place), path=b"/f", limits=limits, size=size, started=1000.0, alone=False
    )


@pytest.fixture
def starved(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Nanoseconds for which the worker was ready to run, but got no processor."""
    delay = [0]
    monkeypatch.setattr(process, "run_delay", lambda pid: delay[0])
    return delay


def exceeded(watchman: Watchman, one: Attempt, now: float) -> str:
    return watchman._exceeded(one, now, 1) or ""


# --- the limits of one file -----------------------------------------------------------------------------------


def test_the_deadline_grows_with_the_file(place: Place, starved: list[int]) -> None:
    watchman = Watchman()
    one = attempt(place, size=2_000_000)
    watchman.begin(one)
    for now in range(1001, 1080, 5):
        place.steps += 1
        assert not exceeded(watchman, one, now)
    place.steps += 1
    assert exceeded(watchman, one, 1080.5) == f"deadline of 80 s exceeded at page {place.steps}"


def test_only_silence_meets_the_idle_deadline(place: Place, starved: list[int]) -> None:
    watchman = Watchman()
    one = attempt(place)
    watchman.begin(one)
    place.steps = 7
    assert not exceeded(watchman, one, 1015)
    assert not exceeded(watchman, one, 1034.9)
    assert exceeded(watchman, one, 1035.1) == "idle_deadline of 20 s exceeded: no progress since page 7"


def test_waiting_for_the_processor_is_not_held_against_it(place: Place, starved: list[int]) -> None:
    watchman = Watchman()
    one = attempt(place)
    starved[0] = 5 * 10**9
    watchman.begin(one)  # what was waited before the attempt is not its own
    starved[0] += 50 * 10**9
    assert not exceeded(watchman, one, 1069)
    place.steps += 1
    assert not exceeded(watchman, one, 1085)
    place.steps += 1
    assert not exceeded(watchman, one, 1100)
    place.steps += 1
    assert "deadline of 60 s" in exceeded(watchman, one, 1110.5)


def test_memory_counts_the_whole_family(place: Place) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", "x = bytearray(b'x') * (100 << 20); print('ready', flush=True); input()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert child.stdout is not None
    child.stdout.readline()
    own = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    watchman = Watchman()
    one = attempt(place, limits=msgspec.structs.replace(LIMITS, memory=own + (50 << 20)))
    watchman.begin(one)
    assert "memory limit of" in exceeded(watchman, one, 1000.1)
    child.communicate(b"\n")
    assert not exceeded(watchman, one, 1000.2)


def test_scratch_is_bounded(place: Place, monkeypatch: pytest.MonkeyPatch, starved: list[int]) -> None:
    (place.scratch / "deep").mkdir()
    (place.scratch / "deep" / "file").write_bytes(b"x" * 100_000)
    assert 100_000 <= scratch_size(place.scratch) < 200_000
    assert scratch_size(place.scratch / "no such") == 0
    monkeypatch.setattr(blame, "SCRATCH_LIMIT", 50_000)
    one = attempt(place)
    watchman = Watchman()
    watchman.begin(one)
    assert "scratch limit" in (watchman._exceeded(one, 1002.0, 10) or "")


def test_an_answer_in_the_last_moment_counts(place: Place, monkeypatch: pytest.MonkeyPatch, starved: list[int]) -> None:
    monkeypatch.setattr(blame, "STACK_WAIT", 0.0)

    async def run() -> None:
        watchman = Watchman()
        one = attempt(place)
        await watchman._end(one, "deadline")
        assert (place.stacks, place.killed, one.expired) == (1, "limit: deadline", "deadline")
        place.killed = ""
        ending = asyncio.ensure_future(watchman._end(one, "deadline"))
        await asyncio.sleep(0)
        one.expired = None  # it was answered
        await ending
        assert place.killed == ""

    asyncio.run(run())


# --- common causes --------------------------------------------------------------------------------------------


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_one_deadline_is_the_files_own(place: Place, clock: Clock) -> None:
    causes = CommonCause(clock)
    one = attempt(place)
    causes.expired(one)
    clock.now += AT_ONCE
    assert not causes.at_once(one)
    clock.now += AT_ONCE + 1
    causes.expired(one)  # the same file once more says nothing new
    assert not causes.at_once(one)
    assert (causes.paused_until, causes.warnings) == (0.0, {})


def test_deadlines_at_once_pause_and_strike_nobody(place: Place, clock: Clock) -> None:
    causes = CommonCause(clock)
    first, second = attempt(place, number=1), attempt(place, number=2)
    pauses = []
    for _ in range(9):
        causes.expired(first)
        clock.now += 1.0
        causes.expired(second)
        clock.now += AT_ONCE
        assert causes.at_once(first)
        assert causes.at_once(second)
        pauses.append(causes.paused_until - clock.now)
        assert "2 files hit their deadline at once" in causes.warnings["deadline"]
        clock.now = causes.paused_until + 1
    assert pauses[:3] == [PAUSES[0], 2 * PAUSES[0], 4 * PAUSES[0]]
    assert pauses[-1] == PAUSES[1]
    causes.success("text")
    assert causes.warnings == {}
    clock.now += 100
    causes.expired(first)
    clock.now += AT_ONCE
    assert not causes.at_once(first)
    # While it runs alone, nobody else can have hit a deadline for the same reason.
    second.alone = True
    causes.expired(second)
    assert not causes.at_once(second)


def test_failing_alike_in_a_row_is_the_loaders_fault(clock: Clock) -> None:
    causes = CommonCause(clock)
    for number in range(ALIKE - 1):
        assert causes.failure("pdf", f"RuntimeError: page {number} of 'f{number}'", row(number), b"%d" % number) == []
    last = row(ALIKE)
    innocent = causes.failure("pdf", "RuntimeError: page 99 of 'x'", last, b"x")
    assert [one.id for one, _ in innocent] == [*range(ALIKE - 1), ALIKE]
    assert innocent[-1][0] is last
    assert causes.wait("pdf") == PAUSES[0]
    assert causes.wait("text") == 0
    assert f"{ALIKE} pdf files in a row failed alike: RuntimeError: page 99" in causes.warnings["pdf"]
    # From here on each that fails so is innocent at once, and the pause doubles, until one succeeds.
    clock.now += PAUSES[0] + 1
    again = causes.failure("pdf", "RuntimeError: page 1 of 'y'", row(50), b"y")
    assert again[-1][0].id == 50
    assert causes.wait("pdf") == 2 * PAUSES[0]
    causes.success("pdf")
    assert (causes.wait("pdf"), causes.warnings) == (0, {})
    assert causes.failure("pdf", "RuntimeError: page 1 of 'y'", row(50), b"y") == []


def test_a_success_or_another_reason_breaks_the_row(clock: Clock) -> None:
    causes = CommonCause(clock)
    for number in range(3 * ALIKE):
        if number % (ALIKE - 1) == 0:
            causes.success("pdf")
        assert causes.failure("pdf", "RuntimeError: no", row(number), None) == []
    causes.success("pdf")
    for number in range(3 * ALIKE):
        reason = "ValueError: no" if number % (ALIKE - 1) == 0 else "RuntimeError: no"
        assert causes.failure("pdf", reason, row(number), None) == []


def test_one_file_again_and_again_is_no_row(clock: Clock) -> None:
    causes = CommonCause(clock)
    for _ in range(3 * ALIKE):
        assert causes.failure("pdf", "RuntimeError: no", row(1), b"x") == []
