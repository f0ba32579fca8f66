"""An index of a test's own, what is in it, and daemons that write to it."""

from __future__ import annotations

import itertools
import json
import os
import sqlite3
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from ingestd.types import Fingerprint
from ingestd_plugins.elasticsearch import ElasticsearchSink
from tests.processes.daemons import write_config

PATIENCE = 120.0
"""Seconds that anything may take on a machine with other work."""
_numbers = itertools.count(1)


def options(url: str, **keys: Any) -> dict[str, Any]:
    """A table `[index.elasticsearch]` with an alias that no other test has."""
    return {"hosts": url, "name": f"t-{os.getpid()}-{next(_numbers)}", "daemon": "one", "refresh": "100ms", **keys}


def configured(state: Path, source: Path | None, table: dict[str, Any], **tables: dict[str, Any]) -> Path:
    """A configuration whose index is on the server."""
    return write_config(state, source, index={"sink": "elasticsearch"}, **{"index.elasticsearch": table}, **tables)


def opened(state: Path, table: dict[str, Any]) -> ElasticsearchSink:
    """The index of a daemon, to be read, with all that was written so far."""
    journal = sqlite3.connect(state / "journal.sqlite")
    (cached,) = journal.execute("SELECT value FROM meta WHERE key = 'fingerprint'").fetchone()
    journal.close()
    sink = ElasticsearchSink()
    sink.open(state / "index", msgspec.convert(json.loads(cached)[1], Fingerprint), table, readonly=True)
    name = sink._index.name
    sink._server.run(sink._server.call("refresh", lambda client: client.indices.refresh(index=name)))
    return sink


def contents(state: Path, table: dict[str, Any]) -> tuple[dict[str, tuple[str, str, int]], list[str]]:
    """As `processes.daemons.contents`: path to (id, digest, chunks), and the ids of all chunks, sorted."""
    sink = opened(state, table)
    try:
        documents = {os.fsdecode(d.path): (d.doc_id, d.digest.hex(), d.chunks) for d in sink.documents()}
        return documents, sorted(sink.chunk_ids())
    finally:
        sink.close()


def eventually(true: Callable[[], Any], what: str) -> Any:
    """Wait until it is, and return it."""
    deadline = time.monotonic() + PATIENCE
    while True:
        if found := true():
            return found
        assert time.monotonic() < deadline, what
        time.sleep(0.1)


def get(url: str, path: str) -> Any:
    """What the server says."""
    with urllib.request.urlopen(url + path, timeout=60) as answer:
        return json.load(answer)


def put(url: str, path: str, body: Any) -> None:
    """Tell the server something directly."""
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(url + path, json.dumps(body).encode(), headers, method="PUT")
    urllib.request.urlopen(request, timeout=60).close()
