"""The index worker over a real channel, with the embedded store behind it."""

from __future__ import annotations

import os
import random
import resource
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apsw
import msgspec
import pytest

from ingestd import channel, index
from ingestd.channel import Channel, read_blob, write_blob
from ingestd.errors import ChannelError, ConfigError, IndexMismatchError
from ingestd.messages import Ready, Start, Stop
from ingestd.messages.index import (
    IndexHits,
    IndexRekey,
    IndexRemove,
    IndexReplace,
    IndexSearch,
    IndexUnavailable,
    IndexWritten,
)
from ingestd.messages.stages import FROM_WORKER, TO_WORKER
from ingestd.messages.watch import Rescan
from ingestd.testing import sink_cases
from ingestd.testing.sink_cases import DIMS, FINGERPRINT, document, replace
from ingestd.types import Hit, Replace
from ingestd_plugins import sqlite, sqlite_file, sqlite_write, terms

_NOTHING = sink_cases.vector("nothing like it")


class Desk:
    """The supervisor's side of one index worker, which runs in a thread."""

    def __init__(self, directory: Path, **settings: Any) -> None:
        self.directory = directory
        ours, theirs = channel.pair()
        self.channel: Channel[Any] = Channel(ours, FROM_WORKER["index"])
        self._theirs: Channel[Any] = Channel(theirs, TO_WORKER)
        self.error: BaseException | None = None
        self._start = Start(
            stage="index",
            version="0",
            sys_path=[],
            scratch=str(directory),
            settings={
                "sink": "sqlite", "directory": str(directory / "index"), "options": {}, "readonly": False,
                "fingerprint": msgspec.to_builtins(FINGERPRINT), **settings,
            },
        )  # fmt: skip
        self.thread = threading.Thread(target=self._serve)
        self.thread.start()

    def _serve(self) -> None:
        try:
            index.serve(self._theirs, self._start)
        except BaseException as error:
            self.error = error
        finally:
            self._theirs.close()

    def receive(self) -> Any:
        frame, descriptors = self.channel.receive()
        self.blobs = [read_blob(descriptor) for descriptor in descriptors]
        return frame

    def replace(self, job: int, operation: Replace) -> None:
        self.send_blobs(job, operation, msgspec.msgpack.encode(operation.chunks), operation.vectors)

    def send_blobs(self, job: int, operation: Replace, *blobs: bytes) -> None:
        descriptors = [write_blob([blob], self.directory) for blob in blobs if blob]
        self.channel.send(IndexReplace(job=job, document=operation.document), descriptors)
        for descriptor in descriptors:
            os.close(descriptor)

    def search(self, job: int, text: str, vector: bytes = _NOTHING, **fields: Any) -> list[Hit]:
        self.channel.send(IndexSearch(job=job, text=text, vector=vector, top=10, **fields))
        assert self.receive() == IndexHits(job=job)
        return msgspec.msgpack.decode(self.blobs[0], type=list[Hit])

    def stop(self) -> None:
        self.channel.send(Stop())
        self.join()

    def join(self) -> None:
        self.thread.join(30)
        assert not self.thread.is_alive()
        self.channel.close()


@pytest.fixture(autouse=True)
def interpreter() -> Iterator[None]:
    interval = sys.getswitchinterval()
    yield
    sys.setswitchinterval(interval)


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path)
    assert isinstance(made.receive(), Ready)
    yield made
    if made.thread.is_alive():
        made.stop()
    assert made.error is None


