"""The session cookie: everything comes back, nothing shows, nothing else opens."""

from __future__ import annotations

import base64
import json
import secrets
import time
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sessions_data import (
    NOW,
    SEALER,
    SESSIONS,
    TOKENS,
    b64url,
    jwe,
    jwt,
    real_session,
)

from flask_cognito_rotate.sealing import (
    BrokenSeal,
    ExpiredSeal,
    Sealer,
    SealError,
    UnknownSealingKey,
)
from flask_cognito_rotate.sessions import (
    CookieCodec,
    CookieTooLarge,
    OpenedCookie,
    Session,
    slim,
)
from flask_cognito_rotate.sessions.cookie import MAX_COOKIE_BYTES, MAX_TOTAL_BYTES

NAME = "__Host-cognito_session_abcdef"
SECOND = f"{NAME}.1"
ATTRIBUTES = "; Max-Age=2592000; Secure; HttpOnly; Path=/; SameSite=Lax"
CODEC = CookieCodec(SEALER, overhead=len(ATTRIBUTES))
LATER = NOW + 2_592_000


def seal(session: Session, codec: CookieCodec = CODEC) -> dict[str, str]:
    parts = codec.seal(NAME, session, now=NOW, expires_at=LATER)
    return dict(zip(CookieCodec.names(NAME), parts, strict=False))


def unseal(
    cookies: dict[str, str], codec: CookieCodec = CODEC, now: float = NOW
) -> OpenedCookie | None:
    return codec.open(NAME, cookies, now=now)


def two_parts() -> dict[str, str]:
    """The cookies of a session that one part does not hold."""
    cookies = seal(real_session(extra={"noise": secrets.token_hex(1000)}))
    assert set(cookies) == {NAME, SECOND}
    return cookies


def outcome(cookies: dict[str, str]) -> type[BaseException] | None:
    """What becomes of cookies that must open nothing: None or the error's class."""
    try:
        opened = unseal(cookies)
    except SealError as error:
        return type(error)
    assert opened is None
    return None


@given(SESSIONS)
def test_any_session_comes_back_or_is_too_large(session: Session) -> None:
    try:
        cookies = seal(session)
    except CookieTooLarge:
        return
    opened = unseal(cookies)
    assert opened == OpenedCookie(session, NOW)


@given(TOKENS, TOKENS)
@example("", ".")
@example("...", "a.b.c")
@example("AB", "AA==")  # unused bits set, padding
@example("a-b_", "a+b/")
@example("eyJhIjoxfQ\n.e30.", "e30.eyJ7.é")
@example(b64url(b'{"a": \xc3\xa9}'), b64url(b'{"\x00'))
def test_tokens_of_any_form_come_back_to_the_letter(access: str, refresh: str) -> None:
    session = real_session(access_token=access, refresh_token=refresh)
    opened = unseal(seal(session))
    assert opened is not None
    assert opened.session.token.access_token == access
    assert opened.session.token.refresh_token == refresh


def test_real_tokens_with_twenty_claims_fit_into_one_cookie() -> None:
    session = real_session()
    assert len(session.token.access_token or "") >= 1_050
    assert 1_845 <= len(session.token.refresh_token or "") <= 1_851
    assert len(session.token.id_token_claims) == 20

    cookies = seal(session)

    assert list(cookies) == [NAME]
    assert len(f"{NAME}={cookies[NAME]}{ATTRIBUTES}") <= 4_093
    opened = unseal(cookies)
    assert opened is not None and opened.session == session


@given(st.integers(0, 2400))
@settings(max_examples=40)
def test_no_part_is_longer_than_a_browser_keeps(noise: int) -> None:
    session = real_session(extra={"noise": secrets.token_urlsafe(noise)})
    try:
        cookies = seal(session)
    except CookieTooLarge:
        return
    for name, value in cookies.items():
        assert len(f"{name}={value}{ATTRIBUTES}") <= MAX_COOKIE_BYTES
    assert len("; ".join(f"{n}={v}" for n, v in cookies.items())) <= MAX_TOTAL_BYTES
    opened = unseal(cookies)
    assert opened is not None and opened.session == session


def test_two_parts_are_used_up_to_the_whole_of_7000_bytes() -> None:
    sizes = []
    for noise in range(2400, 2900, 10):
        session = real_session(extra={"noise": b64url(secrets.token_bytes(noise))})
        try:
            cookies = seal(session)
        except CookieTooLarge:
            continue
        sizes.append(sum(map(len, cookies)) + sum(map(len, cookies.values())))
    assert MAX_TOTAL_BYTES - 100 < max(sizes) <= MAX_TOTAL_BYTES


