"""The decorators: who may see a view, and what everybody else gets."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
from browsing import NAVIGATE, SCRIPT, cookies_set
from flask import Blueprint, Flask, jsonify
from flask.testing import FlaskClient
from flask.views import MethodView, View
from werkzeug.exceptions import Forbidden, ServiceUnavailable, Unauthorized

from flask_cognito_rotate import (
    AccessDenied,
    LoginRequired,
    RefreshAccessTokenError,
    groups_required,
    login_exempt,
    login_required,
    scopes_required,
)
from flask_cognito_rotate.local import Fault, LocalUserPool


def hello() -> str:
    return "hello"


# Anonymous: a person is sent to the login, a script gets JSON.


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param({"Sec-Fetch-Mode": "navigate"}, id="navigate"),
        pytest.param(
            {"Sec-Fetch-Mode": "navigate", "Accept": "application/json"},
            id="navigate-wins-over-accept",
        ),
        pytest.param({"Accept": "text/html,*/*;q=0.8"}, id="accepts-html"),
        pytest.param({"Accept": "TEXT/HTML"}, id="accepts-upper-case"),
        pytest.param({}, id="says-nothing"),
    ],
)
def test_navigation(client: FlaskClient, headers: dict[str, str]) -> None:
    """A browser that opens a page is redirected to the login, and comes back."""
    response = client.get("/private?page=2&q=a+b", headers=headers)

    assert response.status_code == 302
    login, _, query = response.location.partition("?")
    assert login == "/auth/login"
    assert query == "next=/private?page%3D2%26q%3Da%2Bb"
    assert "no-store" in response.headers["Cache-Control"]
    assert "Cookie" in response.headers["Vary"]
    assert not cookies_set(response)


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param({"Sec-Fetch-Mode": "cors"}, id="G09-cors"),
        pytest.param({"Sec-Fetch-Mode": "same-origin"}, id="G09-same-origin"),
        pytest.param({"Sec-Fetch-Mode": "no-cors", "Accept": "text/html"}, id="image"),
        pytest.param({"Accept": "application/json"}, id="G09-json"),
        pytest.param({"Accept": "*/*"}, id="G09-anything"),
        pytest.param({"Content-Type": "application/json"}, id="G09-json-body"),
    ],
)
def test_script(client: FlaskClient, headers: dict[str, str]) -> None:
    """G09: a script gets 401 with the login's URL in it: no redirect, no state."""
    response = client.get("/private?page=2", headers=headers)

    assert response.status_code == 401
    assert response.json == {
        "error": "login_required",
        "login_url": "/auth/login?next=/private?page%3D2",
    }
    assert "no-store" in response.headers["Cache-Control"]
    assert "Cookie" in response.headers["Vary"]
    assert not cookies_set(response)


def test_login_url_of_a_script_works(
    client: FlaskClient, sign_in: Any, pool: LocalUserPool
) -> None:
    """A script may send its page to `login_url` as it is."""
    url = client.get("/private", headers=SCRIPT).json["login_url"]
    back = client.get(pool.sign_in(None, client.get(url).location))

    assert back.location == "/private"


@pytest.fixture
def form_app(app: Flask) -> Flask:
    app.add_url_rule(
        "/form",
        "form",
        login_required(hello),
        methods=["GET", "POST", "PUT", "DELETE"],
    )
    return app


@pytest.mark.parametrize(
    ("referer", "target"),
    [
        pytest.param("http://localhost/page", "/page", id="same-origin"),
        pytest.param("http://localhost/page?secret=1", "/page", id="query-is-dropped"),
        pytest.param("https://evil.example/page", "/", id="other-origin"),
        pytest.param("//evil.example/page", "/", id="no-scheme"),
        pytest.param(None, "/", id="none"),
    ],
)
def test_posted_form(form_app: Flask, referer: str | None, target: str) -> None:
    """G09: a POST is not replayed: 303, back to the page that it came from."""
    headers = {**NAVIGATE, **({"Referer": referer} if referer else {})}

    response = form_app.test_client().post("/form", headers=headers)

    assert response.status_code == 303
    assert response.location == f"/auth/login?next={target}"


def test_posted_by_a_script(form_app: Flask) -> None:
    """G09: a script's POST is answered 401, its target the page that it runs in."""
    headers = {**SCRIPT, "Referer": "http://localhost/page"}

    response = form_app.test_client().post("/form", headers=headers, json={})

    assert response.status_code == 401
    assert response.json["login_url"] == "/auth/login?next=/page"


def test_head(client: FlaskClient) -> None:
    """G09: HEAD is answered as GET is."""
    assert client.head("/private", headers=NAVIGATE).status_code == 302
    assert client.head("/private", headers=SCRIPT).status_code == 401