@pytest.fixture
def writes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many operations each call of the sink had."""
    sizes: list[int] = []
    write = sqlite.SqliteSink.write

    def counted(self: sqlite.SqliteSink, operations: Any) -> Any:
        sizes.append(len(operations))
        return write(self, operations)

    monkeypatch.setattr(sqlite.SqliteSink, "write", counted)
    return sizes


class Lock:
    """Holds the writers of an index back, as another process would."""

    def __init__(self, desk: Desk) -> None:
        self._connection = apsw.Connection(str(desk.directory / "index" / sqlite_file.FILE))

    def __enter__(self) -> None:
        self._connection.execute("BEGIN IMMEDIATE")

    def __exit__(self, *_: object) -> None:
        self._connection.execute("ROLLBACK")
        self._connection.close()


def test_life(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    assert desk.receive().info == {"sink": "sqlite", "documents": 0, "chunks": 0}
    one = replace("one.txt", ["alpha", "beta"])
    desk.replace(1, one)
    assert desk.receive() == IndexWritten(job=1, chunks=2)
    desk.channel.send(IndexRekey(job=2, origin=one.document.doc_id, document=document("two.txt")))
    assert desk.receive() == IndexWritten(job=2, chunks=2)
    desk.channel.send(IndexRemove(job=3, doc_id=one.document.doc_id))
    assert desk.receive() == IndexWritten(job=3)
    desk.replace(4, replace("new.txt", ["gamma"], known=["gamma"]))
    assert desk.receive() == IndexWritten(job=4, missing=1)
    (hit,) = desk.search(5, "alpha", b"")
    assert (hit.text, hit.path, hit.doc_id) == ("alpha", b"/srv/notes/two.txt", document("two.txt").doc_id)
    desk.stop()
    assert desk.error is None

    again = Desk(tmp_path)
    assert again.receive().info == {"sink": "sqlite", "documents": 1, "chunks": 2}
    again.stop()


def test_a_search_carries_its_filters(desk: Desk) -> None:
    for job, source in enumerate(("a", "b")):
        desk.replace(job, replace("x.txt", ["alpha"], source=source))
        desk.receive()
    assert [hit.source for hit in desk.search(1, "alpha", source="b")] == ["b"]
    assert [hit.source for hit in desk.search(1, "alpha", path="/srv/a/*")] == ["a"]


def test_waiting_writes_share_a_transaction_and_are_answered_in_order(desk: Desk, writes: list[int]) -> None:
    with Lock(desk):
        for job in range(150):
            desk.replace(job, replace(f"{job}.txt", [f"text {job}"]))
        desk.channel.send(IndexRemove(job=150, doc_id=document("0.txt").doc_id))
    answers = [desk.receive() for _ in range(151)]
    assert answers == [IndexWritten(job=job, chunks=1) for job in range(150)] + [IndexWritten(job=150)]
    assert max(writes) <= index.BATCH_OPERATIONS
    assert len(writes) <= 15  # on a busy machine they do not all wait at once


def test_a_batch_is_bounded_in_bytes(desk: Desk, writes: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "BATCH_BYTES", 10_000)
    with Lock(desk):
        for job in range(12):
            desk.replace(job, replace(f"{job}.txt", ["x" * 4_000]))
    assert [desk.receive().job for _ in range(12)] == list(range(12))
    assert max(writes) == 3


def test_a_search_is_answered_while_a_write_waits(desk: Desk) -> None:
    desk.replace(1, replace("a.txt", ["alpha"]))
    desk.receive()
    with Lock(desk):
        desk.replace(2, replace("b.txt", ["beta"]))
        for job in range(3, 8):
            assert [hit.text for hit in desk.search(job, "alpha")] == ["alpha"]
    assert desk.receive() == IndexWritten(job=2, chunks=1)


def _encoded(**changes: Any) -> bytes:
    chunk = msgspec.structs.replace(sink_cases.chunks(["beta"])[0], **changes)
    return msgspec.msgpack.encode([chunk])


@pytest.mark.parametrize(
    "blobs",
    [
        [],
        [_encoded()],
        [_encoded(), b"abc"],
        [_encoded(), bytes(4 * DIMS + 4)],
        [_encoded(fresh=False), bytes(4 * DIMS)],
        [_encoded(), bytes(4 * DIMS), b"third"],
        [_encoded(hash=b"short"), bytes(4 * DIMS)],
        [_encoded(ordinal=1), bytes(4 * DIMS)],
        [_encoded(ordinal=-1), bytes(4 * DIMS)],
        [_encoded(tokens=-1), bytes(4 * DIMS)],
        [_encoded(page=-1), bytes(4 * DIMS)],
        [_encoded() + b"\0", bytes(4 * DIMS)],
        [_encoded()[:-1], bytes(4 * DIMS)],
        [b"\xc1", bytes(4 * DIMS)],
        [b"\x91" * 100_000],
        [msgspec.msgpack.encode({"chunks": []})],
        [msgspec.msgpack.encode([[b"h" * 16, "text", "0", 1, True]]), bytes(4 * DIMS)],
        [_encoded().replace(b"beta", b"\xff\xfe\xfd\xfc"), bytes(4 * DIMS)],
        [_encoded(), b"\xff" * (4 * DIMS)],
        [random.Random(1).randbytes(5000)],
    ],
)
def test_blobs_that_do_not_hold_together_cost_their_document_only(desk: Desk, blobs: list[bytes]) -> None:
    with Lock(desk):
        desk.replace(1, replace("a.txt", ["alpha"]))
        desk.send_blobs(2, replace("b.txt", ["beta"]), *blobs)
        desk.replace(3, replace("c.txt", ["gamma"]))
    assert desk.receive() == IndexWritten(job=1, chunks=1)
    refused = desk.receive()
    assert (refused.job, refused.chunks, refused.missing) == (2, 0, 0)
    assert refused.error
    assert desk.receive() == IndexWritten(job=3, chunks=1)


def test_a_document_that_breaks_the_sink_is_found_among_others(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(text: str) -> str:
        if "poison" in text:
            raise ZeroDivisionError("deep inside")
        return terms.prepare(text)

    monkeypatch.setattr(sqlite_write, "prepare", breaks)
    with Lock(desk):
        for job, text in enumerate(["alpha", "poison", "beta"]):
            desk.replace(job, replace(f"{job}.txt", [text]))
    assert desk.receive() == IndexWritten(job=0, chunks=1)
    answer = desk.receive()
    assert "ZeroDivisionError: deep inside" in answer.error
    assert desk.receive() == IndexWritten(job=2, chunks=1)
    assert {hit.text for hit in desk.search(3, "alpha beta poison")} == {"alpha", "beta"}


def test_a_store_that_is_away_refuses_the_whole_batch_and_comes_back(desk: Desk) -> None:
    operations = [replace(f"{n}.txt", [f"{n} {k} " + "x" * 5_000 for k in range(40)]) for n in range(3)]
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        with Lock(desk):
            for job, operation in enumerate(operations):
                desk.replace(job, operation)
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
        answers = [desk.receive() for _ in operations]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, previous)
    assert all(isinstance(answer, IndexUnavailable) for answer in answers)
    assert [answer.job for answer in answers] == [0, 1, 2]
    assert "cannot write the index" in answers[0].reason
    assert desk.search(9, "x") == []
    for job, operation in enumerate(operations):
        desk.replace(job, operation)
    assert [desk.receive() for _ in operations] == [IndexWritten(job=job, chunks=40) for job in range(3)]


def test_a_question_that_cannot_be_answered(desk: Desk) -> None:
    desk.channel.send(IndexSearch(job=1, text="x", vector=b"1234", top=5))
    answer = desk.receive()
    assert answer.job == 1
    assert "dimensions" in answer.error


def test_stop_answers_what_was_received(desk: Desk) -> None:
    with Lock(desk):
        for job in range(100):
            desk.replace(job, replace(f"{job}.txt", [f"text {job}"]))
        desk.channel.send(Stop())
    assert [desk.receive().job for _ in range(100)] == list(range(100))
    with pytest.raises(EOFError):
        desk.receive()
    desk.join()


def test_the_worker_ends_with_its_supervisor_and_leaves_nothing_open(tmp_path: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    desk = Desk(tmp_path)
    desk.receive()
    desk.replace(1, replace("a.txt", ["alpha"]))
    assert desk.receive() == IndexWritten(job=1, chunks=1)
    with Lock(desk):
        for job in range(200):
            desk.replace(job, replace(f"{job}.txt", [f"text {job}"]))
        desk.channel.send(IndexSearch(job=7, text="alpha", vector=b"", top=5))
        desk.channel.close()
    desk.join()
    assert desk.error is None
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_what_prevents_opening_is_raised(tmp_path: Path) -> None:
    for settings, error, text in (
        ({"sink": "qdrant"}, ConfigError, "'qdrant'.*sqlite"),
        ({"options": {"shards": 2}}, ConfigError, "shards"),
    ):
        desk = Desk(tmp_path, **settings)
        with pytest.raises(EOFError):
            desk.receive()
        desk.join()
        with pytest.raises(error, match=text):
            raise desk.error or AssertionError
    Desk(tmp_path).stop()
    other = msgspec.structs.replace(FINGERPRINT, dims=32)
    desk = Desk(tmp_path, fingerprint=msgspec.to_builtins(other))
    desk.join()
    assert isinstance(desk.error, IndexMismatchError)


def test_a_frame_of_another_stage_is_an_error(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    desk.receive()
    desk.channel.send(Rescan(job=1))
    desk.join()
    assert isinstance(desk.error, ChannelError)
