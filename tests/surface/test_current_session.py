"""`current_session`: what a view sees."""

from __future__ import annotations

import copy
import logging
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import pytest
from browsing import SCRIPT, cookies_set, session_cookies, twin
from flask import Flask, render_template_string
from flask.testing import FlaskClient

from flask_cognito_rotate import (
    CognitoAuth,
    CognitoSession,
    RefreshAccessTokenError,
    current_session,
    login_required,
)
from flask_cognito_rotate.local import Fault, LocalUserPool

REFRESH = "token.refresh_token"


def look(app: Flask, read: Any) -> None:
    """Add a view `/look` that answers what `read` sees."""
    app.add_url_rule("/look", "look", lambda: {"seen": read()})


def seen(client: FlaskClient) -> Any:
    response = client.get("/look")
    assert response.status_code == 200, response.text
    return response.json["seen"]


def test_nobody(app: Flask, client: FlaskClient) -> None:
    """Anonymous: false, empty where there are collections, None for the rest."""
    look(
        app,
        lambda: {
            "bool": bool(current_session),
            "user": current_session.user,
            "groups": current_session.groups == frozenset(),
            "scopes": current_session.scopes == frozenset(),
            "mapping": dict(current_session),
            "length": len(current_session),
            "get": current_session.get("accessToken"),
            "others": [
                current_session.access_token,
                current_session.access_token_expires,
                current_session.refresh_token,
                current_session.id_token_claims,
                current_session.expires,
                current_session.error,
                current_session.retry_after,
            ],
        },
    )

    assert seen(client) == {
        "bool": False,
        "user": {},
        "groups": True,
        "scopes": True,
        "mapping": {},
        "length": 0,
        "get": None,
        "others": [None] * 7,
    }


def test_somebody(
    app: Flask, client: FlaskClient, sign_in: Any, pool: LocalUserPool, clock: Any
) -> None:
    """Signed in: every attribute has its type and value."""
    look(
        app,
        lambda: {
            "bool": bool(current_session),
            "user": current_session.user,
            "groups": sorted(current_session.groups),
            "scopes": sorted(current_session.scopes),
            "expires": current_session.access_token_expires,
            "claims": current_session.id_token_claims,
            "ends": current_session.expires == ends,
            "aware": current_session.expires.tzinfo is UTC,
            "error": current_session.error,
            "retry_after": current_session.retry_after,
        },
    )
    ends = datetime.fromtimestamp(clock() + 2_592_000, UTC)
    sign_in(client)

    answer = seen(client)

    claims = answer.pop("claims")
    assert claims["sub"] == answer["user"]["id"]
    assert claims["token_use"] == "id"
    assert set(answer.pop("user")) == {"id", "name", "email", "image"}
    assert answer == {
        "bool": True,
        "groups": ["admin", "users"],
        "scopes": ["email", "openid", "profile"],
        "expires": int(clock()) + 3600,
        "ends": True,
        "aware": True,
        "error": None,
        "retry_after": None,
    }


def test_mapping_by_nextauths_names(
    app: Flask, client: FlaskClient, sign_in: Any
) -> None:
    """`[]`, `.get` and `in` reach the stored token by the article's names."""
    look(
        app,
        lambda: {
            "same": [
                current_session["accessToken"] == current_session.access_token,
                current_session["refreshToken"] == current_session.refresh_token,
                current_session["accessTokenExpires"]
                == current_session.access_token_expires,
                current_session["user"] == current_session.user,
                current_session["idTokenClaims"] == current_session.id_token_claims,
                current_session.get("error") is None,
            ],
            "in": "accessToken" in current_session,
            "not in": "nothing" in current_session,
            "names": sorted(current_session),
        },
    )
    sign_in(client)

    answer = seen(client)

    assert answer["same"] == [True] * 6
    assert (answer["in"], answer["not in"]) == (True, False)
    assert answer["names"] == sorted(
        [
            "sid",
            "accessToken",
            "accessTokenExpires",
            "refreshToken",
            "idTokenClaims",
            "user",
            "error",
            "iat",
            "authTime",
        ]
    )


def test_missing_name_is_a_key_error(app: Flask, client: FlaskClient) -> None:
    """`current_session["x"]` behaves as a dict does."""

    def read() -> str:
        with pytest.raises(KeyError):
            current_session["accessToken"]
        return "raised"

    look(app, read)
    assert seen(client) == "raised"


def test_what_a_view_changes_stays_in_the_view(
    app: Flask, client: FlaskClient, sign_in: Any
) -> None:
    """`user` and the claims are copies."""

    def read() -> Any:
        current_session.user["email"] = "mallory@example.com"
        return current_session.user["email"]

    look(app, read)
    sign_in(client)

    assert seen(client) == "alice@example.com"


