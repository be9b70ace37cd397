"""The discovery document."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flask_cognito_rotate.errors import ProviderRejected
from flask_cognito_rotate.protocol.metadata import (
    discovery_url,
    is_loopback,
    parse_metadata,
)

ISSUER = "https://cognito-idp.eu-central-1.amazonaws.com/eu-central-1_Example1"
DOMAIN = "https://example.auth.eu-central-1.amazoncognito.com"
DOCUMENT: dict[str, Any] = {
    "authorization_endpoint": f"{DOMAIN}/oauth2/authorize",
    "end_session_endpoint": f"{DOMAIN}/logout",
    "id_token_signing_alg_values_supported": ["RS256"],
    "issuer": ISSUER,
    "jwks_uri": f"{ISSUER}/.well-known/jwks.json",
    "response_types_supported": ["code", "token"],
    "revocation_endpoint": f"{DOMAIN}/oauth2/revoke",
    "token_endpoint": f"{DOMAIN}/oauth2/token",
    "userinfo_endpoint": f"{DOMAIN}/oauth2/userInfo",
}

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(list(DOCUMENT)) | st.text(), inner)
    ),
    max_leaves=12,
)


def without(*names: str) -> dict[str, Any]:
    return {k: v for k, v in DOCUMENT.items() if k not in names}


def refused(document: object) -> ProviderRejected:
    with pytest.raises(ProviderRejected) as caught:
        parse_metadata(document, issuer=ISSUER)
    return caught.value


def test_cognitos_document_is_taken() -> None:
    """C01: no PKCE announcement, unknown fields, and it is used all the same."""
    metadata = parse_metadata({**DOCUMENT, "new_in_2030": {"a": []}}, issuer=ISSUER)
    assert metadata.issuer == ISSUER
    assert metadata.authorization_endpoint == f"{DOMAIN}/oauth2/authorize"
    assert metadata.token_endpoint == f"{DOMAIN}/oauth2/token"
    assert metadata.jwks_uri == f"{ISSUER}/.well-known/jwks.json"
    assert metadata.revocation_endpoint == f"{DOMAIN}/oauth2/revoke"
    assert metadata.end_session_endpoint == f"{DOMAIN}/logout"
    assert metadata.userinfo_endpoint == f"{DOMAIN}/oauth2/userInfo"
    assert not metadata.sends_iss


def test_cognitos_unnamed_endpoints_are_known() -> None:
    """Older user pools name neither, and have both."""
    document = without("revocation_endpoint", "end_session_endpoint")
    metadata = parse_metadata(document, issuer=ISSUER)
    assert metadata.revocation_endpoint == f"{DOMAIN}/oauth2/revoke"
    assert metadata.end_session_endpoint == f"{DOMAIN}/logout"


def test_a_base_path_before_the_token_endpoint_is_kept() -> None:
    document = without("revocation_endpoint", "end_session_endpoint")
    document["token_endpoint"] = "https://login.example/base/oauth2/token?x=1"
    metadata = parse_metadata(document, issuer=ISSUER)
    assert metadata.revocation_endpoint == "https://login.example/base/oauth2/revoke"


def test_another_providers_token_endpoint_gives_its_origin() -> None:
    document = without("end_session_endpoint", "userinfo_endpoint")
    document["token_endpoint"] = "https://login.example/realms/a/token"
    metadata = parse_metadata(document, issuer=ISSUER)
    assert metadata.end_session_endpoint == "https://login.example/logout"
    assert metadata.userinfo_endpoint is None


@pytest.mark.parametrize(
    ("announced", "expected"), [(True, True), (False, False), ("true", False)]
)
def test_the_promise_of_iss_is_a_boolean(announced: object, expected: bool) -> None:
    """A12: RFC 9207's announcement counts only if it is true."""
    name = "authorization_response_iss_parameter_supported"
    metadata = parse_metadata({**DOCUMENT, name: announced}, issuer=ISSUER)
    assert metadata.sends_iss is expected


@pytest.mark.parametrize(
    "issuer",
    [f"{ISSUER}1", ISSUER[:-1], f"{ISSUER}/", ISSUER.upper(), "", None, 1, [ISSUER]],
)
def test_case_c02_another_issuer(issuer: object) -> None:
    """C02: a document of another issuer is not used."""
    assert refused({**DOCUMENT, "issuer": issuer}).error == "invalid_metadata"


