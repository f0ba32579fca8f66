#!/usr/bin/env python3
"""Try ingestd, or test it, on a machine that has Python 3.11 or later and nothing else.

    python3 packaging/quickstart.py [demo [QUESTION]]     index some sample documents and search them
    python3 packaging/quickstart.py test [PYTEST ARGS]    run the tests
    python3 packaging/quickstart.py install [EXTRA ...]   only make the environment, in .venv; ocr reads scans

Everything is kept in the checkout, in .venv and .quickstart; remove these two to be rid of it.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys

MINIMUM = (3, 11)
FAILED = 1
"""pytest's exit code where it ran, and tests failed."""


def main(arguments: list[str]) -> int:
    command, rest = (arguments[0], arguments[1:]) if arguments else ("demo", [])
    if command in ("-h", "--help", "help"):
        sys.stdout.write(__doc__ or "")
        return 0
    if command not in ("demo", "test", "install"):
        sys.stderr.write(f"quickstart: there is no command {command!r}\n{__doc__}")
        return 2
    import console
    import environment

    # a termination request unwinds like Ctrl-C, so that a daemon started here is stopped too
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        if command == "install":
            environment.ensure("minilm", *rest)
            console.say(f"ready: {environment.DIRECTORY / 'bin' / 'ingestd'} --help")
            return 0
        if command == "test":
            python = os.fspath(environment.ensure("test"))
            os.chdir(environment.ROOT)
            sys.stdout.flush()
            # Most tests wait for processes more than they compute; a file's tests stay together and in order. `-n 0` is
            # one after the other.
            workers = min(8, 2 * len(os.sched_getaffinity(0)))
            parallel = ["-n", str(workers), "--dist", "loadfile", "--no-loadscope-reorder"]
            pytest = [python, "-m", "pytest"]
            code = subprocess.run([*pytest, *parallel, *rest], check=False).returncode
            if code == FAILED and not rest:
                # So many processes at once are a load that some machines do not bear: alone, a test is right or wrong.
                console.say("running what failed once more, one test after the other")
                code = subprocess.run([*pytest, "--last-failed", "-n", "0"], check=False).returncode
            return code
        import demo

        environment.ensure("minilm")
        return demo.run(" ".join(rest) or demo.QUESTION)
    except console.Failure as failure:
        sys.stderr.write(f"quickstart: {failure}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("\nquickstart: interrupted; the same command goes on where it stopped\n")
        return 130


def use_newer_python() -> None:
    """Start over with a Python that is new enough where there is one; else say what is needed."""
    for minor in range(20, MINIMUM[1] - 1, -1):
        if path := shutil.which(f"python3.{minor}"):
            os.execv(path, [path, *sys.argv])
    sys.stderr.write(
        "quickstart: ingestd needs Python {}.{} or later, this is {}\n".format(*MINIMUM, sys.version.split()[0])
        + "  with uv: uv run --no-project --python 3.12 packaging/quickstart.py\n"
    )
    sys.exit(2)


if __name__ == "__main__":
    if sys.version_info < MINIMUM:
        use_newer_python()
    sys.exit(main(sys.argv[1:]))
