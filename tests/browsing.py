"""What tests do with a browser: look into its cookies, copy them, sign out."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

#: How a script of the page asks, and how a person does.
SCRIPT = {"Sec-Fetch-Mode": "cors", "Accept": "application/json"}
NAVIGATE = {"Sec-Fetch-Mode": "navigate", "Accept": "text/html"}

_CSRF_TOKEN = re.compile(r'name="csrfToken"\s+value="([0-9a-f]*)"')


@dataclass(frozen=True)
class SetCookie:
    """One ``Set-Cookie`` header, taken apart."""

    name: str
    value: str
    attributes: dict[str, str | bool] = field(default_factory=dict)
    size: int = 0

    @property
    def deletes(self) -> bool:
        return self.value == "" and self.attributes.get("Max-Age") == "0"


def cookies_set(response: TestResponse) -> dict[str, SetCookie]:
    """Return the cookies that a response sets or deletes, by name."""
    found = {}
    for header in response.headers.getlist("Set-Cookie"):
        pair, *rest = header.split("; ")
        name, _, value = pair.partition("=")
        attributes: dict[str, str | bool] = {}
        for attribute in rest:
            key, given, text = attribute.partition("=")
            attributes[key] = text if given else True
        found[name] = SetCookie(name, value, attributes, len(header))
    return found


def cookie_names(app: Flask) -> tuple[str, str]:
    """Return the names of the session cookie's two parts, on plain http."""
    name = app.extensions["cognito_rotate"].settings.cookie_name
    return name, f"{name}.1"


def session_cookies(client: FlaskClient) -> dict[str, str]:
    """Return the parts of the session cookie that a browser holds."""
    held = {
        name: client.get_cookie(name, path=_path(client))
        for name in cookie_names(client.application)
    }
    return {name: cookie.value for name, cookie in held.items() if cookie is not None}


def put_cookies(client: FlaskClient, cookies: dict[str, str]) -> None:
    """Give a browser these session cookies and no others."""
    for name in cookie_names(client.application):
        client.delete_cookie(name, path=_path(client))
    for name, value in cookies.items():
        client.set_cookie(name, value, path=_path(client))


def twin(client: FlaskClient, app: Flask | None = None) -> FlaskClient:
    """Return another client with the same session cookie, as it is now."""
    other = (app or client.application).test_client()
    put_cookies(other, session_cookies(client))
    return other


def sign_out(client: FlaskClient, **options: Any) -> TestResponse:
    """Press the button of the logout page."""
    page = client.get("/auth/logout")
    found = _CSRF_TOKEN.search(page.text)
    assert found is not None, page.text
    options.setdefault("headers", {"Origin": "http://localhost"})
    return client.post("/auth/logout", data={"csrfToken": found[1]}, **options)


def _path(client: FlaskClient) -> str:
    path: str = client.application.extensions["cognito_rotate"].settings.cookie_path
    return path
