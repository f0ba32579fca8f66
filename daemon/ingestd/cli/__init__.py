"""The command line. Importing it is cheap; each command imports what it needs, and only then.

Results go to standard output, progress and errors to standard error. Exit codes: 0 done; 1 done, but some files
failed; 2 wrong usage or configuration; 3 the daemon or the index cannot be reached; 70 a bug; 130 interrupted.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

import click

from ingestd import __version__
from ingestd.cli.invocation import (
    FAILED,
    INTERRUPTED,
    WRONG,
    Commands,
    Invocation,
    absolute_paths,
    as_json,
    duration,
    everywhere,
    fail,
    in_base64,
    print_json,
)
from ingestd.errors import ConfigError, UsageError


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@everywhere
@click.version_option(__version__, prog_name="ingestd")
def cli() -> None:
    """Drop files into a folder; a moment later they can be searched by meaning.

    \b
    Once, without a daemon:
      ingestd ingest ~/Documents
      ingestd search "when is the contract renewed"

    \b
    Always up to date: put your folders into config.toml, then
      ingestd check-config
      ingestd run

    \b
    When something is missing:
      ingestd status
      ingestd why ~/Documents/report.pdf
      ingestd failures
    """


def command(name: str | None = None) -> Callable[[Callable[..., int | None]], click.Command]:
    """A command of `cli` with the options that every command takes."""

    def register(function: Callable[..., int | None]) -> click.Command:
        return cli.command(name)(everywhere(function))

    return register


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
    config = invocation.config()
    if not config.watch:
        where = config.file or "a config.toml in this directory"
        raise UsageError(f"nothing to watch: add a [[watch]] table to {where}", command="ingestd ingest PATH")
    from ingestd import commands, log
    from ingestd.cli.terminal import watching

    if not sys.stderr.isatty():
        log.configure(config.log, os.environ, verbose=invocation.verbose)
        return commands.run(config, progress=None)
    with watching() as view:
        log.configure(config.log, os.environ, verbose=invocation.verbose, write=view.write)
        return commands.run(config, progress=view.show)


@command()
@click.argument("paths", metavar="PATH...", nargs=-1, required=True)
@as_json
@in_base64
@click.pass_obj
def ingest(invocation: Invocation, paths: Sequence[str], json: bool, base64: bool) -> int:
    """Put files and folders into the index, and end.

    Unchanged files cost next to nothing, so that the same command can be given again and again. A running daemon does
    the work where there is one. Exit code 1 if any file failed.

    \b
    Examples:
      ingestd ingest ~/Documents report.pdf
      ingestd ingest --json . | jq .failures
    """
    config = invocation.config()
    found = absolute_paths(paths, base64)
    for path in found:
        if not os.path.lexists(path):
            raise UsageError(f"{os.fsdecode(path)}: no such file or directory")
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
        from ingestd.cli import views

        views.show(views.ingested(summary))
    return FAILED if summary.get("failed") or summary.get("quarantined") else 0


@command()
@click.argument("question", nargs=-1, required=True)
@click.option(
    "--top", metavar="N", type=click.IntRange(1, 1000), default=10, show_default=True, help="How many passages."
)
@click.option("--source", metavar="NAME", help="Only from the source of this name.")
@click.option(
    "--path", metavar="GLOB", help="Only from files whose path matches, or whose name where GLOB has no slash."
)
@as_json
@click.pass_obj
def search(
    invocation: Invocation, question: Sequence[str], top: int, source: str | None, path: str | None, json: bool
) -> None:
    """Find the passages that answer a question, best first.

    By meaning and by words at once. With a running daemon the answer is there at once; without one the model is
    loaded first.

    \b
    Examples:
      ingestd search "how long is the notice period"
      ingestd search --top 3 --path '*.pdf' --source contracts notice period
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
        click.echo("no daemon is running: loading the model first", err=True)
    else:
        control.close()
    hits = commands.search(config, text, top, source, path)
    if json:
        print_json(hits)
        return
    from ingestd.cli import views

    if hits:
        views.show(views.found(hits, text))
    else:
        click.echo("nothing found; `ingestd status` says what is indexed", err=True)


@command()
@as_json
@click.option("--watch", is_flag=True, help="Keep showing it, until Ctrl-C.")
@click.pass_obj
def status(invocation: Invocation, json: bool, watch: bool) -> None:
    """Show what is indexed, what waits, and who works.

    \b
    Examples:
      ingestd status
      ingestd status --watch
      ingestd status --json | jq .files
    """
    config = invocation.config()
    from ingestd import commands

    if json:
        print_json(commands.status(config))
        return
    from ingestd.cli import terminal, views

    if watch:
        terminal.follow(lambda: commands.status(config))
    else:
        views.show(views.state_of(commands.status(config)))


