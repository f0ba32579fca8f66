"""Commands that make a service of this installation, and undo it."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ingestd.cli.group import command
from ingestd.cli.invocation import Invocation
from ingestd.errors import UsageError

if TYPE_CHECKING:
    from ingestd.installation.plan import Plan

_dry_run = click.option("-n", "--dry-run", is_flag=True, help="Say what would be done, and do nothing.")
_yes = click.option("--yes", is_flag=True, help="Do not ask.")
_force = click.option("--force", is_flag=True, help="Override files that were changed since they were written.")


@command("install-service")
@click.argument("folders", metavar="[FOLDER]...", nargs=-1, type=click.Path(path_type=Path))
@click.option("--user", is_flag=True, help="For yourself, in your own systemd. [default: system-wide, as root]")
@click.option("--start", is_flag=True, help="Enable and start it, too; returns once it is ready.")
@_dry_run
@_yes
@_force
@click.pass_obj
def install_service(
    invocation: Invocation, folders: tuple[Path, ...], user: bool, start: bool, dry_run: bool, yes: bool, force: bool
) -> None:
    """Make a systemd service of this installation of ingestd, wherever pip, pipx or uv has put it.

    It shows every file and every command first, and asks. FOLDERs are what the service is to watch, where there is no
    configuration yet; system-wide that is /srv/ingestd if none is named. Done again, it only does what is missing.

    \b
    Examples:
      ingestd install-service --dry-run
      ingestd install-service --user --start ~/Documents
      sudo /opt/ingestd/bin/ingestd install-service --yes --start
    """
    from ingestd.installation import service

    place = service.Place(user, os.environ)
    words = "install-service" + place.option
    if not dry_run:
        place.admit(words)
    plan = service.install(place, invocation.config_file, folders, start=start)
    _carry_out(plan, dry_run=dry_run, yes=yes, force=force)


@command("uninstall-service")
@click.option("--user", is_flag=True, help="The one in your own systemd. [default: the system's, as root]")
@click.option("--purge", is_flag=True, help="State, configuration and the user ingestd, too; never what is watched.")
@_dry_run
@_yes
@_force
@click.pass_obj
def uninstall_service(invocation: Invocation, user: bool, purge: bool, dry_run: bool, yes: bool, force: bool) -> None:
    """Stop the service, and remove what `install-service` has written.

    It shows what it will do first, and asks. Journal, index and configuration stay, but for --purge.

    \b
    Examples:
      ingestd uninstall-service --user
      sudo ingestd uninstall-service --purge --dry-run
    """
    from ingestd.installation import service

    place = service.Place(user, os.environ)
    if not dry_run:
        place.admit("uninstall-service" + place.option)
    _carry_out(service.uninstall(place, purge=purge), dry_run=dry_run, yes=yes, force=force)


def _carry_out(plan: Plan, *, dry_run: bool, yes: bool, force: bool) -> None:
    """Show it, ask, do it, and say what is to be typed then."""
    from ingestd.cli.printable import clean_line
    from ingestd.installation.plan import carry_out

    for line in plan.told():
        click.echo(clean_line(line))
    if not plan.steps:
        click.echo("nothing is to be done")
    elif not dry_run:
        if plan.overridden and not force:
            raise UsageError(
                f"changed since it was written: {', '.join(map(str, plan.overridden))}; keep the changes in a drop-in "
                "(systemctl edit ingestd), or give --force to lose them"
            )
        if not yes:
            if not sys.stdin.isatty():
                raise UsageError("nobody is there to be asked: --yes does it, --dry-run only shows it")
            click.confirm("Do that?", abort=True, err=True)
        carry_out(plan)
        click.echo("done", err=True)
    for line in plan.next:
        click.echo(f"next: {clean_line(line)}", err=True)
