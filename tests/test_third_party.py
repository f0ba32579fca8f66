"""Distributions of third parties: built into wheels, installed beside ingestd, found, listed, used, isolated."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from ingestd import __version__
from tests.packages import install_offline
from tests.processes.daemons import ingestd, write_config

PROJECTS = Path(__file__).parent / "third_party"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All three, installed."""
    site = tmp_path_factory.mktemp("site")
    for project in PROJECTS.iterdir():
        copy = tmp_path_factory.mktemp("project") / project.name
        shutil.copytree(project, copy)
        install_offline(copy, site)
    return site


@pytest.fixture(autouse=True)
def installed(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(site), *filter(None, [os.environ.get("PYTHONPATH")])]))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "docs"
    folder.mkdir()
    (folder / "a.quill").write_text("The heron stands in the reeds.\n\nThe badger digs below the viaduct.\n")
    (folder / "b.md").write_text("# Title\n\nThe kingfisher waits.\n")
    (folder / "c.txt").write_text("An otter swims.\n")
    return folder


def answer(config: Path, *arguments: str, code: int = 0) -> Any:
    done = ingestd(config, *arguments)
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return json.loads(done.stdout)


def listed(config: Path) -> dict[str, dict[str, Any]]:
    return {item["name"]: item for item in answer(config, "plugins", "--json")}


def loaders(config: Path, folder: Path) -> dict[str, str]:
    return {
        name: answer(config, "why", "--json", str(folder / name))["loader"] for name in ("a.quill", "b.md", "c.txt")
    }


def test_loader_engine_and_sink_are_found_listed_and_used(tmp_path: Path, folder: Path) -> None:
    tables: dict[str, dict[str, Any]] = {"encode": {"engine": "vowels", "model": "any"}, "index": {"sink": "shelf"}}
    config = write_config(tmp_path / "state", None, **tables)
    assert answer(config, "ingest", "--json", str(folder))["indexed"] == 3
    items = listed(config)
    assert {name: items[name]["distribution"] for name in ("quill", "vowels", "shelf")} == {
        "quill": "acme-quill 1.4", "vowels": "acme-vowels 0.3", "shelf": "acme-shelf 2.0",
    }  # fmt: skip
    assert items["quill"]["takes"] == [".md", ".quill"]
    assert items["text"]["lost"] == {".md": "quill"}
    hits = answer(config, "search", "--json", "--top", "1", "quill wrote: The kingfisher waits.")
    assert hits[0]["text"].startswith("quill wrote: ")
    assert hits[0]["path"].endswith("b.md")
    assert loaders(config, folder) == {"a.quill": "quill 1.4", "b.md": "quill 1.4", "c.txt": "text 1"}
    assert (tmp_path / "state" / "index" / "shelf.sqlite").exists()
    assert answer(config, "verify", "--deep", "--json")["findings"] == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ("[load.text]\nsuffixes = ['.md']\n", {"a.quill": "quill 1.4", "b.md": "text 1", "c.txt": "text 1"}),
        ("[load.quill]\ndisabled = true\n", {"a.quill": None, "b.md": "text 1", "c.txt": "text 1"}),
        ("[load.quill]\nsuffixes = ['.txt']\n", {"a.quill": "quill 1.4", "b.md": "quill 1.4", "c.txt": "quill 1.4"}),
    ],
)
def test_the_configuration_has_the_last_word(
    tmp_path: Path, folder: Path, table: str, expected: Mapping[str, str | None]
) -> None:
    config = write_config(tmp_path / "state", None)
    config.write_text(config.read_text() + table)
    answer(config, "ingest", "--json", str(folder))
    assert loaders(config, folder) == expected


def test_plugins_and_doctor_name_the_one_that_is_configured_and_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = tmp_path / "bad"
    bad.mkdir()
    distribution(bad, "engine", "raise ImportError('no licence')")
    distribution(bad, "version", "raise AssertionError('imported')", "ingestd>=99")
    monkeypatch.setenv("PYTHONPATH", f"{bad}{os.pathsep}{os.environ['PYTHONPATH']}")
    config = write_config(tmp_path / "state", None, encode={"engine": "bad_engine"})
    items = listed(config)
    assert items["bad_engine"]["error"] == "ImportError: no licence"
    found = {item["text"]: item["command"] for item in answer(config, "doctor", "--json", code=1)}
    told = "plugin bad_engine (bad-engine 2.1): ImportError: no licence"
    assert told in found, found
    assert any("bad_version (bad-version 2.1): it is made for ingestd>=99" in text for text in found), found
    assert "[encode] engine: there is no engine 'bad_engine'" in " ".join(found)


