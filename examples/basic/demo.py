"""What makes the application a demo: a local user pool, and buttons to break things.

An application of your own needs nothing of this file.
"""

from __future__ import annotations

import argparse
import logging
import os
import secrets
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from flask import Blueprint, Flask, abort, redirect, request, url_for
from werkzeug.serving import make_server
from werkzeug.wrappers import Response

from flask_cognito_rotate import ConfigurationError, login_exempt
from flask_cognito_rotate.local import Fault, LocalUserPool
from flask_cognito_rotate.signals import token_refresh_failed, token_refreshed

HOST = "127.0.0.1"
TOKEN_SECONDS = 30
REAL_POOL = (
    "COGNITO_ISSUER=https://cognito-idp.REGION.amazonaws.com/POOL_ID "
    "COGNITO_CLIENT_ID=ID COGNITO_CLIENT_SECRET=SECRET"
)


class Clock:
    """The time of the application and of its local pool, to be put forward."""

    def __init__(self) -> None:
        self._ahead = 0.0

    def __call__(self) -> float:
        return time.time() + self._ahead

    def advance(self, seconds: float) -> None:
        self._ahead += seconds


class Demo:
    """The demo's side of the application.

    Args:
        folder: for the cache; it goes away with the demo.
        pool: the local user pool; None: a real one, by the environment.
        clock: the one that `pool` has, too.
    """

    def __init__(self, folder: str, pool: LocalUserPool | None, clock: Clock) -> None:
        self.folder = folder
        self.pool = pool
        self.clock = clock
        self.settings: dict[str, Any] = {"SECRET_KEY": secrets.token_hex(32)}
        if pool is not None:
            self.settings |= {
                **pool.config(),
                "COGNITO_REFRESH_LEEWAY": 5,
                # The pool takes another port and forgets everybody with each start:
                # browsers should not collect what it leaves behind.
                "COGNITO_COOKIE_NAME": "cognito_demo",
                "COGNITO_SESSION_MAX_AGE": 3600,
            }
        self.is_broken = False
        self._calls = 0
        token_refreshed.connect(self._count)
        token_refresh_failed.connect(self._count)

    @property
    def refresh_calls(self) -> int:
        """How often Cognito was asked for new tokens; the local pool counts itself."""
        return self.pool.counters["token.refresh_token"] if self.pool else self._calls

    def buttons(self) -> Blueprint:
        """Return the routes of the buttons; none for a real pool."""
        buttons = login_exempt(Blueprint("demo", __name__, url_prefix="/demo"))
        buttons.before_request(_only_own_forms)
        pool = self.pool
        if pool is None:
            return buttons

        @buttons.post("/expire")
        def expire() -> Response:
            # Nobody's token outlives this, for the pool and the application alike.
            self.clock.advance(TOKEN_SECONDS)
            return _back()

        @buttons.post("/break")
        def break_provider() -> Response:
            pool.faults.always("token.refresh_token", Fault(status=503))
            self.is_broken = True
            return _back()

        @buttons.post("/mend")
        def mend_provider() -> Response:
            pool.faults.clear()
            self.is_broken = False
            return _back()

        return buttons

    def _count(self, _: Flask, **__: Any) -> None:
        self._calls += 1


def run(create_app: Callable[[Demo], Flask]) -> None:
    """Serve the application until Ctrl-C."""
    port = _arguments().port
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s  %(message)s", datefmt="%H:%M:%S"
    )
    logging.getLogger("flask_cognito_rotate").setLevel(logging.DEBUG)
    logging.getLogger("flask_cognito_rotate.local").setLevel(logging.INFO)
    # It names addresses with authorization codes in them.
    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    for end in (signal.SIGINT, signal.SIGTERM):
        signal.signal(end, signal.default_int_handler)
    try:
        with ExitStack() as stack:
            listening = stack.enter_context(_listen(port))
            folder = stack.enter_context(
                tempfile.TemporaryDirectory(
                    prefix="cognito-demo-", ignore_cleanup_errors=True
                )
            )
            demo = Demo(folder, *_provider(stack))
            port = listening.getsockname()[1]
            server = make_server(
                HOST, port, create_app(demo), threaded=True, fd=listening.fileno()
            )
            _introduce(demo, port)
            stack.callback(_finish_in_peace)
            server.serve_forever()
    except ConfigurationError as error:
        sys.exit(f"The settings in the environment do not work:{error}")
    except KeyboardInterrupt:
        pass


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="The demo of flask-cognito-rotate.")
    parser.add_argument(
        "--port",
        type=int,
        default=5000,
        choices=range(65536),
        metavar="PORT",
        help="TCP port to listen on; 0 takes a free one (default: %(default)s)",
    )
    return parser.parse_args()


def _listen(port: int) -> socket.socket:
    try:
        return socket.create_server((HOST, port))
    except OSError as error:
        reason = os.strerror(error.errno or 0)
        sys.exit(
            f"Port {port} cannot be used: {reason}. "
            "Choose another one with --port; --port 0 takes a free one."
        )


def _provider(stack: ExitStack) -> tuple[LocalUserPool | None, Clock]:
    clock = Clock()
    if os.environ.get("COGNITO_ISSUER"):
        return None, clock
    pool = LocalUserPool(access_token_validity=TOKEN_SECONDS, grace=0, clock=clock)
    return stack.enter_context(pool), clock


def _introduce(demo: Demo, port: int) -> None:
    if demo.pool is not None:
        users = " or ".join(user.email for user in demo.pool.users)
        lines = [
            f"Open      http://{HOST}:{port}/",
            f"Sign in   as {users}, with the password: password",
            f"Provider  {demo.pool.url}, a local user pool: for development, not AWS",
            f"          A real one: {REAL_POOL}, in front of the same command",
        ]
    else:
        # Cognito takes plain http for this name only.
        url = f"http://localhost:{port}/"
        lines = [
            f"Open      {url}",
            f"Provider  {os.environ['COGNITO_ISSUER']}",
            f"          At its app client, register {url}auth/callback as callback URL "
            f"and {url} as sign-out URL",
        ]
    print(
        "The demo runs; Ctrl-C ends it.\n", *lines, sep="\n  ", end="\n\n", flush=True
    )


def _finish_in_peace() -> None:
    """Ignore the second Ctrl-C: tox passes on what the terminal has sent already."""
    for end in (signal.SIGINT, signal.SIGTERM):
        signal.signal(end, signal.SIG_IGN)


def _only_own_forms() -> None:
    """Refuse what another site sent: nobody else presses these buttons."""
    site = request.headers.get("Sec-Fetch-Site")
    if site is None:
        own = request.headers.get("Origin") == request.host_url.rstrip("/")
    else:
        own = site == "same-origin"
    if not own:
        abort(403)


def _back() -> Response:
    return redirect(url_for("index"), 303)
