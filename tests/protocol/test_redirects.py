"""Is this ``next`` ours? Judged by Python, and by a browser's parser at the end."""

from __future__ import annotations

import itertools
import json
import shutil
import subprocess
from pathlib import Path
from urllib.parse import urljoin, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flask_cognito_rotate.protocol.redirects import safe_next

ORIGIN = "https://app.example"
NODE = shutil.which("node")

LEADS = ["/", "\\", "//", "/\\", "\\/", "///", "/./", "/../", "", "/.//", "/a/..//"]
FORMS = ["", "%2f", "%5c", "%09", "%0a", "%00", "\t", "\n", "\x0b", " ", "%252f", "%2e"]
HOSTS = ["evil.example", "app@evil.example", "evil.example:443", "evíl.example"]
MATRIX = ["".join(parts) for parts in itertools.product(LEADS, FORMS, HOSTS)]
MATRIX += [
    "".join((form, lead, host))
    for lead, form, host in itertools.product(LEADS, FORMS, HOSTS)
]


def payloads() -> list[str]:
    """Read the list: one JSON string per line, ``#`` begins a comment."""
    lines = Path(__file__).with_name("redirect_payloads.txt").read_text("utf-8")
    return [json.loads(line) for line in lines.splitlines() if line.startswith('"')]


PAYLOADS = payloads()

#: What is ours, and what becomes of it.
KEPT = [
    ("/", "/"),
    ("/home", "/home"),
    ("/a/b/?x=1&y=2", "/a/b/?x=1&y=2"),
    ("/?", "/?"),
    ("/a?next=//evil.example", "/a?next=//evil.example"),
    (
        "/a?u=https%3A%2F%2Fevil.example%2F..",
        "/a?u=https%3A%2F%2Fevil.example%2F..",
    ),
    ("/a?x=%0d%0a", "/a?x=%0d%0a"),
    ("/a?x[]=1&y=../b", "/a?x%5B%5D=1&y=../b"),
    ("/a#fragment", "/a"),
    ("/a?b#c?d", "/a?b"),
    ("/a//b", "/a//b"),
    ("/a%2Fb", "/a%2Fb"),
    ("/a%20b", "/a%20b"),
    ("/100%", "/100%"),
    ("/.well-known/x", "/.well-known/x"),
    ("/...", "/..."),
    ("/a:b@c;d=e,f", "/a:b@c;d=e,f"),
    ("/:80", "/:80"),
    ("/@evil.example", "/@evil.example"),
    ("/grüße?ä=ö", "/gr%C3%BC%C3%9Fe?%C3%A4=%C3%B6"),
    ("/<a>'\"", "/%3Ca%3E'%22"),
    ("https://app.example", "/"),
    ("https://app.example/", "/"),
    ("https://app.example/a?b#c", "/a?b"),
    ("https://app.example?b", "/?b"),
    ("https://app.example#c", "/"),
]

#: Pieces that matter to a parser, for the property test.
PIECES = st.lists(
    st.sampled_from(
        [*LEADS, *FORMS, *HOSTS, ORIGIN, "https:", "?", "#", "@", ":", ";", "ok", "%"]
    )
    | st.text(max_size=3),
    max_size=8,
).map("".join)


def is_ours(location: str) -> bool:
    """Tell whether a location can only be a path of our own."""
    absolute = urlsplit(urljoin(f"{ORIGIN}/auth/callback", location))
    return (
        location.startswith("/")
        and not location.startswith("//")
        and location.isascii()
        and location.isprintable()
        and not {" ", "\\", "#"}.intersection(location)
        and len(location) <= 2048
        and (absolute.scheme, absolute.netloc) == ("https", "app.example")
        and not absolute.path.startswith("//")
    )


def test_the_matrix_is_large_enough() -> None:
    """F01 asks for 300 or more."""
    assert len(set(MATRIX)) >= 300


def test_case_f01_the_matrix() -> None:
    """F01: no combination of separators, encodings and hosts leaves the origin."""
    results = {target: safe_next(target, origin=ORIGIN) for target in MATRIX}
    assert [t for t, r in results.items() if r is not None and not is_ours(r)] == []


@pytest.mark.parametrize("target", PAYLOADS)
def test_case_f02_to_f07_a_payload(target: str) -> None:
    """F02, F03, F04, F05, F07: every line of redirect_payloads.txt is refused."""
    assert safe_next(target, origin=ORIGIN) is None


@pytest.mark.parametrize(("target", "expected"), KEPT)
def test_case_f05_what_is_ours_is_kept(target: str, expected: str) -> None:
    """F05: our own paths and our own absolute URLs keep their path."""
    assert safe_next(target, origin=ORIGIN) == expected


def test_no_target_is_no_target() -> None:
    assert safe_next(None, origin=ORIGIN) is None


def test_an_origin_may_have_a_port() -> None:
    origin = "http://localhost:5000"
    assert safe_next("http://localhost:5000/a", origin=origin) == "/a"
    assert safe_next("http://localhost:50001/a", origin=origin) is None
    assert safe_next("http://localhost/a", origin=origin) is None


@pytest.mark.parametrize("origin", ["", "https://", "/", "https://app.example/x", "x"])
def test_a_wrong_origin_opens_nothing(origin: str) -> None:
    assert safe_next("https://evil.example/", origin=origin) is None
    assert safe_next("//evil.example/", origin=origin) is None
    assert safe_next("/a", origin=origin) == "/a"


def test_case_f07_the_length_is_bounded() -> None:
    """F07: before and after percent-encoding."""
    assert safe_next("/" + "a" * 2047, origin=ORIGIN) is not None
    assert safe_next("/" + "a" * 2048, origin=ORIGIN) is None
    assert safe_next("/" + "ä" * 1000, origin=ORIGIN) is None


@given(PIECES)
def test_a_redirect_never_leaves_the_origin(target: str) -> None:
    """Whatever ``next`` is, the result is a path of ours, and stays itself."""
    result = safe_next(target, origin=ORIGIN)
    if result is not None:
        assert is_ours(result)
        assert safe_next(result, origin=ORIGIN) == result
        assert safe_next(ORIGIN + result, origin=ORIGIN) == result


JUDGE = """
let text = "";
process.stdin.on("data", (chunk) => { text += chunk; });
process.stdin.on("end", () => {
  const base = "https://app.example/auth/callback";
  const ours = (location) => {
    const url = new URL(location, base);
    const again = new URL(url.pathname + url.search, base);
    const origins = [url.origin, again.origin];
    return origins.every((origin) => origin === "https://app.example")
      && again.pathname === url.pathname;
  };
  process.stdout.write(JSON.stringify(JSON.parse(text).filter((l) => !ours(l))));
});
"""


@pytest.mark.skipif(NODE is None, reason="node is not on the PATH")
def test_case_f01_a_browsers_parser_agrees() -> None:
    """F01: WHATWG's parser puts every location that we let through on our origin."""
    targets = [*MATRIX, *PAYLOADS, *(target for target, _ in KEPT)]
    kept = {safe_next(target, origin=ORIGIN) for target in targets}
    locations = [*sorted(kept - {None}, key=str), "//evil.example", "/..//evil.example"]
    answer = subprocess.run(
        [str(NODE), "-e", JUDGE],
        input=json.dumps(locations),
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert json.loads(answer.stdout) == ["//evil.example", "/..//evil.example"]
