"""Plugins: found through their entry points, checked, and named when they do not work; the others go on."""

from __future__ import annotations

from pathlib import Path

import pytest

from ingestd import plugins
from ingestd.plugins import discover

HEAD = """
from ingestd.hookspecs import hookimpl
class Loader:
    name, version, suffixes, media_types = "mine", "3", [".mine"], ["x/mine"]
    needs_sockets = True
    def load(self, file): yield
"""
BROKEN = {
    "on_import": ("import no_such_library", "ModuleNotFoundError: No module named 'no_such_library'"),
    "syntax": ("def (:", "SyntaxError"),
    "in_hook": (HEAD + "@hookimpl\ndef register_loaders(): raise OSError('no licence')", "OSError: no licence"),
    "misspelt": (HEAD + "@hookimpl\ndef register_loader(): return []", "unknown hook 'register_loader'"),
    "name": (
        HEAD + "Loader.name = 'not an identifier'\n@hookimpl\ndef register_loaders(): return [Loader()]",
        "Loader.name must be an identifier, not 'not an identifier'",
    ),
    "lacking": (
        HEAD + "del Loader.media_types\n@hookimpl\ndef register_loaders(): return [Loader()]",
        "Loader has no attribute 'media_types'",
    ),
    "suffix": (
        HEAD + "Loader.suffixes = ['PDF']\n@hookimpl\ndef register_loaders(): return [Loader()]",
        "suffix 'PDF' must be lower case and start with a dot",
    ),
    "taken": (
        HEAD + "Loader.name = 'text'\n@hookimpl\ndef register_loaders(): return [Loader()]",
        "loader 'text' is registered already",
    ),
    "signature": (
        HEAD + "Loader.load = lambda self: None\n@hookimpl\ndef register_loaders(): return [Loader()]",
        "Loader.load() cannot be called with 1 arguments: too many positional arguments",
    ),
    "no_engine": (HEAD + "@hookimpl\ndef register_engines(): return [Loader()]", "has no attribute 'tokenizer'"),
    "quits": ("raise SystemExit('goodbye')", "SystemExit: goodbye"),
}


def install(directory: Path, sources: dict[str, str]) -> None:
    """Distributions of one module each."""
    for name, source in sources.items():
        (directory / f"plugin_{name}.py").write_text(source)
        info = directory / f"plugin_{name}-2.1.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: plugin-{name}\nVersion: 2.1\n")
        (info / "entry_points.txt").write_text(f"[ingestd]\n{name} = plugin_{name}\n")


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def test_the_bundled_ones_are_whole() -> None:
    registry = discover("loaders", "engines", "sinks")
    assert registry.errors == []
    assert {"text", "html", "pdf"} <= registry.loaders.keys()
    assert {"torch", "hashing"} <= registry.engines.keys()
    assert set(registry.sinks) == {"sqlite", "elasticsearch"}
    assert all(
        item.distribution.startswith("ingestd ") and (item.version or item.lacks)
        for item in registry.items
        if item.kind == "loader"
    )


def test_a_broken_one_is_named_with_its_cause(directory: Path) -> None:
    install(directory, {name: source for name, (source, _) in BROKEN.items()})
    install(directory, {"works": HEAD + "@hookimpl\ndef register_loaders(): return [Loader()]"})
    registry = discover("loaders", "engines", "sinks")
    errors = {error.plugin: error for error in registry.errors}
    assert errors.keys() == BROKEN.keys()
    for name, (_, cause) in BROKEN.items():
        assert errors[name].distribution == f"plugin-{name} 2.1"
        assert cause in errors[name].reason
    assert registry.loaders["mine"].version == "3"
    (item,) = (item for item in registry.items if item.name == "mine")
    assert (item.kind, item.suffixes, item.sockets, item.distribution) == (
        "loader",
        [".mine"],
        True,
        "plugin-works 2.1",
    )
    assert registry.loaders["text"].__class__.__module__.startswith("ingestd_plugins.")


def test_a_blocked_one_is_not_imported(directory: Path) -> None:
    install(directory, {"deadly": "raise AssertionError('it was imported')", "works": ""})
    tried: list[str] = []
    registry = discover("loaders", block=["deadly"], trying=tried.append)
    assert registry.errors == []
    assert "deadly" not in tried
    assert tried[-1] == "works"
    assert tried.index("text") < tried.index("works"), "the bundled ones come first"


def test_only_the_hooks_of_the_stage_are_called(directory: Path) -> None:
    install(directory, {"strict": HEAD + "@hookimpl\ndef register_sinks(): raise AssertionError('called')"})
    assert discover("loaders").errors == []
    (error,) = discover("sinks").errors
    assert "AssertionError: called" in error.reason


def test_an_entry_point_listed_twice_counts_once(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An editable installation beside its own source tree is found twice."""
    found = list(plugins._entries())
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: [*found, *found])
    assert list(plugins._entries()) == found
