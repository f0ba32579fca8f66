"""From file and environment to a `Config`: every problem is found and named with file, line, key and a hint.

A key is set by, strongest first: an option of the command line, `INGESTD_STATE_DIR`, a variable of the form
`INGESTD_<TABLE>__<KEY>` (`INGESTD_ENCODE__MODEL`, `INGESTD_LOAD__PDF__DEADLINE`), the file, the default.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from ingestd.config import Config, IndexTable, LoaderTable, LoadTable, StateTable, WatchTable, schema, toml
from ingestd.config.schema import Problem, Variable
from ingestd.config.toml import Key
from ingestd.errors import ConfigError

SYSTEM_FILE: Final = Path("/etc/ingestd/config.toml")
RESERVED_NAMES: Final = frozenset({"all", "ingest"})
"""Names that a source may not have, since commands and messages use them for themselves."""

_PREFIX: Final = "INGESTD_"
_SOURCE_NAME: Final = re.compile(r"\w[\w.-]{0,63}")
_BARE_KEY: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_TABLES: Final = tuple(name for name in Config.__struct_fields__ if name not in ("file", "runtime_directory"))
_PLUGIN_TABLES: Final = ("load", "index")
"""They have a table below for each plugin."""


def read(path: Path | None, environ: Mapping[str, str], state: str | None = None) -> Config:
    """See `config.load`."""
    file = _find(path, environ)
    text = _text(file) if file else ""
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(_syntax(str(file), text, str(error))) from None
    except RecursionError:
        raise ConfigError(f"{file}: arrays or tables are nested too deeply") from None
    reading = _Reading(file, data, environ)
    reading.override(state)
    values = reading.tables()
    reading.resolve(values)
    if reading.problems:
        raise ConfigError("\n".join(reading.messages(toml.lines(text))))
    tables = {name: _annotation(name)(**values[name]) for name in values if name != "watch"}
    return Config(
        **tables,
        watch=tuple(WatchTable(**table) for table in values.get("watch", ())),
        file=str(file.absolute()) if file else None,
        runtime_directory=(environ.get("RUNTIME_DIRECTORY") or "").split(":")[0] or None,
    )


def _find(path: Path | None, environ: Mapping[str, str]) -> Path | None:
    if path is not None:
        return path
    if named := environ.get("INGESTD_CONFIG"):
        return Path(named)
    places = (Path("config.toml"), user_file(environ), SYSTEM_FILE)
    return next((found for found in places if os.path.lexists(found)), None)


def user_file(environ: Mapping[str, str]) -> Path:
    """A user's own configuration, which `install-service --user` writes."""
    given = environ.get("XDG_CONFIG_HOME", "")
    home = given if os.path.isabs(given) else os.path.join(environ.get("HOME") or os.path.expanduser("~"), ".config")
    return Path(home, "ingestd", "config.toml")


def _text(file: Path) -> str:
    try:
        return file.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise ConfigError(f"{file}:{line}: not UTF-8: byte 0x{error.object[error.start]:02x}") from None
    except (OSError, ValueError) as error:
        cause = getattr(error, "strerror", None) or str(error)
        raise ConfigError(f"{file}: cannot read the configuration: {cause}") from None


def _syntax(file: str, text: str, message: str) -> str:
    """Python's own words, with the line where editors look for it."""
    if found := re.search(r"(.*) \(at line (\d+), column (\d+)\)", message, re.DOTALL):
        return f"{file}:{found[2]}: {ascii(found[1])[1:-1]} (column {found[3]})"
    last = message.removesuffix(" (at end of document)")
    return f"{file}:{text.rstrip().count(chr(10)) + 1}: {ascii(last)[1:-1]} (at the end of the file)"


def _annotation(name: str) -> Any:
    return schema.fields(Config)[name].type


