"""The control socket: how commands talk to the daemon. One socket, one request at a time, answers as they come.

A request is a command and its arguments; the answer is a stream of `Reply` frames, the last of which before `Done` is
the result, or a `Failure`. What is longer than a frame travels as a blob beside it. The daemon waits for no client:
each has a handler of its own, which is cancelled when its client leaves, sends nonsense, or stops reading.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import grp
import logging
import os
import pwd
import shlex
import socket
import struct
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import msgspec

from ingestd import __version__, errors
from ingestd.async_channel import AsyncChannel
from ingestd.channel import FRAME_LIMIT, MEMORY_BLOB_LIMIT, Channel, read_blob, write_blob
from ingestd.errors import (
    AlreadyRunningError,
    ChannelError,
    ConfigError,
    IngestdError,
    NotRunningError,
    UnreachableError,
    UsageError,
)
from ingestd.unit import NAME, RUNTIME

PROTOCOL: Final = 1
"""Goes up when frames change; other versions are refused by name."""
CLIENT_LIMIT: Final = 64
STALL: Final = 30.0
"""Seconds after which a client that does not read is dropped."""
CONNECT_TIMEOUT: Final = 10.0

_PATH_LIMIT: Final = 107
_PEER_GROUPS: Final = 59  # SO_PEERGROUPS, which the socket module does not name
_SEALS: Final = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK
_ROOM: Final = FRAME_LIMIT - 1024
"""Data up to here goes into the frame itself."""

log = logging.getLogger("ingestd.control")

Handle = Callable[[str, dict[str, Any]], AsyncIterator[dict[str, Any]]]
"""Carries out one command: yields progress, and the result last."""


class Request(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """`blob`: the arguments are in the descriptor, as msgpack. Paths are bytes."""

    protocol: int
    version: str
    command: str
    arguments: dict[str, Any] = {}
    blob: bool = False


class Reply(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """`blob`: the data is in the descriptor, as msgpack."""

    data: dict[str, Any] = {}
    blob: bool = False


class Done(msgspec.Struct, frozen=True, tag=True):
    """The reply before this one was the result."""


class Failure(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """`code`: the name of the error's class."""

    code: str
    message: str
    command: str | None = None


# --- addresses ------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _address(path: Path) -> Iterator[bytes]:
    """An address for the socket at `path`, of any length: the kernel takes 107 bytes."""
    raw = os.fsencode(path)
    if len(raw) <= _PATH_LIMIT:
        yield raw
        return
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield os.fsencode(f"/proc/self/fd/{directory}/{path.name}")
    finally:
        os.close(directory)


