"""Commands that change what a daemon does, or the next one."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import click

from ingestd.cli.group import command
from ingestd.cli.invocation import (
    FAILED,
    INTERRUPTED,
    Invocation,
    absolute_paths,
    as_json,
    duration,
    fail,
    in_base64,
    print_json,
)
from ingestd.errors import UsageError


@command()
@click.argument("paths", metavar="PATH...", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="All files that failed or are quarantined.")
@as_json
@in_base64
@click.pass_obj
def retry(invocation: Invocation, paths: Sequence[str], everything: bool, json: bool, base64: bool) -> None:
    """Try failed and quarantined files again, their strikes forgotten.

    A folder stands for the files below it. A running daemon tries at once, else the next one does.

    \b
    Examples:
      ingestd retry ~/Documents/report.pdf
      ingestd retry --all
    """
    if bool(paths) == everything:
        raise UsageError("name either files or --all", command="ingestd retry --help")
    config = invocation.config()
    from ingestd import commands

    answer = commands.retry(config, None if everything else absolute_paths(paths, base64))
    if json:
        print_json(answer)
    else:
        number = answer.get("retried", 0)
        click.echo(f"{number:,} file{'' if number == 1 else 's'} will be tried again")


@command()
@click.option(
    "--timeout", metavar="DURATION", callback=duration, help="Give up after it: 90, 30s, 5m. [default: never]"
)
@click.pass_obj
def wait(invocation: Invocation, timeout: float | None) -> int:
    """Wait until nothing is settling, queued or running. Exit code 1 after the time-out.

    What stands in the way, such as an index that is away, is said on standard error.

    \b
    Examples:
      cp *.pdf ~/Documents && ingestd wait && ingestd search "notice period"
      ingestd wait --timeout 5m
    """
    config = invocation.config()
    from ingestd import commands
    from ingestd.cli.terminal import waiting

    with waiting() as show:
        done = commands.wait(config, timeout, progress=show)
    if done:
        return 0
    click.echo("there is still work after the time-out; `ingestd status` says what", err=True)
    return FAILED


@command()
@click.argument("source", required=False)
@as_json
@click.pass_obj
def pause(invocation: Invocation, source: str | None, json: bool) -> None:
    """Take nothing more in from a source, or from any, until `ingestd resume`.

    Changes are still noted, and what is indexed can be searched.

    \b
    Examples:
      ingestd pause documents
      ingestd pause
    """
    _pause(invocation, source, json, paused=True)


@command()
@click.argument("source", required=False)
@as_json
@click.pass_obj
def resume(invocation: Invocation, source: str | None, json: bool) -> None:
    """Go on after `ingestd pause`.

    \b
    Examples:
      ingestd resume documents
      ingestd resume
    """
    _pause(invocation, source, json, paused=False)


def _pause(invocation: Invocation, source: str | None, json: bool, *, paused: bool) -> None:
    config = invocation.config()
    from ingestd import commands

    names = commands.pause(config, source, paused=paused)
    if json:
        print_json({"sources": names, "paused": paused})
    else:
        click.echo(f"{'paused' if paused else 'resumed'}: {', '.join(names) or 'there is no source yet'}")


@command("confirm-deletes")
@click.argument("source")
@as_json
@click.pass_obj
def confirm_deletes(invocation: Invocation, source: str, json: bool) -> None:
    """Remove from the index what is kept of a source though it is gone.

    That is where most of its files went at once, where it is no longer configured, and where another file system is
    there than before.

    \b
    Examples:
      ingestd status
      ingestd confirm-deletes documents
    """
    config = invocation.config()
    from ingestd import commands

    files = commands.confirm_deletes(config, source)
    if json:
        print_json({"source": source, "files": files})
    else:
        click.echo(f"{files:,} file{'' if files == 1 else 's'} of {source} will leave the index")


@command()
@as_json
@click.pass_obj
def reload(invocation: Invocation, json: bool) -> None:
    """Have the daemon read its configuration again: sources, patterns, limits and loaders.

    It returns when the new sources are watched. A configuration with an error is refused, and the old one stays in
    force. SIGHUP does the same, and answers in the log.

    \b
    Examples:
      ingestd check-config && ingestd reload
      ingestd reload --json | jq .restart
    """
    config = invocation.config()
    from ingestd import commands

    answer = commands.reload(config)
    if json:
        print_json(answer)
        return
    click.echo(f"in force; watched: {', '.join(answer['sources']) or 'nothing'}")
    if answer["restart"]:
        click.echo(f"only after a restart: {', '.join(answer['restart'])}", err=True)


@command()
@click.option("--deep", is_flag=True, help="Look at every chunk: its text, its vector, its place.")
@click.option("--repair", is_flag=True, help="Mend what differs: queue it, or remove it from the index.")
@as_json
@click.pass_obj
def verify(invocation: Invocation, deep: bool, repair: bool, json: bool) -> int:
    """Compare folders, journal and index: what is missing, extra or stale.

    Exit code 1 if anything differs and was not repaired. What is being worked on is pending, not wrong. A repair never
    encodes again what the index has: a lost journal is made anew from the index, a lost index from the files.

    \b
    Examples:
      ingestd verify
      ingestd verify --deep --repair && ingestd wait
      ingestd verify --json | jq '.missing, .extra, .stale'
    """
    config = invocation.config()
    from ingestd import commands, log
    from ingestd.cli.terminal import ingesting

    with ingesting() as view:
        log.quiet(invocation.verbose, write=view.write)
        told = commands.verify(config, deep=deep, repair=repair, progress=view.show)
    problems = told["missing"] + told["extra"] + told["stale"]
    if json:
        print_json(told)
    else:
        from ingestd.cli import layout, views

        layout.show(views.verified(told))
        if problems and not repair:
            click.echo("mend it: ingestd verify --repair", err=True)
        elif told["repaired"]:
            click.echo("queued; a running daemon works it off, else: ingestd run", err=True)
    return FAILED if problems > told["repaired"] else 0


@command()
@click.option("--drop", is_flag=True, help="Drop the index at once: nothing is found until files are indexed anew.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@as_json
@click.pass_obj
def reindex(invocation: Invocation, drop: bool, yes: bool, json: bool) -> int:
    """Build the index anew, with the settings that are in the configuration now: another model, other chunks.

    The new index grows beside the one in use, which goes on answering and following the folders, and takes its place in
    one step when it is complete. Interrupted, it goes on at the next start, or with the same command. A running daemon
    does the work, also when this command is gone. If the model alone changes, and not its tokeniser, such a daemon
    takes the texts from the index and loads no unchanged file.

    \b
    Examples:
      ingestd reindex
      ingestd reindex --yes --json
      ingestd reindex --drop && ingestd run
    """
    config = invocation.config()
    from ingestd import commands, log

    if not yes and sys.stdin.isatty():
        what = "Drop the index, and make it anew" if drop else "Build a new index"
        click.confirm(f"{what} with {config.encode.model} ({config.state_directory})?", abort=True, err=True)
    if drop:
        queued = commands.drop_index(config)
        if json:
            print_json({"queued": queued})
        else:
            click.echo(f"{queued:,} files are queued; `ingestd run` or `ingestd ingest PATH` indexes them")
        return 0
    from ingestd.cli.terminal import ingesting

    try:
        with ingesting() as view:
            log.quiet(invocation.verbose, write=view.write)
            told = commands.reindex(config, progress=view.show)
    except KeyboardInterrupt:
        message = "interrupted: the index in use is as it was, and the new one goes on where it is"
        return fail(message, "ingestd reindex", INTERRUPTED)
    if json:
        print_json(told)
    else:
        click.echo(f"in use: {told['documents']:,} documents, {told['chunks']:,} chunks, made with {told['model']}")
        if bad := told["failed"] + told["quarantined"]:
            click.echo(f"{bad:,} files failed: ingestd failures", err=True)
    return FAILED if told["failed"] or told["quarantined"] else 0
