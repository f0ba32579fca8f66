"""Loading a file to look at it: in a real load worker, as the daemon does, but nothing is journaled or indexed."""

from __future__ import annotations

import asyncio
import itertools
import os
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec

from ingestd import parts, process
from ingestd.blame import Loading, Watchman
from ingestd.channel import read_blob
from ingestd.dispatch import proceed
from ingestd.errors import UsageError
from ingestd.ingesting import place
from ingestd.journal.members import joined
from ingestd.messages.load import Drop, Identified, Load, Loaded, LoadFailed, Member, Parts, PartsTaken, Yielded
from ingestd.parts import ROOM
from ingestd.reports import path_fields
from ingestd.stages import START_TIMEOUT
from ingestd.supervisor import Worker, WorkerDied
from ingestd.types import Chunk
from ingestd.unpack import leads_to
from ingestd.worker import one_line

if TYPE_CHECKING:
    from ingestd.config import WatchTable
    from ingestd.daemon import Daemon

KEEP = 30.0
"""Seconds for which a worker without work is kept for the next file."""
FILES = 1000
"""That one worker loads at the most."""
ELEMENTS = 200
"""Elements shown of a file."""
LEFT = "it leaves something behind: a thread, a process, a signal handler, another working directory, a closed stream"
PARTS = 1000
"""Parts told of."""
CHUNKS = 256
"""Chunks told of at once."""


