"""The threaded HTTP server, on loopback."""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
from typing import TYPE_CHECKING, Any

from werkzeug.serving import ThreadedWSGIServer, WSGIRequestHandler

from .app import create_app
from .wire import Wire, will_reset

if TYPE_CHECKING:
    from .pool import LocalUserPool

log = logging.getLogger(__name__)

_BACKLOG = 128
_JOIN = 2.0  # seconds that `stop` waits for a connection


class _Handler(WSGIRequestHandler):
    """Reports to this package's logger, and never a query string."""

    protocol_version = "HTTP/1.1"

    def connection_dropped(self, error: BaseException, environ: Any = None) -> None:
        """End the connection: without an answer it would be kept for the next one."""
        self.close_connection = True

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Say nothing: the wire logs what matters."""

    def log(self, type: str, message: str, *args: Any) -> None:
        # The arguments may hold a request line, and so a code or a token.
        log.debug("%s: %s", type, message)


class _Server(ThreadedWSGIServer):
    """Knows its open connections, so that it can end all of them."""

    def __init__(self, host: str, listening: socket.socket, app: Any) -> None:
        self._open: dict[socket.socket, threading.Thread] = {}
        self._guard = threading.Lock()
        port = listening.getsockname()[1]
        super().__init__(host, port, app, _Handler, fd=listening.fileno())

    def log(self, type: str, message: str, *args: Any) -> None:
        log.error("%s", message % args if args else message)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve one connection in a thread of its own."""
        thread = threading.Thread(
            target=self.process_request_thread,
            args=(request, client_address),
            name="local-user-pool-request",
            daemon=True,
        )
        with self._guard:
            self._open[request] = thread
        thread.start()

    def shutdown_request(self, request: Any) -> None:
        """Close one connection: by a reset where a fault asks for that."""
        with self._guard:
            self._open.pop(request, None)
        if will_reset(request):
            self.close_request(request)
        else:
            super().shutdown_request(request)

    def end_connections(self) -> None:
        """Break all connections and wait for their threads."""
        with self._guard:
            connections = dict(self._open)
        for connection, thread in connections.items():
            _shut(connection)
            thread.join(_JOIN)


def _shut(connection: socket.socket) -> None:
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        log.debug("a connection was closed already")


class PoolServer:
    """Serves one pool from `start` to `stop`.

    Raises:
        OSError: the port is taken.
    """

    def __init__(self, pool: LocalUserPool) -> None:
        self._stopping = threading.Event()
        self._host = pool.host
        wire = Wire(pool, create_app(pool), self._stopping)
        with _listen(pool.host, pool.port) as listening:
            # werkzeug duplicates the socket; binding it ourselves makes a taken port
            # an OSError instead of an exit of the whole process.
            self._server = _Server(pool.host, listening, wire)
        self._thread = threading.Thread(
            target=self._serve, name="local-user-pool", daemon=True
        )

    @property
    def port(self) -> int:
        """The TCP port that was taken."""
        return self._server.port

    def start(self) -> None:
        """Accept connections, in a daemon thread."""
        self._thread.start()

    def stop(self) -> None:
        """Close the port and all connections; wait for the threads."""
        self._stopping.set()
        self._knock()
        self._thread.join()
        self._server.end_connections()

    def _serve(self) -> None:
        with self._server:
            while not self._stopping.is_set():
                self._server.handle_request()

    def _knock(self) -> None:
        # Wakes the accepting loop at once, where `serve_forever` would poll for this.
        address = (self._host, self._server.port)
        # Refused, it is awake already and has left.
        with contextlib.suppress(OSError):
            socket.create_connection(address, timeout=_JOIN).close()


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.listen(_BACKLOG)
    except OSError:
        listening.close()
        raise
    return listening