def test_a_loader_is_isolated_and_costs_its_own_file_alone(tmp_path: Path) -> None:
    folder = tmp_path / "docs"
    folder.mkdir()
    for what in ("broken", "exit", "hang", "look-around"):
        (folder / f"{what}.quill").write_text(f"{what}\n\nsome text")
    (folder / "good.quill").write_text("all is well")
    config = write_config(tmp_path / "state", None, load={"deadline": "2s", "max_strikes": 1})
    summary = answer(config, "ingest", "--json", str(folder), code=1)
    assert (summary["indexed"], summary["quarantined"]) == (2, 3)
    reasons = {Path(item["path"]).stem: item["reason"] for item in summary["failures"]}
    assert reasons["broken"] == "Quill says that it is broken"
    assert reasons["exit"] == "the worker died: exit code 3"
    assert "deadline of 2 s exceeded" in reasons["hang"]
    (hit,) = answer(config, "search", "--json", "--top", "1", "supervisor imported network disk")
    assert "supervisor imported: False" in hit["text"]
    assert "network: PermissionError" in hit["text"]
    assert "disk: PermissionError" in hit["text"]


# --- those that do not work -----------------------------------------------------------------------------------

HEAD = "from ingestd.hookspecs import hookimpl\n@hookimpl\ndef register_{kind}s():\n    "
FAULTS = {
    "import": ("import no_such_library", "No module named 'no_such_library'"),
    "hang": ("import time; time.sleep(1000)", "hangs for 20 s"),
    "dies": ("import os; os._exit(7)", "exit code 7"),
    "crashes": ("import ctypes; ctypes.string_at(0)", "SIGSEGV"),
    "one": (HEAD + "return 7", "register_{kind}s returned a int, not a list of {kind}s"),
    "text": (HEAD + "return 'loaders'", "register_{kind}s returned a str, not a list of {kind}s"),
    "number": (HEAD + "return [7]", "int has no attribute 'name'"),
    "endless": (HEAD + "import itertools; return (object for object in itertools.repeat(None))", "has no attribute"),
    "raises": (HEAD + "yield from ()\n    raise OSError('no licence')", "OSError: no licence"),
    "version": ("raise AssertionError('imported')", f"it is made for ingestd>=99, and this is ingestd {__version__}"),
}
NAMED = {
    "loader": "    name, version, suffixes, media_types = {name!r}, '1', (), ()\n    def load(self, file): yield\n",
    "engine": (
        "    name = {name!r}\n    def tokenizer(self, model): ...\n    def load(self, model, device, options): ...\n"
        "    def encode(self, tokens): ...\n    def devices(self): return []\n    def describe(self): return {{}}\n"
    ),
    "sink": (
        "    name = {name!r}\n    def open(self, directory, fingerprint, options, *, readonly): ...\n"
        "    def write(self, operations): ...\n    def search(self, query): ...\n    def documents(self): ...\n"
        "    def read(self, doc_ids): ...\n    def chunk_ids(self): ...\n    def count(self): ...\n"
        "    def close(self): ...\n"
    ),
}
TAKEN = {"loader": "text", "engine": "hashing", "sink": "sqlite"}


def distribution(site: Path, name: str, source: str, requires: str = "ingestd") -> None:
    """One module and its metadata, as an installer leaves them."""
    (site / f"bad_{name}.py").write_text(source)
    info = site / f"bad_{name}-2.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: bad-{name}\nVersion: 2.1\nRequires-Dist: {requires}\n"
    )
    (info / "entry_points.txt").write_text(f"[ingestd]\nbad_{name} = bad_{name}\n")


