"""Commands that only ask: what is going on, what became of a file, what is wrong."""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import click

from ingestd.cli.group import command
from ingestd.cli.invocation import (
    FAILED,
    WRONG,
    Invocation,
    absolute_paths,
    as_json,
    in_base64,
    print_json,
)
from ingestd.errors import ConfigError, UsageError


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
    from ingestd.cli import layout, terminal, views

    if watch:
        terminal.follow(lambda: commands.status(config))
    else:
        layout.show(views.state_of(commands.status(config)))


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
    from ingestd.cli import layout, views

    layout.show(views.reason_of(answer))
    _point_to_page([answer])


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
    from ingestd.cli import layout, views

    if found:
        layout.show(views.failed(found))
        click.echo("try: ingestd why PATH, ingestd retry PATH", err=True)
        _point_to_page(found)
    else:
        click.echo("no file has failed", err=True)


def _point_to_page(documents: Sequence[Mapping[str, Any]]) -> None:
    """Name the pages that explain these reasons."""
    from ingestd import explaining

    found = [explaining.find(str(document["reason"])) for document in documents[:1000] if document.get("reason")]
    names = dict.fromkeys(page.name for page in found if page is not None)
    if names:
        click.echo(f"what that means: {', '.join(f'ingestd explain {name}' for name in list(names)[:3])}", err=True)


def _complete_page(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    from ingestd import explaining

    return [name for name in explaining.names() if name.startswith(incomplete)]


@command()
@click.argument("reason", metavar="[STATE|REASON]", nargs=-1, shell_complete=_complete_page)
@as_json
@click.pass_obj
def explain(invocation: Invocation, reason: Sequence[str], json: bool) -> int:
    """Explain a state, or a reason as it was printed: what is behind it, and what to type.

    Without an argument it lists the pages.

    \b
    Examples:
      ingestd explain quarantined
      ingestd explain "deadline of 60 s exceeded at page 3"
      ingestd explain
    """
    from ingestd import explaining

    what = " ".join(reason).strip()
    if not what:
        if json:
            print_json([{"name": page.name, "section": page.section} for page in explaining.pages()])
            return 0
        for section, pages in itertools.groupby(explaining.pages(), key=lambda page: page.section):
            click.echo(f"{section}: {', '.join(page.name for page in pages)}")
        return 0
    page = explaining.find(what)
    if page is None:
        known = "', '".join(explaining.near(what))
        raise UsageError(
            f"no page explains it: it may be the word of a plugin, which `ingestd why PATH` names. Near: '{known}'",
            command="ingestd explain",
        )
    if json:
        print_json({"name": page.name, "section": page.section, "reasons": page.patterns, "text": page.text})
        return 0
    if not sys.stdout.isatty():
        click.echo(f"{page.name}\n\n{page.text}")
        return 0
    from rich.console import Group
    from rich.markdown import Markdown
    from rich.text import Text

    from ingestd.cli import layout

    layout.show(Group(Text(page.name, style="bold"), Text(), Markdown(page.text)))
    return 0


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
    from ingestd.cli import layout, views

    layout.show(views.listed(found))


@command()
@as_json
@click.pass_obj
def doctor(invocation: Invocation, json: bool) -> int:
    """Look at everything that can be in the way: limits, permissions, sandbox, model, devices, index, disk.

    Exit code 1 if anything is wrong.

    \b
    Examples:
      ingestd doctor
      ingestd doctor --json | jq -r '.[] | select(.state != "ok") | .text'
    """
    config = invocation.config()
    from ingestd.doctor import examine

    if json:
        found = list(examine(config))
        print_json([finding._asdict() for finding in found])
    else:
        from ingestd.cli import layout, views

        found = []
        for finding in examine(config):
            found.append(finding)
            layout.show(views.finding(finding))
    return FAILED if any(finding.state == "wrong" for finding in found) else 0


@command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_obj
def completion(invocation: Invocation, shell: str) -> None:
    """Print a script that completes commands and options in your shell.

    \b
    Examples:
      ingestd completion bash > ~/.local/share/bash-completion/completions/ingestd
      ingestd completion zsh > ~/.zfunc/_ingestd
      ingestd completion fish > ~/.config/fish/completions/ingestd.fish
    """
    from click.shell_completion import get_completion_class

    from ingestd.cli.group import cli

    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(cli, {}, "ingestd", "_INGESTD_COMPLETE").source())
