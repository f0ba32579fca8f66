"""The conformance kit finds fault with loaders that have one, and `ingestd new-plugin` writes one that has none."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ingestd import template
from ingestd.errors import UsageError
from ingestd.testing import variants
from tests.packages import install_offline
from tests.processes.daemons import environment, ingestd, write_config
from tests.test_plugins import install

MODULE = """
import itertools, os, threading, time
from ingestd.errors import FileError
from ingestd.hookspecs import hookimpl
from ingestd.types import Element

GOOD = "begin of a sample that is good, end"
counter = itertools.count()

class Loader:
    version, media_types = "1", ()
    def __init__(self, name):
        self.name, self.suffixes = name, (f".{name}",)
    def load(self, file):
        text = file.path.read_text(errors="replace")
        if text == GOOD:
            yield Element("fine", page=1)
            return
        if self.name == "brittle":
            raise KeyError("end")
        if self.name == "hanging":
            time.sleep(1000)
        if self.name == "dying":
            os._exit(5)
        if self.name == "hungry":
            hoard = [bytearray(os.urandom(1 << 20)) * 16 for _ in range(1000)]
        if self.name == "mute":
            raise FileError("")
        if self.name == "backward":
            yield Element("b", page=2)
            yield Element("a", page=1)
        if self.name == "leaving":
            threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()
        if self.name == "noisy":
            print("look at me", flush=True)

class Moody(Loader):
    def load(self, file):
        yield Element(f"mood {next(counter)}")

class Empty(Loader):
    def load(self, file):
        yield from ()

@hookimpl
def register_loaders():
    names = ["brittle", "hanging", "dying", "hungry", "mute", "backward", "leaving", "noisy", "good"]
    return [*map(Loader, names), Moody("moody"), Empty("empty")]