def faulty(site: Path, kind: str) -> dict[str, str]:
    """Distributions with every fault; by name: the cause that is to be told."""
    causes = {}
    for name, (source, cause) in FAULTS.items():
        requires = "ingestd>=99" if name == "version" else "ingestd"
        distribution(site, name, source.replace("{kind}", kind), requires)
        causes[name] = cause.replace("{kind}", kind)
    body = f"class Mine:\n{NAMED[kind]}"
    end = f"{HEAD.format(kind=kind)}return [Mine()]\n"
    distribution(site, "taken", body.format(name=TAKEN[kind]) + end)
    causes["taken"] = f"{kind} {TAKEN[kind]!r} is registered already"
    signature = {"loader": ("load(self, file)", "load(self)"), "engine": ("encode(self, tokens)", "encode(self)"),
                 "sink": ("write(self, operations)", "write(self)")}[kind]  # fmt: skip
    distribution(site, "signature", body.format(name="mine").replace(*signature) + end)
    causes["signature"] = "cannot be called with 1 arguments"
    distribution(site, "name", body.format(name="\x1b[31m red") + end)
    causes["name"] = "Mine.name must be an identifier"
    (site / "bad_absent-2.1.dist-info").mkdir()
    (site / "bad_absent-2.1.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: bad-absent\nVersion: 2.1\n"
    )
    (site / "bad_absent-2.1.dist-info" / "entry_points.txt").write_text("[ingestd]\nbad_absent = bad_absent\n")
    causes["absent"] = "No module named 'bad_absent'"
    return causes


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["loader", "engine", "sink"])
def test_each_that_does_not_work_is_named_and_everything_else_does(
    tmp_path: Path, folder: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = tmp_path / "bad"
    bad.mkdir()
    causes = faulty(bad, kind)
    monkeypatch.setenv("PYTHONPATH", f"{bad}{os.pathsep}{os.environ['PYTHONPATH']}")
    config = write_config(tmp_path / "state", None)
    items = {item["name"]: item for item in answer(config, "plugins", "--json")}
    for name, cause in causes.items():
        told = items[f"bad_{name}"]
        assert told["distribution"] == f"bad-{name} 2.1"
        assert cause in told["error"], (name, told)
        assert "\x1b" not in told["error"]
    assert items["quill"]["takes"] == [".md", ".quill"]
    summary = answer(config, "ingest", "--json", str(folder))
    assert summary["indexed"] == 3
    shown = ingestd(config, "plugins").stdout
    assert all(f"bad-{name} 2.1" in shown for name in causes)


def test_a_plugin_that_prints_changes_its_process_and_leaves_children_harms_nobody(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rude = tmp_path / "rude"
    rude.mkdir()
    distribution(
        rude, "rude",
        "import os, signal, subprocess, sys, threading, time\n"
        "print('noise ' * 10_000); os.write(1, b'more noise')\n"
        "sys.path[:] = []; os.environ.clear(); os.chdir('/tmp'); signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "subprocess.Popen(['sleep', '987654'], start_new_session=True)\n"
        "threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()\n",
    )  # fmt: skip
    monkeypatch.setenv("PYTHONPATH", f"{rude}{os.pathsep}{os.environ['PYTHONPATH']}")
    config = write_config(tmp_path / "state", None)
    assert answer(config, "ingest", "--json", str(folder))["indexed"] == 3
    assert answer(config, "search", "--json", "heron")
    left = subprocess.run(["pgrep", "-f", "sleep 987654"], capture_output=True, text=True, check=False).stdout
    assert left == ""


# --- those that fail at work ----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("refuses", "the vowels are sold out"),
        ("raises", "a vowel is stuck"),
        ("exits", "exit code 9"),
        ("nan", "the vector of the warm-up text is not finite"),
        ("float64", "not float32"),
    ],
)
def test_an_engine_that_fails_is_the_cause_and_no_file_is_to_blame(
    tmp_path: Path, folder: Path, fault: str, told: str
) -> None:
    config = write_config(tmp_path / "state", None, encode={"engine": "vowels", "model": f"faulty-{fault}"})
    done = ingestd(config, "ingest", "--json", str(folder))
    assert done.returncode in (2, 3), done.stdout
    assert told in done.stderr
    assert "Traceback" not in done.stderr
    db = sqlite3.connect(tmp_path / "state" / "journal.sqlite")
    assert {state for (state,) in db.execute("SELECT state FROM documents")} <= {
        "queued",
        "running",
    }  # none has a strike
    db.close()
    config = write_config(tmp_path / "state", None, encode={"engine": "vowels", "model": "good"})
    assert answer(config, "ingest", "--json", str(folder))["indexed"] == 3


@pytest.mark.slow
@pytest.mark.parametrize(("fault", "told"), [("open", "the shelf fell down"), ("search", "the shelf is too high")])
def test_a_sink_that_cannot_be_opened_or_searched_says_why(tmp_path: Path, folder: Path, fault: str, told: str) -> None:
    config = write_config(tmp_path / "state", None, index={"sink": "shelf"})
    answer(config, "ingest", "--json", str(folder))
    config.write_text(config.read_text() + f'[index.shelf]\nfault = "{fault}"\n')
    done = ingestd(config, "search", "heron")
    assert done.returncode == 3, done.stdout
    assert told in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(("fault", "told"), [("write", "the shelf is sticky"), ("few", "0 results for 1 operations")])
def test_a_sink_that_takes_nothing_is_named_and_no_file_is_to_blame(
    tmp_path: Path, folder: Path, fault: str, told: str
) -> None:
    config = write_config(tmp_path / "state", None, index={"sink": "shelf"})
    good = config.read_text()
    config.write_text(good + f'[index.shelf]\nfault = "{fault}"\n')
    done = ingestd(config, "ingest", str(folder))
    assert done.returncode == 3, done.stdout
    assert "sink shelf (acme-shelf 2.0) failed: " in done.stderr
    assert told in done.stderr
    assert "Traceback" not in done.stderr
    config.write_text(good)
    assert answer(config, "ingest", "--json", str(folder))["indexed"] == 3


def test_the_wheels_are_what_an_installer_gets(site: Path) -> None:
    code = (
        "import importlib.metadata as m; print(sorted(d.name for d in m.distributions() if d.name.startswith('acme')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['acme-quill', 'acme-shelf', 'acme-vowels']"
