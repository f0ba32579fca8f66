"""ingestd from Python: the same pipeline, in a script, a notebook, a thread, or beside a running daemon.

Nothing is started by the import, nor by `Library(...)`, but by the first call that needs it: where a daemon holds the
state directory, it does the work, else workers of this process's own do, which end with it. The caller's signal
handlers, environment, `sys.path`, event loop and start method of multiprocessing are left alone, and no main guard is
needed.
"""

from __future__ import annotations

import asyncio
import atexit
import json
import logging
import os
import threading
import weakref
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from ingestd.errors import AlreadyRunningError, FileError, NotRunningError, UsageError
from ingestd.paths import exists, split_member

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from ingestd.config import Config
    from ingestd.daemon import Daemon

logging.getLogger("ingestd").addHandler(logging.NullHandler())  # what is logged goes where the caller says

PathLike = str | bytes | os.PathLike[str] | os.PathLike[bytes]

ENCODE_CALL = 4096
"""Texts, at the most, that one request to the pipeline holds."""


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one file."""

    path: str
    """Absolute, as `os.fsdecode` gives it."""
    state: str
    """"indexed", "partial" (in part, see `reason`), "failed" (tried again later), "quarantined" or "skipped"."""
    reason: str | None
    chunks: int
    doc_id: str


@dataclass(frozen=True, slots=True)
class Hit:
    """A passage that was found."""

    score: float
    """Of the reciprocal-rank fusion of the searches by meaning and by words: comparable within one answer."""
    path: str
    """Absolute, as `os.fsdecode` gives it."""
    source: str
    page: int | None
    title: str | None
    text: str
    doc_id: str
    chunk_id: str
    ordinal: int
    """Position in the document, from 0."""
    metadata: dict[str, Any] = field(default_factory=dict)
    member: str | None = None
    """Of a part of a file, such as a member of an archive: its name there. `path` ends with `!/` and it."""
    highlights: list[list[int]] = field(default_factory=list)
    """Where words of the question are in `text`: start and end of each, in characters."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """A passage of a document, as it would be indexed."""

    text: str
    ordinal: int
    """Position in the document, from 0."""
    tokens: int
    """That the model sees, its prompt included."""
    page: int | None
    headings: tuple[str, ...]
    """Under which it stands, the outermost first."""
    metadata: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Document:
    """What a loader made of a file."""

    path: str
    """Absolute, as `os.fsdecode` gives it."""
    title: str | None
    media_type: str
    loader: str
    """Its name and version."""
    chunks: tuple[Chunk, ...]
    partial: str | None
    """Why the text ends before the file does, where it does."""
    warnings: tuple[str, ...]
    metadata: dict[str, Any] = field(default_factory=dict)
    parts: tuple[str, ...] = ()
    """Names of the documents in it, such as members of an archive; `load` takes `f"{path}!/{name}"`."""


class Library:
    """The pipeline as an object; a context manager.

    `config`: a configuration file; without one it is looked for as the command line does. `state`: the state directory,
    in place of the configured one. `settings`: keys in place of the configuration's, by table, such as
    `{"encode": {"model": "BAAI/bge-m3"}}`.

    Every method may be called from any thread. Raises `ConfigError`, `UnreachableError` and other `IngestdError`s.
    """

    def __init__(
        self,
        config: str | Path | None = None,
        *,
        state: str | Path | None = None,
        settings: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        from ingestd.config import load

        environ = {**os.environ, **_variables("INGESTD_", settings or {})}
        self._config: Config = load(
            Path(config) if config is not None else None, environ, str(state) if state else None
        )
        self._lock = threading.Lock()
        self._engine: _Engine | None = None
        self._pid = os.getpid()
        self._closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Finish what is in hand and end the workers, if there are any. What was not done is done next time."""
        with self._lock:
            self._closed = True
            engine, self._engine = self._engine, None
        if engine is not None and self._pid == os.getpid():
            engine.close()

    def ingest(self, paths: PathLike | Sequence[PathLike]) -> Iterator[Result]:
        """Put files and folders into the index; yields each file that was worked on, as soon as it is done.

        Unchanged files cost one `stat` and are not yielded. The end of the iteration is the end of the work; to stop
        early loses nothing.
        """
        given = [paths] if isinstance(paths, str | bytes | os.PathLike) else list(paths)
        found = [os.path.abspath(os.fsencode(path)) for path in given]
        for path in found:
            if not exists(path):
                raise UsageError(f"there is no {os.fsdecode(path)}")
        return self._ingest(found)

    def _ingest(self, paths: list[bytes]) -> Iterator[Result]:
        for told in self._stream("ingest", paths=paths, results=True):
            for result in told.get("results", ()):
                yield Result(**{**result, "path": os.fsdecode(result["path"])})

    def search(self, question: str, *, top: int = 10, source: str | None = None, path: str | None = None) -> list[Hit]:
        """Passages, best first. `path`: a shell-style pattern, see `ingestd search --help`."""
        import base64

        found = self._call("search", text=question, top=top, source=source, path=path)["hits"]
        hits = []
        for hit in found:
            exact = hit.pop("path_b64", None)
            if exact is not None:
                hit["path"] = os.fsdecode(base64.b64decode(exact))
            hits.append(Hit(**hit))
        return hits

    def encode(self, texts: Sequence[str], *, query: bool = False) -> npt.NDArray[np.float32]:
        """Vectors, float32 of shape (len(texts), dims), in the order of the texts.

        `query`: as questions, with the model's prompt for them, rather than as passages. A text longer than the model
        takes is cut. An encoder that dies meanwhile is replaced; the caller does not notice.
        """
        import numpy as np

        if isinstance(texts, str):
            raise UsageError("encode takes a sequence of texts, not one text")
        clean = [text.encode("utf-8", "replace").decode() for text in texts]
        parts = []
        for start in range(0, max(1, len(clean)), ENCODE_CALL):
            answer = self._call("encode", texts=clean[start : start + ENCODE_CALL], query=query)
            parts.append(np.frombuffer(answer["vectors"], np.float32).reshape(-1, answer["dims"]))
        return np.concatenate(parts)

    def load(self, path: PathLike, *, loader: str | None = None) -> Document:
        """Read one file as `ingest` would, into chunks, and index nothing; also a part, "archive.zip!/report.pdf".

        `loader`: have this one read it, whatever the file is. Raises `FileError` with the reason where it cannot be
        loaded, whether the file is at fault or its loader; notes of the exception then hold stack and output.
        """
        found = os.path.abspath(os.fsencode(path))
        file, member = split_member(found)
        if not exists(file):
            raise UsageError(f"there is no {os.fsdecode(found)}")
        chunks = []
        told: dict[str, Any] = {}
        for told in self._stream("try", path=file, loader=loader, fresh=False, whole=True, member=member):
            if "state" not in told:
                chunks += [Chunk(**{**chunk, "headings": tuple(chunk["headings"])}) for chunk in told["chunks"]]
        if told["state"] not in ("loaded", "partial"):
            error = FileError(f"{told['path']}: {told['reason']}")
            for note in (told["detail"], told["output"]):
                if note:
                    error.add_note(note)
            raise error
        return Document(
            path=os.fsdecode(found),
            title=told["title"],
            media_type=told["media_type"],
            loader=told["loader"],
            chunks=tuple(chunks),
            partial=told["reason"],
            warnings=tuple(told["warnings"]),
            metadata=told["metadata"],
            parts=tuple(part["name"] for part in told["parts"]),
        )

    def status(self) -> dict[str, Any]:
        """The same as `ingestd status --json`."""
        return self._call("status")

    def verify(self, *, deep: bool = False, repair: bool = False) -> dict[str, Any]:
        """Compare folders, journal and index: the same as `ingestd verify --json`.

        `deep`: each passage's text and vector. `repair`: queue what differs; it is worked on from now on, and the
        iteration of the next `ingest` ends when its share of it is done.
        """
        return self._call("verify", deep=deep, repair=repair)

    # --- the pipeline -----------------------------------------------------------------------------------------

    def _call(self, command: str, **arguments: Any) -> dict[str, Any]:
        *_, result = self._stream(command, **arguments)
        return result

    def _stream(self, command: str, **arguments: Any) -> Iterator[dict[str, Any]]:
        if self._pid != os.getpid():
            raise UsageError("this process was forked: make a Library of its own in it")
        engine = self._own()
        if engine is not None:
            yield from engine.stream(command, arguments)
            return
        from ingestd.control import Control

        with Control(self._config.control_socket, group=self._config.state.control_group) as control:
            yield from control.stream(command, **arguments)

    def _own(self) -> _Engine | None:
        """The pipeline of this process; None where a daemon has the state directory."""
        from ingestd.control import Control

        with self._lock:
            if self._closed:
                raise UsageError("this Library is closed")
            if self._engine is None:
                try:
                    Control(self._config.control_socket, group=self._config.state.control_group).close()
                    return None
                except NotRunningError:
                    pass
                try:
                    self._engine = _Engine(self._config)
                except AlreadyRunningError:
                    return None  # it has just begun
            return self._engine


