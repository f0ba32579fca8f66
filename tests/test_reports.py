"""What people are told: the shapes that `--json` promises, from a real journal."""

from __future__ import annotations

import asyncio
import base64
import json
import sqlite3
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from ingestd import journal, reports
from ingestd.config import Config, IndexTable, LoadTable, WatchTable
from ingestd.errors import UsageError
from ingestd.journal import Journal, SourceSettings
from ingestd.messages.load import Stat
from ingestd.messages.probe import Manifest, PluginError, PluginItem
from ingestd.messages.watch import Change
from ingestd.types import STATES, Hit

WHY = {"path", "state", "reason", "loader", "attempts", "retry_at", "chunks", "digest", "warnings", "history"}
STATUS = {
    "running", "ready", "waiting_for", "files", "chunks", "eta_seconds", "sources", "workers", "encoders", "sink",
    "sandbox", "warnings",
}  # fmt: skip


@pytest.fixture
def db(tmp_path: Path) -> Any:
    """`a.md` is indexed, a newer version of it failed; `b.md` is quarantined; `sub/\xff` waits; `old.md` is gone."""

    async def fill() -> None:
        journal = Journal(tmp_path / "journal.sqlite")
        await journal.configure({"docs": SourceSettings(b"/srv/docs"), "ingest": SourceSettings(b"/")})
        names = [b"a.md", b"b.md", b"old.md", b"sub/\xff", b"sub/x"]
        await journal.take("docs", [Change(name, Stat(1, n, 10, 1, 1)) for n, name in enumerate(names)])
        rows = {row.path: row for row in await journal.claim(3)}
        for name in (b"a.md", b"old.md"):
            await journal.identified(rows[name], Stat(1, 0, 10, 1, 1), name.ljust(16), "text", "1", 3)
            await journal.indexed(rows[name], name.ljust(16), "text 1", chunks=4, hashes=b"", warnings=["odd encoding"])
        await journal.settle(rows[b"b.md"], "quarantined", "strike 3 of 3: bad", reason="bad", detail="stack")
        await journal.take("docs", [Change(b"a.md", Stat(1, 0, 11, 2, 2)), Change(b"old.md", None)])
        (row,) = await journal.claim(1)
        await journal.settle(row, "failed", "strike 1 of 3: torn", reason="torn", retry_in=50)
        journal.close()

    asyncio.run(fill())
    connection = sqlite3.connect(tmp_path / "journal.sqlite")
    yield connection
    connection.close()


def test_why_says_everything(db: sqlite3.Connection) -> None:
    told = reports.why(db, b"/srv/docs/b.md")
    assert told.keys() >= WHY
    assert (told["path"], told["state"], told["reason"]) == ("/srv/docs/b.md", "quarantined", "bad")
    assert told["detail"] == "stack"
    assert told["retry_at"] is None
    assert [event["event"] for event in told["history"]] == ["strike 3 of 3: bad"]
    json.dumps(told)


def test_why_says_that_an_older_version_is_searchable(db: sqlite3.Connection) -> None:
    told = reports.why(db, b"/srv/docs/a.md")
    assert (told["state"], told["reason"]) == ("failed", "torn (an older version of it is searchable)")
    assert told["chunks"] == 4
    assert told["retry_at"] > 0


def test_why_of_what_is_going_away(db: sqlite3.Connection) -> None:
    assert "waits for its removal" in reports.why(db, b"/srv/docs/old.md")["reason"]


def test_why_takes_exact_bytes(db: sqlite3.Connection) -> None:
    told = reports.why(db, b"/srv/docs/sub/\xff")
    assert told["path"] == "/srv/docs/sub/\ufffd"
    assert base64.b64decode(told["path_b64"]) == b"/srv/docs/sub/\xff"


def test_what_waits_for_a_person_says_what_to_type(db: sqlite3.Connection) -> None:
    config = Config(watch=(WatchTable(name="docs", directory="/srv/docs"),))
    db.execute("UPDATE documents SET state = 'held' WHERE path = CAST('old.md' AS BLOB)")
    assert "ingestd confirm-deletes docs" in reports.why(db, b"/srv/docs/old.md")["reason"]
    (warning,) = reports.offline_status(config, db)["warnings"]
    assert "source docs: 1 files are gone" in warning
    assert "ingestd confirm-deletes docs" in warning
    db.execute("UPDATE sources SET paused = 1 WHERE name = 'docs'")
    assert "ingestd resume docs" in reports.why(db, b"/srv/docs/sub/x")["reason"]
    told = reports.offline_status(config, db)
    assert told["warnings"][1] == "source docs is paused: ingestd resume docs"
    assert told["sources"][0].items() >= {"held": 1, "paused": True}.items()
    db.execute("UPDATE sources SET removed_until = ?", (time.time() + 7200,))
    told = reports.why(db, b"/srv/docs/b.md")
    assert told["state"] == "held"
    assert "no longer configured" in told["reason"]
    told = reports.offline_status(config, db)
    assert told["files"]["held"] == sum(told["files"].values()) == 5
    assert "its 5 files leave the index in" in told["warnings"][0]