def test_outside_a_request() -> None:
    """A RuntimeError says what to do, not only that something is unbound."""
    with pytest.raises(RuntimeError, match="outside a request"):
        current_session.user  # noqa: B018


def test_repr_shows_no_token(app: Flask, client: FlaskClient, sign_in: Any) -> None:
    """J01: neither `repr` nor `str` of the session holds a token."""
    look(
        app,
        lambda: [
            isinstance(current_session, CognitoSession),
            any(
                str(current_session[name]) in f"{current_session!r}{current_session}"
                for name in ("accessToken", "refreshToken", "sid")
            ),
        ],
    )
    sign_in(client)

    assert seen(client) == [True, False]


def test_in_templates(app: Flask, client: FlaskClient, sign_in: Any) -> None:
    """Templates have `current_session` and `cognito_login_url()`."""
    template = (
        "{% if current_session %}{{ current_session.user.email }}"
        "{% else %}{{ cognito_login_url('/private') }}{% endif %}"
    )
    app.add_url_rule("/page", "page", lambda: render_template_string(template))

    assert client.get("/page").text == "/auth/login?next=/private"
    sign_in(client)
    assert client.get("/page").text == "alice@example.com"


@pytest.mark.parametrize(
    "read",
    [
        pytest.param(lambda: bool(current_session), id="bool"),
        pytest.param(lambda: "accessToken" in current_session, id="E13-in"),
        pytest.param(lambda: current_session.user, id="user"),
    ],
)
def test_reading_varies_by_cookie(app: Flask, client: FlaskClient, read: Any) -> None:
    """E13: whoever looks at the session, however briefly, gets `Vary: Cookie`."""
    look(app, read)

    assert "Cookie" in client.get("/look").headers["Vary"]


def test_not_reading_leaves_the_answer_alone(app: Flask, client: FlaskClient) -> None:
    """E14: a public page that does not look at the session can be cached."""
    app.add_url_rule("/public", "public", lambda: "hello")

    response = client.get("/public")

    assert "Vary" not in response.headers
    assert "Cache-Control" not in response.headers
    assert not cookies_set(response)


def test_static_files_do_not_open_the_session(
    client: FlaskClient, sign_in: Any, pool: LocalUserPool, clock: Any
) -> None:
    """A page's pictures neither refresh nor vary."""
    sign_in(client)
    clock.advance(3600)

    with client.get("/auth/static/cognito_rotate.css") as response:
        assert response.status_code == 200
        assert "Set-Cookie" not in response.headers
    assert pool.counters[REFRESH] == 0


# refresh()


def test_refresh_when_nothing_is_due(
    app: Flask, client: FlaskClient, sign_in: Any, pool: LocalUserPool
) -> None:
    """`refresh()` with a good token makes no call and says so."""
    look(app, lambda: current_session.refresh())
    sign_in(client)

    assert seen(client) is False
    assert pool.counters[REFRESH] == 0


def test_refresh_by_force(
    app: Flask, client: FlaskClient, sign_in: Any, pool: LocalUserPool
) -> None:
    """`refresh(force=True)` brings changed groups at once, to stay."""

    def read() -> Any:
        before = current_session.access_token
        return [
            current_session.refresh(force=True),
            current_session.access_token != before,
            sorted(current_session.groups),
        ]

    look(app, read)
    app.add_url_rule(
        "/groups", "groups", lambda: {"seen": sorted(current_session.groups)}
    )
    sign_in(client)
    pool.add_user("alice@example.com", groups=["readers"])

    assert seen(client) == [True, True, ["readers"]]
    assert client.get("/groups").json["seen"] == ["readers"]
    assert pool.counters[REFRESH] == 1


def test_refresh_by_force_takes_a_newer_token_that_exists(
    app: Flask, client: FlaskClient, sign_in: Any, pool: LocalUserPool
) -> None:
    """Two views that both want another token cost one call."""

    def renewed() -> Any:
        before = current_session.access_token
        return [
            current_session.refresh(force=True),
            current_session.access_token != before,
        ]

    @app.get("/late")
    def late() -> Any:
        assert current_session  # this request holds the token of before …
        assert seen(client) == [True, True]  # … while another one refreshes it
        return renewed()

    look(app, renewed)
    sign_in(client)

    assert twin(client).get("/late").json == [True, True]
    assert pool.counters[REFRESH] == 1


def test_refresh_of_nobody(app: Flask, client: FlaskClient) -> None:
    """Without a session there is nothing to refresh, and nothing to complain of."""
    look(app, lambda: current_session.refresh(force=True))

    assert seen(client) is False