@command()
@click.argument("path")
@as_json
@in_base64
@click.pass_obj
def why(invocation: Invocation, path: str, json: bool, base64: bool) -> None:
    """Say what became of a file, and for what reason.

    \b
    Examples:
      ingestd why ~/Documents/report.pdf
      ingestd why --json report.pdf | jq -r .reason
    """
    config = invocation.config()
    from ingestd import commands

    answer = commands.why(config, absolute_paths([path], base64)[0])
    if json:
        print_json(answer)
        return
    from ingestd.cli import views

    views.show(views.reason_of(answer))


@command()
@as_json
@click.pass_obj
def failures(invocation: Invocation, json: bool) -> None:
    """List the files that failed, with their reasons.

    \b
    Examples:
      ingestd failures
      ingestd failures --json | jq -r '.[] | [.path, .reason] | @tsv'
    """
    config = invocation.config()
    from ingestd import commands

    found = commands.failures(config)
    if json:
        print_json(found)
        return
    from ingestd.cli import views

    if found:
        views.show(views.failed(found))
        click.echo("try: ingestd why PATH, ingestd retry PATH", err=True)
    else:
        click.echo("no file has failed", err=True)


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
@click.option(
    "--timeout", metavar="DURATION", callback=duration, help="Give up after it: 90, 30s, 5m. [default: never]"
)
@click.pass_obj
def wait(invocation: Invocation, timeout: float | None) -> int:
    """Wait until nothing is settling, queued or running. Exit code 1 after the time-out.

    \b
    Examples:
      cp *.pdf ~/Documents && ingestd wait && ingestd search "notice period"
      ingestd wait --timeout 5m
    """
    config = invocation.config()
    from ingestd import commands

    if commands.wait(config, timeout):
        return 0
    click.echo("there is still work after the time-out; `ingestd status` says what", err=True)
    return FAILED


@command()
@click.option("--yes", is_flag=True, help="Do not ask.")
@as_json
@click.pass_obj
def reindex(invocation: Invocation, yes: bool, json: bool) -> None:
    """Drop the index and queue every file: after a change of model or chunking the next run makes it anew.

    \b
    Examples:
      ingestd reindex && ingestd run
      ingestd reindex --yes --json
    """
    config = invocation.config()
    if not yes and sys.stdin.isatty():
        click.confirm(f"Drop the index in {config.state_directory} and make it anew?", abort=True, err=True)
    from ingestd import commands

    answer = commands.reindex(config)
    if json:
        print_json(answer)
    else:
        click.echo(f"{answer.get('queued', 0):,} files are queued; `ingestd run` or `ingestd ingest PATH` indexes them")


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


@command("check-config")
@as_json
@click.pass_obj
def check_config(invocation: Invocation, json: bool) -> int:
    """Read the configuration and name everything that is wrong with it: file, line, key, and what was meant.

    \b
    Examples:
      ingestd check-config
      ingestd check-config --config /etc/ingestd/config.toml
    """
    try:
        config = invocation.config()
    except ConfigError as error:
        if not json:
            raise
        print_json({"valid": False, "file": None, "problems": error.message.splitlines(), "warnings": []})
        return WRONG
    missing = [table.directory for table in config.watch if not os.path.isdir(table.directory)]
    warnings = [f"{directory} is not there, or not a directory" for directory in missing]
    if json:
        facts = {"state": str(config.state_directory), "sources": [table.name for table in config.watch]}
        print_json({"valid": True, "file": config.file, "problems": [], "warnings": warnings, **facts})
        return 0
    from ingestd.cli.printable import clean_line

    click.echo(f"{clean_line(config.file or 'defaults, there is no configuration file')}: no problem found")
    click.echo(f"state: {clean_line(config.state_directory)}")
    for table in config.watch:
        click.echo(f"source {table.name}: {clean_line(table.directory)}")
    for warning in warnings:
        click.echo(f"warning: {clean_line(warning)}", err=True)
    if not config.watch:
        click.echo("warning: no [[watch]] table: `ingestd run` has nothing to watch", err=True)
    return 0


@command()
@as_json
@click.pass_obj
def plugins(invocation: Invocation, json: bool) -> None:
    """List the loaders, engines and sinks, and plugins that do not work.

    \b
    Examples:
      ingestd plugins
      ingestd plugins --json | jq -r '.[] | select(.kind == "loader") | .suffixes[]'
    """
    config = invocation.config()
    from ingestd import commands, log

    log.quiet(invocation.verbose)
    found = commands.plugins(config)
    if json:
        print_json(found)
        return
    from ingestd.cli import views

    views.show(views.listed(found))


def main() -> NoReturn:
    """The entry point `ingestd`."""
    cli.main(prog_name="ingestd")