@dataclass(slots=True)
class Trial:
    """What became of one file. `kind`: "" where it was loaded, else the cause, as in `LoadFailed` and `WorkerDied`."""

    path: bytes
    state: str = "failed"
    """"loaded", "partial", "failed" or "skipped"."""
    kind: str = ""
    reason: str | None = None
    detail: str = ""
    """Stack and last place, where there are any."""
    output: str = ""
    """The end of what was printed meanwhile."""
    media_type: str | None = None
    loader: str | None = None
    loader_version: str = ""
    title: str | None = None
    warnings: list[str] = field(default_factory=list)
    metadata: Mapping[str, Any] = field(default_factory=dict)
    yielded: Yielded | None = None
    parts: list[Member] = field(default_factory=list)
    """What was found in it."""
    chunks: list[Chunk] = field(default_factory=list)
    seconds: float = 0.0
    left: bool = False
    """Something stayed behind in the worker: it had to be replaced."""
    memory: int = 0
    """The most, in bytes, that the worker and all that it started had."""
    sandbox: Mapping[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class _Part:
    """A part whose bytes are at hand."""

    member: str
    found: Member
    descriptor: int
    depth: int


@dataclass(slots=True)
class _Wanted:
    """The part to look for in a container, by its name there; "": none."""

    member: str
    found: _Part | None = None


class Trials:
    """Load workers beside those of the daemon, for files that somebody wants to look at."""

    def __init__(self, daemon: Daemon, prefix: str) -> None:
        self._daemon = daemon
        self._prefix = prefix
        self._serials = itertools.count(1)
        self._jobs = itertools.count(1)
        self._workers: dict[Worker, tuple[dict[str, Any], bytes]] = {}
        """All that live, with their settings and what they may read beside."""
        self._idle: list[Worker] = []
        self._turns = asyncio.Semaphore(max(1, daemon.load_workers))
        self._watchman = Watchman()
        self._watching: asyncio.Task[None] | None = None
        self._ending: set[asyncio.Task[None]] = set()

    @property
    def workers(self) -> list[Worker]:
        """Those that live."""
        return sorted(self._workers, key=lambda worker: worker.pid)

    async def close(self) -> None:
        """End the workers."""
        if self._watching is not None:
            self._watching.cancel()
        await asyncio.gather(*(worker.end() for worker in list(self._workers)), *self._ending)
        self._workers.clear()

    async def answer(
        self, path: bytes, loader: str | None = None, *, fresh: bool = True, whole: bool = False, member: str = ""
    ) -> AsyncIterator[dict[str, Any]]:
        """The answer to `try`: with `whole` all chunks, some at a time under the key `chunks`, then what is told of the
        file. `fresh`: in a worker of its own. `member`: a part of it.
        Raises `UsageError`, `StartError`."""
        trial = await self.load(bytes(path), loader, fresh=fresh, member=member)
        if whole:
            for start in range(0, len(trial.chunks), CHUNKS):
                yield {"chunks": [_chunk(chunk) for chunk in trial.chunks[start : start + CHUNKS]]}
        yield told(trial, 0 if whole else CHUNKS)

    async def load(self, path: bytes, loader: str | None = None, *, fresh: bool = True, member: str = "") -> Trial:
        """Load one file. Raises `UsageError`, `StartError`."""
        if loader is not None and loader not in self._daemon.plugins.loaders:
            names = ", ".join(sorted(self._daemon.plugins.loaders))
            broken = "".join(f"; {warning}" for warning in self._daemon.plugins.warnings)
            raise UsageError(f"there is no loader {loader!r}; there are: {names}{broken}", command="ingestd plugins")
        if self._watching is None:
            self._watching = asyncio.create_task(self._watchman.run(), name="watchman of trials")
        async with self._turns:
            worker = await self._worker(path, fresh)
            fit = False
            try:
                trial = await self._load(worker, path, loader, member)
                fit = not (fresh or worker.leaving or worker.died.done() or worker.served >= FILES)
            finally:
                worker.path = None
                if fit:
                    self._keep(worker)
                else:
                    self._workers.pop(worker, None)
                    await worker.end()
            return trial

    # --- workers ----------------------------------------------------------------------------------------------

    async def _worker(self, path: bytes, fresh: bool) -> Worker:
        """One that may read the file. Kept ones may read its directory, so that they serve for its neighbours too."""
        settings = self._daemon.load_settings(0)
        place = path if fresh else os.path.dirname(path)
        if not fresh:
            for worker in self._idle:
                if self._workers[worker] == (settings, place) and not worker.died.done():
                    self._idle.remove(worker)
                    return worker
        number = next(self._serials)
        scratch = self._daemon.scratch / f"{self._prefix}.{number}"
        scratch.mkdir(mode=0o700, parents=True)
        worker = Worker("load", f"{self._prefix}.{number}", scratch)
        self._workers[worker] = settings, place
        try:
            await worker.start({**settings, "read": sorted({*settings["read"], place})}, START_TIMEOUT["load"])
        except BaseException:
            self._workers.pop(worker, None)
            raise
        return worker

    def _keep(self, worker: Worker) -> None:
        self._idle.append(worker)
        asyncio.get_running_loop().call_later(KEEP, self._expire, worker, worker.served)

    def _expire(self, worker: Worker, served: int) -> None:
        if worker in self._idle and worker.served == served:
            self._idle.remove(worker)
            self._workers.pop(worker, None)
            task = asyncio.create_task(worker.end())
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)

    # --- one file ---------------------------------------------------------------------------------------------

    async def _load(self, worker: Worker, path: bytes, loader: str | None, member: str) -> Trial:
        """What becomes of the file, or, step by step, of the containers around the part and of the part itself."""
        above, part = "", None
        while True:
            wanted = _Wanted(member.removeprefix(above).removeprefix("!/"))
            try:
                trial = await self._load_one(worker, path, None if wanted.member else loader, part, wanted)
            finally:
                if part is not None:
                    os.close(part.descriptor)
            part = wanted.found
            if not wanted.member or trial.state not in ("loaded", "partial"):
                if part is not None:
                    os.close(part.descriptor)
                return trial
            if part is None:
                told = next((each.error for each in trial.parts if leads_to(each.name, wanted.member)), None)
                reason = told or trial.reason or f"it has no part {wanted.member}"
                return Trial(path=trial.path, kind="file", reason=one_line(reason), sandbox=trial.sandbox)
            above = part.member

    async def _load_one(
        self, worker: Worker, path: bytes, loader: str | None, part: _Part | None, wanted: _Wanted
    ) -> Trial:
        table, _ = place(self._daemon, path)
        limits = self._daemon.config.limits(loader or "", table.name)
        name = path if part is None else path + b"!/" + part.member.encode()
        trial = Trial(path=name, sandbox=worker.info.get("sandbox", {}))
        loading = Loading(worker=worker, limits=limits, size=0, started=time.monotonic())
        worker.served += 1
        worker.path = path
        worker.state = "running"
        worker.forget_output()
        self._watchman.begin(loading)
        descriptors: list[int] = []
        try:
            answer, descriptors = await self._answer(worker, trial, loading, loader, table, path, part, wanted)
            loading.expired = None
            trial.output = worker.output
            self._note(trial, answer, descriptors)
            if getattr(answer, "leave", False):
                worker.leaving = True
                trial.left = isinstance(answer, Loaded)
        except WorkerDied as death:
            trial.kind = death.cause
            trial.reason = one_line(death.reason if death.cause == "limit" else f"the worker died: {death.reason}")
            trial.detail = death.detail
        finally:
            self._watchman.finish(loading)
            for descriptor in descriptors:
                os.close(descriptor)
        trial.seconds = time.monotonic() - loading.started
        trial.memory = max(loading.memory, process.peak_rss(worker.pid))
        return trial

    async def _answer(
        self,
        worker: Worker,
        trial: Trial,
        loading: Loading,
        loader: str | None,
        table: WatchTable,
        path: bytes,
        part: _Part | None,
        wanted: _Wanted,
    ) -> tuple[Any, list[int]]:
        """The last frame about the file."""
        job = next(self._jobs)
        scratch = str(worker.scratch / str(job))
        frame = Load(job=job, path=path, follow_links=table.follow_links, scratch=scratch, loader=loader)
        if part is None:
            answer, descriptors = await worker.call(frame)
        else:
            found = part.found
            frame = msgspec.structs.replace(
                frame, member=part.member, offset=found.offset, size=found.size, digest=found.digest
            )
            answer, descriptors = await worker.call(frame, [part.descriptor])
        if not isinstance(answer, Identified):
            return answer, descriptors
        trial.media_type, trial.loader, trial.loader_version = answer.media_type, answer.loader, answer.loader_version
        if answer.loader is None:
            await worker.send(Drop(job=job))
            return answer, descriptors
        limits = self._daemon.config.limits(answer.loader, table.name)
        loading.size, loading.limits = answer.stat.size, limits
        options = self._daemon.config.load.options(answer.loader)
        answer, descriptors = await worker.call(
            proceed(
                job,
                limits,
                options,
                accept_changed=True,
                show=ELEMENTS,
                depth=part.depth if part else 0,
                room=ROOM if wanted.member else 0,
                want=wanted.member or None,
            )
        )
        while isinstance(answer, Parts):
            members, data = parts.read(descriptors)
            trial.parts += members
            for member in members:
                if data is not None and member.offset >= 0 and wanted.found is None:
                    inner = joined(part.member if part else "", member.name)
                    wanted.found = _Part(inner, member, os.dup(data), part.depth + 1 if part else 1)
            if data is not None:
                os.close(data)
            answer, descriptors = await worker.call(PartsTaken(job=job, room=0 if wanted.found else ROOM))
        return answer, descriptors

    def _note(self, trial: Trial, answer: Any, descriptors: list[int]) -> None:
        """What the worker says became of the file."""
        if isinstance(answer, Identified):
            trial.state, trial.reason = "skipped", f"no loader for {answer.media_type}"
            return
        if isinstance(answer, LoadFailed):
            trial.kind, trial.detail = answer.kind, answer.detail
            trial.reason = one_line(f"memory limit: {answer.reason}" if answer.kind == "memory" else answer.reason)
        elif isinstance(answer, Loaded):
            trial.state = "partial" if answer.partial else "loaded"
            trial.reason, trial.title, trial.metadata = answer.partial, answer.title, answer.metadata
            trial.warnings = [one_line(warning) for warning in answer.warnings]
            trial.chunks = msgspec.msgpack.decode(read_blob(descriptors.pop(0)), type=list[Chunk])
        if descriptors:
            trial.yielded = msgspec.msgpack.decode(read_blob(descriptors.pop()), type=Yielded)


