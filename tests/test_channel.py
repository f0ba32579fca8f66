"""The channel: every frame there and back, bad ones refused, descriptors neither lost nor leaked."""

from __future__ import annotations

import asyncio
import fcntl
import os
import random
import socket
import tempfile
from collections.abc import Iterator
from functools import reduce
from operator import or_
from pathlib import Path
from typing import Any

import pytest

from ingestd import channel
from ingestd.async_channel import AsyncChannel
from ingestd.channel import Channel, read_blob, write_blob
from ingestd.errors import ChannelError
from ingestd.messages import Frame, Ready, Start, StartFailed, Stop
from ingestd.messages.encode import (
    Encode,
    Encoded,
    EncodeFailed,
    EncodeQuery,
    EncoderLoad,
    QueryVector,
    Tokenize,
    Tokenized,
)
from ingestd.messages.index import (
    IndexCompare,
    IndexCompared,
    IndexComparing,
    IndexDocument,
    IndexHits,
    IndexRead,
    IndexRekey,
    IndexRemove,
    IndexReplace,
    IndexSearch,
    IndexUnavailable,
    IndexWritten,
)
from ingestd.messages.load import Drop, Identified, Load, Loaded, LoadFailed, Parts, PartsTaken, Proceed, Stat
from ingestd.messages.probe import Manifest, PluginError, PluginItem
from ingestd.messages.stages import FROM_WORKER, TO_WORKER
from ingestd.messages.watch import (
    Change,
    Changes,
    ChangesTaken,
    Rescan,
    Scanned,
    Settling,
    Unwatch,
    WatchSource,
    WatchWarning,
)
from ingestd.types import Document

STAT = Stat(1, 2, 3, -4, 5)
DOCUMENT = Document(doc_id="ab", source="docs", path=b"/d/\xff.md", title="T", metadata={"a": [1, None, {"b": 2.5}]})
EXAMPLES: list[tuple[Frame, int]] = [
    (Start(stage="load", version="1", sys_path=["/x"], scratch="/s", settings={"memory": 1 << 31}), 0),
    (Ready(version="1", info={"dims": 384, "fingerprint": {"model": "m"}}), 0),
    (StartFailed(reason="no model", fatal=True, command="ingestd check-config"), 0),
    (Stop(), 0),
    (Load(job=1, path=b"/d/\xff\x00\n.md", scratch="/s/1"), 0),
    (Identified(job=1, stat=STAT, digest=b"d" * 16, media_type="text/plain", loader=None), 0),
    (Proceed(job=1, limits={"max_text": 5, "on_limit": "truncate"}, options={"x": True}), 1),
    (Drop(job=1), 0),
    (Parts(job=1), 2),
    (PartsTaken(job=1, room=1 << 30), 0),
    (Loaded(job=1, chunks=2, fresh=1, tokens=9, size=99, title="标题", warnings=["w"], metadata={"k": 1}), 3),
    (LoadFailed(job=1, kind="error", reason="r", detail="d", leave=True), 0),
    (Encode(job=2, start=1, stop=3), 1),
    (Encoded(job=2, texts=2, tokens=10, seconds=0.5), 1),
    (EncodeFailed(job=2, reason="r"), 0),
    (EncodeQuery(job=3, text="where is 北京?"), 0),
    (QueryVector(job=3, vector=bytes(range(256))), 0),
    (Tokenize(job=3, query=True), 1),
    (Tokenized(job=3, texts=2, tokens=9), 1),
    (EncoderLoad(tokens=1000, busy=0.9, idle={"input": 0.1}), 0),
    (IndexReplace(job=4, document=DOCUMENT), 2),
    (IndexRekey(job=4, origin="ab", document=DOCUMENT), 0),
    (IndexRemove(job=4, doc_id="ab"), 0),
    (IndexWritten(job=4, chunks=3, missing=1, error="e"), 0),
    (IndexUnavailable(job=4, reason="disk full"), 0),
    (IndexSearch(job=5, text="q", vector=b"\0" * 16, top=3, source="docs", path="*.md"), 0),
    (IndexHits(job=5), 1),
    (IndexRead(job=5, doc_id="0" * 32), 0),
    (IndexDocument(job=5, chunks=2, hashes=b"h" * 64), 2),
    (IndexCompare(job=5, journal="/s/journal.sqlite", deep=True, repair=True), 0),
    (IndexComparing(done=1, total=2), 0),
    (IndexCompared(job=5, documents=3, chunks=9, pending=1, problems={"stale": 1}, error="e"), 1),
    (WatchSource(job=6, source="docs", root=b"/d", below=[b"x"], include=["*.md"], once=True), 0),
    (Unwatch(job=6), 0),
    (Rescan(job=6), 0),
    (
        Changes(
            job=6,
            serial=1,
            changes=[Change(b"\xff", STAT, restless=1.5), Change(b"b", None, False, True)],
        ),
        0,
    ),
    (ChangesTaken(job=6, serial=1), 0),
    (Scanned(job=6, files=3, unchanged=2, settling=1, watching=True, mode="inotify", done={"indexed": 2}), 0),
    (Settling(job=6, count=4), 0),
    (WatchWarning(job=6, reason="overflow"), 0),
    (
        Manifest(
            items=[PluginItem("loader", "text", "1", [".txt"], ["text/plain"], True, "ingestd 1")],
            errors=[PluginError("bad", "bad 2", "ImportError: no")],
        ),
        0,
    ),
]
"""A frame of each kind, and how many descriptors travel with it."""