def _connect(path: Path, timeout: float) -> socket.socket:
    """Raises `BlockingIOError` when the other side accepts nothing for so long."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        # Not `settimeout`: a socket that does not block fails at once while the other side's queue is full.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", int(timeout), 0))
        with _address(path) as address:
            sock.connect(address)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", 0, 0))
    except BaseException:
        sock.close()
        raise
    return sock


# --- the daemon's side ----------------------------------------------------------------------------------------


class ControlServer:
    """Listens at `path`, mode 0600, or 0660 for `group`. An async context manager, or `start` and `close`.

    `scratch`: a directory for answers of more than 16 MiB.
    """

    def __init__(
        self, path: Path, handle: Handle, *, group: str | None = None, scratch: Path | None = None, stall: float = STALL
    ) -> None:
        self.path = path
        self._handle = handle
        self._group_name = group
        self._group: int | None = None
        self._scratch = scratch or path.parent
        self._stall = stall
        self._clients: set[_Client] = set()
        self._socket: socket.socket | None = None
        self._inode = 0

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def start(self) -> None:
        """Raises `AlreadyRunningError` where somebody answers at the path, `ConfigError` for an unknown group."""
        self._group = _group_id(self._group_name) if self._group_name else None
        try:
            _connect(self.path, 1.0).close()
        except BlockingIOError:
            raise AlreadyRunningError(f"another daemon holds {self.path} and does not answer") from None
        except OSError:
            pass  # nobody, or what a killed daemon left behind
        else:
            raise AlreadyRunningError(f"another daemon answers at {self.path}", command="ingestd status")
        try:
            self._socket = self._bind()
        except OSError as error:
            parent = self.path.parent
            stopped = parent == RUNTIME and not parent.exists()
            command = f"sudo systemctl start {NAME}" if stopped else shlex.join(["ls", "-ld", str(parent)])
            text = f"the control socket {self.path} cannot be made: {error.strerror}"
            raise UnreachableError(text, command=command) from None
        asyncio.get_running_loop().add_reader(self._socket, self._accept)

    def _bind(self) -> socket.socket:
        # Under another name first: nobody can connect before the mode is right, and no umask needs to change, which
        # would be every thread's.
        fresh = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        fresh.unlink(missing_ok=True)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            sock.setblocking(False)
            with _address(fresh) as address:
                sock.bind(address)
            if self._group is not None:
                os.chown(fresh, -1, self._group)
            fresh.chmod(0o600 if self._group is None else 0o660)
            sock.listen(CLIENT_LIMIT)
            self._inode = fresh.stat().st_ino
            fresh.rename(self.path)
        except BaseException:
            sock.close()
            fresh.unlink(missing_ok=True)
            raise
        return sock

    async def close(self) -> None:
        """Drop the clients, wait until their handlers have ended, remove the socket."""
        if self._socket is None:
            return
        asyncio.get_running_loop().remove_reader(self._socket)
        self._socket.close()
        self._socket = None
        with contextlib.suppress(OSError):
            if self.path.stat().st_ino == self._inode:  # another daemon may have taken the place
                self.path.unlink()
        tasks = [client.task for client in self._clients if client.task and client.task is not asyncio.current_task()]
        for client in list(self._clients):
            client.leave()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _accept(self) -> None:
        if self._socket is None:
            return
        try:
            sock, _ = self._socket.accept()
        except (BlockingIOError, ConnectionError):
            return
        except OSError as error:  # no descriptors left: the client stays in the queue, the loop must not spin on it
            log.warning("cannot accept a control connection: %s", error)
            loop, listening = asyncio.get_running_loop(), self._socket
            loop.remove_reader(listening)
            loop.call_later(1.0, lambda: self._socket is listening and loop.add_reader(listening, self._accept))
            return
        if len(self._clients) >= 2 * CLIENT_LIMIT:
            sock.close()
            return
        self._clients.add(_Client(sock, self, self._refusal(sock)))

    def _refusal(self, sock: socket.socket) -> IngestdError | None:
        if len(self._clients) >= CLIENT_LIMIT:
            return UnreachableError(f"the daemon serves {CLIENT_LIMIT} commands already; try again later")
        _, user, group = struct.unpack("iII", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        if user in (0, os.geteuid()):
            return None
        if self._group is not None and self._group in (group, *_groups(sock)):
            return None
        return UnreachableError(f"the daemon takes commands from its own user, {_user(os.geteuid())}, only")

    def _left(self, client: _Client) -> None:
        self._clients.discard(client)


class _GoneError(Exception):
    """The client, not the command, is at an end."""


class _Client:
    """One connection; `task` carries out the request in hand."""

    def __init__(self, sock: socket.socket, server: ControlServer, refusal: IngestdError | None) -> None:
        self._server = server
        self._refusal = refusal
        self._channel: AsyncChannel[Request] = AsyncChannel(sock, Request)
        self.task: asyncio.Task[None] | None = None
        self._channel.listen(self._received, self._ended)
        if refusal:
            asyncio.get_running_loop().call_later(server._stall, self.leave)

    def _received(self, request: Request, descriptors: list[int]) -> None:
        try:
            if self.task is not None and not self.task.done():
                raise ChannelError("a request before the last one was answered")
            arguments = request.arguments
            if request.blob:
                arguments = _unpack(descriptors)
        except (ChannelError, OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            log.warning("dropped a control client: %s", error)
            self.leave()
            return
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
        if request.protocol != PROTOCOL:
            self._refusal = _versions(request.version)
        # A refusal waits for the request too: closing with a frame unread would lose the answer.
        answer = self._refuse(self._refusal) if self._refusal else self._answer(request.command, arguments)
        self.task = asyncio.create_task(answer)

    def _ended(self, error: ChannelError | None) -> None:
        if error:
            log.warning("dropped a control client: %s", error)
        self.leave()

    async def _refuse(self, error: IngestdError) -> None:
        with contextlib.suppress(_GoneError):
            await self._send(_failure(error))
        self.leave()

    async def _answer(self, command: str, arguments: dict[str, Any]) -> None:
        answers = self._server._handle(command, arguments)
        try:
            try:
                async for data in answers:
                    await self._reply(data)
                last: Done | Failure = Done()
            except IngestdError as error:
                last = _failure(error)
            except _GoneError:
                raise
            except Exception as error:
                log.exception("the command %r failed", command)
                last = _failure(error)
            await self._send(last)
        except _GoneError as error:
            log.debug("dropped a control client during %r: %s", command, error)
            self.leave()
        finally:
            if isinstance(answers, AsyncGenerator):
                await answers.aclose()

    async def _reply(self, data: dict[str, Any]) -> None:
        packed = msgspec.msgpack.encode(data)
        if len(packed) <= _ROOM:
            await self._send(Reply(data=data))
            return
        descriptor = write_blob([packed], self._server._scratch)
        try:
            await self._send(Reply(blob=True), [descriptor])
        finally:
            os.close(descriptor)

    async def _send(self, frame: Reply | Done | Failure, descriptors: Sequence[int] = ()) -> None:
        try:
            async with asyncio.timeout(self._server._stall):
                await self._channel.send(frame, descriptors)
        except TimeoutError:
            raise _GoneError("it does not read") from None
        except OSError as error:
            raise _GoneError(str(error)) from None

    def leave(self) -> None:
        self._channel.close()
        self._server._left(self)
        if self.task and self.task is not asyncio.current_task():
            self.task.cancel()


def _unpack(descriptors: list[int]) -> dict[str, Any]:
    """Arguments from a blob, which must be a sealed memfd: reading any other file could block the daemon."""
    if len(descriptors) != 1:
        raise ChannelError("a blob without a descriptor")
    if fcntl.fcntl(descriptors[0], fcntl.F_GET_SEALS) & _SEALS != _SEALS:
        raise ChannelError("a blob that is not sealed")
    return msgspec.msgpack.decode(read_blob(descriptors.pop(), MEMORY_BLOB_LIMIT), type=dict[str, Any])


def _failure(error: Exception) -> Failure:
    if isinstance(error, IngestdError):
        return Failure(code=type(error).__name__, message=error.message, command=error.command)
    cause = str(error)[:4096] or type(error).__name__
    return Failure(code=type(error).__name__, message=f"the daemon failed: {cause}; its log has more")


def _versions(version: str) -> IngestdError:
    return UnreachableError(
        f"the daemon is ingestd {__version__}, this command is ingestd {version[:40]}: they do not understand each "
        "other; restart the daemon"
    )


def _groups(sock: socket.socket) -> tuple[int, ...]:
    """The supplementary groups that the peer had when it connected; none where there are more than 256."""
    try:
        raw = sock.getsockopt(socket.SOL_SOCKET, _PEER_GROUPS, 1024)
    except OSError:
        return ()
    return struct.unpack(f"{len(raw) // 4}I", raw)


def _group_id(name: str) -> int:
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        raise ConfigError(f"[state] control_group: there is no group {name!r}") from None


def _user(number: int) -> str:
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)


# --- the command's side ---------------------------------------------------------------------------------------


class Control:
    """A blocking connection to the daemon at `path`, for commands and the library. A context manager.

    `timeout`: the longest silence of the daemon in seconds, None for any; a command may take its time. `group`: whose
    members are admitted. Raises `NotRunningError` where there is no daemon, else `UnreachableError`.
    """

    def __init__(self, path: Path, *, timeout: float | None = None, group: str | None = None) -> None:
        self.path = path
        try:
            sock = _connect(path, CONNECT_TIMEOUT)
        except (FileNotFoundError, NotADirectoryError, ConnectionRefusedError):
            raise NotRunningError(f"no daemon is running at {path}", command="ingestd run") from None
        except PermissionError:
            raise _not_admitted(path, group) from None
        except BlockingIOError:
            raise UnreachableError(f"the daemon at {path} does not answer") from None
        except OSError as error:
            raise UnreachableError(f"cannot reach the daemon at {path}: {error.strerror}") from None
        sock.settimeout(timeout)
        self._channel: Channel[Any] = Channel(sock, Reply | Done | Failure)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """The daemon cancels what it was doing for this client."""
        self._channel.close()

    def call(self, command: str, **arguments: Any) -> dict[str, Any]:
        """The result. Raises the `IngestdError` that the daemon raised."""
        result: dict[str, Any] = {}
        for data in self.stream(command, **arguments):
            result = data
        return result

    def stream(self, command: str, **arguments: Any) -> Iterator[dict[str, Any]]:
        """Progress as it comes, and the result last."""
        try:
            self._request(command, arguments)
            while True:
                frame, descriptors = self._channel.receive()
                try:
                    if isinstance(frame, Done):
                        return
                    if isinstance(frame, Failure):
                        raise _error(frame)
                    data = frame.data
                    if frame.blob:
                        data = msgspec.msgpack.decode(read_blob(descriptors.pop()), type=dict[str, Any])
                finally:
                    for descriptor in descriptors:
                        os.close(descriptor)
                yield data
        except TimeoutError:
            raise UnreachableError(f"the daemon at {self.path} does not answer", command="ingestd status") from None
        except (EOFError, ConnectionError):
            raise UnreachableError(
                f"the daemon at {self.path} ended the connection before it had answered", command="ingestd status"
            ) from None
        except (ChannelError, msgspec.DecodeError, IndexError) as error:
            raise UnreachableError(
                f"the daemon at {self.path} answers in a way that ingestd {__version__} does not understand; "
                f"is it another version? ({error})"
            ) from None

    def _request(self, command: str, arguments: dict[str, Any]) -> None:
        packed = msgspec.msgpack.encode(arguments)
        if len(packed) <= _ROOM:
            self._channel.send(Request(protocol=PROTOCOL, version=__version__, command=command, arguments=arguments))
            return
        if len(packed) > MEMORY_BLOB_LIMIT:
            raise UsageError(f"the arguments are {len(packed) >> 20} MiB long: name a directory, not its files")
        descriptor = write_blob([packed], Path())
        try:
            frame = Request(protocol=PROTOCOL, version=__version__, command=command, blob=True)
            self._channel.send(frame, [descriptor])
        finally:
            os.close(descriptor)


def _not_admitted(path: Path, group: str | None) -> UnreachableError:
    """Why this user cannot connect, and what is to be done about it."""
    me = _user(os.geteuid())
    try:
        members = grp.getgrnam(group) if group else None
    except KeyError:
        members = None
    if members is None or members.gr_gid in (os.getegid(), *os.getgroups()):
        return UnreachableError(
            f"the daemon at {path} belongs to another user: run this as that user, or see [state] control_group"
        )
    if me in members.gr_mem:
        return UnreachableError(
            f"the daemon at {path} is for the group {group}, and {me} logged in before being in it: log in again",
            command=f"newgrp {group}",
        )
    return UnreachableError(
        f"the daemon at {path} is for the group {group}, and {me} is not in it; once added, log in again",
        command=shlex.join(["sudo", "usermod", "-aG", str(group), me]),
    )


def _error(failure: Failure) -> IngestdError:
    kind = getattr(errors, failure.code, IngestdError)
    if not (isinstance(kind, type) and issubclass(kind, IngestdError)):
        kind = IngestdError
    return kind(failure.message, command=failure.command)