@pytest.mark.parametrize(
    "extra",
    [
        pytest.param(secrets.token_hex(4000), id="a-little"),
        pytest.param(secrets.token_hex(100_000), id="more-than-a-length-can-tell"),
        pytest.param("a" * 300_000, id="much-that-deflates-well"),
    ],
)
def test_what_would_not_fit_is_refused_when_it_is_sealed(extra: str) -> None:
    with pytest.raises(CookieTooLarge):
        seal(real_session(extra={"noise": extra}))


def test_a_session_can_be_made_smaller_in_two_steps() -> None:
    session = real_session(extra={"noise": secrets.token_hex(4000)})
    without_additions, vital = slim(session, 0), slim(session, 1)
    assert without_additions.token == replace(session.token, extra={})
    assert vital.token.id_token_claims["sub"] == session.token.id_token_claims["sub"]
    assert "picture" not in vital.token.id_token_claims
    assert len(seal(vital)[NAME]) < len(seal(without_additions)[NAME])
    assert vital.token.refresh_token == session.token.refresh_token
    assert vital.key == session.key


def spare(cookies: dict[str, str]) -> dict[str, str]:
    return {**cookies, f"{NAME}.2": "x" * 100, f"{NAME}.99999999": "x"}


ONE, OTHER = two_parts(), two_parts()
WHOLE = seal(real_session())


@pytest.mark.parametrize(
    ("cookies", "expected"),
    [
        pytest.param(
            {NAME: ONE[SECOND], SECOND: ONE[NAME]}, UnknownSealingKey, id="E10-swapped"
        ),
        pytest.param({NAME: ONE[NAME]}, BrokenSeal, id="E10-second-missing"),
        pytest.param({SECOND: ONE[SECOND]}, None, id="E10-first-missing"),
        pytest.param(
            {NAME: ONE[NAME], SECOND: OTHER[SECOND]}, BrokenSeal, id="E10-foreign"
        ),
        pytest.param(
            {NAME: ONE[NAME], SECOND: ONE[NAME]}, BrokenSeal, id="E10-first-twice"
        ),
        pytest.param({NAME: ONE[NAME][:-1]}, BrokenSeal, id="E10-mark-taken-off"),
        pytest.param({NAME: WHOLE[NAME] + "."}, "opens", id="E10-mark-put-on"),
        pytest.param({NAME: "."}, UnknownSealingKey, id="E10-mark-alone"),
        pytest.param({NAME: "..", SECOND: "."}, UnknownSealingKey, id="E10-marks"),
        pytest.param(
            {NAME: ONE[NAME], SECOND: "x" * 100_000}, UnknownSealingKey, id="E10-long"
        ),
        pytest.param(spare(ONE), "opens", id="E10-extra-index-ignored"),
        pytest.param(
            {**WHOLE, SECOND: ONE[SECOND]}, "opens", id="E10-stale-second-ignored"
        ),
        pytest.param({}, None, id="E02-no-cookie"),
        pytest.param({NAME: ""}, UnknownSealingKey, id="E02-empty"),
        pytest.param({NAME: "x" * 100_000}, UnknownSealingKey, id="E02-100-kB"),
        pytest.param({NAME: WHOLE[NAME][:-1]}, BrokenSeal, id="E02-cut-by-one"),
        pytest.param({NAME: WHOLE[NAME][:12]}, BrokenSeal, id="E02-head-alone"),
        pytest.param({NAME: WHOLE[NAME][:11]}, UnknownSealingKey, id="E02-head-cut"),
        pytest.param({NAME: WHOLE[NAME] + "A"}, BrokenSeal, id="E02-one-more"),
        pytest.param({NAME: WHOLE[NAME] + "="}, BrokenSeal, id="E02-padded"),
        pytest.param({NAME: WHOLE[NAME] + "\n"}, BrokenSeal, id="E02-newline"),
        pytest.param({NAME: WHOLE[NAME] + "é"}, BrokenSeal, id="E02-not-ascii"),
        pytest.param({NAME: WHOLE[NAME] + "\udcff"}, BrokenSeal, id="E02-not-utf-8"),
        pytest.param({NAME: "\udcff\udcfe"}, UnknownSealingKey, id="E02-bad-utf-8"),
        pytest.param({NAME: "null"}, UnknownSealingKey, id="E02-null"),
    ],
)
def test_case(cookies: dict[str, str], expected: object) -> None:
    """Cookies that were tampered with open nothing; ours are told from others'."""
    started = time.perf_counter()
    if expected == "opens":
        assert unseal(cookies) is not None
    else:
        assert outcome(cookies) is expected
    assert time.perf_counter() - started < 0.05


