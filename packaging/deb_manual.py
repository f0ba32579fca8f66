"""The manual page of `ingestd`, made of docs/commands.md, which is made of the help. Standard library only."""

from __future__ import annotations

import re
from collections.abc import Iterator

SECTION, COMMAND, OPTION, FENCE = "## ", "## ingestd ", "- `", "```"
HEAD = """\
.TH INGESTD 1 "" "ingestd {version}" "User Commands"
.nh
.ad l
.SH NAME
ingestd \\- index of folders that is searched by meaning
.SH SYNOPSIS
.B ingestd
.I COMMAND
[OPTIONS] [ARGUMENTS]
.SH DESCRIPTION
"""
TAIL = """\
.SH FILES
.TP
.I /etc/ingestd/config.toml
The configuration of the service.
.TP
.I /var/lib/ingestd
Its journal, and its index.
.SH SEE ALSO
.I /usr/share/doc/ingestd/operations.md
"""


def manual(markdown: str, version: str) -> str:
    """The page in roff."""
    text = markdown.split("`python3 docs/make.py`.\n", 1)[1]
    text = re.sub(r"^\[run\]\(.*\n", "", text, count=1, flags=re.MULTILINE)  # links of a browser
    return HEAD.format(version=version) + "".join(f"{line}\n" for line in lines(text)) + TAIL


def lines(text: str) -> Iterator[str]:
    verbatim = commands = False
    for line in text.splitlines():
        if line.startswith(FENCE):
            verbatim = not verbatim
            yield from ([".PP", ".RS", ".nf"] if verbatim else [".fi", ".RE"])
        elif verbatim:
            yield escaped(line)
        elif line.startswith(COMMAND):
            if not commands:
                yield ".SH COMMANDS"
                commands = True
            yield f".SS {escaped(line.removeprefix(COMMAND))}"
        elif line.startswith(OPTION):
            name, _, told = line.removeprefix(OPTION).partition("`")
            yield from (".TP", f".B {escaped(name)}", escaped(told.strip()))
        elif line:
            yield escaped(line.replace("`", ""))
        else:
            yield ".PP"


def escaped(line: str) -> str:
    """As it is to be printed: neither a request nor an escape."""
    line = line.replace("\\", "\\e").replace("-", "\\-")
    return f"\\&{line}" if line.startswith((".", "'")) else line
