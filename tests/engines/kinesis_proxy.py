"""Stands before a Kinesis for tests: makes it fail, and keeps account of what is sent to it."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import random
import socket
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.engines.kinesis import KinesisServer, environment
from tests.engines.ports import free_port

_CONTENT_TYPE = "application/x-amz-json-1.1"
_REFUSALS = ("ProvisionedThroughputExceededException", "InternalFailure")


class KinesisProxy:
    """A proxy on 127.0.0.1.

    Args:
        server: the Kinesis behind it.
        failing: this part of the records of each PutRecords is not let through and answered with
            an error, each record by chance.
        seed: of the chance.

    Attributes:
        sent: how often each record's data came in a PutRecords.
        refused: how often it was answered with an error.
        requests: records in each PutRecords, in the order they came.
        answers: error codes with which the next PutRecords are refused whole, first to last.
    """

    def __init__(self, server: KinesisServer, failing: float = 0.0, seed: int = 1) -> None:
        self.port = free_port()
        self.endpoint = f"http://127.0.0.1:{self.port}"
        self.failing = failing
        self.sent: Counter[bytes] = Counter()
        self.refused: Counter[bytes] = Counter()
        self.requests: list[int] = []
        self.answers: list[str] = []
        self._behind = server.port
        self._chance = random.Random(seed)
        self._lock = threading.Lock()
        self._http: _Server | None = None

    def __enter__(self) -> KinesisProxy:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Listen, on the same port each time."""
        self._http = _Server(("127.0.0.1", self.port), self)
        threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True).start()

    def stop(self) -> None:
        """Be gone: refuse connections and cut those that are open; the Kinesis behind stays."""
        if self._http is not None:
            self._http.shutdown()
            self._http.server_close()
            self._http.cut()
            self._http = None

    def environment(self) -> dict[str, str]:
        """What a client's environment needs to use it."""
        return environment(self.endpoint)

    def answer(self, headers: dict[str, str], body: bytes) -> tuple[int, bytes]:
        """The status and the body for one request."""
        if not headers.get("X-Amz-Target", "").endswith(".PutRecords"):
            return self._forward(headers, body)
        request = json.loads(body)
        data = [base64.b64decode(record["Data"]) for record in request["Records"]]
        with self._lock:
            self.requests.append(len(data))
            self.sent.update(data)
            if self.answers:
                self.refused.update(data)
                return 400, json.dumps(
                    {"__type": self.answers.pop(0), "message": "made up"}
                ).encode()
            codes = [
                self._chance.choice(_REFUSALS) if self._chance.random() < self.failing else ""
                for _ in data
            ]
            self.refused.update(each for each, code in zip(data, codes, strict=True) if code)
        return self._let_through(headers, request, codes)

    def _let_through(
        self, headers: dict[str, str], request: dict[str, Any], codes: list[str]
    ) -> tuple[int, bytes]:
        """Forward the records that have no code, and answer for all."""
        passed = [
            record for record, code in zip(request["Records"], codes, strict=True) if not code
        ]
        answers = iter(())
        if passed:
            body = json.dumps({**request, "Records": passed}).encode()
            status, body = self._forward(headers, body)
            if status != 200:
                return status, body
            answers = iter(json.loads(body)["Records"])
        records = [
            {"ErrorCode": code, "ErrorMessage": "made up"} if code else next(answers)
            for code in codes
        ]
        failed = len(codes) - len(passed)
        return 200, json.dumps({"FailedRecordCount": failed, "Records": records}).encode()

    def _forward(self, headers: dict[str, str], body: bytes) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self._behind, timeout=30)
        try:
            kept = {
                name: value
                for name, value in headers.items()
                if name.lower() not in ("content-length", "connection", "host", "expect")
            }
            connection.request("POST", "/", body, kept)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, address: tuple[str, int], proxy: KinesisProxy) -> None:
        self.proxy = proxy
        self._open: set[socket.socket] = set()
        super().__init__(address, _Requests)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def cut(self) -> None:
        for connection in list(self._open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that was cut off is no error."""


class _Requests(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        try:
            status, answer = self.server.proxy.answer(dict(self.headers.items()), body)
        except (OSError, http.client.HTTPException):
            status, answer = 503, b"{}"
        self.send_response(status)
        self.send_header("Content-Type", _CONTENT_TYPE)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""
