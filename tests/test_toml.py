from __future__ import annotations

import json
import tomllib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingestd.config.toml import Key, line_of, lines

TEXT = '''\
top = 1
# [load] in a comment, and "quotes
[load] # after
deadline = """
[encode]
model = "not a key"
"""
a.b."c d" = 2
'quoted # key' = \'\'\'
x = 1\'\'\'
list = [ # comment ]
  1, "two, ]",
  { inner = 3, deep.er = [4, 5] },
]
[[watch]]
name = "a"
[watch.metadata]
k = 1
[[watch]]
name = "b"   # ]]
[watch.metadata]
k = 2
[ load . pdf ]
ends = """quotes inside ""\\" and at the end"""""
after = 1979-05-27 07:32:00
"caf\\u00e9" = true
'''


def test_every_kind_of_key_is_found_on_its_line() -> None:
    found = lines(TEXT)
    expected: dict[Key, int] = {
        ("top",): 1,
        ("load",): 3,
        ("load", "deadline"): 4,
        ("load", "a"): 8,
        ("load", "a", "b", "c d"): 8,
        ("load", "quoted # key"): 9,
        ("load", "list"): 11,
        ("load", "list", 1): 12,
        ("load", "list", 2, "inner"): 13,
        ("load", "list", 2, "deep", "er", 1): 13,
        ("watch",): 15,
        ("watch", 0, "name"): 16,
        ("watch", 0, "metadata", "k"): 18,
        ("watch", 1): 19,
        ("watch", 1, "name"): 20,
        ("watch", 1, "metadata", "k"): 22,
        ("load", "pdf"): 23,
        ("load", "pdf", "ends"): 24,
        ("load", "pdf", "after"): 25,
        ("load", "pdf", "café"): 26,
    }
    assert {key: found.get(key) for key in expected} == expected
    assert ("encode",) not in found


def test_line_ends_of_windows_count_once() -> None:
    assert lines(TEXT.replace("\n", "\r\n")) == lines(TEXT)


def test_a_key_without_a_place_has_the_line_of_its_table() -> None:
    assert line_of({("load",): 3}, ("load", "pdf", "x")) == 3
    assert line_of({}, ("load",)) is None


@pytest.mark.parametrize("text", ["", "\n", "a", "= 1", "[", "[[a]", "a = ", 'a = "', "a = [1", "{}", "a = {b", "]"])
def test_what_is_no_toml_gives_what_was_found(text: str) -> None:
    assert isinstance(lines(text), dict)


def _paths(value: Any, key: Key) -> list[Key]:
    if isinstance(value, dict):
        return [path for name, item in value.items() for path in [(*key, name), *_paths(item, (*key, name))]]
    if isinstance(value, list):
        return [path for at, item in enumerate(value) for path in [(*key, at), *_paths(item, (*key, at))]]
    return []


def _spell(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{_name(key)} = {_spell(item)}" for key, item in value.items()) + " }"
    if isinstance(value, list):
        return "[ # ]\n" + "".join(f" {_spell(item)} , # ,\n" for item in value) + "]"
    if isinstance(value, str) and "\n" in value and "\\" not in value and not value.startswith("\n"):
        return '"""' + value.replace('"', '\\"') + '"""'
    return json.dumps(value)


def _name(name: str) -> str:
    return json.dumps(name)


_text = st.text(st.sampled_from("ab\"'#[]{}=,.\\\n é"), max_size=6)
_values = st.recursive(
    st.integers(-9, 9) | st.booleans() | _text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_text, inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(_text, st.dictionaries(_text, _values, max_size=3), max_size=3))
def test_every_key_that_tomllib_finds_has_a_line_that_holds_it(tables: dict[str, dict[str, Any]]) -> None:
    text = ""
    for table, keys in tables.items():
        text += f"[ {_name(table)} ] # [\n"
        text += "".join(f"{_name(key)} = {_spell(value)}\n" for key, value in keys.items())
    found, rows = lines(text), text.split("\n")
    for path in _paths(tomllib.loads(text), ()):
        assert path in found
        if isinstance(path[-1], str):
            assert _name(path[-1]) in rows[found[path] - 1]


@given(st.text(st.sampled_from("ab[]{}=.\"'#,\n \\1"), max_size=60))
def test_no_text_breaks_it(text: str) -> None:
    lines(text)
