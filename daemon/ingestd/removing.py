"""What is gone from the folders leaves the index."""

from __future__ import annotations

import asyncio
import functools
import time
from typing import TYPE_CHECKING, Final

from ingestd.journal import Row
from ingestd.messages.index import IndexRemove

if TYPE_CHECKING:
    from ingestd.dispatch import Dispatcher

TOGETHER: Final = 64
"""Documents that are removed at once."""
PAUSE: Final = 0.25
"""Seconds between two looks at what is gone."""
SET_BACK: Final = 1.0
"""Seconds by which the system's clock may go back and nobody takes notice."""


async def remove(dispatcher: Dispatcher) -> None:
    """For as long as the daemon lives."""
    journal = dispatcher.journal
    clock = time.time() - time.monotonic()
    while True:
        before, clock = clock, time.time() - time.monotonic()
        if clock < before - SET_BACK:
            await journal.set_back(before - clock)
        rows = await journal.claim_gone(TOGETHER, dispatcher.holds, without=dispatcher.idle_sources)
        await asyncio.gather(*map(functools.partial(_document, dispatcher), rows))
        if rows:
            dispatcher.wake()
        else:
            await asyncio.sleep(PAUSE)


async def _document(dispatcher: Dispatcher, row: Row) -> None:
    await dispatcher.indexer.write(lambda job: IndexRemove(job=job, doc_id=row.doc_id))
    await dispatcher.journal.removed(row)
    dispatcher.unpacked.done((row.source, row.path, row.member))
