"""`auth.protect`: a guard for a blueprint and all that is nested in it."""

from __future__ import annotations

from typing import Any

import pytest
from browsing import NAVIGATE, SCRIPT
from flask import Blueprint, Flask
from flask.views import MethodView

from flask_cognito_rotate import CognitoAuth, login_exempt


def build(make_app: Any, clock: Any, **guard: Any) -> Flask:
    auth = CognitoAuth(clock=clock)
    outer = Blueprint("outer", __name__, url_prefix="/outer")
    inner = Blueprint("inner", __name__, url_prefix="/inner")
    opened = login_exempt(Blueprint("opened", __name__, url_prefix="/opened"))
    outer.add_url_rule("/", "index", lambda: "outer")
    outer.add_url_rule("/open", "open", login_exempt(lambda: "open"))
    inner.add_url_rule("/", "index", lambda: "inner")
    opened.add_url_rule("/", "index", lambda: "opened")
    outer.register_blueprint(inner)
    outer.register_blueprint(opened)
    auth.protect(outer, **guard)
    app: Flask = make_app(auth=auth)
    app.register_blueprint(outer)
    app.add_url_rule("/beside", "beside", lambda: "beside")
    return app


def test_blueprint_and_nested(make_app: Any, sign_in: Any, clock: Any) -> None:
    """Views of the blueprint and of nested ones ask for a login, others do not."""
    client = build(make_app, clock).test_client()

    for path in ("/outer/", "/outer/inner/"):
        assert client.get(path, headers=SCRIPT).status_code == 401
        assert client.get(path, headers=NAVIGATE).status_code == 302
    assert client.get("/beside", headers=SCRIPT).text == "beside"

    sign_in(client)
    assert client.get("/outer/").text == "outer"
    assert client.get("/outer/inner/").text == "inner"


def test_exempt_parts(make_app: Any, clock: Any) -> None:
    """`@login_exempt` takes a view or a nested blueprint out."""
    client = build(make_app, clock).test_client()

    assert client.get("/outer/open", headers=SCRIPT).text == "open"
    assert client.get("/outer/opened/", headers=SCRIPT).text == "opened"


@pytest.mark.parametrize(
    ("guard", "status"),
    [
        ({"groups": ["admin"]}, 200),
        ({"groups": ("other", "users")}, 200),
        ({"groups": ["other"]}, 403),
        ({"scopes": ["openid", "email"]}, 200),
        ({"scopes": ["openid", "other"]}, 403),
        ({"groups": ["admin"], "scopes": ["other"]}, 403),
    ],
)
def test_groups_and_scopes(
    make_app: Any, sign_in: Any, clock: Any, guard: Any, status: int
) -> None:
    """Any of the groups and all of the scopes."""
    client = build(make_app, clock, **guard).test_client()
    assert client.get("/outer/inner/", headers=SCRIPT).status_code == 401
    sign_in(client)

    assert client.get("/outer/inner/", headers=SCRIPT).status_code == status


def test_one_name_is_no_list(clock: Any) -> None:
    """A string in the place of a list would be read letter by letter: refused."""
    auth = CognitoAuth(clock=clock)

    with pytest.raises(TypeError, match="list of names"):
        auth.protect(Blueprint("one", __name__), groups="admin")


def test_preflight_passes(make_app: Any, clock: Any) -> None:
    """G09: automatic OPTIONS and 405 are Flask's own answers."""
    client = build(make_app, clock).test_client()

    assert client.options("/outer/").status_code == 200
    assert client.post("/outer/").status_code == 405


def test_protecting_too_late_is_refused(make_app: Any, clock: Any) -> None:
    """A guard that would not take effect is an error, not a surprise."""
    auth = CognitoAuth(clock=clock)
    app = make_app(auth=auth)
    late = Blueprint("late", __name__)
    app.register_blueprint(late)

    with pytest.raises(AssertionError, match="before_request"):
        auth.protect(late)


def test_an_exempt_parent_does_not_open_a_guarded_child(
    make_app: Any, clock: Any
) -> None:
    """What guards a blueprint is closer than what exempts the one around it."""
    auth = CognitoAuth(clock=clock)
    parent = login_exempt(Blueprint("parent", __name__, url_prefix="/parent"))
    child = Blueprint("child", __name__, url_prefix="/child")
    child.add_url_rule("/", "index", lambda: "secret")
    auth.protect(child)
    parent.register_blueprint(child)
    app = make_app(auth=auth)
    app.register_blueprint(parent)

    answer = app.test_client().get("/parent/child/", headers={"Accept": "text/html"})

    assert answer.status_code == 302


def test_a_subclass_of_an_exempt_view_is_not_exempt(make_app: Any) -> None:
    @login_exempt
    class Public(MethodView):
        def get(self) -> str:
            return "public"

    class Secret(Public):
        pass

    app = make_app(COGNITO_LOGIN_REQUIRED=True)
    app.add_url_rule("/open", view_func=Public.as_view("open"))
    app.add_url_rule("/closed", view_func=Secret.as_view("closed"))
    client = app.test_client()

    assert client.get("/open").status_code == 200
    assert client.get("/closed").status_code == 302
