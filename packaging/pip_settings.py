"""What pip's configuration files and `PIP_*` variables say about where packages come from, for uv to hear too.

Standard library only: it runs before anything is installed.
"""

from __future__ import annotations

import configparser
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path


class PipSettings:
    """pip's settings as pip itself merges them: later files win over earlier ones, the environment over all."""

    def __init__(self, environment: Mapping[str, str], files: list[Path] | None = None) -> None:
        self._values: dict[str, str] = {}
        for file in configuration_files(environment) if files is None else files:
            self._values.update(read(file))
        for name, value in environment.items():
            if name.startswith("PIP_") and name != "PIP_CONFIG_FILE" and value:
                self._values[key(name[4:])] = value

    @property
    def index_url(self) -> str | None:
        """The index that replaces the default one; None where nothing names one."""
        return self._values.get("index-url")

    @property
    def extra_index_urls(self) -> list[str]:
        return self._values.get("extra-index-url", "").split()

    @property
    def find_links(self) -> list[str]:
        """Directories and pages that list archives."""
        return self._values.get("find-links", "").split()

    @property
    def no_index(self) -> bool:
        return self._values.get("no-index", "").lower() in {"1", "true", "yes", "on", "y", "t"}

    @property
    def trusted_hosts(self) -> list[str]:
        return self._values.get("trusted-host", "").split()

    @property
    def timeout(self) -> float:
        """Seconds; `PIP_DEFAULT_TIMEOUT` is pip's own odd name for its option `timeout`."""
        try:
            return float(self._values.get("timeout") or self._values.get("default-timeout") or 15)
        except ValueError:
            return 15.0

    @property
    def cert(self) -> str | None:
        """A bundle of certificates that replaces the system's."""
        return self._values.get("cert")

    def uv_environment(self, environment: Mapping[str, str]) -> dict[str, str]:
        """The variables that make uv and urllib do as pip would. Variables that are set already are left alone."""
        wanted: dict[str, str | None] = {
            "SSL_CERT_FILE": self.cert,
            "SSL_CLIENT_CERT": self._values.get("client-cert"),
            "UV_HTTP_TIMEOUT": str(int(self.timeout)) if self.timeout > 30 else None,  # uv's own default is 30 s
            "HTTP_PROXY": self._values.get("proxy"),
            "HTTPS_PROXY": self._values.get("proxy"),
        }
        if not environment.keys() & {"UV_INDEX_URL", "UV_DEFAULT_INDEX"}:
            wanted["UV_DEFAULT_INDEX"] = self.index_url
        if not environment.keys() & {"UV_EXTRA_INDEX_URL", "UV_INDEX"}:
            wanted["UV_INDEX"] = " ".join(self.extra_index_urls) or None
        return {
            name: value
            for name, value in wanted.items()
            if value and not environment.get(name) and not environment.get(name.lower())
        }

    def uv_arguments(self, environment: Mapping[str, str]) -> list[str]:
        """The settings that uv takes on its command line more reliably than from a variable."""
        arguments = ["--no-index"] if self.no_index else []
        for host in () if "UV_INSECURE_HOST" in environment else self.trusted_hosts:
            arguments += ["--allow-insecure-host", host]
        for place in () if "UV_FIND_LINKS" in environment else self.find_links:
            # pip shrugs at a directory that is not there, uv stops
            if "://" in place or Path(place).expanduser().is_dir():
                arguments += ["--find-links", place]
        return arguments


def configuration_files(environment: Mapping[str, str]) -> Iterator[Path]:
    """Where pip looks, in the order in which later files win: global, user, environment, PIP_CONFIG_FILE."""
    named = environment.get("PIP_CONFIG_FILE")
    if named == os.devnull:
        return
    home = Path(environment.get("HOME") or Path.home())
    for directory in environment.get("XDG_CONFIG_DIRS", "/etc/xdg").split(":"):
        yield Path(directory, "pip", "pip.conf")
    yield Path("/etc/pip.conf")
    yield home / ".pip" / "pip.conf"
    yield Path(environment.get("XDG_CONFIG_HOME") or home / ".config", "pip", "pip.conf")
    yield Path(sys.prefix, "pip.conf")
    if named:
        yield Path(named)


def read(file: Path) -> dict[str, str]:
    """The settings of `[global]` and `[install]`, the latter winning; nothing where the file cannot be read."""
    parser = configparser.RawConfigParser()
    try:
        parser.read(file, encoding="utf-8")
    except (OSError, UnicodeDecodeError, configparser.Error):
        return {}
    values: dict[str, str] = {}
    for section in ("global", "install"):
        if parser.has_section(section):
            values.update((key(name), value) for name, value in parser.items(section) if value)
    return values


def key(name: str) -> str:
    """`INDEX_URL`, `index_url` and `--index-url` are one setting."""
    return name.lower().replace("_", "-").removeprefix("--")
