#!/usr/bin/env python3
"""Make docs/reference.md from the docstrings of all public names, docs/commands.md from the help of all commands, and
the table in docs/formats.md from what the bundled loaders say of themselves.

    python3 docs/make.py

A test fails while they say something else. It needs `ingestd[test]`.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import click
import griffe

import ingestd.cli
from ingestd.cli.group import cli
from ingestd.plugins import discover

DOCS = Path(__file__).resolve().parent
MODULES = ("ingestd", "ingestd.types", "ingestd.hookspecs", "ingestd.errors", "ingestd.testing")
"""What others build on."""
WIDTH = 100
"""Characters of a signature on one line."""
OMITTED = {"hookspec", "pytest_generate_tests"}
"""Public for pluggy and pytest."""
TABLE = re.compile(r"(?<=<!-- begin: made by docs/make.py -->\n).*(?=<!-- end -->)", re.S)
"""What of docs/formats.md is made."""


def pages() -> dict[str, str]:
    """The text of each page, by its file's name."""
    return {"reference.md": reference(), "commands.md": commands(), "formats.md": formats()}


# --- from Python ----------------------------------------------------------------------------------------------


def modules() -> Iterator[tuple[str, griffe.Object, dict[str, griffe.Object]]]:
    """(name, module, its public names) for each of `MODULES`; nothing is imported."""
    root = Path(ingestd.__file__).parent.parent
    package = griffe.load("ingestd", search_paths=[root], resolve_aliases=True, allow_inspection=False)
    for name in MODULES:
        module = package if name == "ingestd" else package[name.removeprefix("ingestd.")]
        assert isinstance(module, griffe.Module)
        yield name, module, members(module)


def members(owner: griffe.Object) -> dict[str, griffe.Object]:
    """The public names of a module or class, in the order of its source, or of `__all__`."""
    found = {
        name: member.final_target if isinstance(member, griffe.Alias) else member
        for name, member in owner.members.items()
        if member.is_public and not member.is_module and not name.startswith("_") and name not in OMITTED
    }
    exported = [str(name) for name in owner.exports or ()]
    return {name: found[name] for name in exported if name in found} or found


def reference() -> str:
    text = ["# Reference", "What others build on, as its docstrings have it. Made by `python3 docs/make.py`."]
    sections = list(modules())
    for name, _, public in sections:
        links = ", ".join(f"[{member}](#{anchor(f'{name}.{member}')})" for member in public)
        text.append(f"- [`{name}`](#{anchor(name)}): {links}")
    text[2:] = ["\n".join(text[2:])]
    for name, module, public in sections:
        origins = {member.module.path: member.module for member in public.values()}
        text += [f"## {name}", *(doc(origin) for origin in {name: module, **origins}.values())]
        for member, target in public.items():
            text += [f"### {name}.{member}", *described(member, target)]
    return "\n\n".join(part for part in text if part) + "\n"


def described(name: str, target: griffe.Object) -> Iterator[str]:
    """What the page says of one public name, below its heading."""
    if isinstance(target, griffe.Function):
        yield signature(target)
        yield doc(target)
    elif isinstance(target, griffe.Class):
        bases = ", ".join(f"`{base}`" for base in target.bases if str(base) not in ("Protocol", "Exception"))
        init = target.members.get("__init__")
        if isinstance(init, griffe.Function) and "dataclass" not in target.labels:
            yield signature(init, name)
        yield doc(target) + (f" Base: {bases}." if bases and "Struct" not in bases else "")
        own = members(target)
        yield "\n".join(field(key, value) for key, value in own.items() if isinstance(value, griffe.Attribute))
        promises = {key: test for key, test in target.all_members.items() if key.startswith("test_")}
        yield "Its tests:" if promises else ""
        yield "\n".join(promise(key, test) for key, test in promises.items())
        for key, value in own.items():
            if isinstance(value, griffe.Function) and key not in promises:
                yield f"#### {name}.{key}"
                yield from described(key, value)
    elif isinstance(target, griffe.Attribute):
        yield block(f"{name} = {target.value}")
        yield doc(target)


