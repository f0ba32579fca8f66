"""What becomes of a file once its worker has answered, or died: indexed, tried again, or set aside with a reason."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections import deque
from pathlib import Path
from typing import Any

from ingestd.batches import Batch
from ingestd.blame import AT_ONCE, Attempt, CommonCause
from ingestd.config import WatchTable
from ingestd.encoders import Encoders, PoisonError
from ingestd.indexer import Indexer
from ingestd.journal import Ended, Journal
from ingestd.journal.retrying import NEVER
from ingestd.messages.index import IndexRekey, IndexRemove, IndexReplace
from ingestd.messages.load import UNKNOWN_TOKENS, Identified, Loaded, LoadFailed
from ingestd.parts import Unpacked
from ingestd.room import Room
from ingestd.supervisor import WorkerDied
from ingestd.types import Document, display
from ingestd.unreachable import Unreachable
from ingestd.worker import one_line

log = logging.getLogger("ingestd.dispatch")

STRIKE_RETRY = (1.0, 8.0)
"""Seconds before the second attempt, and the factor for each further one."""
UNREADABLE_RETRY = 300.0
INTERRUPTED_RETRY = (0.5, 60.0)
"""Seconds before the attempt after the first interruption, doubled for each further one, and the most."""
SLOW = 10.0
"""Seconds of loading after which a file gets a line in the log."""
READING = ("opening", "reading")
"""Places of a load attempt before the content is known."""
FINAL = frozenset({"indexed", "partial", "quarantined", "skipped"})
LONG = 20.0
"""Seconds until the next attempt beyond which `ingest` does not wait for a failed file."""


class Outcomes:
    """Sees a document from its chunks into the index, and judges what went wrong on the way."""

    def __init__(self, journal: Journal, encoders: Encoders, indexer: Indexer, scratch: Path) -> None:
        self.journal = journal
        self.encoders = encoders
        self.indexer = indexer
        self.causes = CommonCause()
        self.unreachable = Unreachable()
        self.room = Room(scratch)
        self.unpacked = Unpacked()
        self.sources: dict[str, WatchTable] = {}
        self.batches: dict[int, Batch] = {}
        self.recent: deque[dict[str, Any]] = deque(maxlen=20)
        self.files_done = 0
        self.chunks_done = 0
        self.unknown_language = 0
        """Documents since the start whose tokens the model largely does not know."""
        self._bytes = 0
        """Of what is between load worker and index, and its tokens."""
        self._tokens = 0

    def wake(self) -> None:
        """There may be work in the journal. For those who do it."""

    # --- after loading ----------------------------------------------------------------------------------------

    async def _dropped(self, attempt: Attempt, identified: Identified, action: str, verdict: Any) -> None:
        """What was identified needs no loading."""
        row = attempt.row
        document = self._document(attempt, identified, verdict.title, verdict.metadata)
        if action == "unchanged":
            written = await self.indexer.write(lambda job: IndexRekey(job=job, origin=row.doc_id, document=document))
            if written.missing:
                await self.journal.forget(row)
                await self._settle(attempt, "queued", "the index lacks it")
                return
            state = "partial" if verdict.partial else "indexed"
            ended = await self.journal.settle(
                row, state, "unchanged content", reason=verdict.partial, keep_warnings=True
            )
            self._outcome(attempt, Ended("unchanged", ended.batch), None, verdict.chunks)
        elif action == "rekey":
            origin = verdict.origin
            written = await self.indexer.write(lambda job: IndexRekey(job=job, origin=origin, document=document))
            if written.missing or written.error:
                # The origin went meanwhile, or was never there: load it like any other.
                await self.journal.disown(identified.digest, attempt.tag)
                await self._settle(attempt, "queued", "the copy's origin is gone")
                return
            ended = await self.journal.indexed(
                row, identified.digest, attempt.tag, chunks=written.chunks, hashes=None, origin=verdict.origin,
                partial=verdict.partial, warnings=verdict.warnings, title=verdict.title, metadata=verdict.metadata,
                event="copied from the same content", parts=() if verdict.place is None and not row.member else None,
                copied=verdict.place,
            )  # fmt: skip
            self._outcome(attempt, ended, verdict.partial, written.chunks)
        elif action == "quarantine":
            await self._settle(attempt, "quarantined", "same content as a quarantined file",
                               reason=verdict.reason, detail=verdict.detail)  # fmt: skip
        else:
            if row.digest is not None:  # the index may have an older version, though the journal never came to say so
                await self.indexer.write(lambda job: IndexRemove(job=job, doc_id=row.doc_id))
                await self.journal.forget(row)
            await self._settle(attempt, "skipped", "no loader", reason=f"no loader for {identified.media_type}")

    def _document(
        self, attempt: Attempt, identified: Identified, title: str | None, metadata: dict[str, Any]
    ) -> Document:
        row = attempt.row
        source = self.sources.get(row.source)
        return Document(
            doc_id=row.doc_id,
            source=row.source,
            path=attempt.path,
            title=title or os.path.splitext(display(os.path.basename(attempt.path)))[0],
            media_type=identified.media_type,
            size=identified.stat.size,
            # A part was written when it was unpacked: it is as old as its container was then.
            mtime_ns=(row.member and row.mtime_ns) or identified.stat.mtime_ns,
            digest=identified.digest,
            loader=identified.loader or "",
            category_id=source.category_id if source else None,
            category_path=source.category_path if source else None,
            metadata={
                **metadata,
                **(source.metadata if source else {}),
                **({"member": row.member} if row.member else {}),
            },
        )

    async def _finish(self, attempt: Attempt, identified: Identified, loaded: Loaded, descriptors: list[int]) -> None:
        """From chunks to a durable index entry."""
        row = attempt.row
        chunks, tokens, hashes = descriptors
        vectors: int | None = None
        try:
            if loaded.fresh:
                vectors = await self.encoders.encode(tokens, loaded.fresh, loaded.tokens, ahead=bool(row.fresh))
            document = self._document(attempt, identified, loaded.title, loaded.metadata)
            sent = [chunks] if vectors is None else [chunks, vectors]
            written = await self.indexer.write(lambda job: IndexReplace(job=job, document=document), sent)
            if written.missing:
                await self.journal.forget(row)
                await self._settle(attempt, "queued", "the index lacks vectors that it had")
                return
            if written.error is not None:
                await self._settle(attempt, "quarantined", f"refused by the index: {written.error}",
                                   reason=f"refused by the index: {written.error}")  # fmt: skip
                return
            known = os.pread(hashes, os.fstat(hashes).st_size, 0)
            warnings = [one_line(warning) for warning in loaded.warnings]
            ended = await self.journal.indexed(
                row, identified.digest, attempt.tag, chunks=written.chunks, hashes=known,
                partial=loaded.partial, warnings=warnings, title=loaded.title, metadata=loaded.metadata,
                event=f"indexed: {written.chunks} chunks, {loaded.fresh} of them encoded"
                + (f", and {len(attempt.parts)} parts" if attempt.parts else ""),
                parts=attempt.parts,
            )  # fmt: skip
            if any(UNKNOWN_TOKENS in warning for warning in warnings):
                self.unknown_language += 1
            self._outcome(attempt, ended, loaded.partial, written.chunks)
        except PoisonError as error:
            await self._refused(attempt, f"cannot be encoded: {error.message}")
        finally:
            self._bytes -= loaded.size
            self._tokens -= loaded.tokens
            for descriptor in (*descriptors, *([vectors] if vectors is not None else [])):
                os.close(descriptor)

    # --- when it went wrong -----------------------------------------------------------------------------------

    async def _failed(self, attempt: Attempt, failed: LoadFailed) -> None:
        """The worker lives and says why."""
        reason = one_line(failed.reason) or "no reason was given"
        match failed.kind:
            case "gone":
                await self._settle(attempt, "failed", "the file is gone", reason="the file is gone", retry_in=30)
            case "changed":
                self.unpacked.done((attempt.row.source, attempt.row.path, attempt.row.member))
                source = self.sources.get(attempt.row.source)
                settle = source.settle if source else 2.0
                await self._settle(attempt, "queued", reason, reason=reason, retry_in=settle)
            case "unreadable":
                await self._settle(attempt, "failed", reason, reason=reason, retry_in=UNREADABLE_RETRY)
            case "missing":
                await self._settle(attempt, "failed", reason, reason=reason, retry_in=NEVER)
            case "file":
                await self._refused(attempt, reason, failed.limit)
            case "full":
                await self._full(attempt, reason, failed.detail)
            case "memory":
                await self._strike(attempt, f"memory limit: {reason}", failed.detail)
            case _:
                if not await self._alike(attempt, reason):
                    await self._strike(attempt, reason, failed.detail)

    async def _died(self, attempt: Attempt, death: WorkerDied) -> None:
        """The worker died with the file in hand: a strike only if it can be pinned on the file."""
        if death.cause == "limit":
            deadline = attempt.expired is not None and "deadline" in attempt.expired
            if deadline and attempt.digest is None and attempt.place in READING:
                # It never got as far as the content: a slow disk or a hung mount, not this file.
                await self._unread(attempt, death)
                return
            if deadline:
                self.causes.expired(attempt)
                await asyncio.sleep(AT_ONCE)
                if self.causes.at_once(attempt):
                    await self._interrupt(attempt, f"several files hit their deadline at once: {death.reason}", True)
                    return
            await self._strike(attempt, death.reason, death.detail)
        elif death.cause in ("fault", "exit", "protocol"):
            reason = f"the worker died: {death.reason}"
            if not await self._alike(attempt, reason):
                await self._strike(attempt, reason, death.detail)
        elif death.cause == "stuck":
            await self._unread(attempt, death, stuck=attempt.worker.pid)
        elif death.cause == "stopped":  # by the daemon's own will: nothing happened
            await self.journal.release(attempt.row)
            self.wake()
        else:
            await self._interrupt(attempt, f"the worker was {death.reason}", False)

    async def _full(self, attempt: Attempt, reason: str, detail: str) -> None:
        """No room on the disk of the scratch directory: nobody's fault while it is full, or several use it."""
        if await self.room.lacking(reason):
            await self._settle(attempt, "queued", reason, reason=reason)
        elif attempt.alone:
            await self._strike(attempt, f"it needs more room for scratch files than there is: {reason}", detail)
        else:
            await self._interrupt(attempt, reason, True)

    async def _unread(self, attempt: Attempt, death: WorkerDied, stuck: int | None = None) -> None:
        """What the file lies on does not answer: its source pauses, and the file takes no strike."""
        row = attempt.row
        reason = f"it cannot be read: {death.reason}"
        wait = UNREADABLE_RETRY
        if row.source in self.sources:  # what `ingest` was given may lie anywhere
            where = f"the disk or mount of {display(attempt.path)} does not answer"
            if stuck is not None:
                where = f"{where}, and worker {stuck}, which waits for it, survives SIGKILL"
            wait = self.unreachable.missed(row.source, row.id, where, stuck)
        await self._settle(attempt, "failed", reason, reason=reason, detail=death.detail, retry_in=wait)

    async def _alike(self, attempt: Attempt, reason: str) -> bool:
        innocent = self.causes.failure(attempt.loader, reason, attempt.row, attempt.digest)
        if not innocent:
            return False
        wait = self.causes.wait(attempt.loader)
        for row, digest in innocent:
            cause = f"common cause: {self.causes.warnings[attempt.loader]}"
            ended = await self.journal.absolve(row, digest, cause, wait, running=row is attempt.row)
        if wait > LONG and ended is not None:
            self._outcome(attempt, ended, reason, 0)
        self.wake()
        return True

    async def _refused(self, attempt: Attempt, reason: str, limit: bool = False) -> None:
        """The content is at fault for good, wherever it lies; but for a `limit` that holds here."""
        if attempt.digest is not None and not limit:
            await self.journal.strike(attempt.row, attempt.digest, attempt.tag, reason, "", 1)
        await self._settle(attempt, "quarantined", reason, reason=reason)

    async def _strike(self, attempt: Attempt, reason: str, detail: str) -> None:
        limit = attempt.limits.max_strikes
        row = attempt.row
        count = await self.journal.strike(row, attempt.digest, attempt.tag, reason, detail, limit)
        if count >= limit:
            await self._settle(attempt, "quarantined", f"strike {count} of {limit}: {reason}", reason=reason,
                               detail=detail)  # fmt: skip
        else:
            delay = STRIKE_RETRY[0] * STRIKE_RETRY[1] ** (count - 1)
            await self._settle(attempt, "failed", f"strike {count} of {limit}: {reason}", reason=reason,
                               detail=detail, retry_in=delay)  # fmt: skip

    async def _interrupt(self, attempt: Attempt, reason: str, alone: bool) -> None:
        delay = min(INTERRUPTED_RETRY[0] * 2**attempt.row.interruptions, INTERRUPTED_RETRY[1])
        ended = await self.journal.interrupted(attempt.row, reason, delay, alone=alone)
        if ended.state == "quarantined":
            self._outcome(attempt, ended, reason, 0)
        self.wake()

    async def _settle(self, attempt: Attempt, state: str, event: str, **values: Any) -> None:
        ended = await self.journal.settle(attempt.row, state, event, **values)
        if ended.state in FINAL or (ended.state == "failed" and values.get("retry_in", 0) > LONG):
            self._outcome(attempt, ended, values.get("reason"), 0)
        self.wake()

    def _outcome(self, attempt: Attempt, ended: Ended, reason: str | None, chunks: int) -> None:
        """Tell the log, the live view and the batch."""
        state = ended.state
        row = attempt.row
        if row.member and state in (*FINAL, "unchanged"):
            self.unpacked.done((row.source, row.path, row.member))
        if state == "queued":
            return
        seconds = time.monotonic() - attempt.started
        path = display(attempt.path)
        extra = {"path": attempt.path, "stage": "load", "reason": reason, "state": state,
                 "worker_pid": attempt.worker.pid}  # fmt: skip
        if state in ("indexed", "partial"):
            self.files_done += 1
            self.chunks_done += chunks
            if state == "partial" or attempt.seconds > SLOW:
                cause = f": {reason}" if reason else ""
                log.warning("%s: %s, loaded in %.1f s%s", path, state, attempt.seconds, cause, extra=extra)
            else:
                log.debug("%s: %s, %d chunks", path, state, chunks, extra=extra)
        elif state in ("failed", "quarantined"):
            log.warning("%s: %s: %s", path, state, reason, extra=extra)
        self.recent.append({"path": path, "state": state, "reason": reason, "seconds": seconds})
        batch = self.batches.get(ended.batch or 0)
        if batch is not None:
            batch.chunks += chunks
            batch.total += ended.joined
            batch.end(state, attempt.path, reason)


def tag(identified: Identified) -> str:
    """A loader and its version, as the journal compares them."""
    return f"{identified.loader} {identified.loader_version}"
