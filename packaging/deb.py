#!/usr/bin/env python3
"""Build the Debian packages of ingestd, for the distribution that this runs on.

python3 packaging/deb.py            both, into dist/
python3 packaging/deb.py ingestd    the program, its unit and its configuration alone
python3 packaging/deb.py runtime    the Python environment of what packaging/debian/runtime.lock names alone
python3 packaging/deb.py lock       resolve the locks anew; the day becomes the runtime's version
"""

from __future__ import annotations

import argparse
import gzip
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import console
import deb_lock
import deb_manual
import installers
from deb_archive import Archive
from environment import ROOT

HERE = ROOT / "packaging"
ENVIRONMENT = "usr/lib/ingestd"
ADDED = "/usr/local/lib/ingestd"
"""Where an administrator puts packages of Python beside those of the runtime: plugins, say."""
PROGRAM = f"""\
#!/{ENVIRONMENT}/bin/python3 -IB
from ingestd.cli import main

main()
"""


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", default="both", choices=["both", "ingestd", "runtime", "lock"])
    parser.add_argument("--version", help="of ingestd, where that is not the source's own")
    parser.add_argument("--output", type=Path, default=ROOT / "dist", metavar="DIR", help="in place of dist/")
    parser.add_argument("--without", action="append", default=[], metavar="PATTERN",
                        help="leave such packages of the lock out of the runtime (nvidia-*), for a host that never"
                        " imports them; may be repeated")  # fmt: skip
    options = parser.parse_args(arguments)
    os.umask(0o022)
    try:
        installer = installers.find(ROOT / ".venv" / "installer")
        if not isinstance(installer, installers.Uv):
            raise console.Failure("uv is needed, and could not be had: pip install uv")
        if options.what == "lock":
            deb_lock.resolve(installer)
            return 0
        options.output.mkdir(parents=True, exist_ok=True)
        (ROOT / "build").mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="deb-", dir=ROOT / "build") as scratch:
            if options.what != "ingestd":
                console.say(str(runtime(installer, Path(scratch, "runtime"), options.output, options.without)))
            if options.what != "runtime":
                console.say(str(program(installer, Path(scratch, "ingestd"), options.output, options.version)))
    except console.Failure as failure:
        sys.stderr.write(f"deb: {failure}\n")
        return 1
    return 0


def runtime(installer: installers.Uv, scratch: Path, output: Path, without: list[str]) -> Path:
    """What ingestd imports, at the place where it will be, compiled: nothing is fetched or made at installation."""
    version, epoch = deb_lock.version()
    archive = Archive(scratch, "ingestd-runtime", version, epoch)
    minor = deb_lock.fill(installer, archive.root / ENVIRONMENT, without)
    archive.put(f"{ENVIRONMENT}/lib/python3.{minor}/site-packages/added.pth", f"{ADDED}\n")
    fields = {
        "Depends": f"python3 (>= 3.{minor}), python3 (<< 3.{minor + 1}), libc6, libgcc-s1, libstdc++6, libsystemd0,"
        " zlib1g",
        "Description": "Python environment of ingestd\n"
        "PyTorch with its CUDA libraries, the embedding model, and whatever else\n"
        "ingestd imports, in the versions that it was tested with. Nothing else on\n"
        "the system uses any of it.",
    }
    return archive.build(output, fields)


def program(installer: installers.Uv, scratch: Path, output: Path, version: str | None) -> Path:
    scratch.mkdir()
    wheel = deb_lock.wheel(installer, scratch / "tools", scratch)
    archive = Archive(scratch / "tree", "ingestd", version or f"{wheel.name.split('-')[1]}-1", committed())
    minor = deb_lock.minor()
    site = f"{ENVIRONMENT}/lib/python3.{minor}/site-packages"
    with zipfile.ZipFile(wheel) as packed:
        packed.extractall(archive.root / site)
    deb_lock.compile_all(archive.root, site)
    archive.put("usr/bin/ingestd", PROGRAM, 0o755)
    for source, place in {
        "systemd/ingestd.service": "usr/lib/systemd/system/ingestd.service",
        "systemd/ingestd.sysusers": "usr/lib/sysusers.d/ingestd.conf",
        "systemd/ingestd.tmpfiles": "usr/lib/tmpfiles.d/ingestd.conf",
        "systemd/config.toml": "etc/ingestd/config.toml",
        "systemd/drop-ins/gpu.conf": "usr/share/doc/ingestd/examples/gpu.conf",
        "systemd/drop-ins/home.conf": "usr/share/doc/ingestd/examples/home.conf",
        "../config.toml": "usr/share/doc/ingestd/examples/config.toml",
        "../docs/operations.md": "usr/share/doc/ingestd/operations.md",
    }.items():
        archive.put(place, (HERE / source).read_text())
    archive.put("usr/share/doc/ingestd/changelog.gz", gzip.compress((ROOT / "CHANGELOG.md").read_bytes(), mtime=0))
    page = deb_manual.manual((ROOT / "docs" / "commands.md").read_text(), wheel.name.split("-")[1])
    archive.put("usr/share/man/man1/ingestd.1.gz", gzip.compress(page.encode(), mtime=0))
    fields = {
        "Depends": f"ingestd-runtime (= {deb_lock.version()[0]}), python3, systemd (>= 252)",
        "Suggests": "libreoffice-calc-nogui, libreoffice-impress-nogui, libreoffice-writer-nogui",
        "Description": "index of folders that is searched by meaning\n"
        "Drop files into a folder; a moment later they can be searched by meaning. A\n"
        "service watches folders, cuts the text of every file into passages, turns\n"
        "these into vectors with an embedding model, and keeps a search index in step\n"
        "with the folders.",
    }
    return archive.build(output, fields)


def committed() -> int:
    """When the source was last changed, in seconds since 1970, for files that a build makes."""
    if epoch := os.environ.get("SOURCE_DATE_EPOCH"):
        return int(epoch)
    command = ["git", "log", "-1", "--format=%ct"]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):  # no git, or no repository: an unpacked archive of the source
        return int((ROOT / "CHANGELOG.md").stat().st_mtime)
    return int(done.stdout)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
