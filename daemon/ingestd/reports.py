"""What people and programs are told: status, why, failures, hits, in the shapes that `--json` promises."""

from __future__ import annotations

import base64
import itertools
import json
import os
import sqlite3
import time
from collections import Counter, deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

from ingestd import journal
from ingestd.config.units import spell_duration
from ingestd.detect import Detector
from ingestd.errors import UsageError
from ingestd.journal import Row, SourceRow
from ingestd.journal.retrying import NEVER
from ingestd.messages.probe import Manifest, PluginError
from ingestd.types import STATES, Hit, Loader, display
from ingestd.unit import starting

if TYPE_CHECKING:
    from ingestd.config import Config, LoadTable
    from ingestd.daemon import Daemon


ROOT = SourceRow(b"/", None, False)


def path_fields(path: bytes | str) -> dict[str, str]:
    """`path`, and beside it `path_b64` where the path is not UTF-8."""
    raw = os.fsencode(path) if isinstance(path, str) else path
    fields = {"path": display(raw)}
    if fields["path"].encode() != raw:
        fields["path_b64"] = base64.b64encode(raw).decode()
    return fields


def hit(found: Hit) -> dict[str, Any]:
    """A passage as `search --json` prints it."""
    return {
        "score": found.score,
        **path_fields(found.path),
        "source": found.source,
        "page": found.page,
        "title": found.title,
        "text": found.text,
        "doc_id": found.doc_id,
        "chunk_id": found.chunk_id,
        "ordinal": found.ordinal,
        "metadata": found.metadata,
        "member": found.metadata.get("member"),
        "highlights": found.highlights,
    }


def result(path: bytes, row: Row) -> dict[str, Any]:
    """What became of a file of an `ingest`, for the library: `path` is the exact bytes."""
    return {"path": path, "state": row.state, "reason": row.reason, "chunks": row.chunks, "doc_id": row.doc_id}


def _document(sources: dict[str, SourceRow], row: Row) -> dict[str, Any]:
    state = row.state
    reason = row.reason
    source = sources.get(row.source, ROOT)
    if row.indexed_digest is not None and state in ("failed", "quarantined"):
        reason = f"{reason} (an older version of it is searchable)"
    if source.removed_until is not None:
        state = "held"
        reason = f"source {row.source} is no longer configured; until it leaves the index: {spell_wait(source)}"
    elif state == "held":
        reason = (
            "the file is gone, with so many others that it stays in the index until that is confirmed: "
            f"ingestd confirm-deletes {row.source}"
        )
    elif row.gone:
        reason = "the file is gone: it waits for its removal from the index"
    elif source.paused and state == "queued":
        reason = f"source {row.source} is paused: ingestd resume {row.source}"
    return {
        **path_fields(_path(source, row)),
        "state": state,
        "reason": reason,
        "loader": f"{row.loader} {row.loader_version}".strip() if row.loader else None,
        "attempts": row.attempts,
        "retry_at": row.retry_at if state in ("failed", "queued") and 0 < row.retry_at < NEVER else None,
        "chunks": row.chunks,
        "digest": row.digest.hex() if row.digest else None,
    }


def _path(source: SourceRow, row: Row) -> bytes:
    path = source.root.rstrip(b"/") + b"/" + row.path
    return path + b"!/" + row.member.encode() if row.member else path


def why(db: sqlite3.Connection, path: bytes) -> dict[str, Any]:
    """All that is known of one file. Raises `UsageError` for a path that is not in the journal."""
    found = journal.find(db, path)
    rows = list(itertools.islice(found, 2))
    if not rows:
        raise UsageError(
            f"{display(path)} is not in the journal: it is in no watched directory, is excluded, or is still settling",
            command=f"ingestd ingest {display(path)}",
        )
    sources = journal.sources(db)
    if len(rows) > 1 and _path(sources.get(rows[0].source, ROOT), rows[0]) != path:
        files = len(rows) + sum(1 for _ in found)
        raise UsageError(f"{display(path)} is a directory with {files} files: name one of them")
    row = rows[0]
    parts = Counter(state for state, in db.execute(
        "SELECT state FROM documents WHERE source = ? AND path = ? AND parent = ? AND member != ''",
        (row.source, row.path, row.member)))  # fmt: skip
    return {
        **_document(sources, row),
        "warnings": json.loads(row.warnings) if row.warnings else [],
        "detail": row.detail or None,
        "parts": dict(parts),
        "source": row.source,
        "history": [{"at": at, "event": event} for at, event in journal.history(db, row.id)],
    }