class _Reading:
    def __init__(self, file: Path | None, data: dict[str, Any], environ: Mapping[str, str]) -> None:
        self.file = file
        self.data = data
        self.environ = environ
        self.problems: list[Problem] = []
        self.origins: dict[Key, str] = {}
        """Where a key came from, if not from the file: a variable's or an option's name."""

    # --- from the environment -----------------------------------------------------------------------------------

    def override(self, state: str | None) -> None:
        for variable, value in sorted(self.environ.items()):
            if variable.startswith(_PREFIX) and "__" in variable:
                self._variable(variable, value)
        if directory := self.environ.get("INGESTD_STATE_DIR"):
            self._set(("state", "directory"), directory, "INGESTD_STATE_DIR")
        if state is not None:
            self._set(("state", "directory"), state, "--state")

    def _variable(self, variable: str, value: str) -> None:
        key: Key = tuple(variable.removeprefix(_PREFIX).lower().split("__"))
        self.origins[key] = variable
        table = str(key[0])
        if table == "watch":
            self._problem(key, "a source cannot come from a variable: write a [[watch]] table into the configuration")
        elif table not in _TABLES:
            self._problem(key, "unknown table" + schema.nearest(table, _TABLES))
        elif "" in key or len(key) > (3 if table in _PLUGIN_TABLES else 2):
            self._problem(key, "write INGESTD_<TABLE>__<KEY>, such as INGESTD_ENCODE__MODEL")
        else:
            self._set(key, value, variable)

    def _set(self, key: Key, value: str, origin: str) -> None:
        self.origins[key] = origin
        table = self.data
        for name in key[:-1]:
            table = table.setdefault(str(name), {})
            if not isinstance(table, dict):
                return  # the file has something else there, which is a problem of its own
        table[str(key[-1])] = Variable(value)

    # --- tables -------------------------------------------------------------------------------------------------

    def tables(self) -> dict[str, Any]:
        """The values of each table that are right."""
        values: dict[str, Any] = {}
        for name, item in self.data.items():
            if name not in _TABLES:
                what = "table" if isinstance(item, dict | list) else "key"
                self._problem((name,), f"unknown {what}" + schema.nearest(name, _TABLES))
            elif name == "watch":
                values[name] = self._sources(item)
            elif not isinstance(item, dict):
                self._problem((name,), f"a table is wanted here: write [{name}]")
            elif name in _PLUGIN_TABLES:
                values[name] = self._plugins(name, item)
            else:
                values[name] = self._read(_annotation(name), item, (name,))
        return values

    def _read(self, table: Any, data: Mapping[str, Any], key: Key, hidden: tuple[str, ...] = ()) -> dict[str, Any]:
        first = len(self.problems)
        values = schema.read(table, data, key, self.problems, hidden=hidden)
        for at, problem in enumerate(self.problems[first:], first):
            if problem.text.startswith("unknown key") and (home := self._home(str(problem.key[-1]), key)):
                self.problems[at] = Problem(problem.key, f"unknown key; it belongs to {home}")
        return values

    def _home(self, name: str, key: Key) -> str | None:
        """The table that does have this key."""
        for table in _TABLES:
            struct = WatchTable if table == "watch" else _annotation(table)
            if table != key[0] and name in schema.fields(struct):
                return "[[watch]]" if table == "watch" else f"[{table}]"
        return None

    def _sources(self, item: Any) -> list[dict[str, Any]]:
        if not isinstance(item, list) or not all(isinstance(table, dict) for table in item):
            self._problem(("watch",), "an array of tables is wanted here: write [[watch]], with two pairs of brackets")
            return []
        return [self._read(WatchTable, table, ("watch", position)) for position, table in enumerate(item)]

    def _plugins(self, name: str, data: dict[str, Any]) -> dict[str, Any]:
        struct, below = (LoadTable, "loaders") if name == "load" else (IndexTable, "sinks")
        known = schema.fields(struct)
        own = {key: item for key, item in data.items() if isinstance(item, dict) and (key not in known or key == below)}
        values = self._read(struct, {key: item for key, item in data.items() if key not in own}, (name,), (below,))
        for plugin in own:
            if not plugin.isidentifier():
                self._problem((name, plugin), "a plugin's name is letters, digits and underscores")
        values[below] = {plugin: self._own(name, plugin, table) for plugin, table in own.items()}
        return values

    def _own(self, name: str, plugin: str, data: dict[str, Any]) -> dict[str, Any]:
        known = schema.fields(LoaderTable) if name == "load" else {}
        values = {}
        for key, item in data.items():
            try:
                values[key] = schema.convert(known[key].type, item) if key in known else schema.plain(item)
            except ValueError as error:
                self._problem((name, plugin, key), str(error))
            if key not in known and (meant := schema.close(key, known, 0.88)):
                # A loader may have keys of its own, but none that reads like a misspelt one of ours.
                self._problem((name, plugin, key), f'unknown key; did you mean "{meant}"?')
        for suffix in values.get("suffixes", ()):
            if not suffix.startswith(".") or suffix != suffix.lower():
                self._problem((name, plugin, "suffixes"), f'"{suffix}" must be lower case and start with a dot')
        return values

    # --- what no key shows alone --------------------------------------------------------------------------------

    def resolve(self, values: dict[str, Any]) -> None:
        """Make directories absolute and check what depends on several keys."""
        state = values.setdefault("state", {})
        directory = self._directory(("state", "directory"), state.get("directory") or self._state())
        state["directory"] = directory
        try:
            directory.encode()
        except UnicodeEncodeError:
            self._problem(("state", "directory"), "the path must be UTF-8")
        if state.get("control_socket"):
            state["control_socket"] = self._directory(("state", "control_socket"), state["control_socket"])
        private = [directory]
        log = values.get("log", {})
        if log.get("file"):
            log["file"] = self._directory(("log", "file"), log["file"])
            private.append(log["file"])
        sources: list[dict[str, Any]] = values.get("watch", [])
        for position, source in enumerate(sources):
            self._source(position, source, sources[:position], private)
        self._encoder(values)

    def _state(self) -> str:
        """The default: systemd's directory, else the user's."""
        if given := self.environ.get("STATE_DIRECTORY"):
            return given.split(":")[0]
        home = self.environ.get("XDG_STATE_HOME", "")
        return os.path.join(home, "ingestd") if os.path.isabs(home) else StateTable().directory

    def _directory(self, key: Key, text: str) -> str:
        base = self.file.absolute().parent if self.file and key not in self.origins else Path.cwd()
        home = self.environ.get("HOME")
        if home and (text == "~" or text.startswith("~/")):
            text = home + text[1:]
        expanded = os.path.expanduser(text)
        if expanded.startswith("~"):
            self._problem(key, f"there is no home directory for {expanded.split('/')[0]}")
        # Not resolved: symbolic links stay as written, and no directory that may hang is touched.
        return os.path.normpath(os.path.join(base, expanded))

    def _source(self, position: int, source: dict[str, Any], before: list[dict[str, Any]], private: list[str]) -> None:
        key: Key = ("watch", position)
        name = source.get("name")
        if name is not None:
            if not _SOURCE_NAME.fullmatch(name):
                self._problem((*key, "name"), "a name is up to 64 letters, digits, dots, dashes and underscores")
            elif name.casefold() in RESERVED_NAMES:
                self._problem((*key, "name"), f'the name "{name}" is reserved')
            elif any(other.get("name") == name for other in before):
                self._problem((*key, "name"), f'another source is named "{name}" already')
        default = WatchTable(name="-", directory="-")
        if source.get("settle", default.settle) > source.get("max_settle", default.max_settle):
            self._problem((*key, "settle"), "must not be longer than max_settle")
        if source.get("directory") is None:
            return
        directory = source["directory"] = self._directory((*key, "directory"), source["directory"])
        for other in before:
            if clash := _overlap(source, other):
                self._problem((*key, "directory"), f'source "{name}" overlaps source "{other.get("name")}": {clash}')
        if _inside(directory, private[0]):
            self._problem((*key, "directory"), f"{directory} is inside the state directory {private[0]}")
        for path in private:
            if _inside(path, directory) and path != directory:
                # ingestd writes there all the time: watching that would never come to rest.
                pattern = re.sub(r"([\\!*?\[\]# ])", r"\\\1", path[len(directory.rstrip("/")) :])
                source["exclude"] = (*source.get("exclude", default.exclude), pattern)

    def _encoder(self, values: dict[str, Any]) -> None:
        chunk = values.get("chunk", {})
        most = chunk.get("max_tokens", 0)
        if 0 < most < 16:
            self._problem(("chunk", "max_tokens"), "must be at least 16, or 0 for as many as the model takes")
        elif 0 < most <= chunk.get("overlap", 32):
            self._problem(("chunk", "overlap"), f"must be less than max_tokens ({most})")
        devices = values.get("encode", {}).get("devices", "auto")
        names = (devices,) if isinstance(devices, str) else devices
        if not names or not all(names):
            self._problem(("encode", "devices"), 'at least one device is wanted: "auto", "cpu", ["cuda:0", "cuda:1"]')
        elif names != ("auto",):
            values["encode"]["devices"] = names
        elif "devices" in values.get("encode", {}):
            values["encode"]["devices"] = "auto"

    # --- messages -----------------------------------------------------------------------------------------------

    def _problem(self, key: Key, text: str) -> None:
        self.problems.append(Problem(key, text))

    def messages(self, lines: dict[Key, int]) -> list[str]:
        """One line for each problem, in the order of the file, then those of the environment."""
        found = []
        for problem in self.problems:
            if origin := self.origins.get(problem.key):
                found.append((1, 0, f"{origin}: {problem.text}"))
                continue
            line = toml.line_of(lines, problem.key) or 0
            place = f"{self.file}:{line}" if line else str(self.file or "defaults")
            found.append((0, line, f"{place}: {self._label(problem.key)}: {problem.text}"))
        return list(dict.fromkeys(text for _, _, text in sorted(found, key=lambda item: item[:2])))

    def _label(self, key: Key) -> str:
        item: Any = self.data
        for name in key:
            if isinstance(item, dict):
                item = item.get(name)
            elif isinstance(item, list) and isinstance(name, int):
                item = item[name]
        names = [_spell(name) for name in key if isinstance(name, str)]
        table = isinstance(item, dict) or (isinstance(item, list) and any(isinstance(one, dict) for one in item))
        inner = names if table else names[:-1]
        if not inner:
            return names[-1]
        opened = f"[[{'.'.join(inner)}]]" if inner == ["watch"] else f"[{'.'.join(inner)}]"
        return opened if table else f"{opened} {names[-1]}"


def _spell(name: str) -> str:
    return name if _BARE_KEY.fullmatch(name) else f'"{ascii(name)[1:-1][:64]}"'


def _inside(path: str, directory: str) -> bool:
    return path == directory or path.startswith(directory.rstrip("/") + "/")


def _overlap(one: dict[str, Any], other: dict[str, Any]) -> str | None:
    first, second = one.get("directory"), other.get("directory")
    if first is None or second is None:
        return None
    if first == second:
        return f"both watch {first}"
    for inner, outer, table in ((first, second, other), (second, first, one)):
        if _inside(inner, outer) and table.get("recursive", True):
            return f"{inner} is inside {outer}"
    return None
