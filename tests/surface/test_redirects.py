"""`next`: wherever a login leads, it is a page of ours."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

import pytest
from flask.testing import FlaskClient

from flask_cognito_rotate.local import LocalUserPool

PAYLOADS = Path(__file__).parent.parent / "protocol" / "redirect_payloads.txt"


def lands(location: str) -> str:
    """Return the origin that a browser would open."""
    # What a browser does first: trims, drops tabs and newlines, reads "\" as "/".
    text = location.strip("".join(map(chr, range(0x21))))
    for character in "\t\r\n":
        text = text.replace(character, "")
    parts = urlsplit(urljoin("http://localhost/", text.replace("\\", "/")))
    return f"{parts.scheme}://{parts.netloc}"


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("/", "/"),
        ("/path?x=1&y=a%20b", "/path?x=1&y=a%20b"),
        ("/path#fragment", "/path"),
        ("/ünïcode", "/%C3%BCn%C3%AFcode"),
        pytest.param("http://localhost/own", "/own", id="F05-own-origin"),
        pytest.param("http://localhost:81/own", "/", id="F05-other-port"),
        pytest.param("https://localhost/own", "/", id="F05-other-scheme"),
        pytest.param("http://app.localhost/own", "/", id="F05-subdomain"),
        pytest.param("http://localhost.evil.example/", "/", id="F05-suffix"),
        pytest.param("//evil.example", "/", id="F02-slashes"),
        pytest.param("///evil.example", "/", id="F02-three-slashes"),
        pytest.param("/\\evil.example", "/", id="F02-backslash"),
        pytest.param("\\\\evil.example", "/", id="F02-backslashes"),
        pytest.param("/\t/evil.example", "/", id="F02-tab"),
        pytest.param("javascript:alert(1)", "/", id="F03-javascript"),
        pytest.param("data:text/html,x", "/", id="F03-data"),
        pytest.param("https:evil.example", "/", id="F03-no-slashes"),
        pytest.param("HTTPS://evil.example", "/", id="F03-upper-case"),
        pytest.param(" https://evil.example", "/", id="F03-space"),
        pytest.param("https://localhost@evil.example", "/", id="F04-userinfo"),
        pytest.param("http://localhost\\@evil.example", "/", id="F04-backslash"),
        pytest.param("https://evil.example#@localhost", "/", id="F04-fragment"),
        pytest.param("/ok\r\nSet-Cookie: a=b", "/", id="F07-crlf"),
        pytest.param("/\x00", "/", id="F07-nul"),
        pytest.param("/" + "a" * 10_000, "/", id="F07-10-kB"),
        pytest.param("http://[", "/", id="F07-bracket"),
        pytest.param("", "/", id="empty"),
        pytest.param("relative", "/", id="relative"),
    ],
)
def test_next(client: FlaskClient, sign_in: Any, target: str, expected: str) -> None:
    """Paths of ours are kept; everything else leads home."""
    response = sign_in(client, next=target)

    assert response.status_code == 302
    assert response.location == expected


def test_payloads_stay_on_our_origin(client: FlaskClient, pool: LocalUserPool) -> None:
    """F01: none of the known payloads leaves the site or makes a 500."""
    payloads = PAYLOADS.read_text(encoding="utf-8").splitlines()
    assert len(payloads) > 50

    with client:
        for payload in payloads:
            response = client.get("/auth/login", query_string={"next": payload})
            assert response.status_code == 302, payload
            assert response.location.startswith(pool.url)


@pytest.mark.parametrize("payload", ["/%5cevil", "/%2f%2fevil", "%2f%2fevil", "/ /e"])
def test_encoded_payloads(client: FlaskClient, sign_in: Any, payload: str) -> None:
    """F02: what another decoding would turn into a host leads to us all the same."""
    assert lands(sign_in(client, next=payload).location) == "http://localhost"


def test_next_twice(client: FlaskClient, pool: LocalUserPool) -> None:
    """F07: two targets are none."""
    begun = client.get("/auth/login?next=/a&next=/b")

    assert client.get(pool.sign_in(None, begun.location)).location == "/"


def test_next_cannot_be_changed_on_the_way(
    client: FlaskClient, pool: LocalUserPool
) -> None:
    """F09: parameters of the callback choose nothing."""
    begun = client.get("/auth/login?next=/a")
    url = pool.sign_in(None, begun.location)

    assert client.get(f"{url}&next=/evil").location == "/a"


def test_login_url_is_a_helper(app: Any, pool: LocalUserPool, clock: Any) -> None:
    """`auth.login_url` and `auth.logout_url` give paths for templates and views."""
    from flask_cognito_rotate import CognitoAuth

    auth = CognitoAuth(clock=clock)
    with app.test_request_context():
        assert auth.login_url() == "/auth/login"
        assert auth.login_url("/a?b=c") == "/auth/login?next=/a?b%3Dc"
        assert auth.login_url(lang="de") == "/auth/login?lang=de"
        assert auth.logout_url() == "/auth/logout"
        with pytest.raises(TypeError, match="scope"):
            auth.login_url(scope="admin")
