"""The inside of a worker process: `python -P -m ingestd.worker FD...`, started by `supervisor.Worker` only."""

from __future__ import annotations

import faulthandler
import importlib
import mmap
import os
import signal
import socket
import struct
import sys
import traceback
from typing import Any, Final

import msgspec

import ingestd
from ingestd import process
from ingestd.channel import Channel, read_blob
from ingestd.errors import ConfigError, IndexAwayError, IndexUnavailableError, IngestdError
from ingestd.messages import Ready, Start, StartFailed
from ingestd.messages.stages import TO_WORKER

PAGE_SIZE: Final = 4096
_HEAD: Final = struct.Struct("<QI")


class Page:
    """A page of memory shared with the supervisor: how far the file in hand has come, at no cost of a frame.

    Layout: u64 counter of steps, u32 length of the place, the place in UTF-8. The supervisor trusts none of it.
    """

    def __init__(self, descriptor: int) -> None:
        self._memory = mmap.mmap(descriptor, PAGE_SIZE)
        self._last: tuple[int, str] | None = None

    def step(self, place: str) -> None:
        """One step further. `place`: "page 3, element 17"; it is what `why` shows if the worker is killed now."""
        counter, _ = _HEAD.unpack_from(self._memory)
        data = place.encode("utf-8", "replace")[: PAGE_SIZE - _HEAD.size]
        self._memory[_HEAD.size : _HEAD.size + len(data)] = data
        _HEAD.pack_into(self._memory, 0, (counter + 1) & 0xFFFFFFFFFFFFFFFF, len(data))

    def read(self) -> tuple[int, str]:
        if self._last is not None:
            return self._last
        counter, length = _HEAD.unpack_from(self._memory)
        place = self._memory[_HEAD.size : _HEAD.size + min(length, PAGE_SIZE - _HEAD.size)]
        return counter, place.decode("utf-8", "replace")

    def close(self) -> None:
        """Give the memory back, and its descriptor, of which the map has a copy; `read` keeps its last answer."""
        self._last = self.read()
        self._memory.close()


_ready = False
page: Page | None = None
"""This worker's page, for the stages that show their progress in it."""


def step(place: str) -> None:
    """Show the supervisor that there is progress, and where."""
    if page is not None:
        page.step(place)


def one_line(text: str, limit: int = 500) -> str:
    """A cause as one line that can be printed anywhere: no control characters, no surrogates, bounded."""
    clean = "".join(c if c.isprintable() else " " for c in text[: 4 * limit])
    return " ".join(clean.encode("utf-8", "replace").decode().split())[:limit]


def describe(error: BaseException) -> str:
    """An exception as one line; one without a message by its type."""
    message = one_line(str(error))
    name = type(error).__name__
    if isinstance(error, IngestdError):
        return message or name
    return f"{name}: {message}" if message else name


def main() -> None:
    channel_fd, page_fd, stack_fd, parent = (int(argument) for argument in sys.argv[1:5])
    process.set_parent_death_signal(parent)
    process.mark(os.environ[process.TOKEN])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in a terminal goes to the group; the supervisor decides
    faulthandler.register(signal.SIGUSR1, os.fdopen(stack_fd, "w", closefd=False), all_threads=True, chain=False)
    faulthandler.enable(os.fdopen(stack_fd, "w", closefd=False), all_threads=True)
    for descriptor in (channel_fd, page_fd, stack_fd):
        os.set_inheritable(descriptor, False)
    global page
    page = Page(page_fd)
    channel: Channel[Any] = Channel(socket.socket(fileno=channel_fd), TO_WORKER)
    start, descriptors = channel.receive()
    if not isinstance(start, Start):
        sys.exit(f"the first frame is {type(start).__name__}")
    for descriptor in descriptors:
        start = msgspec.structs.replace(start, settings=msgspec.msgpack.decode(read_blob(descriptor)))
    try:
        if start.version != ingestd.__version__:
            raise IngestdError(
                f"the daemon runs ingestd {start.version}, but {ingestd.__version__} is installed now; restart it"
            )
        sys.path[:] = start.sys_path
        importlib.import_module(f"ingestd.{start.stage}").serve(channel, start)
    except EOFError:
        os._exit(0)  # the supervisor is gone
    except BaseException as error:
        reason = describe(error)
        if not isinstance(error, IngestdError):
            traceback.print_exc()
            if not _ready and (place := page.read()[1]):
                reason = f"{place}: {reason}"
        try:
            command = error.command if isinstance(error, IngestdError) else None
            # A full disk or a lost server passes; a wrong configuration does not.
            fatal = isinstance(error, IngestdError) and not isinstance(error, IndexUnavailableError)
            away = isinstance(error, IndexAwayError)
            wrong = isinstance(error, ConfigError)
            channel.send(StartFailed(reason=reason, fatal=fatal, away=away, wrong=wrong, command=command))
        except OSError:
            pass
        sys.stderr.flush()
        os._exit(1)
    sys.stdout.flush()
    os._exit(0)  # no thread or exit handler of a library can keep a stopped worker


def ready(channel: Channel[Any], **info: Any) -> None:
    """Tell the supervisor that this worker can take work."""
    global _ready
    _ready = True
    step("")
    channel.send(Ready(version=ingestd.__version__, info=info))


if __name__ == "__main__":
    # The stages import this module by its name: let them find this very one, not a second copy.
    sys.modules["ingestd.worker"] = sys.modules["__main__"]
    main()