def test_refresh_that_fails_for_now(
    app: Flask, client: FlaskClient, sign_in: Any, pool: LocalUserPool
) -> None:
    """By force, a failure is raised with `final` False and when to come back."""

    def read() -> Any:
        with pytest.raises(RefreshAccessTokenError) as caught:
            current_session.refresh(force=True)
        return [caught.value.final, caught.value.retry_after]

    look(app, read)
    sign_in(client)
    pool.faults.queue(REFRESH, Fault(status=503, headers={"Retry-After": "5"}))

    assert seen(client) == [False, 5]
    assert client.get("/private").status_code == 200


def test_forced_refresh_that_fails_keeps_the_valid_token_usable(
    app: Flask, client: FlaskClient, sign_in: Any, pool: LocalUserPool
) -> None:
    """The token that is held is still valid: the rest of the request can use it."""

    def read() -> Any:
        try:
            current_session.refresh(force=True)
        except RefreshAccessTokenError:
            return [bool(current_session), bool(current_session.access_token)]
        return None

    look(app, read)
    sign_in(client)
    pool.faults.queue(REFRESH, Fault(status=500))

    assert seen(client) == [True, True]


def test_refresh_that_is_refused(
    app: Flask, client: FlaskClient, sign_in: Any, pool: LocalUserPool
) -> None:
    """By force, a final failure is raised with `final` True; the session is over."""

    def read() -> Any:
        with pytest.raises(RefreshAccessTokenError) as caught:
            current_session.refresh(force=True)
        return [caught.value.final, caught.value.retry_after, bool(current_session)]

    look(app, read)
    sign_in(client)
    pool.revoke_all()

    assert seen(client) == [True, None, False]
    assert client.get("/private", headers=SCRIPT).status_code == 401


# A cache that fails.


def test_cache_down_serves_a_valid_token(
    make_app: Any, sign_in: Any, pool: LocalUserPool, clock: Any, caplog: Any
) -> None:
    """A cookie session with a valid token is served while the cache is down."""
    cache = failing_cache()
    client = make_app(auth=CognitoAuth(cache=cache, clock=clock)).test_client()
    sign_in(client)
    before = client.get("/private").json
    cache.down = True

    assert client.get("/private").json == before
    assert "COGNITO_CACHE" in caplog.text

    clock.advance(3600 - 30)
    assert client.get("/private").json == before
    assert pool.counters[REFRESH] == 0


def test_cache_down_refreshes_nothing(
    make_app: Any, sign_in: Any, pool: LocalUserPool, clock: Any
) -> None:
    """D12: no token is spent while its answer could not be kept; then all is well."""
    cache = failing_cache()
    client = make_app(auth=CognitoAuth(cache=cache, clock=clock)).test_client()
    sign_in(client)
    clock.advance(3600)
    cache.down = True

    response = client.get("/private", headers=SCRIPT)

    assert response.status_code == 503
    assert "Retry-After" in response.headers
    assert pool.counters[REFRESH] == 0
    assert session_cookies(client)

    cache.down = False
    assert client.get("/private").status_code == 200


def test_cache_that_cannot_be_written_spends_no_token(
    make_app: Any, sign_in: Any, pool: LocalUserPool, clock: Any
) -> None:
    """D12: the mark before sending is the test that the cache takes the answer."""
    cache = failing_cache()
    client = make_app(auth=CognitoAuth(cache=cache, clock=clock)).test_client()
    sign_in(client)
    clock.advance(3600)
    cache.read_only = True

    assert client.get("/private", headers=SCRIPT).status_code == 503
    assert pool.counters[REFRESH] == 0


def test_cache_down_at_login(
    make_app: Any, sign_in: Any, pool: LocalUserPool, clock: Any
) -> None:
    """A login needs no cache; its session is an ordinary one later."""
    cache = failing_cache()
    client = make_app(auth=CognitoAuth(cache=cache, clock=clock)).test_client()
    cache.down = True
    sign_in(client)
    assert client.get("/private").status_code == 200

    cache.down = False
    clock.advance(3600)
    assert client.get("/private").status_code == 200
    assert pool.counters[REFRESH] == 1


def failing_cache() -> Any:
    from flask_cognito_rotate.cache.memory import MemoryCache
    from flask_cognito_rotate.errors import CacheUnavailable

    class Failing(MemoryCache):
        down = False
        read_only = False

        def get(self, key: str) -> bytes | None:
            if self.down:
                raise CacheUnavailable("down")
            return super().get(key)

        def set(self, key: str, value: bytes, ttl: float) -> None:
            if self.down or self.read_only:
                raise CacheUnavailable("down")
            super().set(key, value, ttl)

        def compare_and_set(self, *args: Any) -> bool:
            if self.down or self.read_only:
                raise CacheUnavailable("down")
            return super().compare_and_set(*args)

    return Failing("test")


