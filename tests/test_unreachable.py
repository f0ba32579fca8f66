"""Sources that do not answer, with the time passed in."""

from __future__ import annotations

import subprocess

import pytest

from ingestd.unreachable import PAUSES, Unreachable


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_the_pause_doubles_until_a_file_can_be_read(clock: Clock) -> None:
    sources = Unreachable(clock)
    pauses = []
    for _ in range(9):
        assert sources.paused() == {}
        sources.begin("nfs", 7)
        pauses.append(sources.missed("nfs", 7, "no answer"))
        assert sources.paused() == {"nfs": "no answer"}
        clock.now += pauses[-1]
    assert pauses[:3] == [PAUSES[0], 2 * PAUSES[0], 4 * PAUSES[0]]
    assert pauses[-1] == PAUSES[1]
    sources.begin("nfs", 7)
    sources.answered("nfs")
    assert sources.paused() == {}
    assert sources.missed("nfs", 8, "no answer") == PAUSES[0]


def test_several_that_began_before_the_pause_are_one_miss(clock: Clock) -> None:
    sources = Unreachable(clock)
    assert sources.missed("nfs", 1, "no answer") == 5.0
    clock.now += 2
    assert sources.missed("nfs", 2, "no answer") == 3.0
    clock.now += 3
    assert sources.missed("nfs", 3, "no answer") == 10.0


def test_after_a_pause_one_file_is_tried_alone(clock: Clock) -> None:
    sources = Unreachable(clock)
    sources.begin("nfs", 1)  # of a source that answers: nothing
    assert sources.paused() == {}
    sources.missed("nfs", 1, "no answer")
    clock.now += 6
    sources.begin("nfs", 2)
    assert "nfs" in sources.paused()
    sources.end("nfs", 1)  # not the one that is tried
    assert "nfs" in sources.paused()
    sources.end("nfs", 2)  # killed by somebody, say: it is not known how it would have fared
    assert sources.paused() == {}
    sources.begin("nfs", 3)
    assert "nfs" in sources.paused()
    assert "docs" not in sources.paused()


def test_a_source_is_left_alone_while_a_worker_is_stuck_in_it(clock: Clock) -> None:
    sources = Unreachable(clock)
    stuck = subprocess.Popen(["sleep", "1000"])
    try:
        sources.missed("nfs", 1, "no answer", stuck.pid)
        clock.now += 1000
        sources.answered("nfs")  # a file that was cached, say
        assert "nfs" in sources.paused()
    finally:
        stuck.kill()
        stuck.wait()
    assert sources.paused() == {}
