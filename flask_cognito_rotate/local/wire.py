"""Between the socket and the pool: counts requests and acts faults out."""

from __future__ import annotations

import io
import json
import logging
import re
import socket
import struct
import threading
from collections.abc import Iterable, Iterator
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import parse_qsl

from werkzeug.datastructures import Headers
from werkzeug.test import run_wsgi_app

from .faults import Fault, RecordedRequest

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

    from .pool import LocalUserPool

log = logging.getLogger("flask_cognito_rotate.local")

# On, and no seconds to linger: unsent data is dropped and a reset is sent.
_RST_ON_CLOSE = struct.pack("ii", 1, 0)
_MOST = 1_000_000  # bytes of a request body that are read
_PATHS = (
    ("discovery", re.compile(r"/[^/]+/\.well-known/openid-configuration")),
    ("jwks", re.compile(r"/[^/]+/\.well-known/jwks\.json")),
    ("authorize", re.compile(r"/oauth2/authorize")),
    ("token", re.compile(r"/oauth2/token")),
    ("revoke", re.compile(r"/oauth2/revoke")),
    ("userinfo", re.compile(r"/oauth2/userInfo")),
    ("login", re.compile(r"/login")),
    ("logout", re.compile(r"/logout")),
)
_QUOTA_ANSWER = Fault(
    status=429, headers={"Content-Type": "text/plain"}, body=b"Rate exceeded"
)


class Wire:
    """A WSGI application around the pool's own.

    Args:
        stopping: set when the server ends; whoever waits then breaks off.
    """

    def __init__(
        self, pool: LocalUserPool, app: WSGIApplication, stopping: threading.Event
    ) -> None:
        self._pool = pool
        self._app = app
        self._stopping = stopping

    def __call__(
        self, environ: WSGIEnvironment, start_response: StartResponse
    ) -> Iterable[bytes]:
        """Answer one request, rightly or as scripted."""
        endpoint = _endpoint(environ["PATH_INFO"])
        if endpoint is None:
            return self._app(environ, start_response)
        request = _read(environ, endpoint, self._pool.clock())
        fault = self._pool.record(request)
        if fault is None and endpoint == "token" and self._pool.over_quota():
            fault = _QUOTA_ANSWER
        if fault is None:
            return self._right(request, environ, start_response)
        log.info("%s %s -> fault", request.method, request.names[0])
        return self._wrong(fault, environ, start_response)

    def _right(
        self,
        request: RecordedRequest,
        environ: WSGIEnvironment,
        start_response: StartResponse,
    ) -> Iterable[bytes]:
        def logging_start(status: str, *args: Any) -> Any:
            log.info("%s %s -> %s", request.method, request.names[0], status[:3])
            return start_response(status, *args)

        return self._app(environ, logging_start)

    def _wrong(
        self, fault: Fault, environ: WSGIEnvironment, start_response: StartResponse
    ) -> Iterable[bytes]:
        if fault.before is not None:
            fault.before()
        self._wait(fault.delay)
        answer = self._work(fault, environ)
        if fault.after is not None:
            fault.after()
        self._wait(fault.delay_after)
        if fault.reset is not None:
            _reset(environ)
        status, headers, body = _edited(answer, fault)
        start_response(status, headers)
        return self._send(fault, body)

    def _work(
        self, fault: Fault, environ: WSGIEnvironment
    ) -> tuple[str, Headers, bytes]:
        if not fault.works:
            return "200 OK", Headers(), b""
        chunks, status, headers = run_wsgi_app(self._app, environ, buffered=True)
        return status, headers, b"".join(chunks)

    def _send(self, fault: Fault, body: bytes) -> Iterator[bytes]:
        most = len(body) // 2 if fault.half else len(body)
        size, pause = fault.drip or (most or 1, 0.0)
        for start in range(0, most, size):
            if start:
                self._wait(pause)
            yield body[start : min(start + size, most)]
        if fault.half:
            _break()

    def _wait(self, seconds: float) -> None:
        if seconds and self._stopping.wait(seconds):
            raise ConnectionAbortedError("the pool stops")


def _endpoint(path: str) -> str | None:
    return next((name for name, pattern in _PATHS if pattern.fullmatch(path)), None)


def _read(environ: WSGIEnvironment, endpoint: str, now: float) -> RecordedRequest:
    length = min(int(environ.get("CONTENT_LENGTH") or 0), _MOST)
    body = environ["wsgi.input"].read(length)
    environ["wsgi.input"] = io.BytesIO(body)
    form = parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True)
    return RecordedRequest(
        endpoint=endpoint,
        method=environ["REQUEST_METHOD"],
        at=now,
        fields=tuple(name for name, _ in form),
        form=dict(reversed(form)),
        query=dict(reversed(parse_qsl(environ.get("QUERY_STRING", "")))),
        headers=_headers(environ),
    )


def _headers(environ: WSGIEnvironment) -> dict[str, str]:
    names = (name for name in environ if name.startswith("HTTP_"))
    headers = {name[5:].replace("_", "-").title(): environ[name] for name in names}
    if environ.get("CONTENT_TYPE"):
        headers["Content-Type"] = environ["CONTENT_TYPE"]
    return headers


def _edited(
    answer: tuple[str, Headers, bytes], fault: Fault
) -> tuple[str, list[tuple[str, str]], bytes]:
    status, headers, body = answer
    if fault.status is not None:
        status = f"{fault.status} {_phrase(fault.status)}"
    if fault.edit is not None:
        body = json.dumps(fault.edit(json.loads(body))).encode()
    if fault.body is not None:
        body = fault.body
    for name, value in fault.headers.items():
        headers[name] = value
    headers["Content-Length"] = fault.headers.get("Content-Length", str(len(body)))
    return status, headers.to_wsgi_list(), body


def _phrase(status: int) -> str:
    known = status in HTTPStatus._value2member_map_
    return HTTPStatus(status).phrase if known else "Unknown"


def _break() -> NoReturn:
    raise ConnectionAbortedError("broken off, as scripted")


def _reset(environ: WSGIEnvironment) -> NoReturn:
    connection: socket.socket = environ["werkzeug.socket"]
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RST_ON_CLOSE)
    _break()


def will_reset(connection: socket.socket) -> bool:
    """Tell whether closing this connection sends a reset (RST)."""
    linger = connection.getsockopt(
        socket.SOL_SOCKET, socket.SO_LINGER, len(_RST_ON_CLOSE)
    )
    return linger == _RST_ON_CLOSE
