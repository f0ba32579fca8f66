"""Which directories of one source are watched for events, and which must be compared periodically instead."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from ingestd.types import display
from ingestd.watch.modes import Modes
from ingestd.watch.observe import Marks, Observer, WatchLimitError

LIMITED: Final = (60.0, 3600.0)
"""Seconds until events are tried again where watches or instances ran out; they double, up to the second."""
NAMED: Final = 5
"""Directories compared on their own that `mode` names."""


class Events:
    """The observer of a source, if it has one: without it, all of the source is to be compared periodically.

    `limited` is called when watches or instances ran out. Times are the caller's, in seconds.
    """

    def __init__(self, mode: str, wake: Callable[[], None], limited: Callable[[WatchLimitError], None]) -> None:
        self.observer: Observer | None = None
        self.polled: dict[bytes, float] = {}
        """The topmost directories without events below a root that has them, and when each is to be compared."""
        self._modes = Modes(mode)
        self._wake = wake
        self._limited = limited
        self._met: set[bytes] = set()
        self._pause = LIMITED[0]
        self._until = 0.0
        self._now = 0.0

    @property
    def mode(self) -> str:
        """Where events are relied on, in words."""
        if self.observer is None:
            return "poll"
        if not self.polled:
            return "inotify"
        names = [display(prefix[:-1]) for prefix in sorted(self.polled)]
        more = f" and {len(names) - NAMED} more places" if len(names) > NAMED else ""
        return f"inotify, poll below {', '.join(names[:NAMED])}"[:900] + more

    @property
    def pending(self) -> bool:
        """There is something to drain."""
        return self.observer is not None and self.observer.pending

    def drain(self) -> Marks:
        return self.observer.drain() if self.observer is not None else Marks()

    def broke(self) -> bool:
        """The observer ended by itself; it is gone now."""
        if self.observer is None or self.observer.alive:
            return False
        self.close()
        return True

    def begin(self, *, full: bool) -> int:
        """A scan begins; give the number to `end` or `end_full`."""
        if full:
            self._modes.forget()
            self._met.clear()
        return self.observer.begin() if self.observer is not None else 0

    def entered(self, prefix: bytes, descriptor: int, key: tuple[int, int], now: float) -> None:
        """A scan is about to list the open directory, whose device and inode are `key`: watch it if that is of use."""
        self._now = now
        if prefix and self.observer is None:
            return
        if not self._modes.sends(descriptor, key[0], lambda: self._hears(prefix, descriptor, key)):
            if not prefix:
                self.close()
            if self.observer is None:
                return
            top = next((other for other in self.polled if prefix.startswith(other)), prefix)
            self._met.add(top)
            self.polled.setdefault(top, float("inf"))
            return
        if not prefix:
            self._open()
        if self.observer is not None:
            try:
                self.observer.add(prefix, descriptor, key)
            except WatchLimitError as error:
                self._give_up(error)

    def mounted(self) -> None:
        """Some mount came or went, or is another one now."""
        self._modes.forget(tests=True)

    def end(self, prefix: bytes, generation: int) -> None:
        """A scan has met everything below `prefix`: what it did not meet needs no watch."""
        if self.observer is not None:
            self.observer.sweep(prefix, generation)

    def end_full(self, generation: int) -> bool:
        """A scan of everything has met all of it. Whether the limits, if any were met, are no trouble any more."""
        if self.observer is None:
            return False
        self.end(b"", generation)
        self.polled = {prefix: due for prefix, due in self.polled.items() if prefix in self._met}
        self._pause = LIMITED[0]
        return True

    def compared(self, prefix: bytes, due: float) -> None:
        """What lies below `prefix` was compared, and is to be again by then."""
        self.polled.update((other, due) for other in self.polled if other.startswith(prefix))

    def close(self) -> None:
        if self.observer is not None:
            self.observer.close()
            self.observer = None
        self.polled.clear()

    def _open(self) -> None:
        if self.observer is None and self._now >= self._until:
            try:
                self.observer = Observer(self._wake)
            except WatchLimitError as error:
                self._give_up(error)

    def _give_up(self, error: WatchLimitError) -> None:
        """Go on without events, and try them again later."""
        self.close()
        self._until = self._now + self._pause
        self._pause = min(2 * self._pause, LIMITED[1])
        self._limited(error)

    def _hears(self, prefix: bytes, descriptor: int, key: tuple[int, int]) -> bool | None:
        self._open()
        if self.observer is None:
            return None
        try:
            return self.observer.hears(prefix, descriptor, key)
        except WatchLimitError as error:
            self._give_up(error)
            return None
