"""The group of commands, and how one joins it."""

from __future__ import annotations

from collections.abc import Callable

import click

from ingestd import __version__
from ingestd.cli.invocation import Commands, everywhere


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