@pytest.mark.parametrize(
    ("path", "words"),
    [(b"/srv/docs/none.md", "is not in the journal"), (b"/srv/docs/sub", "is a directory with 2 files: name one")],
)
def test_why_of_nothing(db: sqlite3.Connection, path: bytes, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        reports.why(db, path)


def test_failures_are_those_and_shorter(db: sqlite3.Connection) -> None:
    told = reports.failures(db)
    assert [(item["path"], item["state"]) for item in told] == [
        ("/srv/docs/a.md", "failed"), ("/srv/docs/b.md", "quarantined"),
    ]  # fmt: skip
    assert all(item.keys() < WHY for item in told)


def test_retry_by_path_and_all(db: sqlite3.Connection) -> None:
    assert journal.retry(db, reports.retryable(db, [b"/srv/docs/b.md"])) == 1
    assert journal.retry(db, reports.retryable(db, None)) == 1
    assert reports.retryable(db, None) == reports.retryable(db, [b"/srv/docs"]) == []
    assert reports.failures(db) == []
    with pytest.raises(UsageError, match="is not in the journal"):
        reports.retryable(db, [b"/nowhere"])


def test_status_without_a_daemon(db: sqlite3.Connection) -> None:
    config = Config(watch=(WatchTable(name="docs", directory="/srv/docs"),), index=IndexTable(sink="sqlite"))
    told = reports.offline_status(config, db)
    assert told.keys() >= STATUS
    assert told["files"] == {
        "settling": 0, "queued": 3, "running": 0, "indexed": 0, "partial": 0, "failed": 1, "quarantined": 1,
        "skipped": 0, "held": 0,
    }  # fmt: skip
    assert told["chunks"] == 8
    assert told["sources"][0].items() >= {"name": "docs", "directory": "/srv/docs", "mode": "auto", "files": 5}.items()
    assert reports.offline_status(config, None)["files"]["indexed"] == 0


def test_states_name_all_and_sum_the_sources() -> None:
    told = reports.states({"a": Counter(indexed=2), "b": Counter(indexed=3, failed=1)}, 7)
    assert list(told) == ["settling", *STATES]
    assert (told["settling"], told["indexed"], told["failed"], told["held"]) == (7, 5, 1, 0)


def test_a_hit_has_the_promised_keys() -> None:
    found = Hit(
        score=0.5, path=b"/d/\xff", source="docs", page=2, title=None, text="t", doc_id="d", chunk_id="c", ordinal=3,
        metadata={"k": 1},
    )  # fmt: skip
    told = reports.hit(found)
    assert list(told) == [
        "score", "path", "path_b64", "source", "page", "title", "text", "doc_id", "chunk_id", "ordinal", "metadata",
        "member", "highlights",
    ]  # fmt: skip


def test_who_takes_a_suffix_and_who_lost_it() -> None:
    items = [
        PluginItem("loader", name, "1", suffixes, [], False, f"dist-{name} 1")
        for name, suffixes in [("text", [".txt", ".md"]), ("notes", [".md", ".note"]), ("old", [".old", ".note"])]
    ]
    manifest = Manifest(items=items, errors=[])

    def told(**loaders: dict[str, Any]) -> dict[str, tuple[list[str], dict[str, str | None]]]:
        found = reports.plugins(manifest, [], LoadTable(loaders=loaders))
        return {item["name"]: (item["takes"], item["lost"]) for item in found}

    assert told() == {
        "text": ([".md", ".txt"], {}), "notes": ([".note"], {".md": "text"}), "old": ([".old"], {".note": "notes"}),
    }  # fmt: skip
    assert told(notes={"suffixes": [".md", "TXT"]}) == {
        "text": ([], {".txt": "notes", ".md": "notes"}), "notes": ([".md", ".note", ".txt"], {}),
        "old": ([".old"], {".note": "notes"}),
    }  # fmt: skip
    assert told(notes={"disabled": True}, text={"disabled": True}) == {
        "text": ([], {".txt": None, ".md": None}), "notes": ([], {".md": None, ".note": "old"}),
        "old": ([".note", ".old"], {}),
    }  # fmt: skip


def test_plugins_name_what_does_not_work() -> None:
    manifest = Manifest(items=[PluginItem("sink", "sqlite")], errors=[PluginError("bad", "bad 1", "ImportError")])
    lost = [PluginError("deadly", "deadly 2", "left out: exit code 7")]
    told = reports.plugins(manifest, lost, LoadTable())
    assert [(item["name"], item["error"]) for item in told] == [
        ("sqlite", None), ("bad", "ImportError"), ("deadly", "left out: exit code 7"),
    ]  # fmt: skip
    assert told[-1]["distribution"] == "deadly 2"


def test_rates_cover_the_last_half_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("ingestd.reports.time.monotonic", lambda: now[0])
    rates = reports.Rates()
    assert rates.sample(0, 0) == (0.0, 0.0)
    for second in range(1, 101):
        now[0] = float(second)
        found = rates.sample(10 * second, 50 * second)
    assert found == (10.0, 50.0)
    for second in range(101, 200):
        now[0] = float(second)
        found = rates.sample(1000, 5000)
    assert found == (0.0, 0.0)
