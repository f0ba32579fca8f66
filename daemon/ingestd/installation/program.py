"""The program that a unit starts: this very installation, called in an environment that has nothing of the shell's."""

from __future__ import annotations

import os
import shlex
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Final

import ingestd
from ingestd.errors import UsageError

HIDDEN: Final = {
    Path("/home"): "ProtectHome", Path("/root"): "ProtectHome", Path("/run/user"): "ProtectHome",
    Path("/tmp"): "PrivateTmp", Path("/var/tmp"): "PrivateTmp",
}  # fmt: skip
"""What the hardened unit does not see, and the setting that hides it."""
PATIENCE: Final = 60.0
CLEAN: Final = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}
INSTALL: Final = "python3 -m venv /opt/ingestd && /opt/ingestd/bin/pip install 'ingestd[systemd]'"


def command() -> tuple[str, ...]:
    """How a unit calls this installation: the script beside the interpreter, else the interpreter with the module.

    Not what is on the PATH, which may be another one, or a wrapper. Raises `UsageError` where it does not work.
    """
    python = sys.executable
    if not python or not os.access(python, os.X_OK):
        raise UsageError(f"the Python that runs ingestd is gone: {python or 'its path is not known'}", command=INSTALL)
    script = Path(python).with_name("ingestd")
    chosen = (str(script),) if os.access(script, os.X_OK) else (python, "-P", "-m", "ingestd")
    failed = _fails([*chosen, "--version"])
    if failed:
        raise UsageError(
            f"{shlex.join(chosen)} does not work without the variables of this shell (PYTHONPATH?): {failed}",
            command=shlex.join(["env", "-i", *chosen, "--version"]),
        )
    if _fails([python, "-P", "-c", "import systemd.daemon"]):
        raise UsageError(
            "systemd waits for a word of the service, and systemd-python, which gives it, is missing",
            command=f"apt-get install gcc libsystemd-dev pkg-config python3-dev && {_adding('systemd-python>=235')}",
        )
    return chosen


def _fails(line: list[str]) -> str:
    """What a command says that fails; "" for one that works."""
    try:
        done = subprocess.run(
            line, env=CLEAN, cwd="/", stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
            timeout=PATIENCE, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    said = done.stderr.strip().splitlines()
    return "" if done.returncode == 0 else (said[-1] if said else f"exit code {done.returncode}")


def _adding(package: str) -> str:
    """The command that adds a package to this installation, by whoever made it."""
    prefix = Path(sys.prefix)
    if (prefix / "pipx_metadata.json").exists():
        return shlex.join(["pipx", "inject", "ingestd", package])
    if (prefix / "uv-receipt.toml").exists():
        return shlex.join(["uv", "tool", "install", "ingestd", "--with", package])
    if (prefix / "bin" / "pip").exists() or not shutil.which("uv"):
        return shlex.join([sys.executable, "-m", "pip", "install", package])
    return shlex.join(["uv", "pip", "install", "--python", sys.executable, package])


def places() -> list[Path]:
    """Whatever the interpreter reads: itself, the one that a virtual environment links to, and all packages."""
    own = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    searched = [Path(entry) for entry in sys.path if entry and entry not in own and Path(entry).exists()]
    program = Path(sys.executable)
    found = [program, program.resolve(), Path(sys.base_prefix), *searched, Path(ingestd.__file__).parent]
    return list(dict.fromkeys(Path(os.path.abspath(path)) for path in found))


def seen_by_service(path: Path, what: str) -> None:
    """Raises `UsageError` for what the system's unit hides, or another user may not read."""
    for form in (path, path.resolve()):
        for root, setting in HIDDEN.items():
            if form.is_relative_to(root):
                raise UsageError(f"{what}, {form}, is below {root}, which the service does not see ({setting})")
    for step in (*reversed(path.resolve().parents), path.resolve()):
        mode = step.stat().st_mode
        wanted = stat.S_IXOTH if step.is_dir() else stat.S_IROTH
        if not mode & wanted:
            raise UsageError(
                f"{what}, {path}, cannot be read by the service's user: {step} has mode {stat.S_IMODE(mode):04o}",
                command=shlex.join(["chmod", "o+rx" if step.is_dir() else "o+r", str(step)]),
            )


def quoted(word: str) -> str:
    """A word of a command line in a unit."""
    if any(ord(character) < 32 or character == "$" for character in word):
        raise UsageError(f"a unit cannot name {word!r}: choose a path without control characters and $")
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{escaped}"' if escaped != word or any(c in word for c in " ';") else word
