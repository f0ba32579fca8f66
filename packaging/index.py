"""Read a package index's page of pip and fetch the newest wheel that runs here. Standard library only."""

from __future__ import annotations

import base64
import hashlib
import re
import ssl
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import NamedTuple

import console
from pip_settings import PipSettings

WHEEL = re.compile(r"pip-(\d+(?:\.\d+)*)-py3-none-any\.whl")


class Wheel(NamedTuple):
    version: tuple[int, ...]
    url: str
    sha256: str | None


class Page(HTMLParser):
    """The wheels of pip that an index's page lists (a page as PEP 503 has it) and that this Python can run."""

    def __init__(self, url: str, text: str) -> None:
        super().__init__()
        self.url = url
        self.wheels: list[Wheel] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag != "a" or not values.get("href") or "data-yanked" in values:
            return
        url, _, fragment = urllib.parse.urljoin(self.url, values["href"]).partition("#")
        name = urllib.parse.unquote(url.rpartition("/")[2])
        if (match := WHEEL.fullmatch(name)) and runs_here(values.get("data-requires-python") or ""):
            version = tuple(map(int, match[1].split(".")))
            digest = fragment.removeprefix("sha256=") if fragment.startswith("sha256=") else None
            self.wheels.append(Wheel(version, url, digest))


def runs_here(requires: str, version: tuple[int, ...] = sys.version_info[:3]) -> bool:
    """Whether this Python meets every lower bound of a Requires-Python; pip states nothing else of consequence."""
    bounds = re.findall(r">=\s*(\d+(?:\.\d+)*)", requires)
    return all(version >= tuple(map(int, bound.split("."))) for bound in bounds)


def fetch_pip(settings: PipSettings, directory: Path) -> Iterator[Path]:
    """pip's wheel from the index that pip's settings name; nothing where they name none.

    Raises `Failure` where the index cannot be reached, or sends a file that is not what its page promises.
    """
    if settings.no_index or not settings.index_url:
        return
    url = settings.index_url.rstrip("/") + "/pip/"
    console.say(f"fetching pip from {without_password(settings.index_url)}")
    page = Page(url, get(url, settings).decode("utf-8", "replace"))
    if not page.wheels:
        raise console.Failure(f"{without_password(url)} lists no wheel of pip that runs on this Python")
    wheel = max(page.wheels)
    data = get(with_password(wheel.url, url), settings)
    if wheel.sha256 and hashlib.sha256(data).hexdigest() != wheel.sha256:
        raise console.Failure(f"{without_password(wheel.url)} does not have the SHA-256 that its index states")
    file = directory / wheel.url.rpartition("/")[2]
    file.write_bytes(data)
    yield file


def get(url: str, settings: PipSettings) -> bytes:
    """The body of `url`, whose user and password, if any, are sent as basic authentication. Raises `Failure`."""
    parts = urllib.parse.urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    request = urllib.request.Request(urllib.parse.urlunsplit(parts._replace(netloc=host)))
    request.add_header("Accept", "text/html, */*;q=0.1")
    if parts.username:
        credentials = f"{urllib.parse.unquote(parts.username)}:{urllib.parse.unquote(parts.password or '')}"
        request.add_header("Authorization", "Basic " + base64.b64encode(credentials.encode()).decode())
    try:
        context = ssl.create_default_context(cafile=settings.cert)
        if {host, parts.hostname} & set(settings.trusted_hosts):
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        with urllib.request.urlopen(request, timeout=settings.timeout, context=context) as response:
            body: bytes = response.read()
            return body
    except (OSError, ValueError) as error:  # URLError and TLS failures are OSErrors
        cause = error.reason if isinstance(error, urllib.error.URLError) else error
        raise console.Failure(f"cannot read {without_password(url)}: {cause}") from error


def with_password(url: str, index: str) -> str:
    """`url` with the user and password of `index`, where both are of one host."""
    parts, own = urllib.parse.urlsplit(url), urllib.parse.urlsplit(index)
    same = parts.hostname == own.hostname and parts.port == own.port
    return urllib.parse.urlunsplit(parts._replace(netloc=own.netloc)) if same else url


def without_password(url: str) -> str:
    parts = urllib.parse.urlsplit(url)
    return urllib.parse.urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
