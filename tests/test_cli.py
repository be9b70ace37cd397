"""`flask cognito local`, as a program of its own and in the same process."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from click.testing import CliRunner, Result

from flask_cognito_rotate.cli import cognito
from flask_cognito_rotate.local import LocalUserPool

FLASK = [sys.executable, "-W", "error", "-m", "flask"]


class Interrupt:
    """In the place of an event: whoever waits for it is interrupted."""

    def wait(self) -> None:
        raise KeyboardInterrupt


@pytest.fixture
def pools(monkeypatch: pytest.MonkeyPatch) -> list[LocalUserPool]:
    """Catch the pools that the command starts, and interrupt it at once."""
    started: list[LocalUserPool] = []
    start = LocalUserPool.start

    def noted(pool: LocalUserPool) -> LocalUserPool:
        started.append(pool)
        return start(pool)

    monkeypatch.setattr(LocalUserPool, "start", noted)
    monkeypatch.setattr("flask_cognito_rotate.cli._until_interrupted", Interrupt().wait)
    return started


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cognito, ["local", *arguments])


@pytest.fixture
def program(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    arguments = [*FLASK, "cognito", "local", "--port", "0"]
    with subprocess.Popen(
        arguments,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        guard = threading.Timer(20, process.kill)
        guard.start()
        yield process
        guard.cancel()
        process.kill()


def exported(process: subprocess.Popen[str]) -> dict[str, str]:
    assert process.stdout is not None
    settings: dict[str, str] = {}
    for line in process.stdout:
        if line.startswith("export "):
            name, _, value = line.removeprefix("export ").strip().partition("=")
            settings[name] = value
        if line.startswith("Users"):
            return settings
    raise AssertionError(process.stderr.read() if process.stderr else "no output")


def test_it_runs_without_an_application_until_it_is_interrupted(
    program: subprocess.Popen[str],
) -> None:
    """In an empty folder, `flask cognito local` serves what it prints."""
    settings = exported(program)
    issuer = settings["COGNITO_ISSUER"]
    document = requests.get(f"{issuer}/.well-known/openid-configuration")

    program.send_signal(signal.SIGINT)
    out, err = program.communicate(timeout=10)

    assert set(settings) == {
        "COGNITO_ISSUER",
        "COGNITO_CLIENT_ID",
        "COGNITO_CLIENT_SECRET",
    }
    assert document.json()["issuer"] == issuer
    assert "has stopped" in out
    assert (program.returncode, "Traceback" in err) == (0, False)


def test_settings_reach_the_pool(pools: list[LocalUserPool]) -> None:
    """Every option changes the pool in the way that it says."""
    result = run(
        "--port=0",
        "--host=localhost",
        "--access-token-validity=30",
        "--refresh-token-validity=90",
        "--no-rotation",
        "--grace=10",
        "--redirect-uri=http://localhost:5000/auth/callback",
        "--logout-uri=http://localhost:5000/",
        "--client-id=me",
        "--client-secret=it is",
    )
    (pool,) = pools

    assert result.exit_code == 0, result.output
    assert "export COGNITO_CLIENT_SECRET='it is'\n" in result.output
    assert pool.issuer.startswith("http://localhost:")
    assert (pool.access_token_validity, pool.refresh_token_validity) == (30, 90)
    assert (pool.rotation, pool.grace) == (False, 10)
    assert pool.redirect_uris == {"http://localhost:5000/auth/callback"}
    assert pool.logout_uris == {"http://localhost:5000/"}


def test_users_take_the_place_of_alice_and_bob(pools: list[LocalUserPool]) -> None:
    """Password and groups of `--user` are optional."""
    result = run(
        "--port=0", "--user=a@b.c", "--user=d@e.f:secret:x,y", "--user=g@h.i::z"
    )
    users = {user.email: (user.password, user.groups) for user in pools[0].users}

    assert result.exit_code == 0, result.output
    assert users == {
        "a@b.c": ("password", ()),
        "d@e.f": ("secret", ("x", "y")),
        "g@h.i": ("password", ("z",)),
    }
    assert "secret" not in result.output.replace("SECRET", "")


def test_a_public_client_has_no_secret_to_paste(pools: list[LocalUserPool]) -> None:
    """`--public` prints two settings and tells to unset the third."""
    result = run("--port=0", "--public")

    assert pools[0].client_secret is None
    assert "unset COGNITO_CLIENT_SECRET\n" in result.output


def test_the_settings_stay_the_same(pools: list[LocalUserPool]) -> None:
    """A pool that is started again fits the configuration of before."""
    run("--port=0")
    run(f"--port={pools[0].port}")

    assert pools[0].config() == pools[1].config()


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--host=0.0.0.0"], 2, "use 127.0.0.1"),
        (["--public", "--client-secret=x"], 2, "exclude each other"),
        (["--user=nobody"], 2, "EMAIL:PASSWORD:GROUP"),
        (["--grace=61"], 2, "0<=x<=60"),
        (["--host=127.0.0.1", "--port=70000"], 2, "65535"),
    ],
)
def test_mistakes_are_told_with_their_remedy(
    arguments: list[str], status: int, message: str
) -> None:
    """A wrong option ends the command before anything listens."""
    result = run(*arguments)

    assert result.exit_code == status
    assert message in result.output


def test_a_taken_port_is_told_with_the_remedy() -> None:
    """The message names the port and the option that takes another one."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = run(f"--port={port}")

    assert result.exit_code == 1
    assert f"Port {port} is taken" in result.output
    assert "--port" in result.output


def test_other_failures_to_listen_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the system says is passed on in one line."""

    def refuse(pool: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(LocalUserPool, "start", refuse)
    result = run("--port=80")

    assert result.exit_code == 1
    assert "Cannot listen on 127.0.0.1, port 80: Permission denied." in result.output


def test_help_loads_no_web_server() -> None:
    """`flask --help` pays for no cryptography: the pool is imported when it runs."""
    program = (
        "import sys, flask_cognito_rotate.cli;"
        "print(sorted(n for n in sys.modules if 'rotate.local' in n or n == 'authlib'))"
    )

    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )

    assert done.stdout.strip() == "[]"