def failures(db: sqlite3.Connection) -> list[dict[str, Any]]:
    """Every file that is failed, quarantined or partial."""
    sources = journal.sources(db)
    return [_document(sources, row) for row in journal.troubles(db)]


def retryable(db: sqlite3.Connection, paths: Sequence[bytes] | None) -> list[int]:
    """The documents that `retry` means; all that failed with None. Raises `UsageError` for a path that is not known."""
    if paths is None:
        return journal.failed(db)
    ids = []
    for path in paths:
        known = False
        for row in journal.find(db, bytes(path)):
            known = True
            if row.state in journal.RETRYABLE:
                ids.append(row.id)
        if not known:
            raise UsageError(f"{display(bytes(path))} is not in the journal", command="ingestd failures")
    return ids


def plugins(manifest: Manifest, lost: Sequence[PluginError], load: LoadTable) -> list[dict[str, Any]]:
    """Loaders, engines and sinks, and the plugins that could not be used.

    Of a loader `takes` names the suffixes that go to it, `lost` those that it claims and who takes them instead (None:
    nobody, it is disabled).
    """
    items: list[dict[str, Any]] = [
        {
            "kind": item.kind, "name": item.name, "version": item.version, "suffixes": item.suffixes,
            "media_types": item.media_types, "sockets": item.sockets, "overrides": item.overrides,
            "distribution": item.distribution, "lacks": item.lacks or None, "uses": item.uses or None, "error": None,
        }
        for item in manifest.items
    ]  # fmt: skip
    disabled = [name for name, own in load.loaders.items() if own.get("disabled")]
    suffixes = {name: own["suffixes"] for name, own in load.loaders.items() if own.get("suffixes")}
    loaders = {item.name: cast(Loader, item) for item in manifest.items if item.kind == "loader"}
    takers = Detector(loaders, suffixes, disabled).takers
    for told in items:
        if told["kind"] == "loader":
            name = told["name"]
            told["disabled"] = name in disabled
            told["takes"] = sorted(suffix for suffix, taker in takers.items() if taker == name)
            told["lost"] = {suffix: takers.get(suffix) for suffix in told["suffixes"] if takers.get(suffix) != name}
    items += [
        {"kind": "plugin", "name": error.plugin, "distribution": error.distribution, "error": error.reason}
        for error in (*manifest.errors, *lost)
    ]
    return items


def states(files: dict[str, Counter[str]], settling: int) -> dict[str, int]:
    """Files by state, all states named."""
    total: Counter[str] = sum(files.values(), Counter())
    return {"settling": settling, **{state: total[state] for state in STATES}}


def spell_wait(source: SourceRow) -> str:
    """How long the files of a source that was taken out stay in the index."""
    return spell_duration(max(0.0, (source.removed_until or 0.0) - time.time()))


def holds(files: dict[str, Counter[str]], sources: dict[str, SourceRow]) -> list[str]:
    """What waits for a person's word, and what to type."""
    found = []
    for name, source in sources.items():
        held = files.get(name, Counter())["held"]
        if source.removed_until is not None:
            if source.removed_until and held:
                found.append(
                    f"source {name} is no longer configured: its {held} files leave the index in {spell_wait(source)};"
                    f" now: ingestd confirm-deletes {name}"
                )
            continue
        if held:
            found.append(
                f"source {name}: {held} files are gone, more at once than hold_deletes lets go: they stay in the index"
                f" unless that is confirmed (ingestd confirm-deletes {name}), they come back, or hold_grace is over"
            )
        if source.paused:
            found.append(f"source {name} is paused: ingestd resume {name}")
    return found


