"""What the embedded store promises beyond the contract of every sink."""

from __future__ import annotations

import fnmatch
import os
import random
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import apsw
import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingestd.errors import ConfigError, IndexMismatchError, IndexUnavailableError, IngestdError
from ingestd.testing import sink_cases
from ingestd.testing.sink_cases import DIMS, FINGERPRINT, ask, contents, document, replace
from ingestd.types import Query, Remove, Replace, Written
from ingestd_plugins import sqlite_file
from ingestd_plugins.fusion import fuse, rarity, votes
from ingestd_plugins.sqlite import SqliteSink
from ingestd_plugins.sqlite_search import coverages, glob_pattern
from ingestd_plugins.terms import coverage, match_expression, prepare, question_words
from tests import mounting


@pytest.fixture
def sink(tmp_path: Path) -> Iterator[SqliteSink]:
    opened = open_at(tmp_path / "index")
    yield opened
    opened.close()


def open_at(directory: Path, *, readonly: bool = False) -> SqliteSink:
    made = SqliteSink()
    made.open(directory, FINGERPRINT, {}, readonly=readonly)
    return made


def big(name: str, count: int = 200) -> Replace:
    rng = random.Random(name)
    return replace(name, [f"{n} " + "".join(rng.choices("abcdefgh ", k=900)) for n in range(count)])


# --- trouble with the disk ------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MB; the test with a file size limit runs everywhere."""
    with mounting.small_disk(tmp_path / "small", "2m") as disk:
        yield disk


def test_full_disk_refuses_and_later_writes_work(small_disk: Path) -> None:
    sink = open_at(small_disk / "index")
    first = replace("a.txt", ["alpha"])
    sink.write([first])
    ballast = small_disk / "ballast"
    with ballast.open("wb") as file:
        file.write(bytes(1 << 20))
    before = contents(sink)
    for _ in range(3):
        with pytest.raises(IndexUnavailableError, match="no space left"):
            sink.write([replace("b.txt", ["beta"]), big("big.txt", 1500)])
        assert contents(sink) == before
    ballast.unlink()
    assert sink.write([replace("b.txt", ["beta"])]) == [Written(chunks=1)]
    assert sink.count() == (2, 2)
    sink.close()
    sink = open_at(small_disk / "index")
    assert [hit.text for hit in ask(sink, "beta")] == ["beta"]
    sink.close()


def test_a_disk_too_full_for_a_new_index(small_disk: Path) -> None:
    subprocess.run(["dd", "if=/dev/zero", f"of={small_disk / 'ballast'}", "bs=64k"], capture_output=True, check=False)
    with pytest.raises(IndexUnavailableError, match="cannot open the index"):
        open_at(small_disk / "index")
    (small_disk / "ballast").unlink()
    open_at(small_disk / "index").close()


