"""The documentation is run: README's commands, the guide's loader; links lead somewhere."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import ingestd
from ingestd.config import DEFAULT_MODEL
from tests.packages import install_offline

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
GUIDE = (ROOT / "docs" / "loaders.md").read_text(encoding="utf-8")
OPERATIONS = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]


def section(text: str, title: str) -> str:
    """The part of a page below its heading `## title`."""
    return re.split(r"^## ", text.split(f"\n## {title}\n", 1)[1], maxsplit=1, flags=re.MULTILINE)[0]


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home directory with the samples in ~/papers."""
    shutil.copytree(ROOT / "packaging" / "samples", tmp_path / "papers")
    return tmp_path


def run(command: str, home: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run one line as a shell would, with the tiny engine: what is tested is the documentation, not the model."""
    own = {
        "HOME": str(home),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTEST_ADDOPTS": "",
        "INGESTD_STATE_DIR": str(home / "state"),
        "INGESTD_ENCODE__ENGINE": "hashing",
        "INGESTD_ENCODE__MODEL": "hashing-256",
        **environment,
    }
    arguments = [str(home / word[2:]) if word.startswith("~/") else word for word in shlex.split(command)]
    return subprocess.run(
        arguments,
        cwd=home,
        env={**os.environ, **own},
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=90,
    )


def test_the_quick_start_is_two_commands() -> None:
    (block,) = re.findall(r"^```.*?\n(.*?)^```", section(README, "Quick start"), re.DOTALL | re.MULTILINE)
    first, second = block.splitlines()
    assert shlex.split(first) == ["python3", "packaging/quickstart.py"]
    assert shlex.split(second) == ["python3", "packaging/quickstart.py", "test"]


def test_the_commands_of_use_do_what_readme_says(home: Path) -> None:
    once, daemon = blocks(section(README, "Use"), "sh")
    # With the real model: README shows what is found by meaning.
    model = {"INGESTD_ENCODE__ENGINE": "torch", "INGESTD_ENCODE__MODEL": DEFAULT_MODEL}
    answers = {line.split()[1]: run(line, home, **model) for line in once.splitlines()}
    for line, answer in answers.items():
        assert answer.returncode == 0, f"{line}: {answer.stdout}{answer.stderr}"
    assert "warranty.pdf" in answers["search"].stdout
    assert "indexed" in answers["why"].stdout
    (configuration,) = blocks(section(README, "Use"), "toml")
    (home / "config.toml").write_text(configuration)
    check, start = daemon.splitlines()
    checked = run(check, home)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    # a daemon does not end by itself; what it does is tested elsewhere, here only that it is spelled so
    assert run(f"{start} --help", home).returncode == 0


def test_the_python_example_runs(home: Path) -> None:
    (code,) = blocks(section(README, "From Python"), "python")
    (home / "example.py").write_text(code)
    done = run(f"{sys.executable} example.py", home)
    assert done.returncode == 0, done.stderr
    assert re.search(r"warranty\.pdf indexed", done.stdout)
    assert re.search(r"^0\.\d+ .*/papers/", done.stdout, re.MULTILINE)


def test_the_other_commands_and_options_that_readme_names_exist(home: Path) -> None:
    commands = re.findall(r"^ingestd ([a-z][a-z-]+)", OPERATIONS, re.MULTILINE)
    for command in set(commands + re.findall(r"`ingestd ([a-z-]+)", README + GUIDE + OPERATIONS)):
        assert run(f"ingestd {command} --help", home).returncode == 0, command
    options = run("ingestd search --help", home).stdout
    for option in ("--source", "--path", "--top", "--json", "--config"):
        assert option in options


def test_the_guide_leads_from_nothing_to_an_installed_tested_loader(home: Path) -> None:
    """Its commands in their order, with its files. pip is not asked: what it would install is built and unpacked."""
    begin, then = blocks(section(GUIDE, "A loader, from nothing"), "sh")
    loader, tests = blocks(section(GUIDE, "A loader, from nothing"), "python")
    (sample,) = blocks(GUIDE, "text")
    steps = f"{begin}{loader}{tests}{sample}{then}".splitlines()
    assert len([line for line in steps if line.strip()]) < 60
    assert len([line for line in loader.splitlines() if line.strip()]) < 40

    new, enter = begin.splitlines()
    assert run(new, home).returncode == 0
    assert shlex.split(enter)[0] == "cd"
    project = home / shlex.split(enter)[1]
    (project / "tests" / "samples" / "example.ics").write_text(sample)
    assert (project / "ingestd_calendar.py").exists()
    (project / "ingestd_calendar.py").write_text(loader)
    assert tests in (project / "tests" / "test_calendar.py").read_text(), "the tests are there already"

    install, *commands = then.splitlines()
    assert install.startswith("pip install -e ")
    path = install_offline(project, home / "site")
    answers = {line: run(line, project, PYTHONPATH=path) for line in commands}
    for line, answer in answers.items():
        assert answer.returncode == 0, f"{line}: {answer.stdout}{answer.stderr}"
    test, plugins, look = answers.values()
    assert re.search(r"\b6 passed", test.stdout), test.stdout
    assert re.search(r"loader +calendar +1 +\.ics +ingestd-calendar 0\.1\.0", plugins.stdout)
    assert "Count badgers, below the viaduct" in look.stdout

    diary = home / "diary"
    diary.mkdir()
    shutil.copy(project / "tests" / "samples" / "example.ics", diary / "year.ics")
    (diary / "empty.ics").write_text("nothing of the kind")
    done = run("ingestd ingest diary", home, PYTHONPATH=path)
    assert done.returncode == 1, done.stdout + done.stderr
    (hit,) = json.loads(run("ingestd search --json badgers viaduct", home, PYTHONPATH=path).stdout)
    assert hit["path"] == str(diary / "year.ics")
    assert hit["text"] == "Count badgers, below the viaduct"
    assert hit["metadata"]["start"] == "20300102"
    why = run("ingestd why diary/empty.ics", home, PYTHONPATH=path)
    assert "it does not begin as a calendar does" in why.stdout


def install_module(site: Path, name: str, source: str) -> None:
    """What installing a distribution of one module leaves."""
    (site / f"{name}.py").write_text(source)
    info = site / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[ingestd]\n{name.removeprefix('ingestd_')} = {name}\n")


def test_the_engine_and_the_sink_of_the_guide_work(home: Path) -> None:
    site = home / "site"
    site.mkdir()
    for title, name in (("An engine", "ingestd_letters"), ("A sink", "ingestd_folder")):
        (code,) = blocks(section(GUIDE, title), "python")
        assert f"`{name}.py`" in section(GUIDE, title)
        install_module(site, name, code)
    (configuration,) = blocks(section(GUIDE, "A sink"), "toml")
    (home / "config.toml").write_text(configuration)
    path = os.pathsep.join([str(site), *filter(None, [os.environ.get("PYTHONPATH")])])
    own = {"PYTHONPATH": path, "INGESTD_ENCODE__ENGINE": "letters", "INGESTD_ENCODE__MODEL": "letters"}
    text = (home / "papers" / "alice.txt").read_text(encoding="utf-8")
    (home / "papers" / "copy.txt").write_text(text, encoding="utf-8")
    (home / "papers" / "short.md").write_text("zzz zebra zigzag zzz")
    done = run("ingestd ingest ~/papers", home, **own)
    assert done.returncode == 0, done.stdout + done.stderr
    hits = json.loads(run("ingestd search --json --top 1 'zebra zigzag zzz'", home, **own).stdout)
    assert [Path(hit["path"]).name for hit in hits] == ["short.md"]
    (home / "papers" / "short.md").unlink()
    (home / "papers" / "copy.txt").rename(home / "papers" / "other.txt")
    assert run("ingestd ingest ~/papers", home, **own).returncode == 0
    verified = run("ingestd verify --deep --json", home, **own)
    assert verified.returncode == 0, verified.stdout + verified.stderr
    plugins = run("ingestd plugins", home, **own).stdout
    assert re.search(r"engine +letters .*ingestd_letters 1\.0", plugins)
    assert re.search(r"sink +folder .*ingestd_folder 1\.0", plugins)
    (home / "test_letters.py").write_text(
        "from ingestd.testing import EngineContract\n\n\n"
        "class TestLetters(EngineContract):\n    name = model = 'letters'\n"
    )
    tested = run("python -m pytest -q -p no:cacheprovider -k 'not killed' test_letters.py", home, **own)
    assert tested.returncode == 0, tested.stdout


def test_the_contracts_of_engines_and_sinks_are_used_as_the_guide_says(home: Path) -> None:
    (code,) = blocks(section(GUIDE, "Contracts of engines and sinks"), "python")
    (home / "test_mine.py").write_text(code)
    done = run("python -m pytest -q -k 'test_vectors or test_remove or test_rekey' test_mine.py", home)
    assert re.search(r"\b\d+ passed", done.stdout), done.stdout
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files_of_the_repository(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_the_changelog_knows_this_version() -> None:
    headings = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert headings[0] == "Unreleased"
    assert len(headings) == 1 or headings[1] == ingestd.__version__


def test_the_licence_is_the_one_that_the_project_states() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["license"] == "AGPL-3.0-or-later"
    assert (ROOT / "LICENSE").read_text().startswith("GNU AFFERO GENERAL PUBLIC LICENSE\nVersion 3,")
    assert "AGPL-3.0-or-later" in README
