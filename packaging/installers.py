"""Get hold of uv, or failing that of pip, on a machine that has neither. Standard library only.

No address of a package index is written here: where packages come from is the machine's business. The index is the
one that pip's configuration names, or the one that the pip or uv found (or Debian's, fetched with apt) has built in.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import ssl
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import console
from index import fetch_pip
from pip_settings import PipSettings

INSTALLING = "installing ingestd and what it needs, with {} into {}"


class Installer(Protocol):
    """Makes environments and installs into them."""

    name: str

    def make(self, directory: Path) -> None:
        """Create a virtual environment in `directory`, which may exist and hold other files."""
        ...

    def install(self, python: Path, requirement: str, where: Path) -> None:
        """Install the editable project `requirement`, relative to `where`, for the interpreter `python`."""
        ...

    def overwrite(self, python: Path, requirement: str) -> None:
        """Install a package once more, without what it needs: of several that have the same files, its own stay."""
        ...


@dataclass
class Uv:
    path: str
    settings: PipSettings
    name: str = "uv"

    def make(self, directory: Path) -> None:
        # --allow-existing: the mark that the directory is ours is in it already
        quiet = [self.path, "venv", "--quiet", "--allow-existing", "--no-project", "--python", sys.executable]
        console.run([*quiet, os.fspath(directory)], "making the environment")

    def install(self, python: Path, requirement: str, where: Path) -> None:
        arguments = [*self.settings.uv_arguments(os.environ), "--editable", requirement]
        command = [self.path, "pip", "install", "--python", os.fspath(python), *arguments]
        console.run(command, INSTALLING.format(self.name, python.parent.parent), cwd=where, show=True)

    def overwrite(self, python: Path, requirement: str) -> None:
        arguments = [*self.settings.uv_arguments(os.environ), "--no-deps", "--reinstall", requirement]
        command = [self.path, "pip", "install", "--quiet", "--python", os.fspath(python), *arguments]
        console.run(command, f"installing {requirement} last")


@dataclass
class Pip:
    command: list[str]
    name: str = "pip"

    def make(self, directory: Path) -> None:
        command = [sys.executable, "-m", "venv", "--without-pip", os.fspath(directory)]
        console.run(command, "making the environment")

    def install(self, python: Path, requirement: str, where: Path) -> None:
        command = [*self.command, "--python", os.fspath(python), "install", "--editable", requirement]
        console.run(command, INSTALLING.format(self.name, python.parent.parent), cwd=where, show=True)

    def overwrite(self, python: Path, requirement: str) -> None:
        command = [*self.command, "--python", os.fspath(python), "install", "--no-deps", "--force-reinstall"]
        console.run([*command, requirement], f"installing {requirement} last")


def find(directory: Path) -> Installer:
    """The fastest installer to be had; what has to be fetched is kept below `directory`."""
    settings = PipSettings(os.environ)
    os.environ.update(settings.uv_environment(os.environ))
    if has_certificates():
        # uv would trust its own roots only; Python and pip trust the machine's (two names: older uv knows the second)
        for name in ("UV_SYSTEM_CERTS", "UV_NATIVE_TLS"):
            os.environ.setdefault(name, "1")
    fetched = directory / "bin" / "uv"
    for candidate in (shutil.which("uv"), os.fspath(fetched)):
        if candidate and works([candidate, "--version"]):
            return Uv(candidate, settings)
    directory.mkdir(parents=True, exist_ok=True)
    pip = find_pip(directory, settings)
    try:
        # PIP_USER: a configuration that says `user = true` contradicts --target
        os.environ.update(PIP_USER="0", PIP_REQUIRE_VIRTUALENV="0", PIP_DISABLE_PIP_VERSION_CHECK="1")
        target = ["install", "--quiet", "--only-binary", ":all:", "--upgrade", "--target", os.fspath(directory), "uv"]
        console.run([*pip, *target], "fetching uv, which installs much faster than pip")
    except console.Failure as failure:
        reason = str(failure).splitlines()[-1]
        console.say(f"uv cannot be had ({reason}); installing with pip, which takes some minutes")
        return Pip(pip)
    return Uv(os.fspath(fetched), settings) if works([os.fspath(fetched), "--version"]) else Pip(pip)


def find_pip(directory: Path, settings: PipSettings) -> list[str]:
    """The command of a working pip: installed, lying about as a wheel, from the index, or from Debian's archive."""
    if importlib.util.find_spec("pip") and works([sys.executable, "-m", "pip", "--version"]):
        return [sys.executable, "-m", "pip"]
    sources: list[Callable[[], Iterator[Path]]] = [
        lambda: wheels_at_hand(settings),
        lambda: fetch_pip(settings, directory),
        lambda: fetch_from_apt(directory),
    ]
    reasons = []
    for source in sources:
        try:
            for wheel in source():
                command = [sys.executable, os.fspath(wheel / "pip")]  # a wheel is a zip that Python runs
                if works([*command, "--version"]):
                    return command
        except console.Failure as failure:
            reasons.append(str(failure))
    raise console.Failure(
        "there is neither uv nor pip here, and none could be fetched"
        + "".join(f"\n  {reason}" for reason in reasons)
        + "\ninstall one (Debian, Ubuntu: apt-get install python3-venv) or name your package index in PIP_INDEX_URL"
    )