"""
FAULTS = {
    "brittle": "it ends with KeyError: 'end': a FileError says that a file is at fault",
    "hanging": "it ends with idle_deadline of 1 s exceeded",
    "dying": "it ends with the worker died: exit code 5",
    "hungry": "it ends with memory limit",
    "mute": "the FileError has no message: people read it",
    "backward": "element 2: page 1 comes after page 2",
    "leaving": "it leaves something behind: a thread",
    "noisy": "it prints",
}
"""By loader: what is said of each file that is not as it should be."""


def kit(site: Path, tests: str) -> str:
    """What pytest says of a test module, with the loaders above installed."""
    (site / "test_them.py").write_text(f"from ingestd.testing import LoaderContract\n\n{tests}")
    (site / "pytest.ini").write_text("[pytest]\nfilterwarnings = error\n")
    env = environment()
    env["PYTHONPATH"] = os.pathsep.join([str(site), *filter(None, [env.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-v", "test_them.py"], cwd=site, env=env,
        capture_output=True, text=True, timeout=280, check=False,
    )  # fmt: skip
    assert done.returncode in (0, 1), done.stdout + done.stderr
    return done.stdout


def said(config: Path, env: dict[str, str], *arguments: str) -> str:
    """What a command prints, with the plugins that `env` finds."""
    done = subprocess.run(
        [sys.executable, "-m", "ingestd", "--config", str(config), *arguments], env=env, capture_output=True, text=True,
        timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def contract(name: str, *, loader: str = "", more: str = "") -> str:
    return (
        f"class Test{name.title()}(LoaderContract):\n"
        f"    loader, cuts, flips, quiet = {loader or name!r}, 2, 7, True\n"
        '    limits = {"idle_deadline": "1s", "memory": "200MiB"}\n'
        f'    samples = {{"a.{name}": b"begin of a sample that is good, end"}}\n{more}\n\n'
    )


@pytest.fixture
def site(tmp_path: Path) -> Path:
    install(tmp_path, {"faults": MODULE})
    return tmp_path


def test_a_loader_without_fault_passes(site: Path) -> None:
    said = kit(site, contract("good"))
    assert "6 passed" in said, said


def test_every_fault_is_named_with_its_place(site: Path) -> None:
    said = kit(site, "".join(map(contract, FAULTS)))
    _, *pieces = re.split(r"^_{3,} (.+) _{3,}$|^=+ short test summary", said, flags=re.MULTILINE)
    parts = dict(zip(pieces[::2], pieces[1::2], strict=True))
    for name, fault in FAULTS.items():
        title = f"Test{name.title()}"
        assert f"{title}::test_a_sample_is_loaded[a.{name}] PASSED" in said, said
        assert f"{title}::test_a_sample_with_a_changed_byte[a.{name}] FAILED" in said
        part = parts[f"{title}.test_a_sample_with_a_changed_byte[a.{name}]"]
        assert f"loader {name}: 7 of 7 files ended as none may" in part
        changes = list(variants.flipped("a", b"begin of a sample that is good, end", 7))
        assert [line[:-1] for line in part.splitlines() if line.startswith("byte ")] == [v.what for v in changes[:5]]
        assert part.count(fault) == 5, part
        assert part.count("... and 2 more") == 1
        (command, *_) = re.findall(rf"try: ingestd try --loader {name} (\S+)", part)
        assert Path(command).read_bytes() == changes[0].data, "it is kept"
    assert "in load" in said, "the stack of what hangs"


def test_a_sample_that_does_not_come_out(site: Path) -> None:
    said = kit(site, contract("moody") + contract("empty") + contract("html", loader="good") + contract("nobody"))
    assert "it came out differently when it was loaded again" in said
    assert "no text came out" in said
    assert "it went to html: see `ingestd plugins`" in said
    assert "there is no loader 'nobody'" in said
    assert "is the plugin installed here? try: ingestd plugins" in said


def test_the_plugin_that_is_written_passes_its_tests_at_once(tmp_path: Path) -> None:
    config = write_config(tmp_path / "state", None)
    project = tmp_path / "project"
    done = ingestd(config, "new-plugin", "field_notes", str(project))
    assert done.returncode == 0, done.stderr
    assert {str(path.relative_to(project)) for path in project.rglob("*") if path.is_file()} == {
        "pyproject.toml", "README.md", "ingestd_field_notes.py", "tests/test_field_notes.py",
        "tests/samples/example.field_notes",
    }  # fmt: skip
    env = {**environment(), "PYTHONPATH": install_offline(project, tmp_path / "site")}
    tested = subprocess.run(
        [sys.executable, "-m", "pytest", "-q"], cwd=project, env=env, capture_output=True, text=True, timeout=240,
        check=False,
    )  # fmt: skip
    assert tested.returncode == 0, tested.stdout
    assert "6 passed" in tested.stdout
    assert re.search(
        r"loader +field_notes +1 +\.field_notes +ingestd-field-notes 0\.1\.0", said(config, env, "plugins")
    )
    # A suffix of a bundled loader is given to it.
    config = write_config(tmp_path / "other", None, **{"load.field_notes": {"suffixes": [".md"]}})
    (tmp_path / "a.md").write_text("= Not Markdown\n\nBut it reads like it.")
    told = json.loads(said(config, env, "try", "--json", str(tmp_path / "a.md")))
    assert (told["loader"], told["elements"][0]["text"]) == ("field_notes 1", "Not Markdown")
    listed = said(config, env, "plugins")
    assert re.search(r"loader +field_notes +1 +\.field_notes \.md +", listed)
    assert re.search(r"^text \(ingestd .*\) claims \.md, which goes to field_notes", listed, re.MULTILINE)
    again = ingestd(config, "new-plugin", "field_notes", str(project))
    assert again.returncode == 2
    assert "is there already" in again.stderr


@pytest.mark.parametrize(
    ("name", "suffix"), [("Calendar", None), ("my-notes", None), ("", None), ("a", "ics"), ("a", ".A")]
)
def test_names_that_cannot_be_are_refused(name: str, suffix: str | None, tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        template.write(name, tmp_path / "new", suffix)
    assert not (tmp_path / "new").exists()
