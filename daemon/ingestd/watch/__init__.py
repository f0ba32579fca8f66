"""The watch worker: one loop around its sources, woken by frames, by events and by the time.

Settings: `journal`, the path of the journal's file, which is read only and never for long.
"""

from __future__ import annotations

import contextlib
import os
import select
import time
from pathlib import Path
from typing import Any

from ingestd import worker
from ingestd.channel import Channel
from ingestd.messages import Start, Stop
from ingestd.messages.watch import ChangesTaken, Rescan, Scanned, Unwatch, WatchSource
from ingestd.types import display
from ingestd.watch.scan import JournalReader
from ingestd.watch.source import Source


def serve(channel: Channel[Any], start: Start) -> None:
    """Hold sources until `Stop` or the end of the channel. See `messages.WatchSource`."""
    journal = JournalReader(Path(start.settings["journal"]))
    wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
    sources: dict[int, Source] = {}
    poller = select.poll()
    poller.register(channel, select.POLLIN)
    poller.register(wake, select.POLLIN)
    mounts = os.open("/proc/self/mountinfo", os.O_RDONLY | os.O_CLOEXEC)
    poller.register(mounts, select.POLLPRI)
    worker.ready(channel)
    try:
        while True:
            worker.step("")  # nothing is waited for but frames, events and the time
            now = time.monotonic()
            timeouts = [timeout for source in sources.values() if (timeout := source.timeout(now)) is not None]
            events = poller.poll(min(timeouts) * 1000 if timeouts else None)
            for descriptor, _ in events:
                if descriptor == wake:
                    with contextlib.suppress(BlockingIOError):
                        os.eventfd_read(wake)
                    continue
                if descriptor == mounts:  # some mount came or went
                    for source in sources.values():
                        source.mounted()
                    continue
                frame, descriptors = channel.receive()
                for extra in descriptors:
                    os.close(extra)
                match frame:
                    case WatchSource():
                        if frame.job in sources:
                            sources.pop(frame.job).close()
                        worker.step(display(frame.root))
                        try:
                            sources[frame.job] = Source(frame, journal, channel, wake)
                        except ValueError as error:  # a pattern of the configuration
                            reason = f"source {frame.source}: {error}"
                            channel.send(
                                Scanned(
                                    job=frame.job,
                                    files=0,
                                    unchanged=0,
                                    settling=0,
                                    watching=False,
                                    mode="",
                                    error=reason,
                                )
                            )
                    case Unwatch():
                        if frame.job in sources:
                            sources.pop(frame.job).close()
                    case Rescan():
                        if frame.job in sources:
                            sources[frame.job].rescan(accept=frame.accept)
                    case ChangesTaken():
                        if frame.job in sources:
                            sources[frame.job].taken(frame.serial)
                    case Stop():
                        return
            for job, source in list(sources.items()):
                source.turn(time.monotonic())
                if source.finished:
                    sources.pop(job).close()
    except (EOFError, ConnectionError):
        return
    finally:
        for source in sources.values():
            source.close()
        journal.close()
        os.close(wake)
        os.close(mounts)