def wheels_at_hand(settings: PipSettings) -> Iterator[Path]:
    """pip's wheel where ensurepip, the distribution or `find-links` keeps one."""
    places = [sysconfig.get_config_var("WHEEL_PKG_DIR"), "/usr/share/python-wheels"]
    if (spec := importlib.util.find_spec("ensurepip")) and spec.origin:
        places.append(os.fspath(Path(spec.origin).parent / "_bundled"))
    places += [place for place in settings.find_links if "://" not in place]
    for place in filter(None, places):
        yield from sorted(Path(place).expanduser().glob("pip-*.whl"), reverse=True)


def fetch_from_apt(directory: Path) -> Iterator[Path]:
    """pip's wheel out of Debian's package of it: unpacked beside the environment, not installed; needs no root.

    A machine without certificates gets Debian's the same way, for pip to use; apt verifies by signature.
    """
    apt, unpack = shutil.which("apt-get"), shutil.which("dpkg-deb")
    if not apt or not unpack:
        return
    packages = ["python3-pip-whl"] if has_certificates() else ["python3-pip-whl", "ca-certificates"]
    place = directory / "apt"
    (place / "lists" / "partial").mkdir(parents=True, exist_ok=True)
    own = ["-o", f"Dir::State::lists={place / 'lists'}", "-o", f"Dir::Cache={place}", "-o", "APT::Sandbox::User=root"]
    own += ["-o", "Acquire::Languages=none", "-q"]
    # a private copy of the lists: the system's may be missing (container images) and only root may refresh them
    console.run([apt, *own, "update"], "asking apt for pip (nothing is installed in the system)")
    console.run([apt, *own, "download", *packages], "fetching pip with apt", cwd=place)
    for archive in place.glob("*.deb"):
        console.run([unpack, "--extract", os.fspath(archive), os.fspath(place)], f"unpacking {archive.name}")
    if "ca-certificates" in packages:
        bundle = place / "certificates.pem"
        roots = sorted((place / "usr/share/ca-certificates").rglob("*.crt"))
        bundle.write_bytes(b"".join(root.read_bytes() for root in roots))
        os.environ.update(PIP_CERT=os.fspath(bundle), SSL_CERT_FILE=os.fspath(bundle))
    yield from (place / "usr/share/python-wheels").glob("pip-*.whl")


def has_certificates() -> bool:
    """Whether TLS connections can be verified with what the machine or its configuration has."""
    paths = ssl.get_default_verify_paths()
    named = PipSettings(os.environ).cert
    return bool(named or paths.cafile or (paths.capath and any(Path(paths.capath).iterdir())))


def works(command: list[str]) -> bool:
    try:
        return subprocess.run(command, capture_output=True, timeout=60, stdin=subprocess.DEVNULL).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False
