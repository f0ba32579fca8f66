"""Every reason that the code can print has a page, and every page a reason that the code can print."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from ingestd import errors, explaining
from ingestd.types import STATES

ROOT = Path(__file__).parent.parent
SOURCES = [
    path
    for path in (*ROOT.glob("daemon/ingestd/**/*.py"), *ROOT.glob("plugins/ingestd_plugins/*.py"))
    if not {"testing", "cli"} & set(path.parts)
]
RAISED = {
    *(name for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, errors.IngestdError)),
    "BadBlobError", "PoisonError", "StartError", "UnreadableError", "WorkerDied",
}  # fmt: skip
CALLED = {"warn", "kill", "_refused", "_strike", "_interrupt", "_settle"}
"""Methods that are told reasons."""
ASSIGNED = {"trouble", "reason", "waiting_for", "hung", "cause"}
ANYTHING = "XYZ"


def test_every_state_has_a_page() -> None:
    assert {page.name for page in explaining.pages() if page.section == "States"} == {"settling", *STATES}


def test_names_are_unique_and_pages_say_something() -> None:
    assert len(set(explaining.names())) == len(explaining.names())
    assert all(len(page.text) > 20 for page in explaining.pages())


def reasons() -> Iterator[tuple[str, str]]:
    """(where, a reason with `ANYTHING` for what varies) for each that stands in the code."""
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            values: list[ast.expr] = []
            if isinstance(node, ast.Call):
                function = node.func
                name = function.id if isinstance(function, ast.Name) else getattr(function, "attr", "")
                if name in RAISED or name in CALLED:
                    values += node.args
                values += [keyword.value for keyword in node.keywords if keyword.arg == "reason"]
            elif isinstance(node, ast.Assign):
                names = {getattr(target, "attr", getattr(target, "id", "")) for target in node.targets}
                values += [node.value] if names & ASSIGNED else []
            for value in values:
                yield from ((f"{path.name}:{node.lineno}", text) for text in rendered(value) if " " in text.strip())


def rendered(node: ast.expr) -> Iterator[str]:
    """The texts that an expression may be."""
    match node:
        case ast.Constant(value=str() as text):
            yield text
        case ast.JoinedStr(values=parts):
            yield "".join(part.value if isinstance(part, ast.Constant) else ANYTHING for part in parts)
        case ast.IfExp(body=body, orelse=other):
            yield from rendered(body)
            yield from rendered(other)
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            yield "".join(next(rendered(side), ANYTHING) for side in (left, right))


def test_every_reason_has_a_page() -> None:
    unexplained = [
        f"{where}: {text!r}"
        for where, text in reasons()
        if text.strip(ANYTHING + " :;,()") and explaining.find(text) is None
    ]
    told = "no page of daemon/ingestd/reasons.md explains these: add '- `the reason, {} for what varies`' to one"
    assert not unexplained, "\n".join([told, *unexplained])


def test_every_page_explains_something_that_the_code_says() -> None:
    texts = [
        text
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.expr)
        for text in rendered(node)
    ]
    unsaid = [
        f"{page.name}: {pattern}"
        for page in explaining.pages()
        for pattern in page.patterns
        if not any(explaining.fit(pattern, " ".join(text.split())) for text in texts)
    ]
    assert not unsaid, "\n".join(["nothing in the code says these any more; remove them from reasons.md", *unsaid])


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("quarantined", "quarantined"),
        ("deadline of 60 s exceeded at page 3", "deadline"),
        ("strike 2 of 3: deadline of 60 s exceeded at page 3", "deadline"),
        ("strike 3 of 3: the worker died: SIGSEGV (segmentation fault)", "crash"),
        ("  error: the index /s/index.sqlite was made with other settings: model was 'a', is 'b'", "other-settings"),
        ("Damaged: no page can be read: cannot find page 1", "damaged"),
        ("common cause: 20 pdf files in a row failed alike: OSError: no space", "common-cause"),
        ("source docs is paused: ingestd resume docs", "paused"),
    ],
)
def test_a_printed_line_finds_its_page(line: str, name: str) -> None:
    page = explaining.find(line)
    assert page is not None
    assert page.name == name


def test_a_near_miss_is_told_what_is_near() -> None:
    assert explaining.find("dead line") is None
    assert explaining.near("deadlin")[0] == "deadline"
    assert "memory" in explaining.near("too much memory was used")
