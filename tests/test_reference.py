"""Reference pages say what docstrings and help say, and every public name has a docstring."""

from __future__ import annotations

import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import griffe
import pytest

from ingestd.cli.group import cli
from ingestd.plugins import discover

DOCS = Path(__file__).resolve().parent.parent / "docs"


@pytest.fixture(scope="module")
def maker() -> dict[str, Any]:
    """The names of docs/make.py."""
    return runpy.run_path(str(DOCS / "make.py"))


@pytest.fixture(scope="module")
def made(maker: dict[str, Any]) -> dict[str, str]:
    """The pages as they would be now."""
    pages: dict[str, str] = maker["pages"]()
    return pages


@pytest.mark.parametrize("page", ["reference.md", "commands.md", "formats.md"])
def test_a_page_says_what_the_code_says(made: dict[str, str], page: str) -> None:
    is_now = (DOCS / page).read_text(encoding="utf-8")
    assert is_now == made[page], f"docs/{page} is out of date; type: python3 docs/make.py"


def undocumented(name: str, target: griffe.Object, members: Any) -> Iterator[str]:
    """Of a public name and the methods of a class: those without a docstring. A test's name is a sentence already."""
    if not target.docstring:
        yield name
    if isinstance(target, griffe.Class):
        for key, method in members(target).items():
            if isinstance(method, griffe.Function) and not method.docstring and not key.startswith("test_"):
                yield f"{name}.{key}"


def test_every_public_name_has_a_docstring(maker: dict[str, Any]) -> None:
    public = {f"{name}.{key}": target for name, _, found in maker["modules"]() for key, target in found.items()}
    assert len(public) > 50
    without = [found for name, target in public.items() for found in undocumented(name, target, maker["members"])]
    assert not without, f"give these a docstring, then python3 docs/make.py: {', '.join(without)}"


def test_every_command_and_option_is_there_with_an_example(made: dict[str, str]) -> None:
    sections = {part.partition("\n")[0]: part for part in made["commands.md"].split("\n## ingestd ")[1:]}
    assert list(sections) == list(cli.commands)
    for name, section in sections.items():
        example = section.split("```sh\n")[1]
        assert f"ingestd {name}" in example, name
        for option in (flag for parameter in cli.commands[name].params for flag in parameter.opts if flag[:1] == "-"):
            assert f"{option}" in section + made["commands.md"].split("\n## ")[0], f"{name} {option}"


def test_every_bundled_loader_says_what_it_takes_and_what_it_leaves_out(made: dict[str, str]) -> None:
    rows = [line.strip("| ").split(" | ") for line in made["formats.md"].splitlines() if line.startswith("| `")]
    table = {row[0].strip("`"): row for row in rows if len(row) == 5}
    bundled = {item.name for item in discover("loaders").items if item.distribution.startswith("ingestd ")}
    assert table.keys() == bundled
    for name, row in table.items():
        assert all(cell.strip("`") for cell in row), f"{name}: give it suffixes, media_types, extracts and omits"


def test_links_within_the_pages_lead_to_headings(made: dict[str, str], maker: dict[str, Any]) -> None:
    for page, text in ((page, made[page]) for page in ("reference.md", "commands.md")):
        headings = [line.lstrip("# ") for line in text.splitlines() if line.startswith(("## ", "### "))]
        anchors = [maker["anchor"](heading) for heading in headings]
        assert len(set(anchors)) == len(anchors), page
        linked = {part.partition(")")[0] for part in text.split("](#")[1:]}
        assert linked == set(anchors), page