def offline_status(config: Config, db: sqlite3.Connection | None) -> dict[str, Any]:
    """The status while no daemon runs, from the journal alone."""
    files, chunks = journal.counts(db) if db is not None else ({}, 0)
    sources = journal.sources(db) if db is not None else {}
    return {
        "running": False,
        "start": starting(config.state_directory),
        "ready": False,
        "waiting_for": [],
        "files": states(files, 0),
        "chunks": chunks,
        "eta_seconds": None,
        "sources": [
            {"name": table.name, "directory": table.directory, "mode": table.mode,
             "files": sum(files.get(table.name, Counter()).values()),
             "paused": sources.get(table.name, ROOT).paused, "held": files.get(table.name, Counter())["held"]}
            for table in config.watch
        ],
        "workers": [],
        "encoders": [],
        "sink": {"name": config.index.sink, "healthy": None},
        "sandbox": None,
        "warnings": holds(files, sources),
        "reindex": None,
        "rates": {"files_per_second": 0.0, "chunks_per_second": 0.0},
        "recent": [],
    }  # fmt: skip


def status(daemon: Daemon, files: dict[str, Counter[str]], chunks: int, known: dict[str, SourceRow]) -> dict[str, Any]:
    """The status of a running daemon."""
    total = states(files, daemon.watching.settling)
    per_file, per_chunk = daemon.rates()
    left = total["queued"] + total["running"]
    pools = [*daemon.watching.pools, *daemon.load_pools, daemon.encode_pool, daemon.index_pool]
    sources = [
        {
            "name": name,
            "directory": display(watched.frame.root),
            "mode": watched.mode or "starting",
            "files": sum(files.get(name, Counter()).values()),
            "queued": files.get(name, Counter())["queued"],
            "held": files.get(name, Counter())["held"],
            "paused": known.get(name, ROOT).paused or name in daemon.dispatcher.paused,
        }
        for name, watched in daemon.watching.sources.items()
    ]
    index_ready = daemon.index_pool.ready.is_set() and daemon.index_pool.trouble is None
    return {
        "running": True,
        "pid": os.getpid(),
        "ready": daemon.ready and daemon.watching.ready,
        "waiting_for": daemon.waiting_for,
        "files": total,
        "chunks": chunks,
        "eta_seconds": left / per_file if per_file > 0 else None if left else 0.0,
        "sources": sources,
        "workers": [
            {
                "pid": worker.pid,
                "stage": worker.stage,
                "state": worker.state,
                "path": display(worker.path) if worker.path else None,
                "trial": trial,
            }
            for trial, workers in [
                *((False, sorted(pool.workers, key=lambda worker: worker.pid)) for pool in pools),
                (True, daemon.trials.workers),
            ]
            for worker in workers
        ],
        "encoders": [
            {
                "device": worker.info.get("device", ""),
                "pid": worker.pid,
                "tokens_per_second": daemon.encoders.rates.get(worker, 0.0),
                "busy": daemon.encoders.busy.get(worker, 0.0),
            }
            for worker in daemon.encode_pool.workers
        ],
        "sink": {"name": daemon.config.index.sink, "healthy": index_ready and daemon.indexer.trouble is None},
        "sandbox": next((worker.info.get("sandbox") for worker in daemon.load_pool.workers if worker.info), None),
        "warnings": [*daemon.troubles, *holds(files, known)],
        "reindex": daemon.reindexing.progress if daemon.reindexing is not None else None,
        "rates": {"files_per_second": per_file, "chunks_per_second": per_chunk},
        "recent": list(daemon.dispatcher.recent),
        "uptime_seconds": time.monotonic() - daemon.started,
    }


class Rates:
    """Files and chunks per second over the last half minute."""

    def __init__(self, span: float = 30.0) -> None:
        self._span = span
        self._samples: deque[tuple[float, int, int]] = deque()

    def sample(self, files: int, chunks: int) -> tuple[float, float]:
        now = time.monotonic()
        if not self._samples or now - self._samples[-1][0] > 0.2:
            self._samples.append((now, files, chunks))
        while len(self._samples) > 1 and now - self._samples[0][0] > self._span:
            self._samples.popleft()
        began, files_then, chunks_then = self._samples[0]
        seconds = now - began
        if seconds < 0.2:
            return 0.0, 0.0
        return (files - files_then) / seconds, (chunks - chunks_then) / seconds
