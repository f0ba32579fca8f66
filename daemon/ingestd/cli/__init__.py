"""The command line. Importing it is cheap; each command imports what it needs, and only then.

Results go to standard output, progress and errors to standard error. Exit codes: 0 done; 1 done, but some files
failed; 2 wrong usage or configuration; 3 the daemon or the index cannot be reached; 70 a bug; 130 interrupted.
"""

from __future__ import annotations

from typing import NoReturn

from ingestd.cli import working, asking, steering, authoring, installing  # isort: skip  (their order is that of `ingestd --help`)
from ingestd.cli.group import cli

__all__ = ["asking", "authoring", "cli", "installing", "main", "steering", "working"]


def main() -> NoReturn:
    """The entry point `ingestd`."""
    cli.main(prog_name="ingestd")