def signature(function: griffe.Function, name: str | None = None) -> str:
    """As it stands in the source; `name`: that of the class which it makes."""
    told = function.signature(return_type=name is None, name=name or function.name)
    if len(told) > WIDTH:
        told = re.sub(r"\)$|\)(?= -> [^()]*$)", ",\n)", told.replace("(", "(\n    ", 1))
        told = re.sub(r", (?=\*|\w+: )", ",\n    ", told)
    fixture = "@pytest.fixture\n" if any("fixture" in str(wrap.value) for wrap in function.decorators) else ""
    kind = "" if name else "async def " if "async" in function.labels else "def "
    return block(fixture + kind + told)


def field(name: str, attribute: griffe.Attribute) -> str:
    default = "" if attribute.value is None or "field(" in str(attribute.value) else f" = {attribute.value}"
    kind = "" if attribute.annotation is None else f": {attribute.annotation}"
    return f"- `{name}{kind}{default if kind else ''}` {doc(attribute)}".rstrip()


def promise(name: str, test: griffe.Object | griffe.Alias) -> str:
    """The name of a test of a contract is a sentence already."""
    return f"- `{name}` {doc(test)}".rstrip()


def doc(target: griffe.Object | griffe.Alias) -> str:
    return inspect.cleandoc(target.docstring.value) if target.docstring else ""


# --- formats --------------------------------------------------------------------------------------------------


def formats() -> str:
    """The page, with what loaders say now: `suffixes`, `media_types`, `extracts` and `omits`."""
    rows = [("Loader", "Suffixes", "Media types", "What is taken", "What is left out"), ("---",) * 5]
    for _, loader in sorted(discover("loaders").loaders.items()):
        if not type(loader).__module__.startswith("ingestd_plugins."):
            continue
        lists = (f"`{' '.join(values)}`" for values in (loader.suffixes, loader.media_types))
        rows.append((f"`{loader.name}`", *lists, getattr(loader, "extracts", ""), getattr(loader, "omits", "")))
    table = "".join(f"| {' | '.join(row)} |\n" for row in rows)
    return TABLE.sub(lambda _: table, (DOCS / "formats.md").read_text(encoding="utf-8"))


# --- commands -------------------------------------------------------------------------------------------------


def commands() -> str:
    context = click.Context(cli, info_name="ingestd", **cli.context_settings)
    everywhere = {record for record in records(cli, context) if record[0] != "--version"}
    assert ingestd.cli.__doc__ is not None
    links = ", ".join(f"[{name}](#{anchor(f'ingestd {name}')})" for name in cli.commands)
    text = [
        "# Commands",
        "What `ingestd COMMAND --help` says. Made by `python3 docs/make.py`.",
        links,
        *(part for part in inspect.cleandoc(ingestd.cli.__doc__).split("\n\n") if part.startswith("Results")),
        "Every command takes:",
        options(everywhere, records(cli, context)),
    ]
    for name, command in cli.commands.items():
        below = click.Context(command, info_name=name, parent=context)
        told, _, examples = inspect.cleandoc(command.help or "").replace("\b\n", "").partition("Examples:\n")
        own = [record for record in records(command, below) if record not in everywhere]
        text += [
            f"## ingestd {name}",
            block(f"ingestd {name} {' '.join(command.collect_usage_pieces(below))}", "text"),
            told.strip(),
            options(set(own), own),
            block(inspect.cleandoc(examples), "sh") if examples else "",
        ]
    return "\n\n".join(part for part in text if part) + "\n"


def records(command: click.Command, context: click.Context) -> list[tuple[str, str]]:
    """(how an option is written, what it does) for each."""
    given = [parameter for parameter in command.get_params(context) if isinstance(parameter, click.Option)]
    found = (option.get_help_record(context) for option in given)
    return [record for record in found if record is not None]


def options(wanted: set[tuple[str, str]], order: list[tuple[str, str]]) -> str:
    return "\n".join(f"- `{option}` {told}" for option, told in order if (option, told) in wanted)


# --- Markdown -------------------------------------------------------------------------------------------------


def block(code: str, language: str = "python") -> str:
    return f"```{language}\n{code}\n```"


def anchor(heading: str) -> str:
    """As GitHub makes it."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


if __name__ == "__main__":
    for page, content in pages().items():
        (DOCS / page).write_text(content, encoding="utf-8")