ANY = reduce(or_, (type(frame) for frame, _ in EXAMPLES[1:]), type(EXAMPLES[0][0]))


def descriptors() -> set[int]:
    found = set()
    for name in os.listdir("/proc/self/fd"):
        try:
            os.fstat(int(name))
        except OSError:
            continue
        found.add(int(name))
    return found


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, Channel[Any]]]:
    ours, theirs = channel.pair()
    receiver: Channel[Any] = Channel(theirs, ANY)
    yield ours, receiver
    ours.close()
    receiver.close()


def test_every_frame_has_an_example() -> None:
    assert set(Frame.__subclasses__()) == {type(frame) for frame, _ in EXAMPLES}


def test_every_frame_has_a_direction() -> None:
    """A frame that no union names could be sent but never received."""
    unions = [TO_WORKER, *FROM_WORKER.values()]
    assert {kind for union in unions for kind in union.__args__} == {type(frame) for frame, _ in EXAMPLES}


@pytest.mark.parametrize(("frame", "count"), EXAMPLES, ids=lambda value: type(value).__name__)
def test_round_trip(ends: tuple[socket.socket, Channel[Any]], frame: Frame, count: int) -> None:
    ours, receiver = ends
    sender: Channel[Any] = Channel(ours, ANY)
    before = descriptors()
    with tempfile.TemporaryDirectory() as scratch:
        sent = [write_blob([b"blob %d" % number], Path(scratch)) for number in range(count)]
        sender.send(frame, sent)
        for descriptor in sent:
            os.close(descriptor)
    received, came = receiver.receive()
    assert received == frame
    assert [read_blob(descriptor) for descriptor in came] == [b"blob %d" % number for number in range(count)]
    assert descriptors() == before


@pytest.mark.parametrize(
    "packet",
    [
        b"\xc1\xff garbage",
        b"\x81\xa4type\xa4None",  # no such frame
        b"\x81\xa4type\xa4Load",  # its fields are missing
        b"\x84\xa4type\xa4Load\xa3job\xa1x\xa4path\xc4\x01x\xa7scratch\xa1x",  # a field of the wrong type
        b"\xdb\xff\xff\xff\xfb text",  # a length that no memory holds
        b"\x91" * 5000,  # nested too deep
        b"\x82\xa4type\xa5Ready\xa7version\xa2\xff\xfe",  # text that is not UTF-8
    ],
)
def test_a_bad_frame_is_refused(ends: tuple[socket.socket, Channel[Any]], packet: bytes) -> None:
    ours, receiver = ends
    before = descriptors()
    socket.send_fds(ours, [packet], [0])
    with pytest.raises(ChannelError, match="bad frame"):
        receiver.receive()
    assert descriptors() == before


def test_every_truncation_is_refused(ends: tuple[socket.socket, Channel[Any]]) -> None:
    ours, receiver = ends
    for frame, _ in EXAMPLES:
        data = channel.encode(frame)
        for length in range(1, len(data), 7):
            ours.send(data[:length])
            with pytest.raises(ChannelError):
                receiver.receive()


