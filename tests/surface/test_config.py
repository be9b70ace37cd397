"""Settings are read once, all mistakes are reported together, and each has a remedy."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import pytest
from flask import Flask

from flask_cognito_rotate import CognitoAuth, ConfigurationError
from flask_cognito_rotate.config import KEYS, Settings, read_settings

GOOD: Mapping[str, Any] = {
    "COGNITO_ISSUER": "https://cognito-idp.eu-central-1.amazonaws.com/eu-central-1_Ab1",
    "COGNITO_CLIENT_ID": "1example23456789",
    "SECRET_KEY": "0123456789abcdef0123456789abcdef",
}


def read(environ: Mapping[str, str] | None = None, **settings: Any) -> Settings:
    return read_settings({**GOOD, **settings}, environ or {})[0]


def problems(**settings: Any) -> list[str]:
    with pytest.raises(ConfigurationError) as error:
        read(**settings)
    return list(error.value.problems)


def test_all_mistakes_are_reported_together_each_by_its_key() -> None:
    with pytest.raises(ConfigurationError) as error:
        read_settings({"COGNITO_LOGIN_REQUIRED": "maybe", "SECRET_KEY": "dev"}, {})

    assert [problem.split()[0] for problem in error.value.problems] == [
        "COGNITO_ISSUER",
        "COGNITO_CLIENT_ID",
        "COGNITO_LOGIN_REQUIRED",
        "SECRET_KEY",
    ]


def test_a_wrong_cache_is_reported_with_the_rest() -> None:
    app = Flask("example")
    app.config.update(GOOD, COGNITO_CACHE="gopher://x", COGNITO_HTTP_TIMEOUT="soon")

    with pytest.raises(ConfigurationError) as error:
        CognitoAuth(app)

    named = {problem.split()[0] for problem in error.value.problems}
    assert named == {"COGNITO_CACHE", "COGNITO_HTTP_TIMEOUT"}


def test_a_key_that_the_configuration_lacks_comes_from_the_environment() -> None:
    environ = {"COGNITO_SCOPES": "openid", "COGNITO_CLIENT_ID": "ignored"}

    settings = read(environ)

    assert settings.scopes == ("openid",)
    assert settings.client_id == GOOD["COGNITO_CLIENT_ID"]


def test_defaults_are_those_of_the_contract() -> None:
    settings = read()

    assert (settings.refresh_leeway, settings.session_max_age) == (60, 2_592_000)
    assert (settings.http_timeout, settings.refresh_timeout) == (5, 10)
    assert (settings.session_update_age, settings.discovery_max_age) == (86_400, 86_400)
    assert settings.session_absolute_max_age is None
    assert settings.cookie_path == "/"
    assert settings.cookie_name.startswith("cognito_session_")
    assert len(settings.cookie_name) == len("cognito_session_") + 6


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        *[(v, True) for v in (True, 1, "1", "true", "True", "TRUE")],
        *[(v, False) for v in (False, 0, "0", "false", "False")],
    ],
)
def test_booleans_in_any_case(value: Any, expected: bool) -> None:
    assert read(COGNITO_LOGIN_REQUIRED=value).login_required is expected


@pytest.mark.parametrize("value", ["yes", "on", "", 2, [], "truthy"])
def test_anything_else_is_a_mistake_and_never_truthy(value: Any) -> None:
    (problem,) = problems(COGNITO_LOGIN_REQUIRED=value)
    assert problem.startswith("COGNITO_LOGIN_REQUIRED")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("COGNITO_ISSUER", "http://cognito-idp.eu-central-1.amazonaws.com/x_1"),
        ("COGNITO_ISSUER", GOOD["COGNITO_ISSUER"] + "/"),
        ("COGNITO_ISSUER", "cognito-idp.eu-central-1.amazonaws.com/x_1"),
        ("COGNITO_ISSUER", "https://user:pass@idp.example.com/x"),
        ("COGNITO_SCOPES", "email profile"),
        ("COGNITO_AUTHORIZE_PARAMS", {"state": "mine"}),
        ("COGNITO_AUTHORIZE_PARAMS", "not json"),
        ("COGNITO_URL_PREFIX", "auth"),
        ("COGNITO_URL_PREFIX", "/auth/"),
        ("COGNITO_URL_PREFIX", "/"),
        ("COGNITO_REDIRECT_URI", "https://app.example.com/elsewhere"),
        ("COGNITO_REDIRECT_URI", "http://app.example.com/auth/callback"),
        ("COGNITO_LOGOUT_URI", "/bye"),
        ("COGNITO_LOGIN_REDIRECT", "https://evil.example/"),
        ("COGNITO_LOGIN_REDIRECT", "//evil.example/"),
        ("COGNITO_REFRESH_LEEWAY", -1),
        ("COGNITO_REFRESH_LEEWAY", "soon"),
        ("COGNITO_REFRESH_LEEWAY", True),
        ("COGNITO_REFRESH_LEEWAY", 1.5),
        ("COGNITO_SESSION_MAX_AGE", 0),
        ("COGNITO_HTTP_TIMEOUT", 0),
        ("COGNITO_HTTP_TIMEOUT", float("nan")),
        ("COGNITO_SESSION_STORE", "redis://localhost"),
        ("COGNITO_COOKIE_NAME", "my session"),
        ("COGNITO_COOKIE_NAME", "__Host-mine"),
        ("COGNITO_COOKIE_SAMESITE", "Strict"),
        ("COGNITO_COOKIE_SECURE", "perhaps"),
        ("COGNITO_COOKIE_PATH", "app"),
        ("SECRET_KEY", "dev"),
        ("SECRET_KEY", None),
        ("SECRET_KEY", "x" * 31),
        ("SECRET_KEY_FALLBACKS", "one old key that is longer than 32 bytes"),
        ("SECRET_KEY_FALLBACKS", b"one old key that is longer than 32 bytes"),
        ("SECRET_KEY_FALLBACKS", [5]),
        ("SECRET_KEY_FALLBACKS", [""]),
        ("COGNITO_SESSION_MAX_AGE", 10**12),
        ("COGNITO_CLOCK_SKEW", 100_000),
        ("COGNITO_HTTP_TIMEOUT", float("inf")),
        ("COGNITO_URL_PREFIX", "/<x>"),
        ("COGNITO_URL_PREFIX", "/a/../b"),
        ("COGNITO_URL_PREFIX", "/a b"),
        ("COGNITO_COOKIE_DOMAIN", "a;b"),
        ("COGNITO_COOKIE_DOMAIN", "http://x"),
        ("COGNITO_ISSUER", "https://idp.example.com/ y"),
    ],
)
def test_a_mistake_names_its_key(key: str, value: Any) -> None:
    (problem,) = problems(**{key: value})
    assert problem.startswith(key)
    assert len(problem) > len(key) + 10


@pytest.mark.parametrize(
    ("key", "value", "attribute", "expected"),
    [
        ("COGNITO_ISSUER", "http://127.0.0.1:9100/p_1", "issuer", None),
        ("COGNITO_CLIENT_ID", 12345, "client_id", "12345"),
        ("COGNITO_CLIENT_ID", '"abc"', "client_id", "abc"),
        ("COGNITO_REFRESH_LEEWAY", "30", "refresh_leeway", 30),
        ("COGNITO_HTTP_TIMEOUT", "2.5", "http_timeout", 2.5),
        ("COGNITO_SCOPES", ["openid", "email"], "scopes", ("openid", "email")),
        ("COGNITO_LOGIN_EXEMPT", "healthz, docs.*", "login_exempt", None),
        ("COGNITO_AUTHORIZE_PARAMS", '{"lang": "de"}', "authorize_params", None),
        ("COGNITO_SESSION_ABSOLUTE_MAX_AGE", "60", "session_absolute_max_age", 60),
        ("COGNITO_COOKIE_SECURE", "auto", "cookie_secure", None),
        ("COGNITO_COOKIE_SAMESITE", "lax", "cookie_samesite", "Lax"),
        (
            "COGNITO_REDIRECT_URI",
            "http://localhost/auth/callback",
            "redirect_uri",
            None,
        ),
    ],
)
def test_texts_are_read_as_flask_reads_the_environment(
    key: str, value: Any, attribute: str, expected: Any
) -> None:
    read_value = getattr(read(**{key: value}), attribute)

    specials = {
        "login_exempt": ("healthz", "docs.*"),
        "authorize_params": {"lang": "de"},
        "cookie_secure": None,
    }
    default = value if expected is None else expected
    assert read_value == specials.get(attribute, default)


def test_the_update_age_is_at_most_a_tenth_of_the_idle_limit() -> None:
    assert read(COGNITO_SESSION_MAX_AGE=100).session_update_age == 10


def test_samesite_none_needs_secure_cookies() -> None:
    (problem,) = problems(COGNITO_COOKIE_SAMESITE="None", COGNITO_COOKIE_SECURE=False)
    assert "COGNITO_COOKIE_SECURE" in problem


def test_the_cookie_name_tells_pools_clients_and_paths_apart() -> None:
    names = {
        read().cookie_name,
        read(COGNITO_CLIENT_ID="another").cookie_name,
        read(COGNITO_COOKIE_PATH="/app").cookie_name,
    }
    assert len(names) == 3


def test_the_cookie_path_is_where_the_application_is_mounted() -> None:
    assert read(APPLICATION_ROOT="/app").cookie_path == "/app"


def test_an_unknown_setting_is_named_with_a_guess(
    caplog: pytest.LogCaptureFixture,
) -> None:
    app = Flask("example")
    app.config.update(GOOD, COGNITO_REFRESH_LEWAY=30, COGNITO_CACHE="memory:")

    with caplog.at_level(logging.WARNING, logger="flask_cognito_rotate"):
        CognitoAuth(app)

    (record,) = caplog.records
    assert "COGNITO_REFRESH_LEEWAY" in record.getMessage()


def test_a_short_fallback_key_is_a_warning_and_no_mistake() -> None:
    _, warnings = read_settings({**GOOD, "SECRET_KEY_FALLBACKS": ["short"]}, {})

    assert any("SECRET_KEY_FALLBACKS" in warning for warning in warnings)


def test_secrets_are_in_no_repr() -> None:
    settings = read(COGNITO_CLIENT_SECRET="hushhush")

    assert "hushhush" not in repr(settings)
    assert str(GOOD["SECRET_KEY"]) not in repr(settings)


def test_every_key_has_its_setting() -> None:
    attributes = {name.removeprefix("COGNITO_").lower() for name in KEYS}

    assert attributes | {"secret_keys"} == set(Settings.__dataclass_fields__)


def test_arguments_win_over_the_configuration() -> None:
    app = Flask("example")
    app.config.update(GOOD, COGNITO_CACHE="gopher://nowhere")

    CognitoAuth(app, cache="memory:")

    assert "cognito_rotate" in app.extensions


def test_a_second_registration_is_refused_with_the_remedy() -> None:
    app = Flask("example")
    app.config.update(GOOD, COGNITO_CACHE="memory:")
    CognitoAuth(app)

    with pytest.raises(ConfigurationError, match="once"):
        CognitoAuth(app)


@pytest.mark.parametrize(
    "key",
    [
        "COGNITO_CLIENT_SECRET",
        "COGNITO_REDIRECT_URI",
        "COGNITO_SESSION_ABSOLUTE_MAX_AGE",
        "COGNITO_COOKIE_DOMAIN",
    ],
)
def test_null_in_the_environment_is_none(key: str) -> None:
    settings = read({key: "null"})

    assert getattr(settings, key.removeprefix("COGNITO_").lower()) is None