def test_preflight_is_not_blocked(form_app: Flask) -> None:
    """G09: OPTIONS comes without a cookie, and Flask answers it."""
    assert form_app.test_client().options("/form").status_code == 200


def test_options_is_no_way_around(app: Flask) -> None:
    """A view that takes OPTIONS itself is guarded there, too."""
    app.add_url_rule("/s", "s", login_required(hello), methods=["GET", "OPTIONS"])

    assert app.test_client().options("/s", headers=SCRIPT).status_code == 401


def test_target_below_a_mount_point(make_app: Any) -> None:
    """Below a prefix of the server's, the way back includes it."""
    app = make_app(APPLICATION_ROOT="/shop")
    client = app.test_client()

    response = client.get(
        "/private", base_url="http://localhost/shop/", headers=NAVIGATE
    )

    assert response.location == "/shop/auth/login?next=/shop/private"


def test_signed_in_passes(client: FlaskClient, sign_in: Any) -> None:
    """Whoever is signed in gets the view's own answer."""
    sign_in(client)

    assert client.get("/private").json["user"]["email"] == "alice@example.com"


# Groups and scopes.


@pytest.mark.parametrize(
    ("decorator", "status"),
    [
        pytest.param(groups_required("admin"), 200, id="group"),
        pytest.param(groups_required("other", "users"), 200, id="any-group"),
        pytest.param(groups_required("other"), 403, id="no-group"),
        pytest.param(groups_required("Admin"), 403, id="case-of-a-group"),
        pytest.param(scopes_required("openid"), 200, id="scope"),
        pytest.param(scopes_required("openid", "email"), 200, id="all-scopes"),
        pytest.param(scopes_required("openid", "other"), 403, id="one-scope-short"),
    ],
)
def test_entitlement(
    app: Flask, client: FlaskClient, sign_in: Any, decorator: Any, status: int
) -> None:
    """Any of the groups, all of the scopes; else 403, and no redirect."""
    app.add_url_rule("/special", "special", decorator(hello))
    assert client.get("/special", headers=NAVIGATE).status_code == 302
    assert client.get("/special", headers=SCRIPT).status_code == 401
    sign_in(client)

    assert client.get("/special", headers=NAVIGATE).status_code == status
    assert client.get("/special", headers=SCRIPT).status_code == status


@pytest.mark.parametrize("decorator", [groups_required, scopes_required])
@pytest.mark.parametrize("names", [(), (hello,), (["admin"],), ("",)])
def test_forgotten_names(decorator: Any, names: Any) -> None:
    """A decorator that would guard nothing, or by mistake, is refused at once."""
    with pytest.raises(TypeError, match="at least one name"):
        decorator(*names)


# Forms of use.


def test_with_and_without_parentheses(app: Flask, client: FlaskClient) -> None:
    """`@login_required` and `@login_required()` are the same."""
    app.add_url_rule("/bare", "bare", login_required(hello))
    app.add_url_rule("/called", "called", login_required()(hello))

    assert client.get("/bare", headers=SCRIPT).status_code == 401
    assert client.get("/called", headers=SCRIPT).status_code == 401


def test_view_keeps_its_name_and_arguments(app: Flask, sign_in: Any) -> None:
    """Flask finds the endpoint's name, and the view its arguments."""

    @app.get("/items/<int:number>")
    @login_required
    def item(number: int) -> dict[str, int]:
        """Answer one item."""
        return {"number": number}

    client = app.test_client()
    sign_in(client)

    assert item.__doc__ == "Answer one item."
    assert "item" in app.view_functions
    assert list(inspect.signature(item).parameters) == ["number"]
    assert client.get("/items/7").json == {"number": 7}


def test_class_based_views(app: Flask, client: FlaskClient, sign_in: Any) -> None:
    """The decorators go into `View.decorators`."""

    class Page(View):
        decorators = [login_required]

        def dispatch_request(self) -> str:
            return "page"

    class Api(MethodView):
        decorators = [groups_required("admin"), login_required()]

        def get(self) -> str:
            return "api"

    app.add_url_rule("/page", view_func=Page.as_view("page"))
    app.add_url_rule("/api", view_func=Api.as_view("api"))

    assert client.get("/page", headers=SCRIPT).status_code == 401
    assert client.get("/api", headers=SCRIPT).status_code == 401
    sign_in(client)
    assert client.get("/page").text == "page"
    assert client.get("/api").text == "api"


def test_errors_of_the_view_are_its_own(
    app: Flask, client: FlaskClient, sign_in: Any
) -> None:
    """A KeyError in a view is not taken for a missing entitlement."""

    @app.get("/broken")
    @login_required
    @groups_required("admin")
    def broken() -> str:
        raise KeyError("cognito:groups")

    sign_in(client)

    with pytest.raises(KeyError, match="cognito:groups"):
        client.get("/broken")