def test_emptied_cache_is_noticed_once(
    make_app: Any, sign_in: Any, clock: Any, caplog: Any
) -> None:
    """A session of another cache is an ERROR, once, that names `COGNITO_CACHE`."""
    first = make_app(COGNITO_CACHE="memory:").test_client()
    sign_in(first)
    other_host = make_app(COGNITO_CACHE="memory:")
    moved = [twin(first, other_host) for _ in range(2)]
    caplog.clear()

    for client in moved:
        assert client.get("/private").status_code == 200

    errors = [r for r in caplog.records if r.levelno == logging.ERROR]
    assert [r.event for r in errors] == ["foreign_cache"]
    assert "COGNITO_CACHE" in errors[0].getMessage()


def test_context_pushed_around_requests(
    app: Flask, client: FlaskClient, sign_in: Any
) -> None:
    """Requests below one application context are each their own browser's."""
    stranger = app.test_client()
    with app.app_context():
        sign_in(client)
        signed_in = client.get("/auth/session").json
        nobody = stranger.get("/auth/session").json
        again = client.get("/auth/session").json

    assert signed_in["user"]["email"] == "alice@example.com"
    assert nobody == {}
    assert again == signed_in


def test_it_can_be_read_after_the_request(client: FlaskClient, sign_in: Any) -> None:
    """In a test, `with client:` keeps the session of the last request readable."""
    sign_in(client)
    with client:
        client.get("/private")
        assert current_session.user["email"] == "alice@example.com"


def test_it_can_be_copied_into_a_dict(
    app: Flask, client: FlaskClient, sign_in: Any
) -> None:
    """`dict(current_session)` is plain data that a background task may take along."""
    kept: list[dict[str, Any]] = []

    @app.get("/keep")
    @login_required
    def keep() -> str:
        kept.append(copy.deepcopy(dict(current_session)))
        return ""

    sign_in(client)
    client.get("/keep")

    assert kept[0]["user"]["email"] == "alice@example.com"


def test_a_forced_refresh_without_a_refresh_token_changes_nothing(
    make_app: Any, pool: LocalUserPool, sign_in: Any
) -> None:
    """Some issuers give none: a 401 of an API must not end such a session."""
    pool.faults.always(
        "token.authorization_code",
        Fault(
            edit=lambda answer: {k: answer[k] for k in answer if k != "refresh_token"}
        ),
    )
    app = make_app()
    app.add_url_rule(
        "/force", "force", lambda: str(current_session.refresh(force=True))
    )
    client = app.test_client()
    sign_in(client)

    assert client.get("/force").text == "False"
    assert client.get("/private").status_code == 200


def test_a_forced_refresh_past_the_absolute_limit_makes_no_call(
    make_app: Any, pool: LocalUserPool, clock: Any, sign_in: Any
) -> None:
    app = make_app(COGNITO_SESSION_ABSOLUTE_MAX_AGE=1000)

    @app.get("/force")
    def force() -> str:
        assert current_session
        clock.advance(1000)
        with pytest.raises(RefreshAccessTokenError) as error:
            current_session.refresh(force=True)
        return str(error.value.final)

    client = app.test_client()
    sign_in(client)

    assert client.get("/force").text == "True"
    assert pool.counters["token.refresh_token"] == 0


def test_what_a_view_does_to_the_mapping_changes_no_session(
    app: Flask, client: FlaskClient, sign_in: Any
) -> None:
    @app.get("/meddle")
    def meddle() -> str:
        current_session["user"]["name"] = "Queen"
        current_session.user["name"] = "Queen"
        claims = current_session.id_token_claims
        assert claims is not None
        claims["cognito:groups"].append("root")
        return f"{current_session.user['name']} {sorted(current_session.groups)}"

    sign_in(client)

    assert client.get("/meddle").text == "Alice Liddell ['admin', 'users']"


def test_a_view_of_ours_that_reads_the_session_late_finds_it_fresh(
    app: Flask, client: FlaskClient, clock: Any, sign_in: Any
) -> None:
    """The logout page opens the session without a refresh; who asks later gets one."""
    seen: list[str | None] = []

    @app.after_request
    def look(response: Any) -> Any:
        seen.append(current_session.access_token)
        return response

    sign_in(client)
    clock.advance(3600)

    client.get("/auth/logout")

    assert seen[-1] is not None
    assert seen[-1] != seen[0]


def test_the_client_refreshes_in_another_thread(
    app: Flask, client: FlaskClient, pool: LocalUserPool, clock: Any, sign_in: Any
) -> None:
    @app.get("/thread")
    def in_thread() -> str:
        session = current_session._get_current_object()  # type: ignore[attr-defined]
        with ThreadPoolExecutor(1) as threads:
            return str(threads.submit(session.refresh, force=True).result(5))

    sign_in(client)

    assert client.get("/thread").text == "True"
    assert pool.counters["token.refresh_token"] == 1
