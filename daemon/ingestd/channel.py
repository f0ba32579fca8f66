"""How supervisor and workers talk: one SOCK_SEQPACKET pair per worker, frames of typed data, descriptors for bulk.

The kernel keeps frame boundaries and passes descriptors with the frame they belong to, so there is no stream to
resynchronise: what does not decode, or is longer than `FRAME_LIMIT`, is a bad frame, and its sender is killed.
"""

from __future__ import annotations

import array
import fcntl
import os
import socket
from collections.abc import Sequence
from pathlib import Path
from types import UnionType
from typing import Any, Generic, TypeVar

import msgspec

from ingestd.errors import ChannelError

FRAME_LIMIT = 64 * 1024
DESCRIPTOR_LIMIT = 4
MEMORY_BLOB_LIMIT = 16 << 20
"""Larger blobs go to an unlinked file, so that their pages can be written back."""

T = TypeVar("T", bound=msgspec.Struct)

_encoder = msgspec.msgpack.Encoder()


def pair() -> tuple[socket.socket, socket.socket]:
    """Both ends, close-on-exec."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def encode(frame: msgspec.Struct) -> bytes:
    """Raises `ChannelError` where the frame is too long for one packet."""
    data = _encoder.encode(frame)
    if len(data) > FRAME_LIMIT:
        raise ChannelError(f"a {type(frame).__name__} frame of {len(data)} bytes is longer than {FRAME_LIMIT}")
    return data


def _descriptors(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    found = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            found.frombytes(data[: len(data) - len(data) % found.itemsize])
    return list(found)


class Channel(Generic[T]):
    """The blocking end, for workers and for the command line. `T`: the frames that may arrive."""

    def __init__(self, sock: socket.socket, frames: UnionType | type[T]) -> None:
        self.socket = sock
        self._decoder: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder(frames)

    def fileno(self) -> int:
        return self.socket.fileno()

    def send(self, frame: msgspec.Struct, descriptors: Sequence[int] = ()) -> None:
        """Raises `ChannelError` for a frame that is too long, `OSError` when the other side is gone."""
        data = encode(frame)
        if descriptors:
            socket.send_fds(self.socket, [data], descriptors)
        else:
            self.socket.send(data)

    def receive(self) -> tuple[T, list[int]]:
        """The next frame and its descriptors, which are the caller's to close.

        Raises `EOFError` when the other side is gone and `ChannelError` for a bad frame.
        """
        return receive(self.socket, self._decoder)

    def close(self) -> None:
        self.socket.close()


def receive(sock: socket.socket, decoder: msgspec.msgpack.Decoder[Any]) -> tuple[Any, list[int]]:
    """See `Channel.receive`."""
    space = socket.CMSG_SPACE(DESCRIPTOR_LIMIT * array.array("i").itemsize)
    try:
        data, ancillary, flags, _ = sock.recvmsg(FRAME_LIMIT, space, socket.MSG_CMSG_CLOEXEC)
    except ConnectionError:
        raise EOFError from None
    descriptors = _descriptors(ancillary)
    try:
        if not data:
            raise EOFError
        if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
            raise ChannelError(f"a frame longer than {FRAME_LIMIT} bytes or with more than {DESCRIPTOR_LIMIT} files")
        try:
            return decoder.decode(data), descriptors
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise ChannelError(f"a bad frame: {error}") from None
    except (EOFError, ChannelError):
        for descriptor in descriptors:
            os.close(descriptor)
        raise


# --- bulk data ------------------------------------------------------------------------------------------------


def write_blob(parts: Sequence[bytes | memoryview], scratch: Path) -> int:
    """Write the parts one after the other to a sealed memfd, or, above a size, to an unlinked file in `scratch`.

    Returns the descriptor.
    """
    size = sum(len(part) for part in parts)
    if size <= MEMORY_BLOB_LIMIT:
        descriptor = os.memfd_create("ingestd", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    else:
        descriptor = os.open(scratch, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        for part in parts:
            view = memoryview(part).cast("B")
            while view:
                view = view[os.write(descriptor, view) :]
        if size <= MEMORY_BLOB_LIMIT:
            seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL
            fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def read_blob(descriptor: int, limit: int = 4 << 30) -> bytes:
    """The whole blob, copied into private memory, so that its writer cannot change it after it was checked.

    Closes the descriptor. Raises `ChannelError` where it is longer than `limit` bytes.
    """
    try:
        size = os.fstat(descriptor).st_size
        if size > limit:
            raise ChannelError(f"a blob of {size} bytes is longer than {limit}")
        pieces = []
        position = 0
        while position < size:
            piece = os.pread(descriptor, min(size - position, 64 << 20), position)
            if not piece:
                break
            pieces.append(piece)
            position += len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)
    finally:
        os.close(descriptor)
