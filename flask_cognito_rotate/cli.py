"""The command `flask cognito`; it is there without an application too."""

from __future__ import annotations

import errno
import logging
import shlex
import threading
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from .local import LocalUserPool


@click.group("cognito")
def cognito() -> None:
    """Amazon Cognito login: tools for development."""


@cognito.command("local")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=9100,
    show_default=True,
    help="TCP port to listen on; 0 takes a free one.",
)
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="Loopback address to listen on; any other is refused.",
)
@click.option(
    "--access-token-validity",
    type=click.IntRange(1, 86_400),
    default=3600,
    show_default=True,
    metavar="SECONDS",
    help="Lifetime of access and ID tokens. Take 30 to watch tokens being refreshed.",
)
@click.option(
    "--refresh-token-validity",
    type=click.IntRange(1),
    default=2_592_000,
    show_default=True,
    metavar="SECONDS",
    help="Lifetime of refresh tokens, counted from the sign-in; rotation does not "
    "prolong it.",
)
@click.option(
    "--rotation/--no-rotation",
    default=True,
    show_default=True,
    help="Does every refresh bring a new refresh token?",
)
@click.option(
    "--grace",
    type=click.IntRange(0, 60),
    default=0,
    show_default=True,
    metavar="SECONDS",
    help="How long a rotated refresh token goes on working.",
)
@click.option(
    "--redirect-uri",
    "redirect_uris",
    multiple=True,
    metavar="URL",
    help="Allowed callback URL, matched exactly; repeatable. Without any, every "
    "loopback http URL is allowed.",
)
@click.option(
    "--logout-uri",
    "logout_uris",
    multiple=True,
    metavar="URL",
    help="Allowed sign-out URL, matched exactly; repeatable. Without any, as above.",
)
@click.option(
    "--user",
    "users",
    multiple=True,
    metavar="EMAIL[:PASSWORD][:GROUP,GROUP]",
    help="A user in the place of Alice and Bob; repeatable. The password is "
    "'password' unless one is given.",
)
@click.option("--client-id", help="Client id; without it, always the same one.")
@click.option("--client-secret", help="Client secret; without it, always the same one.")
@click.option("--public", is_flag=True, help="Let the client have no secret.")
def local(
    port: int,
    host: str,
    users: tuple[str, ...],
    client_secret: str | None,
    public: bool,
    **settings: Any,
) -> None:
    """Run a local Cognito user pool to develop on, until Ctrl-C.

    It needs no AWS account, no network and no Flask application, and it listens on
    this machine only. It prints the settings to paste into the application's shell.
    What it keeps is gone when it stops: users then sign in again.
    """
    if public and client_secret:
        raise click.UsageError("--public and --client-secret exclude each other.")
    secret = None if public else client_secret or "generate"
    pool = _pool(port, host, users, client_secret=secret, **settings)
    _start(pool)
    try:
        _introduce(pool)
        _until_interrupted()
    except KeyboardInterrupt:
        click.echo("\nThe local user pool has stopped.")
    finally:
        pool.stop()


def _until_interrupted() -> None:
    threading.Event().wait()


def _pool(port: int, host: str, users: Iterable[str], **settings: Any) -> LocalUserPool:
    # Late, so that `flask --help` does not pay for a web server and cryptography.
    from .local import LocalUserPool

    people = [_user(text) for text in users]
    try:
        pool = LocalUserPool(port, host, default_users=not people, **settings)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    for email, details in people:
        pool.add_user(email, **details)
    return pool


def _user(text: str) -> tuple[str, dict[str, Any]]:
    email, password, groups = (text.split(":", 2) + ["", ""])[:3]
    if "@" not in email:
        raise click.UsageError(
            f"--user {text!r} has no e-mail address: write EMAIL:PASSWORD:GROUP,GROUP."
        )
    details: dict[str, Any] = {"groups": [name for name in groups.split(",") if name]}
    return email, details | ({"password": password} if password else {})


def _start(pool: LocalUserPool) -> None:
    try:
        pool.start()
    except OSError as error:
        raise click.ClickException(_why(error, pool)) from error


def _why(error: OSError, pool: LocalUserPool) -> str:
    if error.errno == errno.EADDRINUSE:
        return (
            f"Port {pool.port} is taken. Stop what listens there (another local user "
            "pool?), or choose another port with --port."
        )
    return f"Cannot listen on {pool.host}, port {pool.port}: {error.strerror}."


def _introduce(pool: LocalUserPool) -> None:
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s  %(message)s", datefmt="%H:%M:%S"
    )
    exports = (
        f"export {name}={shlex.quote(value)}" if value else f"unset {name}"
        for name, value in pool.config().items()
    )
    people = "\n".join(
        f"  {user.email}  ({', '.join(user.groups) or 'no groups'})"
        for user in pool.users
    )
    lines = "\n".join(exports)
    click.echo(
        "Local user pool: for development, not AWS. Ctrl-C stops it.\n"
        f"\nPaste this into the shell of your application:\n\n{lines}\n"
        f"\nUsers to sign in as:\n\n{people}\n"
    )
