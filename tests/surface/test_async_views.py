"""Async views: guarded as others are."""

from __future__ import annotations

import asyncio
import inspect
from typing import Any

import pytest
from browsing import NAVIGATE, SCRIPT
from flask import Flask
from flask.testing import FlaskClient
from flask.views import MethodView

from flask_cognito_rotate import (
    current_session,
    groups_required,
    login_required,
    scopes_required,
)
from flask_cognito_rotate.local import LocalUserPool


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    @app.get("/async/<name>")
    @login_required
    async def view(name: str) -> dict[str, Any]:
        await asyncio.sleep(0)
        return {"name": name, "email": current_session.user["email"]}

    @app.get("/admin")
    @groups_required("admin")
    @scopes_required("openid")
    async def admin() -> str:
        return "admin"

    @app.get("/other")
    @groups_required("other")
    async def other() -> str:
        return "other"

    class Api(MethodView):
        decorators = [login_required()]

        async def get(self) -> str:
            return str(current_session.user["email"])

    app.add_url_rule("/api", view_func=Api.as_view("api"))
    assert inspect.iscoroutinefunction(app.view_functions["view"])
    return app.test_client()


@pytest.mark.parametrize("path", ["/async/x", "/admin", "/other", "/api"])
def test_nobody(client: FlaskClient, path: str) -> None:
    """The body of a closed async view does not run."""
    assert client.get(path, headers=SCRIPT).status_code == 401
    assert client.get(path, headers=NAVIGATE).status_code == 302


def test_somebody(client: FlaskClient, sign_in: Any) -> None:
    """The session is there after an `await`, too."""
    sign_in(client)

    assert client.get("/async/x").json == {"name": "x", "email": "alice@example.com"}
    assert client.get("/admin").text == "admin"
    assert client.get("/other").status_code == 403
    assert client.get("/api").text == "alice@example.com"


def test_refresh(
    client: FlaskClient, sign_in: Any, clock: Any, pool: LocalUserPool
) -> None:
    """An async view is served with a refreshed token as any other."""
    sign_in(client)
    clock.advance(3600)

    assert client.get("/async/x").status_code == 200
    assert pool.counters["token.refresh_token"] == 1
