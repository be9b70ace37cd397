"""A gunicorn with several workers in front of the example application."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests

from flask_cognito_rotate.local import LocalUserPool

HERE = Path(__file__).parent


class Server:
    """A running gunicorn."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, log: Path) -> None:
        self.process = process
        self.url = f"http://127.0.0.1:{port}"
        self._log = log

    def log(self) -> str:
        return self._log.read_text()

    def sign_in(self, pool: LocalUserPool) -> dict[str, str]:
        """Sign a browser in and return its cookies."""
        with requests.Session() as browser:
            begun = browser.get(f"{self.url}/auth/login", allow_redirects=False)
            assert begun.status_code == 302, begun.text
            back = pool.sign_in(None, begun.headers["Location"])
            assert browser.get(back, allow_redirects=False).status_code == 302
            return browser.cookies.get_dict()

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(10)


StartServer = Callable[..., Server]


@pytest.fixture
def live_pool() -> Iterator[LocalUserPool]:
    """A pool by the real clock, with strict rotation and tokens of 3 s."""
    with LocalUserPool(access_token_validity=3, grace=0) as pool:
        yield pool


@pytest.fixture
def start_server(live_pool: LocalUserPool, tmp_path: Path) -> Iterator[StartServer]:
    servers: list[Server] = []

    def start(
        *options: str, instance: Path = tmp_path / "instance", **settings: str
    ) -> Server:
        port = _free_port()
        log = tmp_path / f"gunicorn-{port}.log"
        command = [sys.executable, "-m", "gunicorn", "-b", f"127.0.0.1:{port}"]
        command += ["--chdir", str(HERE), *options, "example_app:app"]
        environment = {
            **os.environ,
            "EXAMPLE_INSTANCE": str(instance),
            "FLASK_SECRET_KEY": "0123456789abcdef0123456789abcdef",
            "COGNITO_REFRESH_LEEWAY": "0",
            **{name: str(value) for name, value in live_pool.config().items()},
            **settings,
        }
        # gunicorn itself is not free of ResourceWarnings.
        environment.pop("PYTHONDEVMODE", None)
        with log.open("wb") as stream:
            process = subprocess.Popen(
                command,
                env=environment,
                stdout=stream,
                stderr=stream,
                start_new_session=True,
            )
        server = Server(process, port, log)
        servers.append(server)
        _wait_until_up(server)
        return server

    yield start
    for server in servers:
        server.stop()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _wait_until_up(server: Server) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        with contextlib.suppress(requests.ConnectionError):
            requests.get(f"{server.url}/auth/session", timeout=5)
            return
        assert server.process.poll() is None, server.log()
        time.sleep(0.1)
    raise AssertionError(server.log())