class AsyncLibrary:
    """`Library` for asynchronous code: the same methods as coroutines, `ingest` as an asynchronous iterator."""

    def __init__(
        self,
        config: str | Path | None = None,
        *,
        state: str | Path | None = None,
        settings: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        self._library = Library(config, state=state, settings=settings)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """See `Library.close`."""
        await asyncio.to_thread(self._library.close)

    async def ingest(self, paths: PathLike | Sequence[PathLike]) -> AsyncIterator[Result]:
        """See `Library.ingest`."""
        results = self._library.ingest(paths)
        end = object()
        while (result := await asyncio.to_thread(next, results, end)) is not end:
            assert isinstance(result, Result)
            yield result

    async def search(
        self, question: str, *, top: int = 10, source: str | None = None, path: str | None = None
    ) -> list[Hit]:
        """See `Library.search`."""
        return await asyncio.to_thread(self._library.search, question, top=top, source=source, path=path)

    async def encode(self, texts: Sequence[str], *, query: bool = False) -> npt.NDArray[np.float32]:
        """See `Library.encode`."""
        return await asyncio.to_thread(self._library.encode, texts, query=query)

    async def load(self, path: PathLike, *, loader: str | None = None) -> Document:
        """See `Library.load`."""
        return await asyncio.to_thread(self._library.load, path, loader=loader)

    async def status(self) -> dict[str, Any]:
        """See `Library.status`."""
        return await asyncio.to_thread(self._library.status)

    async def verify(self, *, deep: bool = False, repair: bool = False) -> dict[str, Any]:
        """See `Library.verify`."""
        return await asyncio.to_thread(self._library.verify, deep=deep, repair=repair)


class _Engine:
    """A daemon without sources, in an event loop of its own.

    The loop has a thread for as long as the workers live, since they die with the thread that spawned them.
    """

    def __init__(self, config: Config) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="ingestd", daemon=True)
        self._thread.start()
        self._daemon: Daemon | None = None
        self._pid = os.getpid()
        try:
            self._run(self._open(config))
        except BaseException:
            self._end()
            raise
        _engines.add(self)

    async def _open(self, config: Config) -> None:
        from ingestd.daemon import Daemon

        self._daemon = await Daemon(config, watching=False).__aenter__()

    def stream(self, command: str, arguments: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """What the daemon's handler yields."""
        assert self._daemon is not None
        answers = self._daemon.handle(command, arguments)
        try:
            while (answer := self._run(_next(answers))) is not None:
                yield answer
        finally:
            aclose = getattr(answers, "aclose", None)
            if aclose is not None and self._loop.is_running():
                self._run(aclose())

    def close(self) -> None:
        _engines.discard(self)
        if self._daemon is not None:
            self._run(self._daemon.close())
        self._end()

    def abandon(self) -> None:
        """The interpreter ends: no executor works any more, so the workers are killed; the journal has everything."""
        if self._daemon is not None and self._pid == os.getpid():  # not in a process that was forked
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._daemon.abandon()

    def _run(self, work: Any) -> Any:
        future: Future[Any] = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()  # Ctrl-C: what was asked for is not wanted any more
            raise

    def _end(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


_engines: weakref.WeakSet[_Engine] = weakref.WeakSet()


@atexit.register
def _abandon() -> None:
    for engine in list(_engines):
        engine.abandon()


async def _next(answers: AsyncIterator[dict[str, Any]]) -> dict[str, Any] | None:
    return await anext(answers, None)


def _variables(prefix: str, settings: Mapping[str, Any]) -> dict[str, str]:
    """The settings as the environment variables that the configuration reads."""
    found: dict[str, str] = {}
    for key, value in settings.items():
        name = prefix + key.upper()
        if isinstance(value, Mapping):
            found |= _variables(f"{name}__", value)
        elif isinstance(value, list | tuple):
            found[name] = json.dumps(list(value))
        else:
            found[name] = str(value).lower() if isinstance(value, bool) else str(value)
    return found
