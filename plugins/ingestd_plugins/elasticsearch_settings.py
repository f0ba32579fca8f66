"""`[index.elasticsearch]`: what a person may set, and the credentials, which are never in the configuration itself."""

from __future__ import annotations

import difflib
import os
import re
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import msgspec

from ingestd.config.units import parse_duration, parse_size
from ingestd.errors import ConfigError, IndexAwayError

TABLE = "[index.elasticsearch]"
_SECRETS = {"api_key": "api_key_file", "password": "password_file", "bearer_token": "bearer_token_file"}
_Positive = Annotated[int, msgspec.Meta(ge=1)]


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The table as it may be written."""

    hosts: list[str] | str = "http://127.0.0.1:9200"
    """One URL or several of one cluster."""
    cloud_id: str | None = None
    """Instead of `hosts`."""
    name: str = "ingestd"
    """The alias under which readers find the documents of every daemon that writes to it."""
    daemon: str | None = None
    """What tells this daemon's index from that of others under the same alias; the host's name."""
    take_over: str | None = None
    """The id of a state directory that is gone for good: its index is this one's from now on."""
    api_key_file: str | None = None
    username: str | None = None
    password_file: str | None = None
    bearer_token_file: str | None = None
    ca_file: str | None = None
    """Certificates of the authorities to be trusted, instead of the system's."""
    fingerprint: str | None = None
    """SHA-256 of the server's certificate, as Elasticsearch prints it at its first start."""
    timeout: str | float = "30s"
    """Of one request."""
    bulk_bytes: str | int = "4MiB"
    bulk_count: _Positive = 500
    in_flight: _Positive = 3
    """Bulk requests at a time."""
    refresh: str | float = "1s"
    """How soon what was written is found; 0: before it counts as written."""
    keep_replaced: str | float = "30s"
    """How long an index is kept after another one took its place, for readers that have begun to read it."""
    shards: _Positive = 1
    replicas: Annotated[int, msgspec.Meta(ge=0)] | None = None
    """None: the server's own choice."""
    routing: bool = True
    """All chunks of a document on one shard, so that they appear at the same time."""
    analyzer: str = "standard"
    """Of the field `text`, for readers that search it. `ingestd search` has its own field."""
    similarity: str = "cosine"
    index_options: dict[str, Any] | None = None
    """Of the field `vector`, such as `{type = "int8_hnsw"}`; None: the server's own choice."""
    compress: bool = False
    """Requests are compressed: for a slow network."""

    def __post_init__(self) -> None:
        parse_duration(str(self.timeout))
        parse_duration(str(self.refresh))
        parse_duration(str(self.keep_replaced))
        parse_size(str(self.bulk_bytes))
        if not _index_name(self.name):
            raise ValueError(
                f'name = {self.name!r} is no name of an alias: lower case, no spaces, none of \\/*?"<>|,#:'
            )
        if self.daemon is not None and not _index_name(self.daemon):
            raise ValueError(f"daemon = {self.daemon!r} cannot be part of an index's name: lower case, no spaces")
        if (self.username is None) != (self.password_file is None):
            raise ValueError("username and password_file belong together")
        if sum(each is not None for each in (self.api_key_file, self.username, self.bearer_token_file)) > 1:
            raise ValueError("one of api_key_file, username and bearer_token_file can be used, not several")
        for url in self.urls():
            parts = urlsplit(url)
            if parts.username or parts.password:
                raise ValueError(f"hosts: {parts.hostname}: a URL holds no credentials; set username and password_file")
            if parts.scheme not in ("http", "https") or not parts.hostname:
                raise ValueError(f"hosts: {url!r} is no URL such as https://search.example.org:9200")

    def urls(self) -> list[str]:
        return [self.hosts] if isinstance(self.hosts, str) else self.hosts

    def request_timeout(self) -> float:
        """Seconds."""
        return parse_duration(str(self.timeout))

    def refresh_delay(self) -> float:
        """Seconds."""
        return parse_duration(str(self.refresh))

    def keep_delay(self) -> float:
        """Seconds."""
        return parse_duration(str(self.keep_replaced))

    def bulk_size(self) -> int:
        """Bytes."""
        return parse_size(str(self.bulk_bytes))

    def own_name(self) -> str:
        """Of this daemon, as its index has it."""
        return self.daemon or re.sub(r"[^a-z0-9_.-]+", "-", socket.gethostname().lower()).strip("-_.") or "daemon"


def settings(options: Mapping[str, Any]) -> Settings:
    """Raises `ConfigError`; never shows what a key that holds a secret was set to."""
    for key in options:
        if key in _SECRETS:
            raise ConfigError(f"{TABLE} {key}: a secret is not written here; put it into a file, set {_SECRETS[key]}")
        if key not in Settings.__struct_fields__:
            near = difflib.get_close_matches(key, Settings.__struct_fields__, 1)
            raise ConfigError(f"{TABLE} has no key {key!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
    try:
        return msgspec.convert(dict(options), Settings)
    except (msgspec.ValidationError, ValueError) as error:
        raise ConfigError(f"{TABLE} {error}") from None


def credentials(chosen: Settings) -> dict[str, Any]:
    """What the client is to be given, read anew from the files. Raises `IndexAwayError`."""
    if chosen.api_key_file is not None:
        return {"api_key": _secret("api_key_file", chosen.api_key_file)}
    if chosen.bearer_token_file is not None:
        return {"bearer_auth": _secret("bearer_token_file", chosen.bearer_token_file)}
    if chosen.password_file is not None:
        return {"basic_auth": (chosen.username, _secret("password_file", chosen.password_file))}
    return {}


def _secret(key: str, name: str) -> str:
    """A name without a slash is a credential of the systemd unit."""
    directory = os.environ.get("CREDENTIALS_DIRECTORY")
    path = Path(directory) / name if directory and "/" not in name else Path(name).expanduser()
    try:
        secret = path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        cause = error.strerror if isinstance(error, OSError) else "not text"
        raise IndexAwayError(f"cannot read {TABLE} {key} {path}: {cause}") from None
    if not secret:
        raise IndexAwayError(f"{TABLE} {key}: {path} is empty")
    return secret


def _index_name(name: str) -> bool:
    return bool(re.fullmatch(r'[^\s\\/*?"<>|,#:A-Z_+.-][^\s\\/*?"<>|,#:A-Z]{0,99}', name))
