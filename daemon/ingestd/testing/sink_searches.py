"""What every sink promises of its searches, by meaning and by words, in every script."""

from __future__ import annotations

import fnmatch
import os
from typing import Any

import pytest

from ingestd.errors import IngestdError
from ingestd.testing.sink_cases import ask, replace
from ingestd.types import Query, Remove, Sink

FARAWAY = [f"filler {n} about the first surface of things" for n in range(120)]


class SearchContract:
    """The part of `SinkContract` that is about searching."""

    def test_both_halves_of_the_search_count(self, sink: Sink) -> None:
        sink.write([replace(f"{n}.txt", [f"passage number{n} about things"]) for n in range(30)])
        by_meaning = ask(sink, near="passage number7 about things", top=1)
        by_words = ask(sink, "number9", top=1)
        assert by_meaning[0].text == "passage number7 about things"
        assert by_words[0].text == "passage number9 about things"
        both = ask(sink, "number7 things", near="passage number7 about things")
        assert both[0].text == "passage number7 about things"
        assert len(both) == 10
        assert [hit.score for hit in both] == sorted((hit.score for hit in both), reverse=True)
        assert both[0].score > 1.9 / 61

    def test_a_common_word_or_two_do_not_outvote_the_nearest_passage(self, sink: Sink) -> None:
        answer = "Armstrong and Aldrin stayed outside for two and a half hours"
        sink.write([replace("a.txt", [answer]), *(replace(f"{n}.txt", [text]) for n, text in enumerate(FARAWAY))])
        sink.write([replace("short.txt", ["first surface"])])
        hits = ask(sink, "first humans walking on the lunar surface", near=answer)
        assert hits[0].text == answer
        assert len(hits) == 10

    @pytest.mark.parametrize(
        ("question", "text"),
        [
            ("E1734", "Error E1734 means that the rotor is blocked: remove limescale."),
            ("what is error E1734", "Error E1734 means that the rotor is blocked: remove limescale."),
            ("Priya Raghunathan", "Accounts are made by Priya Raghunathan in the service centre."),
            ("77-3321-B", "The spare gasket has the part number 77-3321-B."),
            ("client_max_body_size", "The directive client_max_body_size limits an upload."),
            ("HT-2024-0392", "合同编号HT-2024-0392，甲方为上海宏远机械有限公司。"),
            ("超过三天的病假由谁批准", "三天以内的病假由部门经理批准，超过三天的由人事部批准。"),
        ],
    )
    def test_a_literal_match_comes_first_wherever_the_vectors_point(self, sink: Sink, question: str, text: str) -> None:
        """As with names and codes, and in a language that the model does not read."""
        sink.write([replace(f"{n}.txt", [f"error and part number {n}", other]) for n, other in enumerate(FARAWAY)])
        sink.write([replace("wanted.txt", [text])])
        for other in FARAWAY[::40]:
            assert ask(sink, question, near=other)[0].text == text

    def test_equal_texts_of_copies_are_all_shown_in_an_order_that_does_not_change(self, sink: Sink) -> None:
        operations = [replace(f"{n}.txt", ["the very same passage"]) for n in range(8)]
        sink.write(operations)
        first = ask(sink, "same passage", near="the very same passage", top=8)
        assert len({hit.doc_id for hit in first}) == 8
        assert len({hit.score for hit in first}) == 1
        sink.write([Remove(operation.document.doc_id) for operation in operations])
        for operation in reversed(operations):
            sink.write([operation])
        assert ask(sink, "same passage", near="the very same passage", top=8) == first

    def test_filters_apply_before_the_best_are_cut(self, sink: Sink) -> None:
        target = "wanted words"
        sink.write([replace(f"{n}.txt", [target], source="loud") for n in range(300)])
        sink.write([replace(f"{n}.md", ["wanted", f"far away {n}"], source="quiet") for n in range(3)])
        for hits in (
            ask(sink, target, near=target, source="quiet", top=6),
            ask(sink, target, near=target, path="*.md", top=6),
            ask(sink, target, near=target, path="/srv/quiet/*", top=6),
            ask(sink, near=target, source="quiet", path="?.md", top=6),
        ):
            assert {hit.source for hit in hits} == {"quiet"}
            assert len(hits) == 6
        assert len(ask(sink, target, source="quiet", top=9)) == 3
        assert ask(sink, target, near=target, source="quiet", path="*.txt") == []
        assert ask(sink, target, near=target, source="no such source") == []

    def test_filters_by_folder_category_and_time(self, sink: Sink) -> None:
        sink.write([
            replace("hr/a.txt", ["word"], category_id="c1", category_path="/hr/leave", mtime_ns=100),
            replace("hr/deep/b.txt", ["word"], category_id="c2", category_path="/hr/leave/paid", mtime_ns=200),
            replace("hrx/c.txt", ["word"], category_path="/hr/leaves", mtime_ns=300),
        ])  # fmt: skip
        wanted: list[tuple[dict[str, Any], str]] = [
            ({"under": b"/srv/notes/hr"}, "ab"), ({"under": b"/srv/notes/hr/deep/"}, "b"), ({"under": b"/"}, "abc"),
            ({"category": "c2"}, "b"), ({"category": "/hr/leave"}, "ab"), ({"category": "/hr"}, "abc"),
            ({"category": "none"}, ""), ({"since_ns": 200}, "bc"), ({"until_ns": 200}, "a"),
            ({"since_ns": 200, "until_ns": 300, "under": b"/srv/notes"}, "b"),
        ]  # fmt: skip
        for fields, names in wanted:
            hits = ask(sink, "word", near="word", **fields)
            assert sorted(hit.path[-5:-4].decode() for hit in hits) == list(names), fields

    def test_highlights_are_where_the_words_are(self, sink: Sink) -> None:
        sink.write([replace("a.txt", ["The Connections were connected.", "本劳动合同由甲乙双方签订。"])])
        for question, marked in (("what connects", ["Connections", "connected"]), ("劳动合同", ["劳动合同"])):
            (hit,) = ask(sink, question)
            assert [hit.text[start:end] for start, end in hit.highlights] == marked

    def test_paths_match_as_in_a_shell(self, sink: Sink) -> None:
        names = ["a.txt", "b.txt", "A.TXT", "sub/a.txt", "sub/deep/x1.md", "[odd].txt", "报告.txt", "a^b", "x2.md"]
        sink.write([replace(name, ["text"]) for name in names])
        patterns = [
            "*", "a.txt", "*.txt", "[ab].txt", "[!a].txt", "x?.md", "x[0-1].md", "[[]*", "报*", "a[^x]b", "[", "a*b*c",
            "", "/srv/notes/*", "/srv/*/a.txt", "/srv/notes/sub/*", "*/sub/*.md", "*deep/*", "/SRV/*",
            "sub/a.txt",
        ]  # fmt: skip
        for pattern in patterns:
            found = {os.fsdecode(hit.path) for hit in ask(sink, "text", path=pattern, top=50)}
            paths = [f"/srv/notes/{name}" for name in names]
            parts = paths if "/" in pattern else [path.rsplit("/", 1)[-1] for path in paths]
            expected = {path for path, part in zip(paths, parts, strict=True) if fnmatch.fnmatchcase(part, pattern)}
            assert found == expected, pattern

    def test_paths_that_are_not_utf8(self, sink: Sink) -> None:
        raw = b"caf\xe9/r\xe9sum\xe9.txt"
        sink.write([replace(raw, ["alpha"]), replace("plain.txt", ["alpha"])])
        (hit,) = ask(sink, "alpha", path=os.fsdecode(b"r\xe9*.txt"))
        assert hit.path == b"/srv/notes/" + raw
        assert hit.metadata["path"] == "/srv/notes/caf\ufffd/r\ufffdsum\ufffd.txt"
        assert [indexed.path for indexed in sink.documents() if indexed.path == hit.path] == [hit.path]
        assert len(ask(sink, "alpha", path="*caf*")) == 0
        assert len(ask(sink, "alpha", path="/*caf*")) == 1

    @pytest.mark.parametrize(
        ("question", "found"),
        [
            ("劳动合同", "本劳动合同由甲乙双方签订，有效期三年。"),
            ("有效期", "本劳动合同由甲乙双方签订，有效期三年。"),
            ("签订", "本劳动合同由甲乙双方签订，有效期三年。"),
            ("如何申请年假？", "员工每年享有十天带薪年假。"),
            ("假", "员工每年享有十天带薪年假。"),
            ("员", "员工每年享有十天带薪年假。"),
            ("Python编程", "我们用Python编程。"),
            ("编程", "我们用Python编程。"),
            ("python", "我们用Python编程。"),
            ("データベース", "データベースの設計について"),
            ("설계", "데이터베이스 설계"),
            ("ＡＢＣ社", "ABC社は東京にある"),
            ("東京", "ABC社は東京にある"),
            ("resume", "Mon résumé est prêt."),
            ("RÉSUMÉ", "Mon résumé est prêt."),
            ("connect", "The connections were connected."),
            ("error_code 4711", "set error_code to 4711"),
            ("what is it", "so it is what it is"),
        ],
    )
    def test_words_are_found_in_every_script(self, sink: Sink, question: str, found: str) -> None:
        texts = [
            "本劳动合同由甲乙双方签订，有效期三年。", "员工每年享有十天带薪年假。", "我们用Python编程。",
            "データベースの設計について", "데이터베이스 설계", "ABC社は東京にある", "Mon résumé est prêt.",
            "The connections were connected.", "set error_code to 4711", "so it is what it is",
        ]  # fmt: skip
        sink.write([replace(f"{n}.txt", [text]) for n, text in enumerate(texts)])
        assert [hit.text for hit in ask(sink, question)][:1] == [found]

    @pytest.mark.parametrize(
        "question", ["", " ", '"', '""', "*", "NEAR(a b)", "a AND", "text:x", "(", "-", "\0", "💥", "^"]
    )
    def test_questions_that_are_no_words(self, sink: Sink, question: str) -> None:
        sink.write([replace("a.txt", ["alpha"])])
        assert ask(sink, question) == []
        assert [hit.text for hit in ask(sink, question, near="alpha")] == ["alpha"]

    def test_a_word_of_any_length_and_a_page_of_words(self, sink: Sink) -> None:
        sink.write([replace("a.txt", ["alpha NEAR and OR"]), replace("b/ab.txt", ["beta"])])
        assert ask(sink, "x" * 100_000) == []
        assert [hit.text for hit in ask(sink, "alpha " + " ".join(f"w{n}" for n in range(5_000)))] == [
            "alpha NEAR and OR"
        ]

    def test_how_many(self, sink: Sink) -> None:
        sink.write([replace(f"{n}.txt", ["text"]) for n in range(70)])
        assert [len(ask(sink, "text", top=top)) for top in (-1, 0, 1, 60, 10**9)] == [0, 0, 1, 60, 70]

    def test_a_vector_of_other_dimensions_is_named(self, sink: Sink) -> None:
        with pytest.raises(IngestdError, match="dimensions"):
            sink.search(Query(text="x", vector=bytes(12)))
        assert sink.search(Query(text="x", vector=b"")) == []
