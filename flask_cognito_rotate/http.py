"""HTTP calls that end: bounded as a whole in time, and in size.

The `timeout` of requests bounds each wait for bytes, not the call: a server that drips
one byte at a time holds it for ever, and name resolution is not bounded at all. So the
call runs in a thread of its own; who waits for it goes on at the deadline and shuts the
socket down, which ends the thread.

Every call opens a new connection. On one that is kept alive, a server's idle time-out
looks like an answer that was lost, and a refresh token may be sent only once.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import requests
from authlib.integrations.requests_client import OAuth2Session
from requests.adapters import HTTPAdapter
from urllib3.exceptions import (
    ConnectTimeoutError,
    HTTPError,
    NameResolutionError,
    NewConnectionError,
)
from urllib3.exceptions import ProxyError as PoolProxyError
from urllib3.exceptions import SSLError as PoolSSLError

from .errors import ProviderUnavailable

#: A token answer has some 7 kB, a key set 1 kB.
MAX_ANSWER_BYTES: Final = 512 * 1024

_NEVER_SENT: Final = (
    requests.ConnectTimeout,
    requests.exceptions.ProxyError,
    requests.exceptions.SSLError,
    ConnectTimeoutError,
    NameResolutionError,
    NewConnectionError,
    PoolProxyError,
    PoolSSLError,
)


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer, whole; its body may hold tokens."""

    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Call:
    """An HTTP request. `secret` None: the client is public, or none is needed."""

    method: str
    url: str
    form: Mapping[str, str] | None = field(default=None, repr=False)
    client_id: str | None = None
    secret: str | None = field(default=None, repr=False)


def send(call: Call, *, timeout: float) -> Answer:
    """Send `call` and return the whole answer within `timeout` seconds.

    Redirects are not followed: a POST with a token in it goes where it was sent.

    Raises:
        ProviderUnavailable: no answer, in time, of at most `MAX_ANSWER_BYTES`; its
            attributes tell what is known about whether the request arrived.
    """
    exchange = _Exchange(call, timeout)
    try:
        exchange.thread.start()
    except RuntimeError as error:
        raise ProviderUnavailable("no thread to send with", sent=False) from error
    return exchange.result()


class BoundedAdapter(HTTPAdapter):
    """An adapter whose connections can be shut down from another thread."""

    def __init__(self) -> None:
        self._sockets: list[socket.socket] = []
        super().__init__()

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        manager: Any = self.poolmanager
        manager.pool_classes_by_scheme = {
            scheme: _tracked(pool, self._sockets.append)
            for scheme, pool in manager.pool_classes_by_scheme.items()
        }

    def shut_down(self) -> None:
        """Wake whoever waits for bytes of this adapter's connections."""
        for sock in self._sockets:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)


def _tracked(pool: Any, register: Callable[[socket.socket], None]) -> Any:
    class Connection(pool.ConnectionCls):  # type: ignore[misc]
        def connect(self) -> None:
            super().connect()
            register(self.sock)

    return type(pool.__name__, (pool,), {"ConnectionCls": Connection})


class _Exchange:
    """One call in a thread of its own."""

    def __init__(self, call: Call, timeout: float) -> None:
        self._call = call
        self._timeout = timeout
        self._adapter = BoundedAdapter()
        self._done = threading.Event()
        self._outcome: Answer | BaseException | None = None
        self.thread = threading.Thread(
            target=self._run, name="cognito-http", daemon=True
        )

    def _run(self) -> None:
        try:
            self._outcome = self._exchange()
        except BaseException as error:  # noqa: BLE001 (re-raised by `result`)
            self._outcome = error
        self._done.set()

    def result(self) -> Answer:
        if not self._done.wait(self._timeout):
            self._adapter.shut_down()
            raise ProviderUnavailable(f"no answer in {self._timeout:g} s")
        outcome = self._outcome
        if isinstance(outcome, Answer):
            return outcome
        if isinstance(outcome, (requests.RequestException, HTTPError, OSError)):
            raise _unavailable(outcome) from None
        assert outcome is not None  # noqa: S101
        raise outcome

    def _exchange(self) -> Answer:
        call = self._call
        with OAuth2Session(call.client_id, call.secret) as session:
            session.mount("https://", self._adapter)
            session.mount("http://", self._adapter)
            auth = session.client_auth("client_secret_basic") if call.secret else _bare
            response = session.request(
                call.method,
                call.url,
                withhold_token=True,
                auth=auth,
                data=call.form,
                headers={"Accept": "application/json", "Accept-Encoding": "identity"},
                timeout=self._timeout,
                allow_redirects=False,
                stream=True,
            )
            with response:
                return Answer(
                    response.status_code, dict(response.headers), _body(response)
                )


def _bare(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """Authenticate with nothing; without it, requests would look into ~/.netrc."""
    return request


def _body(response: requests.Response) -> bytes:
    body: bytes = response.raw.read(MAX_ANSWER_BYTES + 1)
    if len(body) > MAX_ANSWER_BYTES:
        raise ProviderUnavailable("the answer is too large")
    return body


def _unavailable(error: BaseException) -> ProviderUnavailable:
    """Say what is known. The text of `error` may hold the URL and stays out."""
    kind = type(error).__name__
    if isinstance(error, requests.Timeout) and not isinstance(
        error, requests.ConnectTimeout
    ):
        return ProviderUnavailable(f"no answer in time ({kind})")
    if _never_sent(error):
        return ProviderUnavailable(f"cannot be reached ({kind})", sent=False)
    return ProviderUnavailable(f"the connection broke ({kind})", broken=True)


def _never_sent(error: BaseException) -> bool:
    if isinstance(error, _NEVER_SENT):
        return True
    if not isinstance(error, (requests.ConnectionError, HTTPError, OSError)):
        return True  # an invalid URL, say: requests raised it before sending
    inner = error.args[0] if error.args else None
    reason = getattr(inner, "reason", inner)
    return isinstance(reason, _NEVER_SENT)
