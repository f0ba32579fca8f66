"""A tree of files that becomes one Debian package, by dpkg-deb alone. Standard library only."""

from __future__ import annotations

import gzip
import hashlib
import os
import subprocess
from email.utils import formatdate
from pathlib import Path

import console
from environment import ROOT

PIECES = ROOT / "packaging" / "debian"
"""Holds, by the package's name, maintainer scripts; and the copyright."""
SCRIPTS = ("preinst", "postinst", "prerm", "postrm")


class Archive:
    """What is put below `root` is installed below `/`, owned by root; files in `etc` are the administrator's."""

    def __init__(self, root: Path, package: str, version: str, epoch: int) -> None:
        self.root = root
        self.package = package
        self.version = version
        self.epoch = epoch
        """Seconds since 1970; no file is newer. Equal contents make equal packages."""
        root.mkdir(parents=True)

    def put(self, place: str, content: str | bytes, mode: int = 0o644) -> None:
        path = self.root / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        path.chmod(mode)

    def build(self, output: Path, fields: dict[str, str]) -> Path:
        """Write the package into `output`; `fields` of its control file beside those that every package has.

        Raises `console.Failure`.
        """
        self._document()
        sizes, sums, conffiles = 0, [], []
        for path in self._files():
            place = path.relative_to(self.root).as_posix()
            mode = path.stat().st_mode
            if mode & 0o444 != 0o444:  # the cache that it was linked from was filled under another umask
                path.chmod(mode | 0o444)
            sizes += path.stat().st_size // 1024 + 1
            with path.open("rb") as file:
                sums.append(f"{hashlib.file_digest(file, 'md5').hexdigest()}  {place}\n")
            if place.startswith("etc/"):
                conffiles.append(f"/{place}\n")
        architecture = run(["dpkg", "--print-architecture"], "asking dpkg for the architecture").strip()
        summary, _, text = fields.pop("Description").partition("\n")
        control = {
            "Package": self.package,
            "Version": self.version,
            "Architecture": architecture,
            "Maintainer": maintainer(),
            "Installed-Size": str(sizes),
            "Section": "utils",
            "Priority": "optional",
            **fields,
            "Description": "\n ".join([summary, *text.splitlines()]),
        }
        self.put("DEBIAN/control", "".join(f"{name}: {value}\n" for name, value in control.items()))
        self.put("DEBIAN/md5sums", "".join(sums))
        if conffiles:
            self.put("DEBIAN/conffiles", "".join(conffiles))
        for name in SCRIPTS:
            if (script := PIECES / f"{self.package}.{name}").exists():
                self.put(f"DEBIAN/{name}", script.read_bytes(), 0o755)
        target = output.resolve() / f"{self.package}_{self.version}_{architecture}.deb"
        # Almost all of it is libraries of machine code: more effort would take many minutes, and save little.
        command = ["dpkg-deb", "--root-owner-group", "-Zzstd", "-z1", "--build", str(self.root), str(target)]
        run(command, f"packing {target.name}", SOURCE_DATE_EPOCH=str(self.epoch))
        return target

    def _document(self) -> None:
        documents = f"usr/share/doc/{self.package}"
        self.put(f"{documents}/copyright", (PIECES / "copyright").read_bytes())
        entry = (
            f"{self.package} ({self.version}) unstable; urgency=medium\n\n"
            "  * See CHANGELOG.md of the source, changelog.gz of the package ingestd.\n\n"
            f" -- {maintainer()}  {formatdate(self.epoch)}\n"
        )
        name = "changelog.Debian.gz" if "-" in self.version else "changelog.gz"
        self.put(f"{documents}/{name}", gzip.compress(entry.encode(), mtime=0))

    def _files(self) -> list[Path]:
        return sorted(path for path in self.root.rglob("*") if path.is_file() and not path.is_symlink())


def maintainer() -> str:
    """Who builds it, as the tools of Debian are told."""
    name, address = os.environ.get("DEBFULLNAME", "ingestd"), os.environ.get("DEBEMAIL", "root@localhost")
    return f"{name} <{address}>"


def run(command: list[str], what: str, **variables: str) -> str:
    """The output of a command. Raises `console.Failure` with the end of what it printed."""
    with console.Pulse(what):
        try:
            done = subprocess.run(
                command, env={**os.environ, **variables}, capture_output=True, text=True, stdin=subprocess.DEVNULL
            )
        except OSError as error:
            raise console.Failure(f"{what}: cannot run {command[0]}: {error.strerror}") from error
    if done.returncode:
        tail = "\n".join((done.stdout + done.stderr).strip().splitlines()[-8:])
        raise console.Failure(f"{what}: {command[0]} failed ({done.returncode})\n{tail}")
    return done.stdout
