"""Finding plugins: entry points of the group `ingestd`, each hook called only in the workers of its stage."""

from __future__ import annotations

import importlib.metadata
import inspect
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pluggy

from ingestd import hookspecs
from ingestd.messages import PluginError, PluginItem
from ingestd.types import Engine, Loader, Sink
from ingestd.worker import one_line

GROUP = "ingestd"


@dataclass(slots=True)
class Registry:
    """What the plugins of this process registered, and what went wrong. Later registrations do not replace earlier."""

    loaders: dict[str, Loader] = field(default_factory=dict)
    engines: dict[str, Engine] = field(default_factory=dict)
    sinks: dict[str, Sink] = field(default_factory=dict)
    items: list[PluginItem] = field(default_factory=list)
    errors: list[PluginError] = field(default_factory=list)


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
        try:
            manager = pluggy.PluginManager(hookspecs.PROJECT)
            manager.add_hookspecs(hookspecs)
            manager.register(entry.load(), entry.name)
            manager.check_pending()
            for hook in hooks:
                for objects in getattr(manager.hook, f"register_{hook}")():
                    for item in objects:
                        _add(registry, hook, item, distribution)
        except (Exception, SystemExit) as error:
            cause = one_line("".join(traceback.format_exception_only(error)))
            registry.errors.append(PluginError(entry.name, distribution, cause))
    return registry


def _entries() -> Iterator[importlib.metadata.EntryPoint]:
    """Bundled plugins first, then by name, so that the order does not depend on the file system."""
    entries = importlib.metadata.entry_points(group=GROUP)
    return iter(sorted(set(entries), key=lambda e: (not e.value.startswith("ingestd_plugins."), e.name)))


def _add(registry: Registry, hook: str, item: Any, distribution: str) -> None:
    _CHECKS[hook](item)
    table: dict[str, Any] = getattr(registry, hook)
    if item.name in table:
        raise ValueError(f"{hook[:-1]} {item.name!r} is registered already")
    table[item.name] = item
    registry.items.append(
        PluginItem(
            kind=hook[:-1],
            name=item.name,
            version=str(getattr(item, "version", "")),
            suffixes=list(getattr(item, "suffixes", ())),
            media_types=list(getattr(item, "media_types", ())),
            sockets=bool(getattr(item, "needs_sockets", False)),
            distribution=distribution,
        )
    )


def _check(*attributes: str, **methods: int) -> Callable[[Any], None]:
    """`methods`: how many arguments each is called with."""

    def check(item: Any) -> None:
        for attribute in attributes:
            if not hasattr(item, attribute):
                raise TypeError(f"{type(item).__qualname__} has no attribute {attribute!r}")
        if not isinstance(item.name, str) or not item.name.isidentifier():
            raise TypeError(f"{type(item).__qualname__}.name must be an identifier, not {item.name!r}")
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
    for suffix in item.suffixes:
        if not suffix.startswith(".") or suffix != suffix.lower():
            raise TypeError(f"{type(item).__qualname__}: suffix {suffix!r} must be lower case and start with a dot")


_CHECKS: dict[str, Callable[[Any], None]] = {
    "loaders": _check_loader,
    "engines": _check("name", "tokenizer", "load", "encode", "devices", "describe", load=3, encode=1),
    "sinks": _check(
        "name", "open", "write", "search", "documents", "read", "chunk_ids", "count", "close", write=1, search=1, read=1
    ),
}
