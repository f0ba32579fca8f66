"""Commands for those who write plugins."""

from __future__ import annotations

import os

import click

from ingestd.cli.group import command
from ingestd.cli.invocation import FAILED, Invocation, absolute_paths, as_json, in_base64, print_json
from ingestd.errors import UsageError


@command("try")
@click.argument("file")
@click.option("--loader", metavar="NAME", help="Have this loader read it, whatever the file is.")
@as_json
@in_base64
@click.pass_obj
def try_file(invocation: Invocation, file: str, loader: str | None, json: bool, base64: bool) -> int:
    """Load one file and show what its loader makes of it: elements, chunks, time, memory, warnings.

    In a load worker of its own, with sandbox and limits as ever; nothing is indexed. Exit code 1 if it failed.

    \b
    Examples:
      ingestd try report.pdf
      ingestd try --loader text notes.unknown
      ingestd try --json report.pdf | jq .chunks
    """
    config = invocation.config()
    path = absolute_paths([file], base64)[0]
    if not os.path.lexists(path):
        raise UsageError(f"{os.fsdecode(path)}: no such file or directory")
    from ingestd import commands, log

    log.quiet(invocation.verbose)
    told = commands.try_file(config, path, loader)
    if json:
        print_json(told)
    else:
        from ingestd.cli import trials, views

        views.show(trials.tried(told))
    return 0 if told["state"] in ("loaded", "partial") else FAILED
