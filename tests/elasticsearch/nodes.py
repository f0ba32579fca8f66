"""Real Elasticsearch nodes from the jars on Maven Central: started in seconds, killed, started again on the same data.

They are the server itself with its network, without the modules that are not on Maven Central (security, scripts,
licences). What is compiled and resolved is kept in `.elasticsearch/` at the root of the checkout, which git ignores.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

SOURCES = Path(__file__).parent / "node"
CACHE = Path(__file__).parents[2] / ".elasticsearch"
SERVERS = {8: "8.19.21", 9: "9.5.3"}
"""By major version."""
NEWEST = 9
JAVA = 21
"""The release that the server needs at least."""
HEAP = "512m"
PATIENCE = 180.0
"""Seconds that a node may take on a machine with other work."""


class MissingToolError(Exception):
    """No JDK, or no Maven; says what to install."""


def java_home() -> Path:
    """The newest JDK that is new enough."""
    named = [os.environ.get("INGESTD_TEST_JAVA_HOME"), os.environ.get("JAVA_HOME")]
    on_path = shutil.which("javac")
    homes = [Path(home) for home in named if home]
    homes += [Path(on_path).resolve().parents[1]] if on_path else []
    homes += sorted(Path("/usr/lib/jvm").glob("*"))
    found: dict[Path, int] = {}
    for home in homes:
        with contextlib.suppress(OSError):
            release = re.search(r'JAVA_VERSION="(\d+)', (home / "release").read_text())
            if release and int(release[1]) >= JAVA and (home / "bin" / "javac").exists():
                found[home] = int(release[1])
    if not found:
        raise MissingToolError(
            f"no JDK {JAVA} or later: none in $INGESTD_TEST_JAVA_HOME, $JAVA_HOME, the path or /usr/lib/jvm"
        )
    return max(found, key=lambda home: found[home])


def build(major: int = NEWEST) -> tuple[Path, str]:
    """The Java program and the class path of a node. Compiled once for each state of the sources."""
    home = java_home()
    version = SERVERS[major]
    sources = [path for place in ("any", str(major)) for path in sorted((SOURCES / place).rglob("*.java"))]
    digest = hashlib.blake2b(version.encode(), digest_size=6)
    for path in (SOURCES / "pom.xml", *sources):
        digest.update(path.read_bytes())
    built = CACHE / digest.hexdigest()
    CACHE.mkdir(exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not _whole(built):
            _build(home, built, version, sources)
    return home / "bin" / "java", f"{built / 'classes'}:{(built / 'classpath').read_text()}"


def _whole(built: Path) -> bool:
    with contextlib.suppress(OSError):
        jars = (built / "classpath").read_text().split(":")
        return all(os.path.exists(jar) for jar in jars)
    return False


def _build(home: Path, built: Path, version: str, sources: list[Path]) -> None:
    maven = shutil.which("mvn")
    if maven is None:
        raise MissingToolError("no Maven: apt-get install maven")
    shutil.rmtree(built, ignore_errors=True)
    classes = built / "classes"
    classes.mkdir(parents=True)
    resolved = built / "resolved"
    pom = ["-f", str(SOURCES / "pom.xml"), f"-Delasticsearch.version={version}"]
    _run([maven, "-q", "-B", *pom, "dependency:build-classpath", f"-Dmdep.outputFile={resolved}"])
    jars = ["-cp", resolved.read_text()]
    # Maven's own compiler plugin, as Debian has it, is too old for such a JDK.
    _run([str(home / "bin" / "javac"), "--release", str(JAVA), "-d", str(classes), *jars, *map(str, sources)])
    resolved.rename(built / "classpath")


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{command[0]} failed:\n{done.stdout[-4000:]}{done.stderr[-4000:]}")


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


class Node:
    """One server process, at the same address and on the same data each time it is started."""

    def __init__(
        self, directory: Path, number: int, ports: Sequence[tuple[int, int]], major: int = NEWEST, **settings: str
    ) -> None:
        self.major = major
        self.name = f"node-{number}"
        self.directory = directory / self.name
        self.port, transport = ports[number]
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = directory / f"{self.name}.log"
        self.process: subprocess.Popen[bytes] | None = None
        (self.directory / "config").mkdir(parents=True, exist_ok=True)
        names = ",".join(f"node-{other}" for other in range(len(ports)))
        self.settings = {
            "cluster.name": "ingestd-test",
            "node.name": self.name,
            "node.processors": "2",
            "path.home": str(self.directory),
            "network.host": "127.0.0.1",
            "http.port": str(self.port),
            "transport.port": str(transport),
            "indices.breaker.total.use_real_memory": "false",
            "cluster.routing.allocation.disk.threshold_enabled": "false",
            **settings,
        }
        if len(ports) == 1:
            self.settings["discovery.type"] = "single-node"
        else:
            self.settings["discovery.seed_hosts"] = ",".join(f"127.0.0.1:{port}" for _, port in ports)
            self.settings["cluster.initial_master_nodes"] = names

    def start(self, *, wait: bool = True) -> None:
        java, classpath = build(self.major)
        flags = [f"-Xms{HEAP}", f"-Xmx{HEAP}", "-XX:+UseSerialGC", "--enable-native-access=ALL-UNNAMED"]
        arguments = [f"{key}={value}" for key, value in self.settings.items()]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [str(java), *flags, "-cp", classpath, "org.elasticsearch.node.SmallNode", *arguments],
                stdin=subprocess.PIPE,  # closed when we die, which ends the node
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for whoever started it
            )
        if wait:
            self.wait()

    def wait(self) -> None:
        """Until it answers and can be written."""
        deadline = time.monotonic() + PATIENCE
        while True:
            with contextlib.suppress(OSError, urllib.error.URLError):
                self.request("GET", "/_cluster/health?wait_for_status=yellow&timeout=30s")
                return
            assert self.process is not None
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"{self.name} does not start: {self.log.read_text(errors='replace')[-4000:]}")
            time.sleep(0.1)

    def request(self, method: str, path: str, body: Any = None) -> Any:
        """The parsed answer. Raises `urllib.error.HTTPError`, `OSError`."""
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(self.url + path, data, headers, method=method)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.loads(answer.read() or b"null")

    def kill(self) -> None:
        """As a power cut would."""
        if self.process is not None:
            self.process.send_signal(signal.SIGKILL)
            self._reap()

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self._reap()

    def _reap(self) -> None:
        assert self.process is not None
        assert self.process.stdin is not None
        try:
            self.process.wait(PATIENCE)
        finally:
            self.process.stdin.close()
            self.process = None


@contextlib.contextmanager
def cluster(directory: Path, size: int = 1, *, major: int = NEWEST, **settings: str) -> Iterator[list[Node]]:
    """So many nodes below `directory`, started and ready; gone at the end. Raises `MissingToolError`."""
    build(major)
    ports = free_ports(2 * size)
    pairs = list(zip(ports[:size], ports[size:], strict=True))
    nodes = [Node(directory, number, pairs, major, **settings) for number in range(size)]
    try:
        for node in nodes:
            node.start(wait=False)
        for node in nodes:
            node.wait()
        yield nodes
    finally:
        for node in nodes:
            node.kill()