@pytest.mark.parametrize("document", [None, [], {}, "", 1, True, [DOCUMENT]])
def test_case_c07_not_a_document(document: object) -> None:
    """C07: anything but the object is refused."""
    assert refused(document).error == "invalid_metadata"


BAD_URLS: list[object] = [
    None,
    "",
    1,
    ["https://a.example/"],
    "/oauth2/token",
    "//a.example/token",
    "a.example/token",
    "http://a.example/token",
    "http://127.0.0.1.example/token",
    "http://localhost.example/token",
    "http://localhost@a.example/token",
    "ftp://a.example/token",
    "javascript:alert(1)",
    "file:///etc/passwd",
    "https:///token",
    "https://:443/token",
    "https://user:password@a.example/token",
    "https://@a.example/token",
    "https://a.example/token#fragment",
    "https://a.example/token#",
    "https://a.example\\@b.example/token",
    "https://a.example\\b.example/token",
    "https://a.example/a\\b",
    "https://a.example:port/token",
    "https://a.example:99999/token",
    "https://a.example:0/token",
    "https://[::1/token",
    "https://a.example/to ken",
    "https://a.example/token\r\nX: y",
    "https://ä.example/token",
    "https://a.example/" + "a" * 2048,
]


@pytest.mark.parametrize("url", BAD_URLS)
@pytest.mark.parametrize(
    "name", ["authorization_endpoint", "token_endpoint", "jwks_uri"]
)
def test_an_unusable_endpoint_is_refused(name: str, url: object) -> None:
    assert refused({**DOCUMENT, name: url}).error == "invalid_metadata"


@pytest.mark.parametrize("url", BAD_URLS[1:])
@pytest.mark.parametrize(
    "name", ["revocation_endpoint", "end_session_endpoint", "userinfo_endpoint"]
)
def test_an_optional_endpoint_is_good_or_absent(name: str, url: object) -> None:
    assert refused({**DOCUMENT, name: url}).error == "invalid_metadata"


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.9.9.9", "[::1]"])
def test_plain_http_is_for_this_machine(host: str) -> None:
    document = {**DOCUMENT, "token_endpoint": f"http://{host}:9000/oauth2/token"}
    metadata = parse_metadata(document, issuer=ISSUER)
    assert metadata.token_endpoint == f"http://{host}:9000/oauth2/token"


@pytest.mark.parametrize("prefix", ["", "issuer-"])
def test_a_pool_without_a_domain_is_named(prefix: str) -> None:
    """Its endpoints are on the API's host, and do not work."""
    api = f"https://{prefix}cognito-idp.eu-central-1.amazonaws.com/pool"
    document = {
        **DOCUMENT,
        "authorization_endpoint": f"{api}/authorize",
        "token_endpoint": f"{api}/token",
    }
    error = refused(document)
    assert error.error == "no_domain"
    assert "create-user-pool-domain" in str(error)


@given(JSON)
def test_any_json_is_metadata_or_refused(document: object) -> None:
    """Whatever the document is, there is no other error."""
    refused(document)


@given(st.sampled_from(list(DOCUMENT)), JSON | st.text().map("https://a{}".format))
def test_any_value_of_any_field_is_taken_or_refused(name: str, value: object) -> None:
    try:
        metadata = parse_metadata({**DOCUMENT, name: value}, issuer=ISSUER)
    except ProviderRejected:
        return
    assert metadata.token_endpoint.startswith("https://")


@pytest.mark.parametrize("issuer", ["https://op.example/p", "https://op.example/p/"])
def test_discovery_is_below_the_issuer(issuer: str) -> None:
    url = "https://op.example/p/.well-known/openid-configuration"
    assert discovery_url(issuer) == url


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("localhost", True),
        ("LocalHost", True),
        ("127.0.0.1", True),
        ("127.255.255.254", True),
        ("::1", True),
        ("[::1]", True),
        ("0:0:0:0:0:0:0:1", True),
        ("", False),
        ("localhost.", False),
        ("app.localhost", False),
        ("localhost.example", False),
        ("127.0.0.1.example", False),
        ("127.1", False),
        ("2130706433", False),
        ("0.0.0.0", False),  # noqa: S104 - nothing is bound
        ("::", False),
        ("::1%eth0", False),
        ("128.0.0.1", False),
        ("ⓛocalhost", False),
    ],
)
def test_loopback_is_spelled_plainly(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected
