"""Finding plugins: entry points of the group `ingestd`, each hook called only in the workers of its stage."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import inspect
import os
import shutil
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pluggy

from ingestd import __version__, hookspecs
from ingestd.errors import IngestdError
from ingestd.messages.probe import PluginError, PluginItem
from ingestd.types import Engine, Loader, Sink
from ingestd.worker import one_line

GROUP = "ingestd"
MOST = 64
"""Loaders, engines or sinks of one plugin."""
MOST_SUFFIXES = 512
LONGEST = 128
"""Characters of a name, a version, a suffix or a media type."""


class PluginVersionError(IngestdError):
    """A plugin was made for another version of ingestd."""


@dataclass(slots=True)
class Registry:
    """What the plugins of this process registered, and what went wrong. Later registrations do not replace earlier."""

    loaders: dict[str, Loader] = field(default_factory=dict)
    engines: dict[str, Engine] = field(default_factory=dict)
    sinks: dict[str, Sink] = field(default_factory=dict)
    items: list[PluginItem] = field(default_factory=list)
    errors: list[PluginError] = field(default_factory=list)

    @property
    def versions(self) -> dict[str, str]:
        """Of each loader; "" for one that lacks something: what it failed at is tried again once that is there."""
        return {item.name: item.version for item in self.items if item.kind == "loader"}

    def called(self, kind: str, name: str) -> str:
        """An engine or a sink as messages name it, with the distribution that it is from."""
        return next((item.called for item in self.items if (item.kind, item.name) == (kind, name)), f"{kind} {name}")


def discover(*hooks: str, block: Iterable[str] = (), trying: Callable[[str], None] = lambda name: None) -> Registry:
    """Import every plugin and call the named hooks ("loaders", "engines", "sinks").

    `block`: names of plugins to leave out, since the probe worker did not survive them. `trying` is told each name
    before it is imported. A plugin that fails to import or to validate is an entry of `Registry.errors`; the others
    are not affected.
    """
    registry = Registry()
    for entry in _entries():
        if entry.name in block:
            continue
        trying(entry.name)
        distribution = f"{entry.dist.name} {entry.dist.version}" if entry.dist else ""
        before = list(sys.path), dict(os.environ)
        try:
            _check_version(entry.dist)
            manager = pluggy.PluginManager(hookspecs.PROJECT)
            manager.add_hookspecs(hookspecs)
            manager.register(entry.load(), entry.name)
            manager.check_pending()
            for hook in hooks:
                for objects in getattr(manager.hook, f"register_{hook}")():
                    _add_all(registry, hook, objects, distribution)
        except (Exception, SystemExit) as error:
            told = str(error) if isinstance(error, IngestdError) else "".join(traceback.format_exception_only(error))
            cause = one_line(told)
            registry.errors.append(PluginError(entry.name, distribution, cause))
        finally:
            _restore(*before)
    return registry


def _restore(path: list[str], environ: Mapping[str, str]) -> None:
    """What a plugin took from the process when it was imported is put back: others need it. What it added stays."""
    sys.path[:] = [*path, *(entry for entry in sys.path if entry not in path)]
    os.environ.update(environ)
    os.chdir("/")


def _check_version(distribution: importlib.metadata.Distribution | None) -> None:
    """Raises `PluginVersionError` where the distribution says that it wants another ingestd."""
    for line in (distribution.requires if distribution is not None else None) or ():
        if not line.lower().startswith("ingestd"):
            continue
        from packaging.requirements import Requirement

        wanted = Requirement(line)
        if wanted.name.lower() != GROUP or (wanted.marker is not None and not wanted.marker.evaluate()):
            continue
        if not wanted.specifier.contains(__version__, prereleases=True):
            raise PluginVersionError(
                f"it is made for ingestd{wanted.specifier}, and this is ingestd {__version__}: "
                f"pip install --upgrade {distribution.name if distribution else 'it'} ingestd"
            )


def _entries() -> Iterator[importlib.metadata.EntryPoint]:
    """Bundled plugins first, then by name, so that the order does not depend on the file system."""
    entries = importlib.metadata.entry_points(group=GROUP)
    return iter(sorted(set(entries), key=lambda e: (not e.value.startswith("ingestd_plugins."), e.name)))


def _add_all(registry: Registry, hook: str, objects: Any, distribution: str) -> None:
    if isinstance(objects, str | bytes) or not isinstance(objects, Iterable):
        raise TypeError(f"register_{hook} returned a {type(objects).__name__}, not a list of {hook}")
    for number, item in enumerate(objects):
        if number == MOST:
            raise ValueError(f"register_{hook} returned more than {MOST} {hook}")
        _add(registry, hook, item, distribution)


def _add(registry: Registry, hook: str, item: Any, distribution: str) -> None:
    _CHECKS[hook](item)
    table: dict[str, Any] = getattr(registry, hook)
    if item.name in table:
        raise ValueError(f"{hook[:-1]} {item.name!r} is registered already")
    table[item.name] = item
    missing = lacks(item)
    registry.items.append(
        PluginItem(
            kind=hook[:-1],
            name=item.name,
            version="" if missing else str(getattr(item, "version", "")),
            suffixes=list(getattr(item, "suffixes", ())),
            overrides=list(getattr(item, "overrides", ())),
            media_types=list(getattr(item, "media_types", ())),
            sockets=bool(getattr(item, "needs_sockets", False)),
            distribution=distribution,
            workers=getattr(item, "workers", 0),
            remembers=bool(getattr(item, "remembers", False)),
            lacks=missing,
        )
    )


def lacks(item: Any) -> str:
    """What a loader needs and is not installed: modules that it `requires`, and `programs`."""
    there = [importlib.util.find_spec(module) is not None for module in getattr(item, "requires", ())]
    there += [shutil.which(program) is not None for program in getattr(item, "programs", ())]
    names = ", ".join([*getattr(item, "requires", ()), *getattr(item, "programs", ())])
    return "" if all(there) else one_line(getattr(item, "install", names))


def _check(*attributes: str, **methods: int) -> Callable[[Any], None]:
    """`methods`: how many arguments each is called with."""

    def check(item: Any) -> None:
        for attribute in attributes:
            if not hasattr(item, attribute):
                raise TypeError(f"{type(item).__qualname__} has no attribute {attribute!r}")
        if not isinstance(item.name, str) or not item.name.isidentifier() or len(item.name) > LONGEST:
            name = one_line(repr(item.name), 80)
            raise TypeError(f"{type(item).__qualname__}.name must be an identifier, not {name}")
        for method, number in methods.items():
            _check_signature(item, method, number)

    return check


def _check_signature(item: Any, method: str, number: int) -> None:
    what = f"{type(item).__qualname__}.{method}"
    function = getattr(item, method)
    if not callable(function):
        raise TypeError(f"{what} is a {type(function).__name__}, not a method")
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # written in C
        return
    try:
        signature.bind(*range(number))
    except TypeError as error:
        raise TypeError(f"{what}{signature} cannot be called with {number} arguments: {error}") from None


def _check_loader(item: Any) -> None:
    _check("name", "version", "suffixes", "media_types", "load", load=1)(item)
    kind = type(item).__qualname__
    if not isinstance(item.version, str) or len(item.version) > LONGEST:
        raise TypeError(f"{kind}.version must be a short string, not {one_line(repr(item.version), 80)}")
    workers = getattr(item, "workers", 0)
    if not isinstance(workers, int) or not 0 <= workers <= MOST:
        raise TypeError(f"{kind}.workers must be a number up to {MOST}, not {one_line(repr(workers), 80)}")
    for attribute in ("suffixes", "media_types", "overrides", "requires", "programs"):
        values = getattr(item, attribute, ())
        if isinstance(values, str) or not isinstance(values, Sequence) or len(values) > MOST_SUFFIXES:
            raise TypeError(f"{kind}.{attribute} must be a sequence of strings, not {one_line(repr(values), 80)}")
        for value in values:
            if not isinstance(value, str) or not 0 < len(value) <= LONGEST:
                raise TypeError(f"{kind}.{attribute} must be a sequence of strings, not of {one_line(repr(value), 80)}")
    for suffix in (*item.suffixes, *getattr(item, "overrides", ())):
        if not suffix.startswith(".") or suffix != suffix.lower():
            raise TypeError(f"{kind}: suffix {suffix!r} must be lower case and start with a dot")


_CHECKS: dict[str, Callable[[Any], None]] = {
    "loaders": _check_loader,
    "engines": _check("name", "tokenizer", "load", "encode", "devices", "describe", load=3, encode=1),
    "sinks": _check(
        "name", "open", "write", "search", "documents", "read", "chunk_ids", "count", "close", write=1, search=1, read=1
    ),
}
