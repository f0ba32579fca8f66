from __future__ import annotations

import base64
import json
import unicodedata
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingestd.cli.printable import clean, clean_line, document, printable


@pytest.mark.parametrize("path", [b"/a/\xff.pdf", "/a/\udcff.pdf"])
def test_a_path_that_is_not_utf8_has_its_bytes_beside_it(path: bytes | str) -> None:
    assert printable({"path": path, "n": 1}) == {
        "path": "/a/\ufffd.pdf", "path_b64": base64.b64encode(b"/a/\xff.pdf").decode(), "n": 1,
    }  # fmt: skip


def test_a_path_that_is_utf8_stands_alone() -> None:
    assert printable([{"path": "/ü".encode()}, {"path": "/ü"}, {"path": None}]) == [
        {"path": "/ü"}, {"path": "/ü"}, {"path": None},
    ]  # fmt: skip


def test_what_json_lacks_is_translated() -> None:
    value = {"digest": b"\x01\xff", "eta": float("inf"), "current": [b"/a\xff"], "text": "a\ud800", "pair": (1, 2)}
    assert printable(value) == {
        "digest": "01ff", "eta": None, "current": ["/a\ufffd"], "text": "a\ufffd\ufffd\ufffd", "pair": [1, 2],
    }  # fmt: skip


_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.binary(max_size=6)
    | st.text(st.characters(codec=None), max_size=6),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(["path", "directory", "x", "digest"]), inner, max_size=3),
    max_leaves=10,
)  # fmt: skip


@given(_values)
def test_anything_becomes_one_json_document(value: Any) -> None:
    text = document(value)
    assert text.endswith(b"\n")
    json.loads(text.decode("utf-8"), parse_constant=pytest.fail)


@given(st.text(st.characters(codec=None), max_size=20))
def test_nothing_that_steers_a_terminal_is_left(text: str) -> None:
    for character in clean(text):
        assert unicodedata.category(character) not in ("Cs", "Zl", "Zp"), text
        assert unicodedata.category(character) != "Cf" or character in "\u00ad\u200c\u200d", text
        assert character >= " " or character == "\n"
        assert not 0x7F <= ord(character) < 0xA0
    clean(text).encode()


def test_escapes_become_visible() -> None:
    assert clean("a\x1b[31mb\tc\nd\u202ee") == "a\\x1b[31mb c\nd\\u202ee"
    assert clean_line(b"a\nb\xff") == "a\\nb\ufffd"
    assert clean("日本 👩\u200d🔬") == "日本 👩\u200d🔬"
