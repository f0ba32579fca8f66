"""What an encode worker has in hand: documents, the window of their texts being run, and the size of a batch."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from ingestd.types import Tokens

WINDOW_BATCHES = 8
"""A window holds so many batches: enough to sort texts by length, soon enough run that no document waits long."""
WINDOW_SHARE = 4
"""A document takes up to the fourth part of the room that those before it left in the window."""
TARGET_SECONDS = 0.07
"""What a batch on a CPU should take, so that a question waits 100 ms at most even when a batch takes longer."""
FIRST_BUDGET = 1024
LEAST_BUDGET = 64
MOST_BUDGET = 4096
"""On a CPU larger batches fall out of its caches and gain nothing."""


@dataclass(slots=True, eq=False)
class Job:
    """One document on its way."""

    number: int
    tokens: Tokens
    vectors: npt.NDArray[np.float32]
    """Shape (texts, dims), filled batch by batch."""
    left: int
    """Texts without a vector."""
    taken: int = 0
    """Texts handed to a window."""
    seconds: float = 0.0
    """Device time."""
    failed: bool = False

    def text(self, index: int) -> npt.NDArray[np.int32]:
        """Token ids of one text."""
        return self.tokens.ids[self.tokens.offsets[index] : self.tokens.offsets[index + 1]]


Text = tuple[Job, int]
"""A text of a job, by its index."""


@dataclass(slots=True)
class Window:
    """Texts of several documents, longest first, so that those of a batch are of nearly one length.

    Each document in hand, the oldest first, takes up to a quarter of the room that is left: they finish in about the
    order in which they came, and yet small ones are not held up by a huge one, nor it by a stream of small ones.
    """

    _waiting: list[Job] = field(default_factory=list)
    _texts: list[Text] = field(default_factory=list)
    """Shortest first: batches are taken off the end."""
    _ahead: Window | None = None
    """Of the documents whose texts come before all of these."""

    def __bool__(self) -> bool:
        return bool(self._texts or self._waiting or self._ahead)

    def add(self, job: Job, *, ahead: bool = False) -> None:
        if ahead:
            self._ahead = self._ahead or Window()
            self._ahead.add(job)
        else:
            self._waiting.append(job)

    def drop(self, job: Job) -> None:
        """Forget what is left of a failed job."""
        self._texts = [text for text in self._texts if text[0] is not job]
        if job in self._waiting:
            self._waiting.remove(job)
        if self._ahead:
            self._ahead.drop(job)

    def batch(self, budget: int) -> list[Text]:
        """Texts of at most `budget` tokens together were all as long as the longest; at least one text."""
        if self._ahead:
            return self._ahead.batch(budget)
        if not self._texts:
            self._fill(budget)
        longest = len(self._texts[-1][0].text(self._texts[-1][1]))
        count = max(budget // max(longest, 1), 1)
        batch = self._texts[-count:]
        del self._texts[-count:]
        return batch

    def _fill(self, budget: int) -> None:
        room = WINDOW_BATCHES * budget
        texts: list[tuple[int, int, Job, int]] = []
        while room > 0 and self._waiting:
            for job in self._waiting:
                offsets = job.tokens.offsets
                reach = int(offsets[job.taken]) + room // WINDOW_SHARE
                stop = max(int(np.searchsorted(offsets, reach, "right")) - 1, job.taken + 1)
                lengths = np.diff(offsets[job.taken : stop + 1]).tolist()
                texts += [(length, -len(texts) - i, job, job.taken + i) for i, length in enumerate(lengths)]
                room -= sum(lengths)
                job.taken = stop
                if room <= 0:
                    break
            self._waiting = [job for job in self._waiting if job.taken < len(job.tokens)]
        texts.sort(key=lambda text: text[:2])
        self._texts = [(job, index) for _, _, job, index in texts]


class Budget:
    """How many tokens a batch holds. Fixed where configured; else it follows the measured rate of a CPU."""

    def __init__(self, tokens: int, *, adapt: bool) -> None:
        self.tokens = tokens
        self._adapt = adapt
        self._most = MOST_BUDGET
        self._rate = 0.0
        self._settled = (self.tokens, self._most)

    def observe(self, tokens: int, seconds: float) -> None:
        """A batch of so many tokens took so long."""
        # A batch much smaller than the budget says more about the cost of a call than about the rate, except the first.
        small = 2 * tokens < self.tokens and seconds < TARGET_SECONDS and self._rate > 0.0
        if not self._adapt or seconds <= 0.0 or small:
            return
        rate = tokens / seconds
        self._rate = 0.7 * self._rate + 0.3 * rate if self._rate else rate
        self.tokens = min(max(int(self._rate * TARGET_SECONDS), LEAST_BUDGET), self._most)

    def halve(self, tokens: int) -> None:
        """The device was out of memory with so many tokens; it is not tried with as many again."""
        self.tokens = self._most = max(min(self.tokens, tokens) // 2, 1)

    def settle(self) -> None:
        """A whole batch went well with the budget as it is."""
        self._settled = (self.tokens, self._most)

    def restore(self) -> None:
        """It was halved for the sake of a single text that fits nowhere: go back to what went well."""
        self.tokens, self._most = self._settled
