"""The public API as users write it: type-checked, never run."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import requests
from flask import Blueprint, Flask
from flask.views import MethodView

from flask_cognito_rotate import (
    CognitoAuth,
    CognitoAuthError,
    CognitoSession,
    LoginError,
    current_session,
    groups_required,
    login_exempt,
    login_required,
    scopes_required,
    signals,
)
from flask_cognito_rotate.local import LocalUserPool

app = Flask(__name__)
auth = CognitoAuth(app)
later = CognitoAuth(cache="memory:")
later.init_app(app)
admin = Blueprint("admin", __name__)
auth.protect(admin, groups=["admins"], scopes=("orders/read",))
login_exempt(admin)


@app.get("/")
@login_required
def index() -> str:
    expires: datetime | None = current_session.expires
    token: str | None = current_session.access_token
    at: int | None = current_session.access_token_expires
    groups: frozenset[str] = current_session.groups
    user: dict[str, Any] = current_session.user
    answer: requests.Response = current_session.client.get("https://api.example.com")
    changed: bool = current_session.refresh(force=True)
    return f"{expires} {token} {at} {groups} {user} {answer} {changed}"


@app.get("/async")
@login_required()
async def asynchronous(number: int = 1) -> dict[str, int]:
    return {"number": number}


checked: dict[str, int] = {}


async def keeps_its_type() -> None:
    checked.update(await asynchronous(2))


@admin.get("/")
@groups_required("admins", "owners")
@scopes_required("orders/read")
def guarded() -> str:
    return "guarded"


class Public(MethodView):
    decorators = [login_required]

    def get(self) -> str:
        return "public"


login_exempt(Public)


@auth.jwt_callback
def add(
    token: dict[str, Any],
    *,
    account: dict[str, Any] | None,
    user: dict[str, Any],
    trigger: str,
    data: Any,
) -> dict[str, Any]:
    if not user["email"]:
        raise LoginError("An e-mail address is needed.")
    return {**token, "role": "admin"}


@auth.session_callback
def publish(session: dict[str, Any], *, token: dict[str, Any]) -> dict[str, Any]:
    return {**session, "role": token["role"]}


@auth.error_handler
def explain(error: CognitoAuthError) -> tuple[str, int]:
    return str(error), error.status


def hands_over(session: CognitoSession) -> object:
    signals.user_logged_in.connect(hands_over)
    return session["role"]


def pool() -> dict[str, Any]:
    with LocalUserPool(rotation=True, grace=10) as pool:
        hands_over(current_session)
        return pool.config()
