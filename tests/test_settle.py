"""The settle machine, with time passed in."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from ingestd.messages import Stat
from ingestd.watch.settle import CLOSED_WAIT, GONE_WAIT, Settle


def version(number: int) -> Stat:
    return Stat(1, 7, number, number, number)


def take(machine: Settle, now: float, current: dict[bytes, Stat | None]) -> list[bytes]:
    return [path for path in machine.due(now, 100) if machine.check(path, current[path], now) is not None]


def test_a_file_is_taken_once_unchanged_for_the_settle_time() -> None:
    machine = Settle(2.0, 300.0)
    machine.observe(b"a", version(1), 10.0, fresh=True)
    assert machine.next() == 12.0
    machine.observe(b"a", version(2), 11.0, fresh=True)
    machine.observe(b"a", version(2), 12.5, fresh=True)  # another event without a change does not prolong it
    assert take(machine, 12.9, {b"a": version(2)}) == []
    assert take(machine, 13.0, {b"a": version(2)}) == [b"a"]
    assert len(machine) == 0
    assert machine.next() is None


def test_a_change_seen_only_at_the_due_time_starts_the_wait_anew() -> None:
    machine = Settle(2.0, 300.0)
    machine.observe(b"a", version(1), 0.0, fresh=False)
    assert take(machine, 2.0, {b"a": version(2)}) == []
    assert machine.next() == 4.0
    assert take(machine, 4.0, {b"a": version(2)}) == [b"a"]


def test_an_old_file_is_taken_at_once_and_only_where_nothing_was_known() -> None:
    machine = Settle(2.0, 300.0)
    machine.observe(b"old", version(1), 100.0, fresh=False, age=3600.0)
    machine.observe(b"young", version(1), 100.0, fresh=False, age=0.5)
    machine.observe(b"future", version(1), 100.0, fresh=False, age=-3600.0)
    assert machine.due(100.0, 10) == [b"old"]
    assert machine.due(101.5, 10) == [b"young"]
    assert machine.due(102.0, 10) == [b"future"]


def test_a_close_shortens_the_wait_until_the_next_change() -> None:
    machine = Settle(2.0, 300.0)
    machine.observe(b"a", version(1), 0.0, fresh=True)
    machine.observe(b"a", version(2), 1.0, fresh=True, closed=True)
    assert machine.next() == 1.0 + CLOSED_WAIT
    machine.observe(b"a", version(3), 1.1, fresh=True)
    assert machine.next() == 3.1


def test_a_log_that_is_closed_after_every_line_is_not_taken_at_every_close() -> None:
    machine = Settle(2.0, 30.0)
    taken = []
    for second in range(100):
        now = float(second)
        machine.observe(b"log", version(second), now, fresh=True, closed=True)
        taken += [now for _ in take(machine, now + 0.5, {b"log": version(second)})]
    assert taken == [0.0, 31.0, 62.0, 93.0]


def test_a_missing_file_waits_longer_than_one_moved_into_place() -> None:
    machine = Settle(2.0, 300.0)
    machine.observe(b"old name", None, 0.0, fresh=True)
    machine.observe(b"new name", version(1), 0.0, fresh=True, closed=True)
    assert CLOSED_WAIT < GONE_WAIT
    assert machine.due(CLOSED_WAIT, 10) == [b"new name"]
    assert machine.due(GONE_WAIT, 10) == [b"old name"]


def test_a_file_that_comes_back_settles_as_a_file() -> None:
    machine = Settle(2.0, 300.0)
    machine.observe(b"a", None, 0.0, fresh=True)
    assert take(machine, GONE_WAIT, {b"a": version(1)}) == []
    assert machine.next() == GONE_WAIT + 2.0


def test_a_path_is_due_once_even_where_two_waits_end_together() -> None:
    machine = Settle(2.0, 300.0)
    machine.observe(b"a", version(1), 0.0, fresh=True)
    machine.observe(b"a", None, 0.0, fresh=True)
    machine.observe(b"a", version(2), 0.0, fresh=True)
    assert machine.due(2.0, 10) == [b"a"]


def test_no_settle_time_takes_at_once() -> None:
    machine = Settle(0.0, 0.0)
    machine.observe(b"a", version(1), 5.0, fresh=True)
    machine.observe(b"b", None, 5.0, fresh=True)
    assert sorted(take(machine, 5.0, {b"a": version(1), b"b": None})) == [b"a", b"b"]


class Model(RuleBasedStateMachine):
    """Files are written, closed and deleted; events arrive or are lost; scans see what is there."""

    SETTLE = 2.0
    MAX_SETTLE = 11.0

    def __init__(self) -> None:
        super().__init__()
        self.machine = Settle(self.SETTLE, self.MAX_SETTLE)
        self.now = 1000.0
        self.number = 0
        self.files: dict[bytes, Stat | None] = dict.fromkeys((b"a", b"b", b"c"))
        self.written: dict[bytes, float] = dict.fromkeys(self.files, 0.0)
        self.closed: dict[bytes, float] = {}
        self.first: dict[bytes, float] = {}
        self.shown: dict[bytes, tuple[Stat | None, float]] = {}
        self.journal: dict[bytes, Stat | None] = dict.fromkeys(self.files)

    paths = st.sampled_from([b"a", b"b", b"c"])

    def observe(self, path: bytes, *, fresh: bool, closed: bool = False, age: float = 0.0) -> None:
        if self.files[path] != self.journal[path] or path in self.machine:
            self.machine.observe(path, self.files[path], self.now, fresh=fresh, closed=closed, age=age)
            self.first.setdefault(path, self.now)
            self.show(path)

    def show(self, path: bytes) -> None:
        """The machine sees the file: when it last saw it change."""
        if path not in self.shown or self.shown[path][0] != self.files[path]:
            self.shown[path] = (self.files[path], self.now)

    @rule(path=paths, told=st.booleans(), close=st.booleans())
    def write(self, path: bytes, told: bool, close: bool) -> None:
        self.number += 1
        self.files[path] = version(self.number)
        self.written[path] = self.now
        if told:
            if close:
                self.closed[path] = self.now
            self.observe(path, fresh=True, closed=close)

    @rule(path=paths, told=st.booleans())
    def delete(self, path: bytes, told: bool) -> None:
        self.files[path] = None
        self.written[path] = self.now
        if told:
            self.observe(path, fresh=True)

    @rule()
    def scan(self) -> None:
        for path in self.files:
            if path not in self.machine:
                age = self.now - self.written[path] if self.files[path] is not None else 0.0
                self.observe(path, fresh=False, age=age)

    @rule(seconds=st.sampled_from([0.05, 0.2, 0.5, 1.0, 2.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        for path in self.machine.due(self.now, 100):
            since = self.first[path]
            self.show(path)
            waiting = self.machine.check(path, self.files[path], self.now)
            if waiting is None:
                continue
            unchanged = self.now - self.written[path]
            closed = self.closed.get(path, -1.0) >= self.written[path]
            if self.files[path] is None:
                # A file that came and went unseen cannot be told from one that stayed away.
                assert self.now - self.shown[path][1] >= GONE_WAIT - 1e-6 or self.now - since >= self.MAX_SETTLE
            elif closed:
                assert unchanged >= CLOSED_WAIT - 1e-6 or self.now - since >= self.MAX_SETTLE
            else:
                assert unchanged >= self.SETTLE - 1e-6 or self.now - since >= self.MAX_SETTLE
            self.journal[path] = self.files[path]
            del self.first[path], self.shown[path]

    @precondition(lambda self: len(self.machine) > 0)
    @rule()
    def calm(self) -> None:
        """Without further changes, all that waits is taken, as it is, in twice the settle time."""
        for _ in range(3):
            self.wait(self.SETTLE)
        assert len(self.machine) == 0

    @invariant()
    def nothing_is_forgotten(self) -> None:
        assert len(self.machine) == len(self.first)
        due = self.machine.next()
        assert (due is None) == (len(self.machine) == 0)
        if due is not None:
            assert due <= min(self.first.values()) + self.MAX_SETTLE


Model.TestCase.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
test_model = Model.TestCase