def test_file_size_limit_refuses_and_later_writes_work(sink: SqliteSink) -> None:
    sink.write([replace("a.txt", ["alpha"])])
    before = contents(sink)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))
    try:
        with pytest.raises(IndexUnavailableError, match="cannot write the index"):
            sink.write([big("big.txt", 1500)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, previous)
    assert contents(sink) == before
    assert sink.write([replace("b.txt", ["beta"])]) == [Written(chunks=1)]


@pytest.mark.parametrize("part", ["head", "all", "no database"])
def test_a_damaged_file_is_named_as_such(tmp_path: Path, part: str) -> None:
    sink = open_at(tmp_path)
    sink.write([big("a.txt")])
    sink.close()
    path = tmp_path / sqlite_file.FILE
    content = bytearray(path.read_bytes())
    if part == "no database":
        content[:] = b"just some text\n" * 1000
    else:
        start, stop = (100, 8192) if part == "head" else (8192, len(content))
        content[start:stop] = random.Random(1).randbytes(stop - start)
    path.write_bytes(content)

    def use() -> None:
        ask(open_at(tmp_path), "alpha", near="alpha")

    with pytest.raises(IndexUnavailableError, match="damaged") as caught:
        use()
    assert caught.value.command == "ingestd reindex"
    assert str(path) in caught.value.message


def test_a_directory_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(IndexUnavailableError, match="cannot create"):
        open_at(tmp_path / "file" / "index")


def test_a_file_without_tables_is_a_new_index(tmp_path: Path) -> None:
    """What a kill during the very first start leaves."""
    (tmp_path / sqlite_file.FILE).touch()
    with pytest.raises(IndexUnavailableError, match="nothing has been indexed yet"):
        open_at(tmp_path, readonly=True)
    sink = open_at(tmp_path)
    assert sink.count() == (0, 0)
    sink.close()


def test_the_format_of_another_version_is_refused(tmp_path: Path) -> None:
    open_at(tmp_path).close()
    with apsw.Connection(str(tmp_path / sqlite_file.FILE)) as connection:
        connection.execute("UPDATE meta SET value = '0' WHERE key = 'format'")
    connection.close()
    with pytest.raises(IndexMismatchError, match="another ingestd") as caught:
        open_at(tmp_path)
    assert caught.value.command == "ingestd reindex"


def test_unknown_option(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"\[index.sqlite\].*'shards'"):
        SqliteSink().open(tmp_path, FINGERPRINT, {"shards": 3}, readonly=False)


# --- readers and writers --------------------------------------------------------------------------------------


def test_durable_settings(sink: SqliteSink) -> None:
    writer = sink._writer
    assert writer is not None
    assert writer.execute("PRAGMA journal_mode").fetchall() == [("wal",)]
    assert writer.execute("PRAGMA synchronous").fetchall() == [(2,)]


def test_a_search_does_not_wait_for_a_write_of_another_process(sink: SqliteSink, tmp_path: Path) -> None:
    sink.write([replace("a.txt", ["alpha"])])
    other = apsw.Connection(str(tmp_path / "index" / sqlite_file.FILE))
    other.execute("BEGIN IMMEDIATE; DELETE FROM chunks; DELETE FROM documents; DELETE FROM vectors")
    assert [hit.text for hit in ask(sink, "alpha", near="alpha")] == ["alpha"]
    other.execute("ROLLBACK")
    other.close()


def test_a_write_does_not_wait_for_a_slow_reader(sink: SqliteSink) -> None:
    sink.write([replace("a.txt", ["alpha"]), replace("b.txt", ["beta"])])
    slow = sink.documents()
    next(slow)
    sink.write([Remove(document("a.txt").doc_id), Remove(document("b.txt").doc_id)])
    assert ask(sink, "alpha") == []
    assert len(list(slow)) == 1, "the reader goes on with the state that it began with"


def test_the_log_is_emptied_once_no_reader_needs_it(
    sink: SqliteSink, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    log = tmp_path / "index" / f"{sqlite_file.FILE}-wal"
    sink.write([big("a.txt"), big("b.txt")])
    slow = sink.documents()
    next(slow)
    monkeypatch.setattr(sqlite_file, "LOG_LIMIT", 100_000)
    sink.write([big("c.txt")])
    assert log.stat().st_size > 100_000
    assert len(list(slow)) == 1
    sink.write([big("d.txt")])
    assert log.stat().st_size == 0
    assert sink.count() == (4, 800)


def test_an_abandoned_reader_does_no_harm(sink: SqliteSink) -> None:
    sink.write([replace("a.txt", ["alpha"]), replace("b.txt", ["beta"])])
    for _ in range(5):
        next(sink.chunk_ids())
    assert sink.count() == (2, 2)


def test_readable_after_its_writer_was_killed(tmp_path: Path) -> None:
    program = (
        "import os, signal, sys; from pathlib import Path; from ingestd.testing import sink_cases\n"
        "sink = sink_cases.Case('sqlite').open(Path(sys.argv[1]))\n"
        "sink.write([sink_cases.replace('a.txt', ['alpha'])])\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    here = str(Path(__file__).parent.parent)
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], cwd=here, check=False)
    assert done.returncode == -signal.SIGKILL
    reading = open_at(tmp_path, readonly=True)
    assert [hit.text for hit in ask(reading, "alpha", near="alpha")] == ["alpha"]
    reading.close()


def test_a_closed_index_says_so(sink: SqliteSink) -> None:
    sink.close()
    with pytest.raises(IngestdError, match="not open"):
        sink.search(Query(text="x", vector=b""))


def test_a_document_that_breaks_the_transaction_leaves_no_trace(
    sink: SqliteSink, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    sink.write([replace("a.txt", ["alpha"])])
    before = contents(sink)
    broken = replace("b.txt", ["beta"])
    monkeypatch.setattr("ingestd_plugins.sqlite_write.prepare", lambda text: b"" if "gamma" in text else [text])
    with pytest.raises(TypeError):
        sink.write([Remove(document("a.txt").doc_id), broken])
    monkeypatch.undo()
    assert contents(sink) == before
    sink.write([broken])
    assert sink.count() == (2, 2)


def test_replacing_for_ever_does_not_grow_the_file(sink: SqliteSink, tmp_path: Path) -> None:
    def size() -> int:
        with apsw.Connection(str(tmp_path / "index" / sqlite_file.FILE)) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.close()
        return (tmp_path / "index" / sqlite_file.FILE).stat().st_size

    for turn in range(12):
        sink.write([replace(f"{n}.txt", [f"{turn} {n} {k} " + "filler " * 20 for k in range(8)]) for n in range(20)])
        if turn == 3:
            early = size()
    assert size() < 1.5 * early


# --- ranking --------------------------------------------------------------------------------------------------


def test_vector_search_is_exact(sink: SqliteSink) -> None:
    rng = np.random.default_rng(3)
    matrix = rng.standard_normal((400, DIMS), dtype=np.float32) * rng.uniform(0.01, 100, (400, 1)).astype(np.float32)
    matrix[17] = 0
    question = rng.standard_normal(DIMS, dtype=np.float32)
    sink.write([Replace(document("a.txt"), sink_cases.chunks([f"text {n}" for n in range(400)]), matrix.tobytes())])
    with np.errstate(invalid="ignore"):
        cosine = matrix @ question / np.linalg.norm(matrix, axis=1)
    best = [int(n) for n in np.argsort(-np.nan_to_num(cosine, nan=-9.0))]
    hits = sink.search(Query(text="", vector=question.tobytes(), top=40))
    assert [hit.ordinal for hit in hits] == best[:40]
    every = sink.search(Query(text="", vector=question.tobytes(), top=400))
    assert 17 not in {hit.ordinal for hit in every}, "a vector without direction is near nothing"
    assert len(every) == 399


def test_vectors_of_extreme_lengths(sink: SqliteSink) -> None:
    matrix = np.zeros((3, DIMS), np.float32)
    matrix[0] = 3e38
    matrix[1, 0] = 1e-45
    matrix[2, 1] = 1
    sink.write([Replace(document("a.txt"), sink_cases.chunks(["a", "b", "c"]), matrix.tobytes())])
    for ordinal, row in enumerate(matrix):
        hits = sink.search(Query(text="", vector=row.tobytes()))
        assert len(hits) == 3
        assert hits[0].ordinal == ordinal


def test_a_question_that_is_not_finite_is_searched_by_its_words(sink: SqliteSink) -> None:
    sink.write([replace("a.txt", ["alpha"])])
    broken = np.full(DIMS, np.nan, np.float32).tobytes()
    assert [hit.text for hit in sink.search(Query(text="alpha", vector=broken))] == ["alpha"]
    assert sink.search(Query(text="", vector=broken)) == []


def test_weighted_reciprocal_rank_fusion() -> None:
    near = [("a", 0.1), ("b", 0.2), ("c", 0.2), ("d", 0.3)]
    scores = fuse(near, [("c", -9.0), ("e", -8.0), ("f", -7.0)], {"c": 1.0, "e": 0.75, "f": 0.5})
    assert scores == {"a": 1 / 61, "b": 1 / 62, "c": 1 / 62 + 2 / 61, "d": 1 / 64, "e": 1 / 62, "f": 0}
    assert fuse([], [("c", -9.0), ("d", -9.0), ("e", -8.0)], {}) == {"c": 1 / 61, "d": 1 / 61, "e": 1 / 63}
    assert fuse([], [], {}) == {}


def test_half_of_a_question_is_no_vote_and_all_of_it_outvotes_nearness() -> None:
    assert [votes(share / 8) for share in range(9)] == [0, 0, 0, 0, 0, 0.5, 1, 1.5, 2]
    literal = [(f"literal {n}", float(n)) for n in range(50)]
    scores = fuse([(f"near {n}", float(n)) for n in range(50)], literal, dict.fromkeys(dict(literal), 1.0))
    assert min(scores[key] for key, _ in literal) > scores["near 0"]


def test_rare_terms_weigh_more() -> None:
    weights = [rarity(count, 1000) for count in (0, 1, 10, 100, 500, 1000, 2000)]
    assert weights == sorted(weights, reverse=True)
    assert weights[0] > 7
    assert min(weights) >= 0


def test_coverage() -> None:
    words = [("error",), ("e1734",), ("nightly",)]
    counts = {"error": 300, "e1734": 1, "nightly": 0}
    assert coverage(words, counts, 1000, {"error", "e1734", "nightly"}) == 1
    assert coverage(words, counts, 1000, set()) == 0
    assert coverage(words, counts, 1000, {"error"}) < 0.1
    assert 0.4 < coverage(words, counts, 1000, {"e1734"}) < 0.5, "a word that is nowhere was asked for all the same"
    assert coverage([], {}, 1000, set()) == 0


def test_coverage_of_cjk_runs_is_by_character() -> None:
    words = question_words("写程序员")
    assert words == [("写程", "程序", "序员")]
    nowhere_else = {"写程": 5, "程序": 5, "序员": 0}
    assert coverage(words, nowhere_else, 1000, {"写程", "程序"}) == 1, "a pair found nowhere is an accident"
    everywhere = dict.fromkeys(words[0], 5)
    assert coverage(words, everywhere, 1000, {"写程", "序员"}) == pytest.approx(1)
    assert coverage(words, everywhere, 1000, {"写程"}) == pytest.approx(1 / 2)
    assert coverage(words, everywhere, 1000, {"程序"}) == pytest.approx(2 / 3)


def test_coverage_is_counted_over_the_whole_index(sink: SqliteSink) -> None:
    """Also where the words of a passage are not spelled as in the question, and whatever the filter of the search."""
    sink.write([replace(f"{n}.txt", ["common"]) for n in range(40)])
    sink.write([replace("a.txt", ["Common Connections in 数据库"]), replace("b.txt", ["rare"])])
    with sink._snapshot() as connection:
        rowids = dict(connection.execute("SELECT CAST(name AS TEXT), id << 32 FROM documents"))
        asked = [rowids["a.txt"], rowids["b.txt"], rowids["0.txt"]]
        words = question_words("common connected 据 nowhere")
        shares = coverages(connection, words, asked)
    counts = {"common": 41, "connected": 1, "据": 1, "nowhere": 0}
    for rowid, held in zip(asked, ({"common", "connected", "据"}, set(), {"common"}), strict=True):
        assert shares[rowid] == pytest.approx(coverage(words, counts, 42, held))


def test_no_hit_is_lost_for_being_too_far_down_to_be_weighed(sink: SqliteSink, monkeypatch: pytest.MonkeyPatch) -> None:
    sink.write([replace(f"{n}.txt", [f"passage {n}"]) for n in range(60)])
    monkeypatch.setattr("ingestd_plugins.sqlite._VOTERS", 5)
    assert len(ask(sink, "passage", near="passage 7", top=60)) == 60
    assert len(ask(sink, "passage", top=60)) == 60


def test_shingles() -> None:
    assert prepare("plain ASCII stays as it is") == "plain ASCII stays as it is"
    assert prepare("用Python写程序。").split() == ["用", "Python", "写程", "程序", "序", "。"]
    assert prepare("ＡＢＣ ﾃﾞｰﾀ").split() == ["ABC", "デー", "ータ", "タ"]


def test_words_of_a_question() -> None:
    assert question_words("写程序 用 Python 写程序") == [("写程", "程序"), ("用",), ("python",)]
    assert question_words('the "best" OR (worst)') == [("best",), ("worst",)]
    assert question_words("what is it") == [("what",), ("is",), ("it",)]
    assert question_words("。！") == []
    assert sum(map(len, question_words("程序" * 20 + "员" * 40 + " ".join(f"w{n}" for n in range(99))))) == 64
    assert match_expression(question_words("写程序 用 Python")) == '"写程" OR "程序" OR "用"* OR "python"'
    assert match_expression([]) == ""


@settings(max_examples=300, deadline=None)
@given(
    pattern=st.text(st.sampled_from("ab/*?[]!^-é报"), max_size=10),
    path=st.text(st.sampled_from("ab/]^-é报!"), max_size=6),
)
def test_glob_equals_fnmatch(pattern: str, path: str) -> None:
    found = GLOB.execute("SELECT ? GLOB ?", (path, glob_pattern(pattern))).fetchall()
    assert bool(found[0][0]) == fnmatch.fnmatchcase(path, pattern)


GLOB = apsw.Connection(":memory:")


def test_metadata_that_names_a_standard_field_does_not_hide_it(sink: SqliteSink) -> None:
    chunk = msgspec.structs.replace(
        sink_cases.chunks(["alpha"])[0], page=7, metadata={"page": 99, "own": 1, "both": "chunk"}
    )
    doc = document("a.txt", metadata={"source": "forged", "both": "document", "encoding": "utf-8"})
    sink.write([Replace(doc, [chunk], sink_cases.vector("alpha"))])
    (hit,) = ask(sink, "alpha")
    metadata = hit.metadata
    assert (metadata["page"], metadata["source"], metadata["own"]) == (7, "notes", 1)
    assert (metadata["both"], metadata["encoding"]) == ("chunk", "utf-8")


def test_private_to_its_owner(tmp_path: Path) -> None:
    previous = os.umask(0o022)
    try:
        sink = open_at(tmp_path / "index")
    finally:
        os.umask(previous)
    sink.close()
    assert (tmp_path / "index").stat().st_mode & 0o077 == 0
