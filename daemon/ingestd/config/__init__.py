"""The configuration: immutable, validated before anything opens. `load` reads it, see `settings`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from ingestd.config.schema import Count, Duration, Name, PositiveDuration, Share, Size

Ratio = Annotated[float, msgspec.Meta(ge=1)]

DEFAULT_EXCLUDES = (
    "~$*", "*.part", "*.crdownload", "*.tmp", ".git/", ".hg/", ".svn/", "*.swp", "*.swo", "*~", "\\#*#", ".#*",
    ".DS_Store", "Thumbs.db", "desktop.ini", "__pycache__/", "node_modules/", ".Trash*/", "lost+found/",
)  # fmt: skip
DEFAULT_MODEL = "sentence-transformers/all-MiniLM-L6-v2"


class Table(msgspec.Struct, frozen=True, kw_only=True):
    """Base of the tables. Durations are seconds, sizes are bytes, once read."""


class StateTable(Table, frozen=True, kw_only=True):
    directory: Name = "~/.local/state/ingestd"
    control_group: Name | None = None
    """Members of this group may use the control socket (mode 0660 instead of 0600)."""
    control_socket: Name | None = None
    """None: in systemd's runtime directory, else in `directory`."""


class WatchTable(Table, frozen=True, kw_only=True):
    name: Name
    directory: Name
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = DEFAULT_EXCLUDES
    recursive: bool = True
    follow_links: bool = False
    settle: Duration = 2.0
    max_settle: Duration = 300.0
    mode: Literal["auto", "inotify", "poll"] = "auto"
    rescan: PositiveDuration = 600.0
    hold_deletes: Share = 0.5
    """Deletions of more than this share of the files, and of 50 or more, wait for a confirmation; 1: never."""
    hold_grace: Duration = 3 * 86400.0
    """They are carried out after this time without one."""
    category_id: str | None = None
    category_path: str | None = None
    metadata: dict[str, Any] = {}
    deadline: PositiveDuration | None = None
    """These three replace those of `[load]` for the files of this source: a slow mount needs more."""
    deadline_per_mb: Duration | None = None
    idle_deadline: PositiveDuration | None = None
    max_file_size: Size | None = None
    """And these, where the files of this source hold more."""
    max_parts: Count | None = None
    max_parts_size: Size | None = None
    max_parts_ratio: Ratio | None = None
    max_parts_depth: Count | None = None


class LoaderLimits(Table, frozen=True, kw_only=True):
    """The keys that `[load]` sets for all loaders and `[load.NAME]` for one."""

    deadline: PositiveDuration = 60.0
    deadline_per_mb: Duration = 10.0
    idle_deadline: PositiveDuration = 60.0
    memory: Annotated[int, msgspec.Meta(ge=64 << 20, extra={"unit": "size"})] = 2 << 30
    max_strikes: Annotated[int, msgspec.Meta(ge=1)] = 3
    max_file_size: Size = 1 << 30
    max_text: Size = 64 << 20
    on_limit: Literal["truncate", "quarantine"] = "truncate"
    max_parts: Count = 10_000
    """Members of an archive, attachments of a mail: what a file has beside its own text."""
    max_parts_size: Size = 4 << 30
    """Of all of them, unpacked."""
    max_parts_ratio: Ratio = 200.0
    """Times that a file may grow by being unpacked."""
    max_parts_depth: Count = 4
    """Containers in which a part may lie."""


class LoaderTable(LoaderLimits, frozen=True, kw_only=True):
    """The keys of `[load.NAME]` that ingestd itself reads; what else stands there is the loader's own."""

    disabled: bool = False
    suffixes: tuple[str, ...] = ()
    workers: Count = 0


class LoadTable(LoaderLimits, frozen=True, kw_only=True):
    workers: Count = 0
    """0: one per core."""
    sandbox: Literal["required", "best-effort", "off"] = "best-effort"
    loaders: dict[str, dict[str, Any]] = {}
    """`[load.NAME]`: keys of `LoaderTable`, converted, and the loader's own."""

    def limits(self, loader: str) -> LoaderLimits:
        """The limits in force for one loader."""
        own = self.loaders.get(loader, {})
        return LoaderLimits(**{f: own.get(f, getattr(self, f)) for f in LoaderLimits.__struct_fields__})

    def options(self, loader: str) -> dict[str, Any]:
        """What `[load.NAME]` holds beside ingestd's own keys."""
        known = LoaderTable.__struct_fields__
        return {key: value for key, value in self.loaders.get(loader, {}).items() if key not in known}


class ChunkTable(Table, frozen=True, kw_only=True):
    max_tokens: Count = 0
    """0: as many as the model takes."""
    overlap: Count = 32
    """Tokens."""


class EncodeTable(Table, frozen=True, kw_only=True):
    engine: Name = "torch"
    model: Name = DEFAULT_MODEL
    devices: str | tuple[str, ...] = "auto"
    """Once read: "auto", or the names of devices, at least one."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    batch_tokens: Count = 0
    """0: found by the encoder itself."""
    normalize: bool | None = None
    """None: as the model says."""
    query_prompt: str | None = None
    """None: as the model says."""
    passage_prompt: str | None = None


class IndexTable(Table, frozen=True, kw_only=True):
    sink: Name = "sqlite"
    sinks: dict[str, dict[str, Any]] = {}
    """`[index.NAME]`: the sink's own keys."""


class LogTable(Table, frozen=True, kw_only=True):
    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "text", "json"] = "auto"
    file: Name | None = None
    max_size: Size = 0
    """Bytes after which the file is put aside; 0: never."""
    keep: Count = 5
    """So many that were put aside are kept."""


class Config(Table, frozen=True, kw_only=True):
    state: StateTable = StateTable()
    watch: tuple[WatchTable, ...] = ()
    load: LoadTable = LoadTable()
    chunk: ChunkTable = ChunkTable()
    encode: EncodeTable = EncodeTable()
    index: IndexTable = IndexTable()
    log: LogTable = LogTable()
    file: str | None = None
    """Where it was read from, absolute; None: nothing but defaults and variables."""
    runtime_directory: str | None = None
    """systemd's, for the control socket."""

    @property
    def state_directory(self) -> Path:
        """Journal, index, caches and scratch live below it."""
        return Path(self.state.directory).expanduser()

    @property
    def control_socket(self) -> Path:
        if self.state.control_socket:
            return Path(self.state.control_socket)
        return Path(self.runtime_directory or self.state_directory) / "control.sock"

    def limits(self, loader: str, source: str | None = None) -> LoaderLimits:
        """The limits in force for one loader on the files of one source: the source's own, the loader's, `[load]`'s."""
        limits = self.load.limits(loader)
        watch = next((table for table in self.watch if table.name == source), None)
        if watch is None:
            return limits
        shared = set(LoaderLimits.__struct_fields__).intersection(WatchTable.__struct_fields__)
        own = {key: getattr(watch, key) for key in shared}
        return msgspec.structs.replace(limits, **{key: value for key, value in own.items() if value is not None})


def load(path: Path | None, environ: Mapping[str, str], state: str | None = None) -> Config:
    """Read the configuration: `path` (`--config`), else `INGESTD_CONFIG`, else `config.toml` in the working
    directory, else `~/.config/ingestd/config.toml`, else `/etc/ingestd/config.toml`, else the defaults. `state`:
    `--state`.

    Relative directories in a file are relative to that file, those of variables and options to the working
    directory. Raises `ConfigError`, one line for each problem.
    """
    from ingestd.config.settings import read

    return read(path, environ, state)
