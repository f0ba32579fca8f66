"""What every command has: the options `--config`, `--state` and `-v`, and the one place where all errors end."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeVar

import click

from ingestd.errors import ConfigError, IngestdError, ModelError, UsageError

if TYPE_CHECKING:
    from ingestd.config import Config

FAILED: Final = 1
WRONG: Final = 2
UNREACHABLE: Final = 3
BUG: Final = 70
INTERRUPTED: Final = 130

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(slots=True)
class Invocation:
    """The options that every command takes, before its name or after it."""

    config_file: Path | None = None
    state: str | None = None
    verbose: int = 0

    def config(self) -> Config:
        from ingestd.config import load

        return load(self.config_file, os.environ, self.state)

    @property
    def debug(self) -> bool:
        """Tracebacks are wanted."""
        return self.verbose > 1 or bool(os.environ.get("INGESTD_DEBUG"))


class Commands(click.Group):
    """Lists the commands in the order of their use, and has one place where all errors end."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            code = super().invoke(ctx)
            sys.stdout.flush()
            return code
        except BrokenPipeError:
            # Whoever read the output has enough (`| head`); the interpreter would complain once more at its exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            return 0

    def main(self, args: Sequence[str] | None = None, *rest: Any, **extra: Any) -> NoReturn:
        for stream in (sys.stdout, sys.stderr):
            if reconfigure := getattr(stream, "reconfigure", None):
                reconfigure(errors="backslashreplace")  # no name of a file may end a command
        invocation = Invocation()
        extra |= {"standalone_mode": False, "obj": invocation}
        try:
            code = super().main(args, *rest, **extra)
        except click.exceptions.NoArgsIsHelpError as error:
            click.echo(error.format_message())
            code = WRONG
        except click.UsageError as error:
            path = error.ctx.command_path if error.ctx else "ingestd"
            code = fail(error.format_message().rstrip("."), f"{path} --help", WRONG)
        except click.ClickException as error:
            code = fail(error.format_message(), None, error.exit_code)
        except (click.Abort, KeyboardInterrupt):
            code = INTERRUPTED
        except IngestdError as error:
            if invocation.debug:
                _traceback()
            code = fail(error.message, error.command, _code(error))
        except SystemExit:
            code = 0  # click, when whoever read the output has enough
        except OSError as error:
            if invocation.debug:
                _traceback()
            if failed := _flush(0):  # it was the output
                sys.exit(failed)
            code = fail(_cause(error), "ingestd doctor", WRONG if error.errno in _DENIED else UNREACHABLE)
        except Exception as error:
            if type(error).__module__ == "sqlite3":  # a full or dying disk
                sys.exit(_flush(fail(f"the journal cannot be used: {error}", "ingestd doctor", UNREACHABLE)))
            _traceback()
            code = fail(f"a bug in ingestd: {error!r}", None, BUG)
        sys.exit(_flush(code if isinstance(code, int) else 0))


_DENIED: Final = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP)


def _cause(error: OSError) -> str:
    """What of the system stands in the way, and where."""
    names = [os.fsdecode(name) for name in (error.filename, error.filename2) if isinstance(name, str | bytes)]
    return ": ".join([*names, error.strerror or str(error)])


def _flush(code: int) -> int:
    """The exit code, once all that was printed is written."""
    try:
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # the interpreter would complain once more at its exit
        if error.errno != errno.EPIPE:
            return fail(f"the output cannot be written: {error.strerror}", None, code or FAILED)
    return code


def _code(error: IngestdError) -> int:
    return WRONG if isinstance(error, ConfigError | UsageError | ModelError) else UNREACHABLE


def fail(message: str, command: str | None, code: int) -> int:
    """Print an error, and the next command to type; returns `code`."""
    from ingestd.cli.printable import clean

    for line in clean(message).splitlines() or [""]:
        click.echo(f"error: {line}", err=True)
    if command:
        click.echo(f"try: {clean(command)}", err=True)
    return code


def _traceback() -> None:
    import traceback

    click.echo(traceback.format_exc(), err=True, nl=False)


# --- options --------------------------------------------------------------------------------------------------


def _remember(ctx: click.Context, option: click.Parameter, value: Any) -> None:
    if value not in (None, 0) and option.name:
        setattr(ctx.ensure_object(Invocation), option.name, value)


def everywhere(function: F) -> F:
    """Add the options of `Invocation`, after the command's own."""
    options = [
        click.Option(
            ["--config", "config_file"],
            metavar="FILE",
            type=click.Path(path_type=Path),
            help="Configuration [default: $INGESTD_CONFIG, ./config.toml, ~/.config/ingestd/config.toml, "
            "/etc/ingestd/config.toml].",
        ),
        click.Option(
            ["--state"], metavar="DIR", help="State directory [default: $INGESTD_STATE_DIR, [state] directory]."
        ),
        click.Option(["-v", "--verbose"], count=True, help="Say more; twice for tracebacks."),
    ]
    for option in options:
        option.expose_value = False
        option.callback = _remember
    # click collects parameters from the last to the first.
    parameters: list[click.Parameter] = function.__dict__.setdefault("__click_params__", [])
    parameters[:0] = reversed(options)
    return function


as_json = click.option("--json", "json", is_flag=True, help="Print one JSON document.")
in_base64 = click.option("--b64", "base64", is_flag=True, help="Paths are given as base64 of their bytes.")


def duration(ctx: click.Context, option: click.Parameter, value: str | None) -> float | None:
    """Callback of an option that takes a duration: seconds."""
    from ingestd.config.units import parse_duration

    try:
        return None if value is None else parse_duration(value)
    except ValueError as error:
        raise click.BadParameter(str(error), ctx, option) from None


def absolute_paths(given: Sequence[str], base64: bool) -> list[bytes]:
    """The paths that a command line names, absolute.

    `.` and `..` are resolved by name alone, so that symbolic links stay as the configuration has them. Raises
    `UsageError`.
    """
    import binascii

    try:
        raw = [binascii.a2b_base64(path, strict_mode=True) if base64 else os.fsencode(path) for path in given]
    except ValueError as error:
        raise UsageError(f"--b64: a path is not base64: {error}") from None
    if not all(raw) or any(b"\0" in path for path in raw):
        raise UsageError("a path must not be empty or contain NUL")
    return [os.path.abspath(path) for path in raw]


def print_json(value: Any) -> None:
    """One document on standard output."""
    from ingestd.cli.printable import document

    click.echo(document(value), nl=False)
