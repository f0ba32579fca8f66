from __future__ import annotations

import asyncio
import contextlib
import fcntl
import grp
import os
import socket
import stat
import struct
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from ingestd import __version__, control
from ingestd.channel import FRAME_LIMIT, write_blob
from ingestd.control import PROTOCOL, Control, ControlServer, Request
from ingestd.errors import (
    AlreadyRunningError,
    ConfigError,
    IndexMismatchError,
    IngestdError,
    UnreachableError,
    UsageError,
)


class Handler:
    """What a daemon would do, and what became of it."""

    def __init__(self) -> None:
        self.cancelled = threading.Event()
        self.started = threading.Event()

    async def handle(self, command: str, arguments: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
        match command:
            case "echo":
                yield arguments
            case "count":
                for number in range(arguments["to"]):
                    yield {"n": number}
                yield {"sum": sum(range(arguments["to"]))}
            case "big":
                yield {"text": "x" * arguments["size"]}
            case "fail":
                yield {"before": True}
                raise IndexMismatchError("made with another model", command="ingestd reindex")
            case "bug":
                raise ZeroDivisionError("oh\0no")
            case "unsendable":
                yield {"path": "\udcff"}
            case "lost":
                raise ConnectionResetError("a worker's, not the client's")
            case "nothing":
                return
            case "forever" | "flood":
                self.started.set()
                try:
                    while True:
                        yield {"text": "y" * 30_000 if command == "flood" else ""}
                        await asyncio.sleep(0 if command == "flood" else 0.01)
                finally:
                    self.cancelled.set()
            case _:
                raise UsageError(f"no command {command!r}")


class Daemon:
    """A control server on a loop of its own, in a thread, so that blocking clients can talk to it."""

    def __init__(self, path: Path, **options: Any) -> None:
        self.handler = Handler()
        self.path = path
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.thread.start()
        self.server = ControlServer(path, self.handler.handle, **options)

    def run(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(10)

    def clients(self) -> int:
        async def count() -> int:
            return len(self.server._clients)

        return int(self.run(count()))

    def stop(self) -> None:
        try:
            self.run(self.server.close())
        finally:
            self.loop.call_soon_threadsafe(self.loop.stop)
            self.thread.join()
            self.loop.close()


Start = Callable[..., Daemon]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    daemons: list[Daemon] = []

    def begin(path: Path = tmp_path / "control.sock", **options: Any) -> Daemon:
        daemons.append(daemon := Daemon(path, **options))
        daemon.run(daemon.server.start())
        return daemon

    yield begin
    for daemon in daemons:
        daemon.stop()


def raw(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sock.connect(str(path))
    sock.settimeout(10)
    return sock


def request(command: str = "echo", **fields: Any) -> bytes:
    frame = Request(**{"protocol": PROTOCOL, "version": __version__, "command": command} | fields)
    return msgspec.msgpack.encode(frame)


# --- talking --------------------------------------------------------------------------------------------------


def test_arguments_and_answers_arrive_as_they_were(start: Start) -> None:
    with Control(start().path) as client:
        assert client.call("echo", path=b"/a\xff", number=3, deep={"list": [1, None]}) == {
            "path": b"/a\xff", "number": 3, "deep": {"list": [1, None]},
        }  # fmt: skip
        assert client.call("nothing") == {}


def test_progress_streams_and_the_result_is_last(start: Start) -> None:
    with Control(start().path) as client:
        assert list(client.stream("count", to=3)) == [{"n": 0}, {"n": 1}, {"n": 2}, {"sum": 3}]
        assert client.call("count", to=100) == {"sum": 4950}


@pytest.mark.parametrize("size", [FRAME_LIMIT - 2000, FRAME_LIMIT, 20 << 20])
def test_answers_of_any_length(start: Start, size: int) -> None:
    with Control(start().path) as client:
        assert len(client.call("big", size=size)["text"]) == size


def test_arguments_longer_than_a_frame(start: Start) -> None:
    paths = [b"/some/path/%d" % number for number in range(20_000)]
    with Control(start().path) as client:
        assert client.call("echo", paths=paths) == {"paths": paths}
        with pytest.raises(UsageError, match="name a directory"):
            client.call("echo", data=b"x" * (20 << 20))


def test_many_clients_at_once(start: Start) -> None:
    daemon = start()
    results: list[int] = []

    def ask() -> None:
        with Control(daemon.path) as client:
            results.append(client.call("count", to=50)["sum"])

    threads = [threading.Thread(target=ask) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [1225] * 20


# --- failures -------------------------------------------------------------------------------------------------


def test_an_error_of_the_daemon_is_raised_by_the_client(start: Start) -> None:
    with Control(start().path) as client:
        answers = client.stream("fail")
        assert next(answers) == {"before": True}
        with pytest.raises(IndexMismatchError, match="another model") as caught:
            next(answers)
        assert caught.value.command == "ingestd reindex"
        with pytest.raises(UsageError, match="no command 'x'"):
            client.call("x")
        assert client.call("echo", still="here") == {"still": "here"}


@pytest.mark.parametrize("command", ["bug", "unsendable", "lost"])
def test_a_bug_in_the_daemon_costs_one_answer(
    start: Start, command: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control.log.parent, "propagate", True)
    with Control(start().path) as client:
        with pytest.raises(IngestdError, match="the daemon failed"):
            client.call(command)
        assert client.call("echo") == {}
    assert f"the command {command!r} failed" in caplog.text


def test_without_a_daemon(tmp_path: Path) -> None:
    for path in (tmp_path / "control.sock", tmp_path / "no" / "control.sock", tmp_path / ("x" * 200) / "control.sock"):
        with pytest.raises(UnreachableError, match="no daemon is running") as caught:
            Control(path)
        assert caught.value.command == "ingestd run"


def test_a_socket_that_a_killed_daemon_left(tmp_path: Path, start: Start) -> None:
    path = tmp_path / "control.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as dead:
        dead.bind(str(path))
    with pytest.raises(UnreachableError, match="no daemon is running"):
        Control(path)
    with Control(start(path).path) as client:
        assert client.call("echo", a=1) == {"a": 1}


def test_a_daemon_that_accepts_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "CONNECT_TIMEOUT", 1)
    path = tmp_path / "control.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as hung, contextlib.ExitStack() as stack:
        hung.bind(str(path))
        hung.listen(0)
        stack.enter_context(raw(path))
        with pytest.raises(UnreachableError, match="does not answer"):
            Control(path)


def test_a_daemon_that_is_silent(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as hung:
        hung.bind(str(path))
        hung.listen(1)
        with Control(path, timeout=0.1) as client, pytest.raises(UnreachableError, match="does not answer"):
            client.call("echo")


@pytest.mark.parametrize("answer", [b"garbage", b"", msgspec.msgpack.encode({"type": "Reply", "blob": True})])
def test_a_daemon_that_answers_nonsense(tmp_path: Path, answer: bytes) -> None:
    path = tmp_path / "control.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as other:
        other.bind(str(path))
        other.listen(1)
        with Control(path) as client:
            peer, _ = other.accept()
            with peer:
                peer.send(answer) if answer else peer.close()
                with pytest.raises(UnreachableError, match=r"does not understand|ended the connection"):
                    client.call("echo")


def test_another_version_is_told_so(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    daemon = start()
    monkeypatch.setattr(control, "PROTOCOL", PROTOCOL)
    with raw(daemon.path) as sock:
        sock.send(request(protocol=PROTOCOL + 1, version="9.9"))
        failure = msgspec.msgpack.decode(sock.recv(FRAME_LIMIT))
    assert failure["code"] == "UnreachableError"
    assert __version__ in failure["message"]
    assert "9.9" in failure["message"]
    assert "restart the daemon" in failure["message"]


# --- the socket -----------------------------------------------------------------------------------------------


def test_the_path_may_be_long(tmp_path: Path, start: Start) -> None:
    directory = tmp_path.joinpath(*["long" * 20] * 4)
    directory.mkdir(parents=True)
    path = directory / "control.sock"
    assert len(os.fsencode(path)) > 300
    with Control(start(path).path) as client:
        assert client.call("echo", a=1) == {"a": 1}


def test_the_path_may_hold_any_bytes(tmp_path: Path, start: Start) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.sock"))
    with Control(start(path).path) as client:
        assert client.call("echo", a=1) == {"a": 1}


def test_the_socket_is_the_owners_alone_and_goes_with_the_daemon(tmp_path: Path) -> None:
    daemon = Daemon(tmp_path / "control.sock")
    daemon.run(daemon.server.start())
    try:
        assert stat.S_IMODE(daemon.path.stat().st_mode) == 0o600
    finally:
        daemon.stop()
    assert list(tmp_path.iterdir()) == []


def test_a_group_may_be_let_in(start: Start) -> None:
    daemon = start(group="games")
    mode = daemon.path.stat()
    assert (stat.S_IMODE(mode.st_mode), mode.st_gid) == (0o660, grp.getgrnam("games").gr_gid)


def test_an_unknown_group_is_a_configuration_error(tmp_path: Path) -> None:
    daemon = Daemon(tmp_path / "control.sock", group="no-such-group")
    try:
        with pytest.raises(ConfigError, match="there is no group 'no-such-group'"):
            daemon.run(daemon.server.start())
    finally:
        daemon.stop()


def test_a_second_daemon_is_refused_and_takes_nothing_away(tmp_path: Path, start: Start) -> None:
    first = start()
    second = Daemon(first.path)
    try:
        with pytest.raises(AlreadyRunningError, match="another daemon answers"):
            second.run(second.server.start())
    finally:
        second.stop()
    with Control(first.path) as client:
        assert client.call("echo", a=1) == {"a": 1}


def _as_user(user: int, groups: list[int], path: Path) -> bytes:
    """What another user's client gets to hear; b"refused" where it cannot even connect."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        answer = b"died"
        try:
            os.setgroups(groups)
            os.setgid(user)
            os.setuid(user)
            with raw(path) as sock:
                sock.send(request())
                answer = sock.recv(FRAME_LIMIT)
        except PermissionError:
            answer = b"refused"
        finally:
            os.write(writer, answer)
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        answer = pipe.read()
    os.waitpid(child, 0)
    return answer


@pytest.mark.skipif(os.geteuid() != 0, reason="cannot be had: only root can become another user")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_other_users_are_refused_unless_they_are_of_the_group(tmp_path: Path, start: Start) -> None:
    for directory in (tmp_path, *tmp_path.parents):
        if directory.owner() == "root" and str(directory).startswith("/tmp/"):
            directory.chmod(0o755)
    games = grp.getgrnam("games").gr_gid
    closed, opened = start(tmp_path / "closed"), start(tmp_path / "open", group="games")
    assert _as_user(4321, [games], closed.path) == b"refused"
    assert _as_user(4321, [], opened.path) == b"refused"
    assert b"Reply" in _as_user(4321, [games], opened.path)
    # Even where the mode would let them in.
    closed.path.chmod(0o666)
    assert b"from its own user" in _as_user(4321, [games], closed.path)


# --- clients that misbehave -----------------------------------------------------------------------------------


def memory(data: bytes, *, sealed: bool) -> int:
    if sealed:
        return write_blob([data], Path("/"))
    descriptor = os.memfd_create("x", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.write(descriptor, data)
    return descriptor


BAD = [
    b"garbage",
    b"\xff" * FRAME_LIMIT,
    msgspec.msgpack.encode({"type": "Reply", "data": {}}),
    msgspec.msgpack.encode({"type": "Request", "protocol": 1}),
    msgspec.msgpack.encode({"type": "Request", "protocol": 1, "version": "1", "command": "echo", "arguments": [1]}),
    b"\x91" * 5000,
]


@pytest.mark.parametrize("frame", BAD)
def test_a_bad_frame_drops_its_client_alone(start: Start, frame: bytes) -> None:
    daemon = start()
    with Control(daemon.path) as good, raw(daemon.path) as bad:
        bad.send(frame)
        assert bad.recv(100) == b""
        assert good.call("echo", a=1) == {"a": 1}


@pytest.mark.parametrize("descriptor", ["none", "unsealed", "fifo", "closed pipe", "not msgpack", "too many"])
def test_a_bad_blob_drops_its_client_alone(start: Start, tmp_path: Path, descriptor: str) -> None:
    daemon = start()
    os.mkfifo(tmp_path / "fifo")
    before = len(list(Path("/proc/self/fd").iterdir()))
    with Control(daemon.path) as good, raw(daemon.path) as bad:
        match descriptor:
            case "none":
                sent = []
            case "unsealed":
                sent = [memory(msgspec.msgpack.encode({}), sealed=False)]
            case "fifo":  # reading it would block the daemon for ever
                sent = [os.open(tmp_path / "fifo", os.O_RDWR)]
            case "closed pipe":
                reader, writer = os.pipe()
                os.close(writer)
                sent = [reader]
            case "not msgpack":
                sent = [memory(b"\xc1", sealed=True)]
            case _:
                sent = [memory(b"\x80", sealed=True) for _ in range(6)]
        socket.send_fds(bad, [request(blob=True)], sent)
        for opened in sent:
            os.close(opened)
        with contextlib.suppress(ConnectionResetError):
            assert bad.recv(100) == b""
        assert good.call("echo", a=1) == {"a": 1}
    while daemon.clients():
        pass
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_descriptors_that_nobody_asked_for_are_closed(start: Start) -> None:
    daemon = start()
    reader, writer = os.pipe()
    with raw(daemon.path) as sock:
        socket.send_fds(sock, [request()], [writer])
        os.close(writer)
        assert b"Reply" in sock.recv(FRAME_LIMIT)
        assert os.read(reader, 1) == b""  # end of file: no copy of the writing end is left
    os.close(reader)


def test_a_second_request_before_the_answer_drops_the_client(start: Start) -> None:
    daemon = start()
    with raw(daemon.path) as sock:
        sock.send(request("forever"))
        assert daemon.handler.started.wait(10)
        sock.send(request("echo"))
        with contextlib.suppress(ConnectionResetError):
            while sock.recv(FRAME_LIMIT):
                pass
    assert daemon.handler.cancelled.wait(10)


def test_a_client_that_leaves_cancels_its_command(start: Start) -> None:
    daemon = start()
    client = Control(daemon.path)
    answers = client.stream("forever")
    next(answers)
    client.close()
    assert daemon.handler.cancelled.wait(10)


def test_a_client_that_does_not_read_is_dropped_and_holds_nobody_up(start: Start) -> None:
    daemon = start(stall=0.3)
    with raw(daemon.path) as stuck, Control(daemon.path) as good:
        stuck.send(request("flood"))
        assert daemon.handler.started.wait(10)
        assert good.call("count", to=200) == {"sum": 19900}
        assert daemon.handler.cancelled.wait(10)
        while daemon.clients() > 1:
            pass
        assert good.call("echo", a=1) == {"a": 1}


def test_too_many_clients_are_told_so(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "CLIENT_LIMIT", 2)
    daemon = start()
    with Control(daemon.path) as first, Control(daemon.path) as second:
        assert first.call("echo") == second.call("echo") == {}
        with Control(daemon.path) as third, pytest.raises(UnreachableError, match="serves 2 commands already"):
            third.call("echo")
        with contextlib.ExitStack() as stack:
            for _ in range(6):
                stack.enter_context(raw(daemon.path))
            assert first.call("echo", a=1) == {"a": 1}
    while daemon.clients():
        pass
    with Control(daemon.path) as again:
        assert again.call("echo", a=1) == {"a": 1}


def test_running_out_of_descriptors_does_not_spin(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    daemon = start()

    class Full:
        calls = 0

        def accept(self) -> Any:
            self.calls += 1
            raise OSError(24, "Too many open files")

        def fileno(self) -> int:
            return listening.fileno()

        def close(self) -> None:
            listening.close()

    listening = daemon.server._socket
    assert listening is not None
    full = Full()

    async def swap(item: Any) -> None:
        daemon.server._socket = item

    daemon.run(swap(full))
    client = Control(daemon.path)
    daemon.run(asyncio.sleep(0.05))
    assert full.calls == 1
    daemon.run(swap(listening))

    async def listen() -> None:
        daemon.loop.add_reader(listening, daemon.server._accept)

    daemon.run(listen())
    with client:
        assert client.call("echo", a=1) == {"a": 1}


def test_closing_ends_what_runs(tmp_path: Path) -> None:
    daemon = Daemon(tmp_path / "control.sock")
    daemon.run(daemon.server.start())
    with Control(daemon.path) as client:
        answers = client.stream("forever")
        next(answers)
        daemon.stop()
        assert daemon.handler.cancelled.is_set()
        with pytest.raises(UnreachableError, match="ended the connection"):
            list(answers)


def test_the_peer_is_named_by_the_kernel() -> None:
    """What the server relies on: the credentials of a peer cannot be made up."""
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with one, other:
        pid, user, group = struct.unpack("iII", one.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    assert (pid, user, group) == (os.getpid(), os.geteuid(), os.getegid())
    assert fcntl.F_SEAL_WRITE
