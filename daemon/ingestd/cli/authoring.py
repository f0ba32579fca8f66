"""Commands for those who write plugins."""

from __future__ import annotations

import os
from pathlib import Path

import click

from ingestd.cli.group import command
from ingestd.cli.invocation import FAILED, Invocation, absolute_paths, as_json, in_base64, print_json
from ingestd.errors import UsageError
from ingestd.paths import exists, split_member


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
      ingestd try 'archive.zip!/report.pdf'
      ingestd try --json report.pdf | jq .chunks
    """
    config = invocation.config()
    path = absolute_paths([file], base64)[0]
    if not exists(split_member(path)[0]):
        raise UsageError(f"{os.fsdecode(path)}: no such file or directory")
    from ingestd import commands, log

    log.quiet(invocation.verbose)
    told = commands.try_file(config, path, loader)
    if json:
        print_json(told)
    else:
        from ingestd.cli import layout, trials

        layout.show(trials.tried(told))
    return 0 if told["state"] in ("loaded", "partial") else FAILED


@command("new-plugin")
@click.argument("name")
@click.argument("directory", required=False, type=click.Path(path_type=Path))
@click.option("--suffix", metavar=".SUFFIX", help="What its files end in. [default: .NAME]")
@click.pass_obj
def new_plugin(invocation: Invocation, name: str, directory: Path | None, suffix: str | None) -> None:
    """Write a package with a loader to begin with, and tests that pass at once.

    Into DIRECTORY, else into ingestd-NAME below the working directory.

    \b
    Examples:
      ingestd new-plugin calendar
      ingestd new-plugin calendar ~/src/ingestd-calendar --suffix .ics
    """
    import shlex

    from ingestd import template
    from ingestd.cli.printable import clean_line

    written = template.write(name, directory, suffix)
    for path in written:
        click.echo(clean_line(path))
    click.echo(f"try: cd {shlex.quote(str(written[0].parent))} && pip install -e . && python -m pytest", err=True)