def test_random_bytes_never_raise_anything_else(ends: tuple[socket.socket, Channel[Any]]) -> None:
    ours, receiver = ends
    rng = random.Random(4)
    whole = [channel.encode(frame) for frame, _ in EXAMPLES]
    for _ in range(3000):
        data = bytearray(rng.choice(whole))
        for _ in range(rng.randint(1, 4)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        ours.send(data)
        try:
            receiver.receive()
        except ChannelError:
            continue


def test_an_oversized_frame_is_refused_on_both_sides(ends: tuple[socket.socket, Channel[Any]]) -> None:
    ours, receiver = ends
    sender: Channel[Any] = Channel(ours, ANY)
    with pytest.raises(ChannelError, match=r"a EncodeQuery frame of \d+ bytes is longer than 65536"):
        sender.send(EncodeQuery(job=1, text="x" * 70_000))
    ours.send(channel.encode(Stop()).ljust(70_000, b"x"))
    with pytest.raises(ChannelError, match="longer than"):
        receiver.receive()
    ours.send(channel.encode(Stop()))  # the next one is not affected
    assert receiver.receive()[0] == Stop()


@pytest.mark.parametrize("count", [channel.DESCRIPTOR_LIMIT, channel.DESCRIPTOR_LIMIT + 1, 60])
def test_too_many_descriptors_are_closed(ends: tuple[socket.socket, Channel[Any]], count: int) -> None:
    ours, receiver = ends
    before = descriptors()
    socket.send_fds(ours, [channel.encode(Stop())], [0] * count)
    if count > channel.DESCRIPTOR_LIMIT:
        with pytest.raises(ChannelError, match="more than"):
            receiver.receive()
    else:
        for descriptor in receiver.receive()[1]:
            assert not os.get_inheritable(descriptor)
            os.close(descriptor)
    assert descriptors() == before


def test_the_end_is_seen(ends: tuple[socket.socket, Channel[Any]]) -> None:
    ours, receiver = ends
    ours.send(channel.encode(Stop()))
    ours.close()
    assert receiver.receive()[0] == Stop()
    with pytest.raises(EOFError):
        receiver.receive()


# --- blobs ----------------------------------------------------------------------------------------------------


def test_a_small_blob_is_sealed(tmp_path: Path) -> None:
    descriptor = write_blob([b"one ", memoryview(b"two")], tmp_path)
    wanted = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL
    assert fcntl.fcntl(descriptor, fcntl.F_GET_SEALS) == wanted
    with pytest.raises(PermissionError):
        os.pwrite(descriptor, b"x", 0)
    assert not os.get_inheritable(descriptor)
    assert read_blob(descriptor) == b"one two"
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


def test_a_large_blob_is_an_unlinked_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel, "MEMORY_BLOB_LIMIT", 1000)
    descriptor = write_blob([b"x" * 600, b"y" * 600], tmp_path)
    assert os.fstat(descriptor).st_nlink == 0
    assert os.fstat(descriptor).st_dev == tmp_path.stat().st_dev
    assert not list(tmp_path.iterdir())
    assert read_blob(descriptor) == b"x" * 600 + b"y" * 600


def test_a_blob_over_the_limit_is_refused(tmp_path: Path) -> None:
    before = descriptors()
    with pytest.raises(ChannelError, match="10 bytes is longer than 9"):
        read_blob(write_blob([b"x" * 10], tmp_path), 9)
    assert read_blob(write_blob([], tmp_path)) == b""
    assert descriptors() == before


def test_a_blob_that_cannot_be_written_leaks_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = descriptors()

    def full(descriptor: int, data: Any) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="No space left"):
        write_blob([b"x"], tmp_path)
    monkeypatch.undo()
    assert descriptors() == before


# --- the supervisor's end -------------------------------------------------------------------------------------


def test_backpressure_keeps_the_order() -> None:
    """Far more than the socket holds, from many tasks, to a reader that begins late."""
    count = 3000

    async def run() -> list[int]:
        ours, theirs = channel.pair()
        sender: AsyncChannel[Any] = AsyncChannel(ours, ANY)
        tasks = [asyncio.create_task(sender.send(Load(job=n, path=b"x" * 500, scratch=""))) for n in range(count)]
        await asyncio.sleep(0.05)
        assert not all(task.done() for task in tasks), "the socket held everything: nothing was tested"
        receiver: Channel[Any] = Channel(theirs, ANY)
        jobs = [(await asyncio.to_thread(receiver.receive))[0].job for _ in range(count)]
        await asyncio.gather(*tasks)
        sender.close()
        receiver.close()
        return jobs

    assert asyncio.run(run()) == list(range(count))


def test_a_send_that_waits_ends_with_the_other_side() -> None:
    async def run() -> None:
        ours, theirs = channel.pair()
        sender: AsyncChannel[Any] = AsyncChannel(ours, ANY)

        async def flood() -> None:
            while True:
                await sender.send(Load(job=1, path=b"x" * 5000, scratch=""))

        task = asyncio.create_task(flood())
        await asyncio.sleep(0.05)
        assert not task.done()
        theirs.close()
        with pytest.raises(ConnectionError):
            await asyncio.wait_for(task, 5)
        sender.close()
        with pytest.raises(ConnectionError):
            await sender.send(Stop())

    asyncio.run(run())


@pytest.mark.parametrize("bad", [True, False])
def test_listening_ends_once_and_tells_why(bad: bool) -> None:
    async def run() -> None:
        ours, theirs = channel.pair()
        listener: AsyncChannel[Any] = AsyncChannel(ours, ANY)
        frames: list[Any] = []
        ended: asyncio.Future[ChannelError | None] = asyncio.get_running_loop().create_future()
        listener.listen(lambda frame, _: frames.append(frame), ended.set_result)
        for _ in range(100):
            theirs.send(channel.encode(Stop()))
        if bad:
            theirs.send(b"garbage")
        theirs.close()
        error = await asyncio.wait_for(ended, 5)
        assert len(frames) == 100
        assert isinstance(error, ChannelError) if bad else error is None
        listener.close()

    asyncio.run(run())
