"""The index worker: owns the sink, gathers waiting writes into one transaction, answers searches beside them.

Settings (`Start.settings`): `sink` (name), `directory`, `fingerprint` (of `types.Fingerprint`), `options` (the sink's
own table of the configuration), `readonly`.

Three roles, one thread each or more: the main thread receives frames, one thread writes, two search. So a search is
answered while a long write is on its way. A comparison with the journal has a thread of its own while it lasts.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import math
import os
import queue
import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from ingestd import plugins
from ingestd.channel import Channel, read_blob, write_blob
from ingestd.comparing import Comparer, StoppedError
from ingestd.errors import ChannelError, ConfigError, IndexUnavailableError, IngestdError
from ingestd.messages import Start, Stop
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
from ingestd.types import Chunk, Fingerprint, Hit, Operation, Query, Rekey, Remove, Replace, Sink, Written
from ingestd.worker import describe, one_line, ready, step

BATCH_OPERATIONS: Final = 64
BATCH_BYTES: Final = 32 << 20
"""A batch takes no further document once it holds this much."""
WAITING_LIMIT: Final = 256
"""Operations received and not begun. Each holds two descriptors at most, of the 1,024 that a process may have."""
BLOB_LIMIT: Final = 1 << 30
HASH_SIZE: Final = 16
REASON_LIMIT: Final = 4096
SEARCHERS: Final = 2

WriteFrame = IndexReplace | IndexRekey | IndexRemove

_chunks = msgspec.msgpack.Decoder(list[Chunk])
_hits = msgspec.msgpack.Decoder(list[Hit])


class Result(NamedTuple):
    """What became of one operation. `broken`: the error is none that the sink told of."""

    written: Written
    broken: bool = False


class BadBlobError(IngestdError):
    """What another worker sent along does not hold together; its document is refused."""


def serve(channel: Channel[Any], start: Start) -> None:
    """The life of the worker. Raises `IngestdError` where the sink cannot be opened."""
    # A search beside a writing thread waits for the interpreter this long, once for each row it is handed.
    sys.setswitchinterval(0.0005)
    sink, dims, called = open_sink(start.settings)
    try:
        with _opening(called):
            documents, chunks = msgspec.convert(sink.count(), tuple[int, int])
        ready(channel, sink=sink.name, documents=documents, chunks=chunks)
        _Desk(channel, sink, dims, Path(start.scratch), called).work()
    finally:
        sink.close()


def open_sink(settings: dict[str, Any]) -> tuple[Sink, int, str]:
    """The configured sink, open, the dimensions of its vectors, and how it is called. Raises `IngestdError`."""
    blocked = settings.get("blocked", ())
    registry = plugins.discover("sinks", block=blocked, trying=lambda name: step(f"importing plugin {name}"))
    sink = registry.sinks.get(settings["sink"])
    if sink is None:
        broken = "".join(f"; plugin {e.plugin} ({e.distribution}) failed: {e.reason}" for e in registry.errors)
        known = ", ".join(sorted(registry.sinks)) or "none"
        raise ConfigError(f"[index] sink = {settings['sink']!r}: there is no such sink (there is: {known}){broken}")
    called = registry.called("sink", sink.name)
    step(f"opening {called}")
    fingerprint = msgspec.convert(settings["fingerprint"], Fingerprint)
    # Not every sink has anything to publish: one index for each state directory is a draft of its own.
    publish = getattr(sink, "publish", None)
    draft = {"draft": True} if publish is not None and (settings["draft"] or settings["publish"]) else {}
    directory = Path(settings["directory"])
    with _opening(called):
        sink.open(directory, fingerprint, settings["options"], readonly=settings["readonly"], **draft)
        if publish is not None and settings["publish"]:
            publish()
    return sink, fingerprint.dims, called


@contextlib.contextmanager
def _opening(called: str) -> Iterator[None]:
    """What a sink does not raise on purpose may pass, like a server that is away."""
    try:
        yield
    except IngestdError:
        raise
    except Exception as error:
        raise IndexUnavailableError(f"{called} cannot be opened: {describe(error)}") from error


@dataclass(slots=True)
class _Waiting:
    """A write as it was received: its bulk is still in the descriptors."""

    frame: WriteFrame
    descriptors: list[int]
    size: int

    def close(self) -> None:
        while self.descriptors:
            os.close(self.descriptors.pop())


class _Desk:
    """Between channel and sink: two queues and the threads that empty them."""

    def __init__(self, channel: Channel[Any], sink: Sink, dims: int, scratch: Path, called: str = "the sink") -> None:
        self._channel = channel
        self._sink = sink
        self._called = called
        self._dims = dims
        self._scratch = scratch
        self._writes: queue.Queue[_Waiting | None] = queue.Queue(WAITING_LIMIT)
        self._searches: queue.Queue[IndexSearch | IndexRead | None] = queue.Queue(WAITING_LIMIT)
        self._sending = threading.Lock()
        self._gone = threading.Event()
        """The other side is gone: what is queued is thrown away, what is being written is finished."""
        self._comparing: threading.Thread | None = None
        self._unwanted = threading.Event()
        """Nobody waits for the comparison any more."""

    def work(self) -> None:
        """Until `Stop` (everything received is answered first) or until the other side is gone."""
        roles = [(self._write, "index-write"), *((self._search, f"index-search-{n}") for n in range(SEARCHERS))]
        threads = [threading.Thread(target=_or_die, args=(role,), name=name) for role, name in roles]
        for thread in threads:
            thread.start()
        try:
            self._receive()
        except BaseException:
            self._gone.set()
            raise
        finally:
            self._writes.put(None)
            for _ in range(SEARCHERS):
                self._searches.put(None)
            self._end_comparison()
            for thread in threads:
                thread.join()

    def _receive(self) -> None:
        while True:
            try:
                frame, descriptors = self._channel.receive()
            except EOFError:
                self._gone.set()
                return
            if isinstance(frame, IndexReplace | IndexRekey | IndexRemove):
                size = sum(os.fstat(descriptor).st_size for descriptor in descriptors)
                self._writes.put(_Waiting(frame, descriptors, size))
                continue
            for descriptor in descriptors:
                os.close(descriptor)
            if isinstance(frame, Stop):
                return
            if isinstance(frame, IndexCompare):
                self._end_comparison()  # whoever asked for it is gone
                self._comparing = threading.Thread(target=self._compare, args=(frame,), name="index-compare")
                self._comparing.start()
                continue
            if not isinstance(frame, IndexSearch | IndexRead):
                raise ChannelError(f"the index worker was sent a {type(frame).__name__} frame")
            self._searches.put(frame)

    def _send(self, frame: msgspec.Struct, descriptors: Sequence[int] = ()) -> None:
        try:
            with self._sending:
                self._channel.send(frame, descriptors)
        except OSError:
            self._gone.set()

    # --- writing ----------------------------------------------------------------------------------------------

    def _write(self) -> None:
        while batch := self._gather():
            self._carry_out(batch)

    def _gather(self) -> list[_Waiting]:
        """Wait for a write and take those that wait behind it, as many as one batch holds; none after the last."""
        batch: list[_Waiting] = []
        size = 0
        while len(batch) < BATCH_OPERATIONS and size < BATCH_BYTES:
            try:
                waiting = self._writes.get(block=not batch)
            except queue.Empty:
                break
            if waiting is None:
                self._writes.put(None)  # for the next call; nothing comes after it
                break
            batch.append(waiting)
            size += waiting.size
        return batch

    def _carry_out(self, batch: list[_Waiting]) -> None:
        """One call of the sink; an answer for each operation, in the order in which they came."""
        if self._gone.is_set():
            for waiting in batch:
                waiting.close()
            return
        taken: list[Operation | Result] = [self._operation(waiting) for waiting in batch]
        operations = [item for item in taken if not isinstance(item, Result)]
        try:
            results = iter(self._store(operations) if operations else ())
        except IngestdError as error:  # it is the store that fails, whatever it was given
            reason = _reason(error)
            for waiting in batch:
                self._send(IndexUnavailable(job=waiting.frame.job, reason=reason))
            return
        for waiting, item in zip(batch, taken, strict=True):
            written, broken = item if isinstance(item, Result) else next(results)
            self._send(
                IndexWritten(
                    job=waiting.frame.job, chunks=written.chunks, missing=written.missing, error=_cut(written.error),
                    broken=broken,
                )
            )  # fmt: skip

    def _operation(self, waiting: _Waiting) -> Operation | Result:
        try:
            match waiting.frame:
                case IndexReplace(document=document):
                    return Replace(document, *_bulk(waiting.descriptors, self._dims))
                case IndexRekey(origin=origin, document=document):
                    return Rekey(origin, document)
                case IndexRemove(doc_id=doc_id):
                    return Remove(doc_id)
        except (IngestdError, OSError) as error:
            return Result(Written(error=_reason(error)))
        finally:
            waiting.close()

    def _store(self, operations: list[Operation]) -> list[Result]:
        """A document that breaks the sink is found by writing each alone; the others do not suffer."""
        try:
            return [Result(written) for written in _checked(self._sink.write(operations), len(operations))]
        except IngestdError:
            raise
        except Exception as error:
            if len(operations) == 1:
                traceback.print_exc()
                return [Result(Written(error=f"{self._called} failed: {describe(error)}"), broken=True)]
            return [result for operation in operations for result in self._store([operation])]

    # --- searching --------------------------------------------------------------------------------------------

    def _search(self) -> None:
        while (frame := self._searches.get()) is not None:
            if self._gone.is_set():
                continue
            if isinstance(frame, IndexRead):
                self._read(frame)
                continue
            fields = msgspec.structs.asdict(frame)
            query = Query(**{name: fields[name] for name in Query.__struct_fields__})
            try:
                blob = write_blob([_packed(self._sink.search(query), frame.top)], self._scratch)
            except IngestdError as error:
                self._send(IndexHits(job=frame.job, error=_reason(error)))
                continue
            except Exception as error:
                traceback.print_exc()
                self._send(IndexHits(job=frame.job, error=f"{self._called} failed: {describe(error)}"))
                continue
            try:
                self._send(IndexHits(job=frame.job), [blob])
            finally:
                os.close(blob)

    def _read(self, frame: IndexRead) -> None:
        blobs: list[int] = []
        try:
            told = IndexDocument(job=frame.job)
            for found in self._sink.read([frame.doc_id]):
                packed = msgspec.msgpack.encode(found.chunks)
                texts = msgspec.msgpack.encode([chunk.text for chunk in _chunks.decode(packed)])
                hashes = hashlib.blake2b(b"".join(chunk.hash for chunk in found.chunks)).digest()
                told = IndexDocument(
                    job=frame.job, document=found.document, chunks=len(found.chunks), hashes=hashes
                )  # fmt: skip
                blobs += [write_blob([packed], self._scratch), write_blob([texts], self._scratch)]
            self._send(told, blobs)
        except Exception as error:
            if not isinstance(error, IngestdError):
                traceback.print_exc()
            self._send(IndexDocument(job=frame.job, error=_reason(error)))
        finally:
            for blob in blobs:
                os.close(blob)

    # --- comparing --------------------------------------------------------------------------------------------

    def _end_comparison(self) -> None:
        if self._comparing is not None:
            self._unwanted.set()
            self._comparing.join()
            self._unwanted.clear()
            self._comparing = None

    def _compare(self, frame: IndexCompare) -> None:
        def tell(done: int, total: int) -> None:
            if self._unwanted.is_set() or self._gone.is_set():
                raise StoppedError
            self._send(IndexComparing(done=done, total=total))

        try:
            comparer = Comparer(
                self._sink, Path(frame.journal), self._scratch, deep=frame.deep, repair=frame.repair, tell=tell
            )
            found = comparer.compare()
            blob = write_blob([msgspec.msgpack.encode(found.findings)], self._scratch)
        except StoppedError:
            return
        except Exception as error:
            if not isinstance(error, IngestdError):
                traceback.print_exc()
            self._send(IndexCompared(job=frame.job, error=_reason(error)))
            return
        problems = {str(problem): number for problem, number in found.problems.items()}
        try:
            self._send(
                IndexCompared(
                    job=frame.job, documents=found.documents, chunks=found.chunks, pending=found.pending,
                    problems=problems,
                ),
                [blob],
            )  # fmt: skip
        finally:
            os.close(blob)


def _or_die(role: Callable[[], None]) -> None:
    """A thread that ends by an error takes the worker with it: nobody would answer in its place."""
    try:
        role()
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)


def _checked(results: Any, number: int) -> list[Written]:
    """What `Sink.write` returned, if it is what it should be. Raises `TypeError`, `ValueError`."""
    if not isinstance(results, Sequence):
        raise TypeError(f"write returned a {type(results).__name__}, not a list of Written")
    if len(results) != number:
        raise ValueError(f"write returned {len(results)} results for {number} operations")
    for written in results:
        if not isinstance(written, Written):
            raise TypeError(f"write returned a {type(written).__name__}, not a Written")
        kinds = type(written.chunks), type(written.missing), type(written.error)
        if kinds[:2] != (int, int) or kinds[2] not in (str, type(None)) or min(written.chunks, written.missing) < 0:
            raise ValueError(f"write returned {one_line(repr(written), 200)}")
    return list(results)


def _packed(hits: Any, top: int) -> bytes:
    """What `Sink.search` returned, for the supervisor. Raises `TypeError`, `ValueError` for nonsense."""
    if not isinstance(hits, Iterable):
        raise TypeError(f"search returned a {type(hits).__name__}, not a list of Hit")
    packed = msgspec.msgpack.encode(list(itertools.islice(hits, top)))
    for hit in _hits.decode(packed):
        if not math.isfinite(hit.score):
            raise ValueError(f"search returned a hit with the score {hit.score}")
    return packed


def _bulk(descriptors: list[int], dims: int) -> tuple[list[Chunk], bytes]:
    """Chunks and vectors of one document, checked. Takes the descriptors. Raises `BadBlobError`."""
    if not 1 <= len(descriptors) <= 2:
        raise BadBlobError(f"a document came with {len(descriptors)} blobs instead of one or two")
    try:
        data = read_blob(descriptors.pop(0), BLOB_LIMIT)
        chunks = _chunks.decode(data)
        vectors = read_blob(descriptors.pop(0), BLOB_LIMIT * 4) if descriptors else b""
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ChannelError) as error:
        raise BadBlobError(f"the chunks of a document cannot be read: {describe(error)}") from None
    fresh = 0
    for ordinal, chunk in enumerate(chunks):
        if chunk.ordinal != ordinal:
            raise BadBlobError(f"chunk {ordinal} of a document says that it is chunk {chunk.ordinal}")
        if len(chunk.hash) != HASH_SIZE:
            raise BadBlobError(f"chunk {ordinal} of a document has a hash of {len(chunk.hash)} bytes")
        if chunk.tokens < 0 or (chunk.page is not None and chunk.page < 0):
            raise BadBlobError(f"chunk {ordinal} of a document has {chunk.tokens} tokens on page {chunk.page}")
        fresh += chunk.fresh
    if len(vectors) != fresh * dims * 4:
        raise BadBlobError(f"{len(vectors)} bytes of vectors for {fresh} fresh chunks of {dims} dimensions")
    return chunks, vectors


def _reason(error: BaseException) -> str:
    command = getattr(error, "command", None)
    return describe(error) + (f"; next: {command}" if command else "")


def _cut(reason: str | None) -> str | None:
    return None if reason is None else reason[:REASON_LIMIT]
