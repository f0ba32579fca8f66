"""Commands that do the work: run, ingest, search."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from ingestd.cli.group import command
from ingestd.cli.invocation import (
    FAILED,
    INTERRUPTED,
    Invocation,
    absolute_paths,
    as_json,
    fail,
    in_base64,
    print_json,
)
from ingestd.errors import IngestdError, UsageError
from ingestd.paths import exists

if TYPE_CHECKING:
    from datetime import datetime

    from ingestd.config import Config

_DATE = click.DateTime(["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S"])


@command()
@click.pass_obj
def run(invocation: Invocation) -> int:
    """Watch the configured folders and keep the index in step with them.

    On a terminal it shows what it is doing; elsewhere it logs. Ctrl-C finishes the files in hand and stops, a second
    one stops at once; nothing is lost either way.

    \b
    Examples:
      ingestd run
      ingestd run --config /etc/ingestd/config.toml
    """
    from ingestd.service import Notifier

    try:
        config = invocation.config()
        if not config.watch:
            where = config.file or "a config.toml in this directory"
            raise UsageError(f"nothing to watch: add a [[watch]] table to {where}", command="ingestd ingest PATH")
    except IngestdError as error:
        Notifier(os.environ).failed(error)
        raise
    from ingestd import commands, log
    from ingestd.cli.layout import animated
    from ingestd.cli.terminal import watching

    if not animated(sys.stderr):
        log.configure(config.log, os.environ, verbose=invocation.verbose)
        return commands.run(config, progress=None)
    with watching() as view:
        log.configure(config.log, os.environ, verbose=invocation.verbose, write=view.write)
        return commands.run(config, progress=view.show)


@command()
@click.argument("paths", metavar="PATH...", nargs=-1, required=True)
@click.option("-n", "--dry-run", is_flag=True, help="Say what would be done and why, and do nothing.")
@as_json
@in_base64
@click.pass_obj
def ingest(invocation: Invocation, paths: Sequence[str], dry_run: bool, json: bool, base64: bool) -> int:
    """Put files and folders into the index, and end.

    Unchanged files cost next to nothing, so that the same command can be given again and again. A running daemon does
    the work where there is one. Exit code 1 if any file failed.

    \b
    Examples:
      ingestd ingest ~/Documents report.pdf
      ingestd ingest --dry-run ~/Documents
      ingestd ingest --json . | jq .failures
    """
    config = invocation.config()
    found = absolute_paths(paths, base64)
    for path in found:
        if not exists(path):
            raise UsageError(f"{os.fsdecode(path)}: no such file or directory")
    if dry_run:
        return _plan(config, found, json)
    from ingestd import commands, log
    from ingestd.cli.terminal import ingesting

    try:
        with ingesting() as view:
            log.quiet(invocation.verbose, write=view.write)
            summary = commands.ingest(config, found, progress=view.show)
    except KeyboardInterrupt:
        import shlex

        flags = ["--b64"] if base64 else []
        message = "interrupted: nothing is lost, what is done stays done, and the same command goes on from there"
        return fail(message, shlex.join(["ingestd", "ingest", *flags, *paths]), INTERRUPTED)
    if json:
        print_json(summary)
    else:
        from ingestd.cli import layout, views

        layout.show(views.ingested(summary))
    return FAILED if summary.get("failed") or summary.get("quarantined") else 0


def _plan(config: Config, paths: Sequence[bytes], json: bool) -> int:
    from ingestd import commands
    from ingestd.cli.printable import clean_line

    planned: list[dict[str, Any]] = []
    totals: dict[str, Any] = {}
    for told in commands.plan(config, paths):
        if "planned" not in told:
            totals = told
        elif json:
            planned += told["planned"]
        else:
            for item in told["planned"]:
                loader = f" [{item['loader']}]" if item["loader"] else ""
                click.echo(f"{item['action']:6} {clean_line(item['path'])}: {clean_line(item['reason'])}{loader}")
    if json:
        print_json({"planned": planned, **totals})
        return 0
    counts = f"{totals['load']:,} to load, {totals['remove']:,} to remove, {totals['unchanged']:,} unchanged"
    click.echo(f"{counts}; nothing was done", err=True)
    for error in totals["errors"]:
        click.echo(f"error: {clean_line(error)}", err=True)
    return FAILED if totals["errors"] else 0


@command()
@click.argument("question", nargs=-1, required=True)
@click.option(
    "--top", metavar="N", type=click.IntRange(1, 1000), default=10, show_default=True, help="How many passages."
)
@click.option("--source", metavar="NAME", help="Only from the source of this name.")
@click.option(
    "--path", metavar="GLOB", help="Only from files whose path matches, or whose name where GLOB has no slash."
)
@click.option("--under", metavar="DIR", help="Only from files below this directory.")
@click.option("--category", metavar="NAME", help="Only from this category (its id, or its path), and those below it.")
@click.option("--since", metavar="DATE", type=_DATE, help="Only from files changed on that day or later (2024-05-31).")
@click.option("--until", metavar="DATE", type=_DATE, help="Only from files changed before that day.")
@as_json
@click.pass_obj
def search(
    invocation: Invocation, question: Sequence[str], top: int, source: str | None, path: str | None,
    under: str | None, category: str | None, since: datetime | None, until: datetime | None, json: bool,
) -> None:  # fmt: skip
    """Find the passages that answer a question, best first.

    By meaning and by words at once. With a running daemon the answer is there at once; without one the model is
    loaded first.

    \b
    Examples:
      ingestd search "how long is the notice period"
      ingestd search --top 3 --path '*.pdf' --source contracts notice period
      ingestd search --under ~/contracts --since 2024-01-01 notice period
      ingestd search --json "notice period" | jq -r '.[].path'
    """
    text = " ".join(question).encode("utf-8", "replace").decode().strip()
    if not text:
        raise UsageError("the question is empty")
    config = invocation.config()
    from ingestd import commands, log

    log.quiet(invocation.verbose)
    control = commands.connect(config)
    if control is None:
        if os.path.exists(config.state_directory / "journal.sqlite"):
            click.echo("no daemon is running: loading the model first", err=True)
    else:
        control.close()
    chosen = {
        "under": os.fsencode(os.path.abspath(os.path.expanduser(under))) if under is not None else None,
        "category": category,
        "since_ns": int(since.timestamp()) * 1_000_000_000 if since is not None else None,
        "until_ns": int(until.timestamp()) * 1_000_000_000 if until is not None else None,
    }
    filters = {name: value for name, value in chosen.items() if value is not None}
    hits = commands.search(config, text, top, source, path, **filters)
    if json:
        print_json(hits)
        return
    from ingestd.cli import layout, views

    if hits:
        layout.show(views.found(hits, text))
    else:
        click.echo("nothing found; `ingestd status` says what is indexed", err=True)
