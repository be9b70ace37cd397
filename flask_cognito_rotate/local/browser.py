"""The browser's part of a login, for tests."""

from __future__ import annotations

from urllib.parse import urljoin

import requests

from .users import User

_TIMEOUT = 30  # seconds


def sign_in(
    session: requests.Session | None, authorize_url: str, user: User, base: str
) -> str:
    """Open `authorize_url`, fill the sign-in page in, return the callback URL.

    Raises:
        RuntimeError: the pool showed a page instead of redirecting.
    """
    if session is not None:
        return _walk(session, authorize_url, user, base)
    with requests.Session() as fresh:
        fresh.trust_env = False
        return _walk(fresh, authorize_url, user, base)


def _walk(session: requests.Session, url: str, user: User, base: str) -> str:
    form = {"username": user.email, "password": user.password}
    target = _location(session.get(url, allow_redirects=False, timeout=_TIMEOUT), url)
    if target.startswith(f"{base}/login"):
        page = session.post(target, data=form, allow_redirects=False, timeout=_TIMEOUT)
        target = _location(page, target)
    if target.startswith(f"{base}/error"):
        raise RuntimeError(f"the pool refused the login: {target}")
    return target


def _location(response: requests.Response, url: str) -> str:
    if "Location" not in response.headers:
        raise RuntimeError(f"no redirect from the pool, but {response.status_code}")
    return urljoin(url, response.headers["Location"])