def told(trial: Trial, chunks: int) -> dict[str, Any]:
    """As `try --json` prints it, with so many of the chunks."""
    yielded = trial.yielded or Yielded(0, [], [])
    faults = [*yielded.faults, LEFT] if trial.left else yielded.faults
    return {
        **path_fields(trial.path),
        "state": trial.state,
        "kind": trial.kind,
        "reason": trial.reason,
        "detail": trial.detail or None,
        "output": trial.output or None,
        "media_type": trial.media_type,
        "loader": f"{trial.loader} {trial.loader_version}".strip() if trial.loader else None,
        "title": trial.title,
        "metadata": dict(trial.metadata),
        "warnings": trial.warnings,
        "faults": faults,
        "element_count": yielded.elements,
        "elements": [msgspec.structs.asdict(element) for element in yielded.shown],
        "part_count": len(trial.parts),
        "parts": [
            {
                "name": part.name,
                "size": part.size,
                "media_type": part.media_type,
                "loader": part.loader,
                "error": part.error,
            }
            for part in trial.parts[:PARTS]
        ],
        "chunk_count": len(trial.chunks),
        "chunks": [_chunk(chunk) for chunk in trial.chunks[:chunks]],
        "tokens": sum(chunk.tokens for chunk in trial.chunks),
        "seconds": trial.seconds,
        "memory": trial.memory,
        "sandbox": dict(trial.sandbox),
    }


def _chunk(chunk: Chunk) -> dict[str, Any]:
    return {
        "ordinal": chunk.ordinal,
        "tokens": chunk.tokens,
        "page": chunk.page,
        "headings": list(chunk.headings),
        "text": chunk.text,
        "metadata": chunk.metadata,
    }