@given(st.data())
@settings(max_examples=200)
def test_every_changed_letter_opens_nothing(data: st.DataObject) -> None:
    """E02: there is one spelling of a cookie, so no change goes unseen."""
    value = WHOLE[NAME]
    at = data.draw(st.integers(0, len(value) - 1))
    letter = data.draw(st.characters(codec="latin-1").filter(lambda c: c != value[at]))
    changed = value[:at] + letter + value[at + 1 :]
    if at == len(value) - 1 and letter == ".":
        return
    assert outcome({NAME: changed}) in {UnknownSealingKey, BrokenSeal}


def test_every_other_last_letter_opens_nothing() -> None:
    """E02: base64 has bits that carry nothing; they must not be set."""
    cookies = [seal(real_session(extra={"pad": "x" * n}))[NAME] for n in range(6)]
    assert {len(value) % 4 for value in cookies} & {2, 3}
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    for value in cookies:
        for letter in set(alphabet) - {value[-1]}:
            assert outcome({NAME: value[:-1] + letter}) is BrokenSeal


@given(st.text(max_size=300), st.none() | st.text(max_size=300))
@settings(max_examples=300)
def test_garbage_of_any_kind_opens_nothing(first: str, second: str | None) -> None:
    """E02: and raises nothing but a SealError."""
    cookies = {NAME: first} if second is None else {NAME: first, SECOND: second}
    assert outcome(cookies) in {None, UnknownSealingKey, BrokenSeal}


@given(st.binary(max_size=600))
def test_what_another_version_sealed_is_a_broken_seal(content: bytes) -> None:
    """A genuine envelope with foreign content raises nothing unexpected either."""
    envelope = SEALER.seal("session", content, expires_at=LATER)
    assert outcome({NAME: b64url(envelope)}) is BrokenSeal


@pytest.mark.parametrize("document", [[], {}, {"t": 1}, {"t": {}}, "text", None, 1])
def test_genuine_json_of_another_shape_is_a_broken_seal(document: Any) -> None:
    import zlib

    text = zlib.compress(json.dumps(document).encode(), wbits=-15)
    content = len(text).to_bytes(2, "big") + text + bytes(32)
    envelope = SEALER.seal("session", content, expires_at=LATER)
    assert outcome({NAME: b64url(envelope)}) is BrokenSeal


def test_the_cookie_shows_nothing() -> None:
    """E04: neither a token nor a claim is readable, however it is decoded."""
    cookies = seal(real_session(extra={"mine": "a-thing-of-mine"}))
    text = "".join(cookies.values()).replace(".", "")
    decoded = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    opened = unseal(cookies)
    assert opened is not None
    token = opened.session.token
    secrets_ = [
        token.sid,
        *(token.access_token or "").split("."),
        *(token.refresh_token or "").split("."),
        *(str(value) for value in token.user.values()),
        "a-thing-of-mine",
        "accessToken",
        "refreshToken",
    ]
    for secret in secrets_:
        assert secret not in text
        assert secret.encode() not in decoded
        assert b64url(secret.encode())[:-2] not in text
    assert opened.session.key not in decoded


def test_an_old_cookie_is_over_though_the_browser_still_sends_it() -> None:
    """E07: the limit is judged by the server."""
    cookies = seal(real_session())
    assert unseal(cookies, now=LATER - 1) is not None
    with pytest.raises(ExpiredSeal):
        unseal(cookies, now=LATER)


def test_another_application_s_cookie_is_not_ours_to_judge() -> None:
    other = Sealer([b"k" * 32], issuer="https://issuer", client_id="another")
    cookies = seal(real_session(), CookieCodec(other, overhead=0))
    assert outcome(cookies) is UnknownSealingKey


def test_the_repr_of_what_was_opened_shows_no_secret() -> None:
    session = real_session()
    text = repr(unseal(seal(session))) + repr(session.handle)
    for secret in (
        session.token.sid,
        session.token.access_token,
        session.token.refresh_token,
        repr(session.key),
        "alice",
    ):
        assert secret is not None and secret not in text


def test_real_sizes_are_what_cognito_sends() -> None:
    """The sample tokens are what the other tests take them for."""
    assert len(jwt({})) > 380
    assert jwe(1850).count(".") == 4