@pytest.mark.parametrize("form", ["bare", "called"])
def test_login_exempt_takes_views_classes_and_blueprints(
    make_app: Any, form: str
) -> None:
    """All three kinds stay open to everybody under `COGNITO_LOGIN_REQUIRED`."""
    exempt: Any = login_exempt if form == "bare" else login_exempt()
    app = make_app(COGNITO_LOGIN_REQUIRED=True)

    @app.get("/view")
    @exempt
    def view() -> str:
        return "open"

    @exempt
    class Page(View):
        def dispatch_request(self) -> str:
            return "open"

    blueprint = exempt(Blueprint("docs", __name__, url_prefix="/docs"))
    blueprint.add_url_rule("/", "index", lambda: "open")
    app.register_blueprint(blueprint)
    app.add_url_rule("/page", view_func=Page.as_view("page"))
    client = app.test_client()

    for path in ("/view", "/page", "/docs/"):
        assert client.get(path, headers=SCRIPT).text == "open"
    assert client.get("/", headers=SCRIPT).status_code == 401


# The application's own handlers.


@pytest.mark.parametrize("key", [401, Unauthorized])
def test_handler_of_the_application_for_401(
    app: Flask, client: FlaskClient, key: Any
) -> None:
    """`app.errorhandler` for the code or the class wins, and knows the cause."""

    @app.errorhandler(key)
    def handle(error: Unauthorized) -> Any:
        assert isinstance(error, Unauthorized)
        return jsonify(cause=type(error.__cause__).__name__), 418

    for headers in (NAVIGATE, SCRIPT):
        response = client.get("/private", headers=headers)
        assert response.status_code == 418
        assert response.json == {"cause": LoginRequired.__name__}


@pytest.mark.parametrize("key", [403, Forbidden])
def test_handler_of_the_application_for_403(
    app: Flask, client: FlaskClient, sign_in: Any, key: Any
) -> None:
    """The same for who is not entitled."""

    @app.errorhandler(key)
    def handle(error: Forbidden) -> Any:
        return jsonify(cause=type(error.__cause__).__name__), 418

    app.add_url_rule("/special", "special", groups_required("other")(hello))
    sign_in(client)

    assert client.get("/special").json == {"cause": AccessDenied.__name__}


@pytest.mark.parametrize("key", [503, ServiceUnavailable])
def test_handler_of_the_application_for_503(
    app: Flask,
    client: FlaskClient,
    sign_in: Any,
    pool: LocalUserPool,
    clock: Any,
    key: Any,
) -> None:
    """The same while a refresh is impossible; the cause knows how long to wait."""

    @app.errorhandler(key)
    def handle(error: ServiceUnavailable) -> Any:
        cause = error.__cause__
        assert isinstance(cause, RefreshAccessTokenError)
        return jsonify(retry_after=cause.retry_after, final=cause.final), 418

    sign_in(client)
    clock.advance(3600)
    pool.faults.queue(
        "token.refresh_token", Fault(status=503, headers={"Retry-After": "9"})
    )

    assert client.get("/private").json == {"retry_after": 9, "final": False}


def test_refused_refresh_is_the_cause(
    app: Flask, client: FlaskClient, sign_in: Any, pool: LocalUserPool, clock: Any
) -> None:
    """A 401 after a final refusal has `RefreshAccessTokenError` as its cause."""

    @app.errorhandler(401)
    def handle(error: Unauthorized) -> Any:
        return jsonify(cause=type(error.__cause__).__name__), 418

    sign_in(client)
    clock.advance(3600)
    pool.revoke_all()

    expected = {"cause": RefreshAccessTokenError.__name__}
    assert [client.get("/private").json for _ in range(2)] == [expected, expected]


def test_503_for_people_is_a_page(
    client: FlaskClient, sign_in: Any, pool: LocalUserPool, clock: Any
) -> None:
    """A page that says to try again, which is kept by nobody."""
    sign_in(client)
    clock.advance(3600)
    pool.faults.queue("token.refresh_token", Fault(status=500))

    response = client.get("/private", headers=NAVIGATE)

    assert response.status_code == 503
    assert response.mimetype == "text/html"
    assert "Retry-After" in response.headers
    assert "no-store" in response.headers["Cache-Control"]
    assert "Traceback" not in response.text


def test_a_script_that_is_not_entitled_gets_json(make_app: Any, sign_in: Any) -> None:
    app = make_app()
    app.add_url_rule("/owners", "owners", groups_required("owners")(lambda: "owners"))
    client = app.test_client()
    sign_in(client)

    script = client.get("/owners", headers={"Sec-Fetch-Mode": "cors"})
    page = client.get("/owners", headers={"Sec-Fetch-Mode": "navigate"})

    assert (script.status_code, script.json) == (403, {"error": "access_denied"})
    assert (page.status_code, page.mimetype) == (403, "text/html")
