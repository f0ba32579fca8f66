"""The supervisor's end of a channel, in a module of its own: workers start sooner without asyncio."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Sequence
from types import UnionType
from typing import Any, Generic, TypeVar

import msgspec

from ingestd.channel import encode, receive
from ingestd.errors import ChannelError

T = TypeVar("T", bound=msgspec.Struct)


class AsyncChannel(Generic[T]):
    """The supervisor's end: never blocks the loop; `send` waits while the other side does not read."""

    def __init__(self, sock: socket.socket, frames: UnionType | type[T]) -> None:
        sock.setblocking(False)
        self.socket = sock
        self._decoder: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder(frames)
        self._loop = asyncio.get_running_loop()
        self._sending = asyncio.Lock()
        self.drain: Callable[[], None] = lambda: None
        """Take the frames that have arrived, now."""

    def listen(self, received: Callable[[T, list[int]], None], ended: Callable[[ChannelError | None], None]) -> None:
        """Call `received` for each frame (its descriptors are the callee's to close) and `ended` once.

        `ended` gets the error of a bad frame, or None when the other side closed its end.
        """

        def readable() -> None:
            for _ in range(32):  # then others get their turn
                if self.socket.fileno() < 0:  # closed by `received`
                    return
                try:
                    frame, descriptors = receive(self.socket, self._decoder)
                except BlockingIOError:
                    return
                except (EOFError, ChannelError) as error:
                    self._loop.remove_reader(self.socket)
                    ended(error if isinstance(error, ChannelError) else None)
                    return
                received(frame, descriptors)

        self.drain = readable
        self._loop.add_reader(self.socket, readable)

    async def send(self, frame: msgspec.Struct, descriptors: Sequence[int] = ()) -> None:
        """Frames leave in the order of the calls. Raises `ConnectionError` when the other side is gone."""
        data = encode(frame)
        async with self._sending:
            while not self._try_send(data, descriptors):
                writable = asyncio.Event()
                self._loop.add_writer(self.socket, writable.set)
                try:
                    await writable.wait()
                finally:
                    if self.socket.fileno() >= 0:
                        self._loop.remove_writer(self.socket)

    def _try_send(self, data: bytes, descriptors: Sequence[int]) -> bool:
        if self.socket.fileno() < 0:
            raise ConnectionError("the channel is closed")
        try:
            if descriptors:
                socket.send_fds(self.socket, [data], descriptors)
            else:
                self.socket.send(data)
        except BlockingIOError:
            return False
        return True

    def close(self) -> None:
        if self.socket.fileno() >= 0:
            self._loop.remove_reader(self.socket)
            self._loop.remove_writer(self.socket)
            self.socket.close()
