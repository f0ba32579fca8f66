"""TLS and credentials, through a proxy that wants them in front of a real node."""

from __future__ import annotations

import base64
import hashlib
import shutil
import socket
import ssl
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ingestd.errors import IngestdError
from ingestd.testing.sink_cases import FINGERPRINT, ask, replace
from ingestd_plugins.elasticsearch import ElasticsearchSink
from tests.elasticsearch.places import configured, eventually, options
from tests.elasticsearch.proxy import Proxy
from tests.processes.daemons import ingestd, running

pytestmark = pytest.mark.elasticsearch

SECRET = "a2V5LWlkOnN1cGVyLXNlY3JldA=="


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A PEM file with key and certificate of `localhost`, which signed itself."""
    return made(tmp_path / "server.pem")


def made(path: Path, host: str = "localhost") -> Path:
    if shutil.which("openssl") is None:
        pytest.skip("no openssl")
    key = path.with_suffix(".key")
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
        "-days",
    ]
    command += ["2", "-subj", f"/CN={host}", "-addext", f"subjectAltName=DNS:{host}", "-keyout", str(key)]
    subprocess.run([*command, "-out", str(path)], check=True, capture_output=True)
    path.write_bytes(path.read_bytes() + key.read_bytes())
    return path


def fingerprint(certificate: Path) -> str:
    der = ssl.PEM_cert_to_DER_cert(certificate.read_text().partition("-----BEGIN PRIVATE")[0])
    return hashlib.sha256(der).hexdigest()


@pytest.fixture
def proxy(url: str, certificate: Path) -> Iterator[Proxy]:
    made = Proxy(url, tls=certificate)
    yield made
    made.close()


def write_and_find(table: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        found_in(Path(directory), table)


def found_in(directory: Path, table: dict[str, Any]) -> None:
    sink = ElasticsearchSink()
    sink.open(directory, FINGERPRINT, {**table, "refresh": "0s"}, readonly=False)
    try:
        assert sink.write([replace("a.txt", ["alpha"])])[0].error is None
        assert [hit.text for hit in ask(sink, "alpha")] == ["alpha"]
    finally:
        sink.close()


def refused(table: dict[str, Any]) -> str:
    with pytest.raises(IngestdError) as caught:
        write_and_find(table)
    return caught.value.message


def test_a_certificate_is_checked_by_its_authority_or_its_fingerprint(
    proxy: Proxy, certificate: Path, tmp_path: Path
) -> None:
    digest = fingerprint(certificate)
    colons = ":".join(digest[i : i + 2] for i in range(0, 64, 2)).upper()
    write_and_find(options(proxy.url, ca_file=str(certificate)))
    write_and_find(options(proxy.url, fingerprint=digest))
    write_and_find(options(proxy.url, fingerprint=colons))
    assert "certificate" in refused(options(proxy.url)).lower()
    assert "certificate" in refused(options(proxy.url, ca_file=str(made(tmp_path / "other.pem")))).lower()
    assert "has the fingerprint " + digest in refused(options(proxy.url, fingerprint="00" * 32))
    assert str(tmp_path / "none.pem") in refused(options(proxy.url, ca_file=str(tmp_path / "none.pem")))


def test_a_cloud_id_names_the_host(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The deployment's own host below the provider's domain, on which the certificate is checked."""
    host = "0123abcd.eu.cloud.test"
    certificate = made(tmp_path / "cloud.pem", host)
    other = made(tmp_path / "other.pem", "4567ef.eu.cloud.test")
    resolve = socket.getaddrinfo
    asked: list[str] = []

    def known(name: str | None, *rest: Any, **options: Any) -> Any:
        asked.append(str(name))
        return resolve("localhost" if name == host else name, *rest, **options)

    monkeypatch.setattr(socket, "getaddrinfo", known)
    for pem in (certificate, other):
        proxy = Proxy(url, tls=pem, authorization=f"ApiKey {SECRET}")
        port = proxy.server.server_port
        cloud_id = "production:" + base64.b64encode(f"eu.cloud.test:{port}$0123abcd$kibana".encode()).decode()
        (tmp_path / "key").write_text(SECRET)
        table = options("", cloud_id=cloud_id, ca_file=str(pem), api_key_file=str(tmp_path / "key"))
        del table["hosts"]
        if pem == certificate:
            found_in(tmp_path, table)
            found_in(tmp_path, {**table, "fingerprint": fingerprint(certificate), "ca_file": None})
            assert "has the fingerprint" in refused({**table, "fingerprint": "00" * 32, "ca_file": None})
        else:
            reason = refused(table)
            assert "cannot reach Elasticsearch at the cloud deployment" in reason
            assert "certificate" in reason
        proxy.close()
    assert host in asked
    assert "cloud" in refused({**table, "cloud_id": "production:nonsense"}).lower()


@pytest.mark.parametrize("kind", ["api_key", "basic", "bearer"])
def test_credentials_come_from_files(url: str, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "secret").write_text(f"{SECRET}\n")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    wanted, keys = {
        "api_key": (f"ApiKey {SECRET}", {"api_key_file": "secret"}),
        "bearer": (f"Bearer {SECRET}", {"bearer_token_file": str(tmp_path / "secret")}),
        "basic": (
            "Basic " + base64.b64encode(f"ada:{SECRET}".encode()).decode(),
            {"username": "ada", "password_file": "secret"},
        ),
    }[kind]
    proxy = Proxy(url, authorization=wanted)
    write_and_find(options(proxy.url, **keys))
    assert set(proxy.seen) == {wanted}
    (tmp_path / "secret").write_text("another")
    reason = refused(options(proxy.url, **keys))
    assert "refuses the credentials" in reason
    assert "another" not in reason
    proxy.close()


def test_a_key_that_expired_is_waited_for_and_never_shown(url: str, tmp_path: Path) -> None:
    folder = tmp_path / "docs"
    folder.mkdir()
    key = tmp_path / "key"
    key.write_text(SECRET)
    proxy = Proxy(url, authorization=f"ApiKey {SECRET}")
    table = options(proxy.url, api_key_file=str(key))
    state = tmp_path / "state"
    config = configured(state, folder, table)
    with running(config, state) as daemon:
        (folder / "a.txt").write_text("first")
        eventually(lambda: daemon.status()["files"]["indexed"] == 1, "it is not indexed")
        proxy.authorization = "ApiKey bmV3ZXI="
        (folder / "b.txt").write_text("second")
        status = eventually(lambda: not (s := daemon.status())["sink"]["healthy"] and s, "nobody noticed")
        assert "refuses the credentials" in " ".join(status["waiting_for"])
        key.write_text("bmV3ZXI=")  # as whoever rotates keys does it
        eventually(lambda: daemon.status()["files"]["indexed"] == 2, "it is not resumed")
        told = [daemon.log.read_text(), str(status), str(daemon.status())]
        done = [ingestd(config, *command) for command in (["check-config"], ["status"], ["doctor"])]
    told += [each.stdout + each.stderr for each in done]
    assert not any(SECRET in each or "bmV3ZXI=" in each for each in told)
    proxy.close()


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"api_key": SECRET}, "api_key_file"),
        ({"password": SECRET}, "password_file"),
        ({"hosts": f"https://ada:{SECRET}@localhost:9200"}, "password_file"),
    ],
)
def test_a_secret_in_the_configuration_is_refused_and_not_shown(
    tmp_path: Path, table: dict[str, Any], said: str
) -> None:
    with pytest.raises(IngestdError) as caught:
        ElasticsearchSink().open(tmp_path, FINGERPRINT, table, readonly=False)
    assert said in caught.value.message
    assert SECRET not in caught.value.message
