"""Real documents of every bundled format, with the real model: each is found by a question about its content."""

from __future__ import annotations

from pathlib import Path

from tests import corpus
from tests.processes.daemons import ingest, running, write_config

MODEL = {"engine": "torch", "model": "sentence-transformers/all-MiniLM-L6-v2"}


def test_every_document_is_found(tmp_path: Path) -> None:
    folder = tmp_path / "docs"
    entries = corpus.build(folder)
    assert len(entries) >= 40
    state = tmp_path / "state"
    config = write_config(state, folder, encode=MODEL)
    summary = ingest(config, folder)
    assert summary["failures"] == []
    assert summary["indexed"] == len(entries)
    lost = []
    with running(config, state) as daemon:
        for path, query, phrase in entries:
            hits = daemon.call("search", text=query, top=3, source=None, path=None)["hits"]
            if str(folder / path) not in [hit["path"] for hit in hits]:
                lost.append((path, query, [hit["path"] for hit in hits]))
                continue
            found = " ".join(hit["text"] for hit in hits if hit["path"] == str(folder / path))
            assert "".join(phrase.split()) in "".join(found.split()), path
        status = daemon.wait()
    assert lost == []
    assert status["files"]["indexed"] == len(entries)


def test_hostile_documents_end_with_a_reason(tmp_path: Path) -> None:
    folder = tmp_path / "docs"
    made = corpus.hostile(folder)
    state = tmp_path / "state"
    summary = ingest(write_config(state, folder, load={"deadline": "20s", "max_strikes": 1}), folder)
    total = sum(summary[key] for key in ("indexed", "failed", "quarantined", "skipped", "unchanged"))
    assert total == len(made)
    missing = [
        failure
        for failure in summary["failures"]
        if failure["reason"].startswith(("needs LibreOffice", "needs ingestd[ocr]"))
    ]
    assert summary["failed"] == len(missing)
    for failure in summary["failures"]:
        assert failure["reason"]
        assert failure["reason"].isprintable()
