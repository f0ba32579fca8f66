"""A proxy in front of a node, with or without TLS, that does to requests and answers what networks do."""

from __future__ import annotations

import contextlib
import http.client
import json
import random
import ssl
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

HOP: Final = frozenset(("connection", "transfer-encoding", "keep-alive", "host", "content-length"))


class Proxy:
    """Forwards everything to the node, but for what `faults` say of bulk requests."""

    def __init__(self, url: str, *, tls: Path | None = None, authorization: str | None = None) -> None:
        """`tls`: a PEM file with key and certificate. `authorization`: the header that requests must have."""
        self.node = urlsplit(url).netloc
        self.authorization = authorization
        self.dice = random.Random(0)
        self.faults: dict[str, float] = {}
        """Chances of: `lost` (carried out, but the connection is cut before the answer), `cut` (cut before it is
        carried out), `busy` (429 for the whole), `rejected` (429 for some items), `late` (cut, and carried out a moment
        later)."""
        self.poison: bytes | None = None
        """Bulk items with these bytes get a field that the mapping does not know."""
        self.version: str | None = None
        """What the server says it is, instead of the version that it has."""
        self.bulks: list[bytes] = []
        """The body of every bulk request."""
        self.done: Counter[str] = Counter()
        self.seen: list[str] = []
        """The `Authorization` of every request."""
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                pass

            def handle_all(self) -> None:
                proxy.handle(self)

            do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = handle_all

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: object) -> None:
                pass  # whoever is connected may be killed at any time

        self.server = Server(("127.0.0.1", 0), Handler)
        if tls is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(tls)
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        scheme = "https" if tls is not None else "http"
        self.url = f"{scheme}://localhost:{self.server.server_port}"
        self._thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self._thread.join()

    def handle(self, request: BaseHTTPRequestHandler) -> None:
        body = request.rfile.read(int(request.headers.get("Content-Length") or 0))
        given = request.headers.get("Authorization", "")
        self.seen.append(given)
        if self.authorization is not None and given != self.authorization:
            error = {"type": "security_exception", "reason": "unable to authenticate"}
            self._answer(request, 401, {"error": error, "status": 401})
            return
        fault = None
        if "_bulk" in request.path:
            fault = self._fault()
            self.bulks.append(body)
            body = self._poisoned(body)
        if fault is not None:
            self.done[fault] += 1
        if fault == "busy":
            error = {"type": "es_rejected_execution_exception", "reason": "rejected execution of a bulk request"}
            self._answer(request, 429, {"error": error, "status": 429})
            return
        if fault == "cut":
            request.close_connection = True
            return
        if fault == "late":
            later = threading.Timer(0.02, self._forward_late, (request, body))
            later.daemon = True
            later.start()
            request.close_connection = True
            return
        try:
            status, headers, data = self._forward(request, body)
        except OSError:  # the node is away
            request.close_connection = True
            return
        if self.version is not None and request.path == "/":
            told = json.loads(data)
            told["version"]["number"] = self.version
            data = json.dumps(told).encode()
        if fault == "lost":
            request.close_connection = True
            return
        request.send_response(status)
        for name, value in headers:
            if name.lower() not in HOP:
                request.send_header(name, value)
        request.send_header("Content-Length", str(len(data)))
        request.end_headers()
        if request.command != "HEAD":
            request.wfile.write(data)

    def _poisoned(self, body: bytes) -> bytes:
        if self.poison is None or self.poison not in body:
            return body
        self.done["poison"] += 1
        lines = body.split(b"\n")
        return b"\n".join(b'{"strange":1,' + line[1:] if self.poison in line else line for line in lines)

    def _fault(self) -> str | None:
        for name, chance in self.faults.items():
            if self.dice.random() < chance:
                return name
        return None

    def _forward(self, request: BaseHTTPRequestHandler, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        headers = {name: value for name, value in request.headers.items() if name.lower() not in HOP}
        headers.pop("Authorization", None)
        connection = http.client.HTTPConnection(self.node, timeout=60)
        try:
            connection.request(request.command, request.path, body or None, headers)
            answer = connection.getresponse()
            return answer.status, answer.getheaders(), answer.read()
        except http.client.HTTPException as error:
            raise OSError(str(error)) from error
        finally:
            connection.close()

    def _forward_late(self, request: BaseHTTPRequestHandler, body: bytes) -> None:
        with contextlib.suppress(OSError):  # the node is away by then
            self._forward(request, body)

    def _answer(self, request: BaseHTTPRequestHandler, status: int, body: Any) -> None:
        data = json.dumps(body).encode()
        request.send_response(status)
        request.send_header("Content-Type", "application/json")
        request.send_header("X-Elastic-Product", "Elasticsearch")
        request.send_header("Content-Length", str(len(data)))
        request.end_headers()
        if request.command != "HEAD":
            request.wfile.write(data)
