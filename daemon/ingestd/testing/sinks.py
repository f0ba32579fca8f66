"""What every sink promises of its writes, of opening and reading, and when it is killed; searching is beside it."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from ingestd.errors import IndexMismatchError, IndexUnavailableError, IngestdError
from ingestd.testing import sink_cases
from ingestd.testing.sink_cases import DIMS, FINGERPRINT, Case, ask, contents, document, ids, replace
from ingestd.testing.sink_searches import SearchContract
from ingestd.types import Chunk, Operation, Rekey, Remove, Replace, Sink, Written


class SinkContract(SearchContract):
    """A sink under the contract: subclass it as `Test...` in a test module, and set `name`."""

    name: str
    options: Mapping[str, Any] = {}
    """Its table of the configuration, `[index.NAME]`."""
    atomic: bool = True
    """A search sees each document in one version only, also while it is replaced."""

    @pytest.fixture
    def case(self) -> Case:
        """The sink, to be opened as often as a test wants."""
        return Case(self.name, self.options, self.atomic)

    @pytest.fixture
    def sink(self, case: Case, tmp_path: Path) -> Iterator[Sink]:
        """An empty one."""
        opened = case.open(tmp_path / "index")
        yield opened
        opened.close()

    # --- writing ----------------------------------------------------------------------------------------------

    def test_what_was_written_is_found_with_all_that_is_known_of_it(self, sink: Sink) -> None:
        doc = document(
            "a/handbook.pdf", title="Handbook", media_type="application/pdf", size=4711,
            mtime_ns=1_700_000_000_500_000_000, digest=b"\x01\xff", loader="pdf", category_id="c-9",
            category_path="/hr/leave", metadata={"author": "Ada"},
        )  # fmt: skip
        chunk = sink_cases.chunks(["Annual leave is thirty days."])[0]
        chunk = msgspec.structs.replace(chunk, page=12, headings=("Leave", "Annual"), metadata={"kind": "table"})
        assert sink.write([Replace(doc, [chunk], sink_cases.vector(chunk.text))]) == [Written(chunks=1)]
        (hit,) = ask(sink, "annual leave")
        assert hit.score > 0
        assert (hit.path, hit.source, hit.page, hit.title) == (doc.path, "notes", 12, "Handbook")
        assert (hit.text, hit.doc_id, hit.ordinal) == (chunk.text, doc.doc_id, 0)
        assert {hit.chunk_id} == set(sink.chunk_ids())
        expected = {
            "doc_id": doc.doc_id, "path": "/srv/notes/a/handbook.pdf", "source": "notes", "category_id": "c-9",
            "category_path": "/hr/leave", "page": 12, "headings": ["Leave", "Annual"], "title": "Handbook",
            "media_type": "application/pdf", "size": 4711, "mtime": 1_700_000_000.5, "digest": "01ff", "ordinal": 0,
            "author": "Ada", "kind": "table",
        }  # fmt: skip
        assert expected.items() <= hit.metadata.items()

    def test_durable_when_write_returns(self, case: Case, sink: Sink, tmp_path: Path) -> None:
        sink.write([replace("a.txt", ["first", "second"])])
        other = case.open(tmp_path / "index", readonly=True)
        assert contents(other) == contents(sink)
        assert other.count() == (1, 2)
        other.close()

    def test_doing_a_thing_twice_equals_doing_it_once(self, sink: Sink) -> None:
        operations: list[Operation] = [
            replace("a.txt", ["one", "two", "two"]),
            replace("b.txt", ["three"]),
            replace("gone.txt", ["four"]),
            Rekey(document("a.txt").doc_id, document("c.txt")),
            Remove(document("gone.txt").doc_id),
        ]
        first = sink.write(operations)
        once = contents(sink)
        assert sink.write(operations) == first
        assert contents(sink) == once
        assert sink.count() == (3, 7)

    def test_replace_leaves_exactly_the_new_chunks(self, sink: Sink) -> None:
        sink.write([replace("a.txt", ["alpha", "beta", "gamma"]), replace("b.txt", ["delta"])])
        sink.write([new := replace("a.txt", ["epsilon", "beta"], known=["beta"])])
        assert set(sink.chunk_ids()) == ids(new) | ids(replace("b.txt", ["delta"]))
        assert ask(sink, "alpha gamma") == []
        assert [hit.text for hit in ask(sink, "epsilon")] == ["epsilon"]

    def test_a_kept_chunk_keeps_its_vector_and_gets_its_new_place(self, sink: Sink) -> None:
        sink.write([replace("a.txt", ["alpha", "beta"])])
        moved = [
            msgspec.structs.replace(chunk, page=3, headings=("Zebra",), metadata={"kind": "note"})
            for chunk in sink_cases.chunks(["new", "beta"], known=["beta"])
        ]
        assert sink.write([Replace(document("a.txt"), moved, sink_cases.vector("new"))]) == [Written(chunks=2)]
        hit = ask(sink, near="beta")[0]
        assert (hit.text, hit.ordinal, hit.page) == ("beta", 1, 3)
        assert (hit.metadata["headings"], hit.metadata["kind"]) == (["Zebra"], "note")
        assert {hit.text for hit in ask(sink, "zebra")} == {"new", "beta"}

    def test_a_fresh_chunk_that_is_there_already_gets_the_new_vector(self, sink: Sink) -> None:
        sink.write([replace("a.txt", ["alpha"]), replace("b.txt", ["beta"])])
        again = replace("a.txt", ["alpha"])
        sink.write([Replace(again.document, again.chunks, sink_cases.vector("another direction"))])
        assert [hit.text for hit in ask(sink, near="another direction")] == ["alpha", "beta"]
        assert sink.count() == (2, 2)

    def test_chunks_that_are_missing_change_nothing(self, sink: Sink) -> None:
        sink.write([replace("a.txt", ["alpha"])])
        before = contents(sink)
        results = sink.write([
            replace("a.txt", ["alpha", "beta", "gamma", "delta"], known=["alpha", "beta", "gamma"]),
            replace("new.txt", ["beta"], known=["beta"]),
        ])  # fmt: skip
        assert results == [Written(missing=2), Written(missing=1)]
        assert contents(sink) == before

    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    def test_vectors_that_are_none_are_refused(self, sink: Sink, value: float) -> None:
        good = replace("a.txt", ["alpha"])
        broken = np.ones(DIMS, np.float32)
        broken[3] = value
        bad = [broken.tobytes(), sink_cases.vector("x")[:-4], sink_cases.vector("x") + bytes(4), b"", b"abc"]
        operations = [Replace(document(f"{n}.txt"), sink_cases.chunks(["beta"]), blob) for n, blob in enumerate(bad)]
        results = sink.write([*operations, good])
        assert all(result.error for result in results[:-1])
        assert results[-1] == Written(chunks=1)
        assert sink.count() == (1, 1)

    def test_a_refused_version_leaves_the_last_good_one(self, sink: Sink) -> None:
        sink.write([replace("a.txt", ["alpha"])])
        before = contents(sink)
        for metadata in ({"huge": 1 << 70}, {"surrogate": "\ud800"}, {"object": object()}):
            bad = Replace(document("a.txt", metadata=metadata), sink_cases.chunks(["beta"]), sink_cases.vector("beta"))
            (result,) = sink.write([bad])
            assert result.error
        (result,) = sink.write([Replace(document("a.txt", size=1 << 64), [], b"")])
        assert result.error
        twins = sink_cases.chunks(["beta"]) * 2
        (result,) = sink.write([Replace(document("a.txt"), twins, sink_cases.vector("beta") * 2)])
        assert result.error
        assert contents(sink) == before

    def test_an_empty_document_is_a_document(self, sink: Sink) -> None:
        assert sink.write([replace("empty.txt", [])]) == [Written(chunks=0)]
        assert sink.count() == (1, 0)
        assert [indexed.chunks for indexed in sink.documents()] == [0]

    def test_an_empty_batch(self, sink: Sink) -> None:
        assert sink.write([]) == []

    def test_rekey_copies_text_and_vectors(self, sink: Sink) -> None:
        original = replace("a.txt", ["alpha", "beta"])
        copy = document("copy.txt", title="Copy")
        assert sink.write([original, Rekey(original.document.doc_id, copy)]) == [Written(chunks=2)] * 2
        hits = ask(sink, "alpha", near="alpha", top=2)
        assert {hit.path for hit in hits} == {original.document.path, copy.path}
        assert {hit.text for hit in hits} == {"alpha"}
        assert hits[0].score == hits[1].score
        assert set(sink.chunk_ids()) == ids(original) | ids(replace("copy.txt", ["alpha", "beta"]))
        sink.write([Remove(original.document.doc_id)])
        assert [hit.title for hit in ask(sink, "alpha", near="alpha", top=1)] == ["Copy"]

    def test_rekey_of_what_is_not_there(self, sink: Sink) -> None:
        sink.write([replace("target.txt", ["alpha"])])
        before = contents(sink)
        assert sink.write([Rekey(document("nowhere").doc_id, document("target.txt"))]) == [Written(missing=1)]
        assert contents(sink) == before

    def test_rekey_of_what_has_changed_meanwhile(self, sink: Sink) -> None:
        """The journal saw the origin's old content; the index has the new one already."""
        sink.write([replace("a.txt", ["new"], digest=b"new")])
        before = contents(sink)
        copy = document("copy.txt", digest=b"old")
        assert sink.write([Rekey(document("a.txt").doc_id, copy)]) == [Written(missing=1)]
        assert contents(sink) == before

    def test_rekey_replaces_its_target(self, sink: Sink) -> None:
        origin = replace("a.txt", ["alpha", "beta"])
        sink.write([origin, replace("b.txt", ["gamma", "delta", "epsilon"])])
        sink.write([Rekey(origin.document.doc_id, document("b.txt"))])
        assert ask(sink, "gamma delta epsilon") == []
        assert set(sink.chunk_ids()) == ids(origin) | ids(replace("b.txt", ["alpha", "beta"]))

    def test_rekey_to_itself_updates_what_is_known_of_the_document(self, sink: Sink) -> None:
        sink.write([replace("a.txt", ["alpha", "beta"])])
        assert sink.write([Rekey(document("a.txt").doc_id, document("a.txt", title="New", mtime_ns=5))]) == [
            Written(chunks=2)
        ]
        assert [hit.title for hit in ask(sink, "alpha")] == ["New"]
        assert sink.count() == (1, 2)

    def test_remove(self, sink: Sink) -> None:
        sink.write([replace("a.txt", ["alpha"]), replace("b.txt", ["beta"])])
        assert sink.write([Remove(document("a.txt").doc_id), Remove("never there")]) == [Written(), Written()]
        assert [hit.text for hit in ask(sink, "alpha beta", near="alpha")] == ["beta"]
        assert sink.count() == (1, 1)

    def test_documents_are_ordered_and_complete(self, sink: Sink) -> None:
        operations = [
            replace(f"{n}.txt", [f"text {n}"] * (n % 3), digest=bytes([n]), source=f"s{n % 2}") for n in range(50)
        ]
        sink.write(operations)
        found = list(sink.documents())
        assert [d.doc_id for d in found] == sorted(operation.document.doc_id for operation in operations)
        by_id = {operation.document.doc_id: operation for operation in operations}
        for indexed in found:
            operation = by_id[indexed.doc_id]
            assert (indexed.source, indexed.path, indexed.digest, indexed.chunks) == (
                operation.document.source, operation.document.path, operation.document.digest, len(operation.chunks),
            )  # fmt: skip

    def test_what_is_read_makes_another_index_the_same(self, case: Case, sink: Sink, tmp_path: Path) -> None:
        doc = document(
            b"odd \xff.pdf", title="Handbook", media_type="application/pdf", size=4711,
            mtime_ns=1_700_000_000_123_456_789, digest=b"\x01\xff", loader="pdf", category_id="c-9",
            category_path="/hr/leave", metadata={"author": "Ada", "pages": [1, 2]},
        )  # fmt: skip
        directed, lost = sink_cases.chunks(["合同 has a direction", "has none"])
        directed = msgspec.structs.replace(directed, page=12, headings=("Leave", "Annual"), metadata={"kind": "table"})
        odd = Replace(doc, [directed, lost], sink_cases.vector(directed.text) + bytes(4 * DIMS))
        written = [odd, replace("twice.txt", ["same", "same", "other"]), replace("empty.txt", [])]
        sink.write(written)
        asked = [operation.document.doc_id for operation in written]
        read = sink.read([*asked[::-1], "never there"])
        assert [operation.document for operation in read] == [operation.document for operation in written[::-1]]
        assert [operation.chunks for operation in read] == [operation.chunks for operation in written[::-1]]
        (vectors,) = (np.frombuffer(each.vectors, np.float32).reshape(-1, DIMS) for each in sink.read(asked[:1]))
        assert np.linalg.norm(vectors, axis=1) == pytest.approx([1, 0], abs=1e-3)
        other = case.open(tmp_path / "other")
        assert other.write(read) == [Written(chunks=len(operation.chunks)) for operation in read]
        assert contents(other) == contents(sink)
        other.close()

    def test_any_sequence_of_operations_equals_a_dictionary(self, sink: Sink) -> None:
        rng = random.Random(7)
        model: dict[str, list[str]] = {}
        names = [f"{n}.txt" for n in range(6)]
        for _ in range(60):
            name, other = rng.choice(names), rng.choice(names)
            match rng.randrange(4):
                case 0:
                    sink.write([Remove(document(name).doc_id)])
                    model.pop(name, None)
                case 1:
                    (result,) = sink.write([Rekey(document(other).doc_id, document(name))])
                    assert bool(result.missing) == (other not in model)
                    if other in model:
                        model[name] = model[other]
                case _:
                    texts = [f"passage {rng.randrange(9)}" for _ in range(rng.randrange(6))]
                    known = [text for text in texts if rng.random() < 0.5 and texts.count(text) == 1]
                    (result,) = sink.write([replace(name, texts, known=known)])
                    missing = len(set(known) - set(model.get(name, ())))
                    assert result.missing == missing
                    if not missing:
                        model[name] = texts
            expected = set().union(*(ids(replace(name, texts)) for name, texts in model.items()))
            assert sorted(sink.chunk_ids()) == sorted(expected)
            assert sink.count() == (len(model), sum(map(len, model.values())))
        for name, texts in model.items():
            hits = ask(sink, "passage", path=name, top=20)
            assert [hit.text for hit in sorted(hits, key=lambda hit: hit.ordinal)] == texts

    # --- opening ----------------------------------------------------------------------------------------------

    def test_another_fingerprint_is_refused(self, case: Case, sink: Sink, tmp_path: Path) -> None:
        sink.write([replace("a.txt", ["alpha"])])
        other = msgspec.structs.replace(FINGERPRINT, model="large", max_tokens=512)
        for readonly in (True, False):
            with pytest.raises(IndexMismatchError) as caught:
                case.open(tmp_path / "index", other, readonly=readonly)
            assert caught.value.command == "ingestd reindex"
            for part in ("model", "'tiny'", "'large'", "max_tokens", "64", "512"):
                assert part in caught.value.message
            assert "pooling" not in caught.value.message
        assert sink.count() == (1, 1)

    def test_reading_what_was_never_written(self, case: Case, tmp_path: Path) -> None:
        with pytest.raises(IndexUnavailableError, match="nothing has been indexed yet") as caught:
            case.open(tmp_path / "index", readonly=True)
        assert caught.value.command == "ingestd ingest PATH"
        assert not (tmp_path / "index").exists()

    def test_readonly(self, case: Case, sink: Sink, tmp_path: Path) -> None:
        sink.write([replace("a.txt", ["alpha"])])
        reading = case.open(tmp_path / "index", readonly=True)
        with pytest.raises(IngestdError, match="reading only"):
            reading.write([Remove(document("a.txt").doc_id)])
        sink.write([replace("b.txt", ["beta"])])
        assert [hit.text for hit in ask(reading, "beta")] == ["beta"]
        reading.close()

    # --- at the same time -------------------------------------------------------------------------------------

    def test_searches_beside_writes_see_whole_documents_only(self, case: Case, sink: Sink) -> None:
        if not case.atomic:
            pytest.skip("cannot be had: this store has no transactions")
        old = replace("a.txt", [f"word old {n}" for n in range(20)])
        new = replace("a.txt", [f"word new {n}" for n in range(12)])
        sink.write([old])
        seen: list[set[str]] = []
        failures: list[BaseException] = []
        stop = threading.Event()

        def search() -> None:
            try:
                while not stop.is_set():
                    seen.append({hit.chunk_id for hit in ask(sink, "word", near="word old 3", top=50)})
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=search) for _ in range(2)]
        for thread in threads:
            thread.start()
        for turn in range(60):
            sink.write([old if turn % 2 else new, replace(f"other {turn}.txt", ["something else"])])
        stop.set()
        for thread in threads:
            thread.join()
        assert not failures
        wholes = [ids(old), ids(new)]
        related = wholes[0] | wholes[1]
        versions = [found & related for found in seen]
        assert all(version in wholes for version in versions)
        assert all(whole in versions for whole in wholes)

    def test_killed_in_mid_write_at_any_time(self, case: Case, tmp_path: Path) -> None:
        seed = 11
        batches = sink_cases.script(seed)
        undisturbed = case.open(tmp_path / "undisturbed")
        allowed: dict[str, list[set[str]]] = {}
        chunks: dict[str, list[Chunk]] = {}
        for batch in batches:
            undisturbed.write(batch)
            for operation in batch:
                if isinstance(operation, Rekey):
                    operation = Replace(operation.document, chunks[operation.origin], b"")
                if isinstance(operation, Replace):
                    chunks[operation.document.doc_id] = operation.chunks
                    allowed.setdefault(operation.document.doc_id, []).append(ids(operation))
        expected = contents(undisturbed)
        undisturbed.close()

        rng = random.Random(seed)
        target = tmp_path / "killed"
        durable = kills = 0
        code = "import sys; from ingestd.testing import sink_cases; sink_cases.main(*sys.argv[1:])"
        case_of = [case.name, json.dumps(dict(case.options))]
        arguments = [sys.executable, "-c", code, *case_of, str(target), str(seed)]
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "bufsize": 1}
        with subprocess.Popen(arguments, **pipes) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            while True:
                process.stdin.write(f"{durable}\n")
                writer = int(process.stdout.readline())
                said = [process.stdout.readline() for _ in range(rng.randint(0, 2))]
                if kills < 15:
                    time.sleep(rng.random() * 0.02)
                    with contextlib.suppress(ProcessLookupError):  # it was done already
                        os.kill(writer, signal.SIGKILL)
                while not said or not said[-1].startswith("exit"):
                    said.append(process.stdout.readline())
                if said[-1].split() == ["exit", "0"]:
                    break
                assert said[-1].split() == ["exit", "-9"]
                kills += 1
                # Redone from one batch before the last that it said was durable.
                durable = max([durable, *(int(line) - 1 for line in said[:-1])])
                if durable and case.atomic:
                    check_wholeness(case, target, allowed)
            process.stdin.close()
        assert kills >= 3  # how many a fast writer leaves time for
        sink = case.open(target)
        found = contents(sink)
        if not case.atomic:  # what was deleted still counts in the statistics of a server's ranking
            del found["answers"], expected["answers"]
        assert found == expected
        sink.close()


def check_wholeness(case: Case, directory: Path, allowed: dict[str, list[set[str]]]) -> None:
    """Every document is in exactly one of the versions that it ever had."""
    sink = case.open(directory, readonly=True)
    present = set(sink.chunk_ids())
    for indexed in sink.documents():
        whole = [
            version for version in allowed[indexed.doc_id] if version <= present and len(version) == indexed.chunks
        ]
        assert whole
        present -= whole[0]
    assert not present
    sink.close()
