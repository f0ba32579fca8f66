"""The settle machine, with time passed in."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from ingestd.messages.load import Stat
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


@dataclass
class Version:
    """What a path is from some moment on."""

    stat: Stat | None
    since: float
    closed: float | None = None
    """When its writer closed it, and an event told so."""


@dataclass
class Seen:
    """What the machine was shown of a path since it entered."""

    first: float
    calm: bool
    fresh: bool
    stat: Stat | None
    changed: float
    """When what it was shown last differed from what it had been shown before."""


class Model(RuleBasedStateMachine):
    """Folder, journal and a machine between them, which sees the folder only now and then.

    Files are written, closed and deleted; an event tells of it at once, late, or never; scans see what is there;
    paths are dropped; a file changes after it was looked at and before it is taken.
    """

    paths = st.sampled_from([b"a", b"b"])

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0
        self.number = 0
        self.folder = {path: Version(None, 0.0) for path in (b"a", b"b")}
        self.journal: dict[bytes, Stat | None] = dict.fromkeys(self.folder)
        self.seen: dict[bytes, Seen] = {}
        self.taken: dict[bytes, float] = {}

    @initialize(settle=st.sampled_from([0.0, 0.1, 0.3, 2.0]), longest=st.sampled_from([0.0, 1.0, 11.0]))
    def configure(self, settle: float, longest: float) -> None:
        self.settle = settle
        self.max_settle = max(settle, longest)
        self.machine = Settle(settle, longest)

    # --- what happens to the folder ---------------------------------------------------------------------------

    @rule(path=paths, told=st.booleans(), close=st.booleans())
    def write(self, path: bytes, told: bool, close: bool) -> None:
        self.number += 1
        self.folder[path] = Version(version(self.number), self.now)
        if told:
            self.event(path, close)

    @rule(path=paths, told=st.booleans())
    def delete(self, path: bytes, told: bool) -> None:
        if self.folder[path].stat is not None:
            self.folder[path] = Version(None, self.now)
        if told:
            self.event(path, False)

    @rule(path=paths, close=st.booleans())
    def event(self, path: bytes, close: bool) -> None:
        """A late one, or one that tells of nothing new; a close without a change is one as well."""
        found = self.folder[path]
        if close and found.stat is not None:
            found.closed = self.now
        self.show(path, found, fresh=True, closed=close)

    @rule(path=paths, seconds=st.sampled_from([0.05, 0.2, 0.3]), goes_on=st.booleans())
    def save(self, path: bytes, seconds: float, goes_on: bool) -> None:
        """Written and closed, as a log is line by line; its writer may go on after the close."""
        self.write(path, True, True)
        self.wait(seconds)
        if goes_on:
            self.write(path, True, False)

    # --- what the source does ---------------------------------------------------------------------------------

    def show(self, path: bytes, found: Version, *, fresh: bool, closed: bool = False, age: float = 0.0) -> None:
        """As `Source` does: what waits is always shown, anything else only where it differs from the journal."""
        if path not in self.machine and found.stat == self.journal[path]:
            return
        self.machine.observe(path, found.stat, self.now, fresh=fresh, closed=closed, age=age)
        seen = self.seen.get(path)
        if seen is None:
            calm = self.now - self.taken.get(path, -1e9) >= self.settle
            self.seen[path] = Seen(self.now, calm, fresh, found.stat, self.now)
            return
        seen.fresh = seen.fresh or fresh
        if seen.stat != found.stat:
            seen.stat, seen.changed = found.stat, self.now

    @rule()
    def scan(self) -> None:
        for path, found in self.folder.items():
            if path not in self.machine:
                age = self.now - found.since if found.stat is not None else 0.0
                self.show(path, found, fresh=False, age=age)

    @rule(path=paths)
    def drop(self, path: bytes) -> None:
        """It could not be looked at."""
        self.machine.drop(path)
        self.seen.pop(path, None)

    @rule(
        seconds=st.sampled_from([0.0, 0.05, 0.2, 0.5, 1.0, 2.0]),
        limit=st.sampled_from([1, 100]),
        meanwhile=st.none() | paths,
        told=st.booleans(),
    )
    def wait(self, seconds: float, limit: int = 100, meanwhile: bytes | None = None, told: bool = True) -> None:
        """Time passes, then due paths are looked at; the file `meanwhile` changes just after the look."""
        self.now += seconds
        while due := self.machine.due(self.now, limit):
            assert len(set(due)) == len(due) <= limit
            looked = {path: self.folder[path] for path in due}
            if meanwhile in looked:
                self.write(meanwhile, False, False)
            for path, found in looked.items():
                self.check(path, found)
            if meanwhile in looked and told:
                self.event(meanwhile, False)  # handled when the look is over
            meanwhile = None

    def check(self, path: bytes, found: Version) -> None:
        seen = self.seen[path]
        if seen.stat != found.stat:
            seen.stat, seen.changed = found.stat, self.now
        waiting = self.machine.check(path, found.stat, self.now)
        if waiting is None:
            assert path in self.machine
            return
        assert (waiting.stat, waiting.fresh) == (found.stat, seen.fresh)
        assert self.unchanged(found, seen) or self.now - seen.first >= self.max_settle - 1e-6
        self.journal[path] = found.stat
        self.taken[path] = self.now
        del self.seen[path]

    def unchanged(self, found: Version, seen: Seen) -> bool:
        """Whether it may be taken, by the folder's own account of what happened."""
        if found.stat is None:
            # A file that came and went unseen cannot be told from one that stayed away.
            return self.now - seen.changed >= min(self.settle, GONE_WAIT) - 1e-6
        closed = seen.calm and found.closed is not None and self.now - found.closed >= CLOSED_WAIT - 1e-6
        return closed or self.now - found.since >= self.settle - 1e-6

    # --- what always holds ------------------------------------------------------------------------------------

    @rule()
    def calm(self) -> None:
        """Without further changes a scan is enough: soon the journal has all that the folder has, once each."""
        self.scan()
        for _ in range(3):
            self.wait(max(self.settle, CLOSED_WAIT))
        assert len(self.machine) == 0
        assert self.journal == {path: found.stat for path, found in self.folder.items()}
        self.scan()
        assert len(self.machine) == 0

    @invariant()
    def what_waits_is_taken_in_time(self) -> None:
        """The machine knows just the paths that were shown to it, and when the next of them is due."""
        assert {path for path in self.folder if path in self.machine} == self.seen.keys()
        assert len(self.machine) == len(self.seen)
        due = self.machine.next()
        assert (due is None) == (not self.seen)
        if due is not None:
            assert due <= min(seen.first for seen in self.seen.values()) + self.max_settle
            assert due <= min(seen.changed for seen in self.seen.values()) + self.settle

    def teardown(self) -> None:
        if hasattr(self, "machine"):
            self.calm()


Model.TestCase.settings = settings(max_examples=300, stateful_step_count=40, deadline=None)
test_model = Model.TestCase
