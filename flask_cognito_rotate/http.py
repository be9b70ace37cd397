"""HTTP calls that end: bounded as a whole in time, and in size.

The `timeout` of requests bounds each wait for bytes, not the call: a server that drips
one byte at a time holds it for ever, and name resolution is not bounded at all. So the
call runs in a thread of its own; who waits for it goes on at the deadline and shuts the
socket down, which ends the thread. What is not connected by then is never sent.

Every call opens a new connection. On one that is kept alive, a server's idle time-out
looks like an answer that was lost, and a refresh token may be sent only once.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import requests
from authlib.integrations.requests_client import OAuth2Session
from requests.adapters import HTTPAdapter
from urllib3.exceptions import HTTPError
from urllib3.exceptions import TimeoutError as PoolTimeoutError

from .errors import ProviderUnavailable

#: A token answer has some 7 kB, a key set 1 kB.
MAX_ANSWER_BYTES: Final = 512 * 1024
_PIECE_BYTES: Final = 64 * 1024


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
    """An adapter for one call, which another thread can end."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._over = False
        #: Copies, because TLS takes the original descriptor away from its socket.
        self._sockets: list[socket.socket] = []
        #: True once a connection stands, TLS included: from then on nobody knows
        #: what of the request has arrived.
        self.connected = False
        super().__init__()

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self._track(self.poolmanager)

    def proxy_manager_for(self, *args: Any, **kwargs: Any) -> Any:
        return self._track(super().proxy_manager_for(*args, **kwargs))

    def shut_down(self) -> None:
        """Wake whoever waits for bytes, and let nothing be sent from now on."""
        with self._lock:
            self._over = True
            for sock in self._sockets:
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        super().close()
        with self._lock:
            self._over = True
            while self._sockets:
                self._sockets.pop().close()

    def opened(self, sock: socket.socket) -> None:
        """Take note of a TCP connection. Raises TimeoutError when it is too late."""
        with self._lock:
            try:
                self._go_on()
                self._sockets.append(sock.dup())
            except OSError:
                sock.close()
                raise

    def ready(self) -> None:
        """Let the request be sent. Raises TimeoutError when it is too late."""
        with self._lock:
            self._go_on()
            self.connected = True

    def _go_on(self) -> None:
        if self._over:
            raise TimeoutError("the call is over")

    def _track(self, manager: Any) -> Any:
        manager.pool_classes_by_scheme = {
            scheme: _tracked(pool, self)
            for scheme, pool in manager.pool_classes_by_scheme.items()
        }
        return manager


def _tracked(pool: Any, adapter: BoundedAdapter) -> Any:
    class Connection(pool.ConnectionCls):  # type: ignore[misc]
        def _new_conn(self) -> socket.socket:
            sock: socket.socket = super()._new_conn()
            adapter.opened(sock)
            return sock

        def connect(self) -> None:
            super().connect()
            adapter.ready()

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
        in_time = self._done.wait(self._timeout)
        if not in_time:
            self._adapter.shut_down()
        outcome = self._outcome
        if isinstance(outcome, Answer):
            return outcome
        if not in_time:
            raise ProviderUnavailable(
                f"no answer in {self._timeout:g} s", sent=self._adapter.connected
            )
        if isinstance(outcome, (requests.RequestException, HTTPError, OSError)):
            raise _unavailable(outcome, self._adapter.connected) from None
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
    body = b""
    # Only a read at the end tells an answer that is whole from one that broke off.
    while piece := response.raw.read(_PIECE_BYTES):
        body += piece
        if len(body) > MAX_ANSWER_BYTES:
            raise ProviderUnavailable("the answer is too large")
    return body


def _unavailable(error: BaseException, connected: bool) -> ProviderUnavailable:
    """Say what is known. The text of `error` may hold the URL and stays out."""
    kind = type(error).__name__
    if not connected:
        return ProviderUnavailable(f"cannot be reached ({kind})", sent=False)
    if isinstance(error, (requests.Timeout, PoolTimeoutError, TimeoutError)):
        return ProviderUnavailable(f"no answer in time ({kind})")
    return ProviderUnavailable(f"the connection broke ({kind})", broken=True)
