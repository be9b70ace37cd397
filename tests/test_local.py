"""The local user pool, over real HTTP and without the rest of the package."""

from __future__ import annotations

import base64
import hashlib
import json
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest
import requests
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from flask_cognito_rotate.local import Fault, LocalUserPool, Tamper

CALLBACK = "http://localhost:5000/auth/callback"
VERIFIER = "a-verifier-of-the-right-length-0123456789-abcdef"
CHALLENGE = (
    base64.urlsafe_b64encode(hashlib.sha256(VERIFIER.encode()).digest())
    .rstrip(b"=")
    .decode()
)


class Clock:
    def __init__(self) -> None:
        self.now = 1_700_000_000.25

    def __call__(self) -> float:
        return self.now


class Browser:
    """An application and its user's browser, as far as the pool sees them."""

    def __init__(self, pool: LocalUserPool, http: requests.Session) -> None:
        self.pool = pool
        self.http = http

    def get(self, path: str, **options: Any) -> requests.Response:
        options.setdefault("allow_redirects", False)
        return self.http.get(self.pool.url + path, **options)

    def post(self, path: str, **options: Any) -> requests.Response:
        options.setdefault("allow_redirects", False)
        return self.http.post(self.pool.url + path, **options)

    def authorize_url(self, **changes: str | None) -> str:
        parameters = {
            "response_type": "code",
            "client_id": self.pool.client_id,
            "redirect_uri": CALLBACK,
            "scope": "openid email profile",
            "state": "some-state",
            "nonce": "n" * 43,
            "code_challenge": CHALLENGE,
            "code_challenge_method": "S256",
        } | changes
        sent = {name: value for name, value in parameters.items() if value is not None}
        return f"{self.pool.url}/oauth2/authorize?{urlencode(sent)}"

    def authorize(self, **changes: str | None) -> requests.Response:
        return self.http.get(self.authorize_url(**changes), allow_redirects=False)

    def code(self, email: str = "alice@example.com", **changes: str | None) -> str:
        url = self.pool.sign_in(None, self.authorize_url(**changes), email)
        return query(url)["code"]

    def token(self, auth: Any = "basic", **form: str) -> requests.Response:
        if auth == "basic":
            auth = (self.pool.client_id, self.pool.client_secret)
        return self.post("/oauth2/token", data=form, auth=auth)

    def redeem(self, code: str, auth: Any = "basic", /, **changes: str) -> Any:
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": CALLBACK,
            "code_verifier": VERIFIER,
        }
        return self.token(auth, **(form | changes))

    def login(
        self, email: str = "alice@example.com", **changes: str | None
    ) -> dict[str, Any]:
        answer: dict[str, Any] = self.redeem(self.code(email, **changes)).json()
        return answer

    def refresh(self, refresh_token: str, **form: str) -> requests.Response:
        return self.token(
            grant_type="refresh_token", refresh_token=refresh_token, **form
        )

    def revoke(self, token: str, auth: Any = "basic", **form: str) -> Any:
        if auth == "basic":
            auth = (self.pool.client_id, self.pool.client_secret)
        return self.post("/oauth2/revoke", data={"token": token} | form, auth=auth)

    def userinfo(self, access_token: str) -> requests.Response:
        bearer = {"Authorization": f"Bearer {access_token}"}
        return self.get("/oauth2/userInfo", headers=bearer)

    def jwks(self) -> list[Any]:
        keys: list[Any] = self.get(
            f"/{self.pool.pool_id}/.well-known/jwks.json"
        ).json()["keys"]
        return keys


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def http() -> Iterator[requests.Session]:
    with requests.Session() as session:
        session.trust_env = False
        yield session


@pytest.fixture
def make(clock: Clock, http: requests.Session) -> Iterator[Callable[..., Browser]]:
    started: list[LocalUserPool] = []

    def start(**settings: Any) -> Browser:
        pool = LocalUserPool(**({"clock": clock} | settings)).start()
        started.append(pool)
        return Browser(pool, http)

    yield start
    for pool in started:
        pool.stop()


@pytest.fixture
def browser(make: Callable[..., Browser]) -> Browser:
    return make()


def query(url: str) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}


def unpadded(part: str) -> bytes:
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))


def decoded(token: str) -> tuple[dict[str, Any], dict[str, Any]]:
    header, claims, _ = token.split(".")
    return json.loads(unpadded(header)), json.loads(unpadded(claims))


def claims_of(token: str) -> dict[str, Any]:
    return decoded(token)[1]


def verified_by(token: str, keys: list[Any]) -> str | None:
    """Return the `kid` of the key of this JWKS that signed the token, or None."""
    message, _, signature = token.rpartition(".")
    for key in keys:
        numbers = (int.from_bytes(unpadded(key[name]), "big") for name in ("e", "n"))
        public = rsa.RSAPublicNumbers(*numbers).public_key()
        try:
            public.verify(
                unpadded(signature),
                message.encode(),
                padding.PKCS1v15(),
                hashes.SHA256(),
            )
        except InvalidSignature:
            continue
        return str(key["kid"])
    return None


def oauth_error(response: requests.Response) -> tuple[int, bytes]:
    return response.status_code, response.content


INVALID_GRANT = (400, b'{"error":"invalid_grant"}')
INVALID_REQUEST = (400, b'{"error":"invalid_request"}')


class TestDocuments:
    def test_discovery_has_the_fields_of_the_real_capture(
        self, browser: Browser
    ) -> None:
        """Discovery says what Cognito says, and leaves out what Cognito leaves out."""
        url, issuer = browser.pool.url, browser.pool.issuer

        answer = browser.get("/local_Ab12Cd34E/.well-known/openid-configuration")

        assert answer.json() == {
            "authorization_endpoint": f"{url}/oauth2/authorize",
            "end_session_endpoint": f"{url}/logout",
            "id_token_signing_alg_values_supported": ["RS256"],
            "issuer": issuer,
            "jwks_uri": f"{issuer}/.well-known/jwks.json",
            "response_types_supported": ["code", "token"],
            "revocation_endpoint": f"{url}/oauth2/revoke",
            "scopes_supported": ["openid", "email", "phone", "profile"],
            "subject_types_supported": ["public"],
            "token_endpoint": f"{url}/oauth2/token",
            "token_endpoint_auth_methods_supported": [
                "client_secret_basic",
                "client_secret_post",
            ],
            "userinfo_endpoint": f"{url}/oauth2/userInfo",
        }

    def test_another_pool_id_is_not_served(self, browser: Browser) -> None:
        """Documents are found under the pool's own id only."""
        answer = browser.get("/other_Pool/.well-known/openid-configuration")

        assert answer.status_code == 404

    def test_there_are_two_keys_with_awkward_ids(self, browser: Browser) -> None:
        """Both keys are RSA-2048 and their ids hold `+`, `/` and `=`."""
        keys = browser.jwks()

        assert len(keys) == 2
        for key in keys:
            assert set(key) == {"alg", "e", "kid", "kty", "n", "use"}
            assert all(character in key["kid"] for character in "+/=")
            assert len(unpadded(key["n"])) == 256

    def test_each_kind_of_token_has_its_own_key(self, browser: Browser) -> None:
        """ID tokens and access tokens are signed by different keys, named by `kid`."""
        answer, keys = browser.login(), browser.jwks()

        signers = {
            kind: verified_by(answer[kind], keys)
            for kind in ("id_token", "access_token")
        }
        assert signers["id_token"] != signers["access_token"]
        for kind, kid in signers.items():
            assert decoded(answer[kind])[0] == {"kid": kid, "alg": "RS256"}

    def test_a_pool_without_a_domain_says_so_as_cognito_does(
        self, make: Callable[..., Browser]
    ) -> None:
        """Endpoints are below the issuer then, and understand nothing."""
        browser = make(domain=False)
        document = browser.get("/local_Ab12Cd34E/.well-known/openid-configuration")
        endpoint = document.json()["token_endpoint"]

        answer = requests.post(endpoint)

        assert endpoint == f"{browser.pool.issuer}/token"
        assert answer.status_code == 400
        assert answer.json()["code"] == "BadRequest"
        assert browser.token().status_code == 404

    def test_rotated_keys_replace_the_old_ones_or_join_them(
        self, browser: Browser
    ) -> None:
        """Keys can be rotated with and without the old ones staying published."""
        before = browser.login()["id_token"]

        browser.pool.rotate_keys(keep_old=True)
        assert verified_by(before, browser.jwks())
        browser.pool.rotate_keys()
        assert verified_by(before, browser.jwks()) is None
        assert verified_by(browser.login()["id_token"], browser.jwks())


class TestAuthorize:
    def test_it_leads_to_the_sign_in_page_and_back_with_a_code(
        self, browser: Browser
    ) -> None:
        """A browser that is not signed in meets `/login`, then returns with a code."""
        first = browser.authorize()
        page = browser.http.get(browser.pool.url + first.headers["Location"])
        url = browser.pool.sign_in(None, browser.authorize_url())

        assert first.status_code == 302
        assert first.headers["Location"].startswith("/login?")
        assert "not AWS" in page.text
        assert url.startswith(f"{CALLBACK}?code=")
        assert query(url)["state"] == "some-state"

    def test_a_signed_in_browser_is_not_asked_again(
        self, browser: Browser, clock: Clock
    ) -> None:
        """The pool's own cookie answers for an hour, which use does not prolong."""
        browser.pool.sign_in(browser.http, browser.authorize_url())

        clock.now += 3599
        assert "code=" in browser.authorize().headers["Location"]
        clock.now += 2
        assert browser.authorize().headers["Location"].startswith("/login")

    def test_the_cookie_is_named_after_the_port(self, browser: Browser) -> None:
        """Browsers share cookies between ports, so the name holds the port."""
        browser.pool.sign_in(browser.http, browser.authorize_url())

        assert [cookie.name for cookie in browser.http.cookies] == [
            f"cognito_local_pool_{browser.pool.port}"
        ]

    @pytest.mark.parametrize("prompt", ["login", "select_account"])
    def test_prompt_asks_again(self, browser: Browser, prompt: str) -> None:
        """`prompt=login` shows the sign-in page to a signed-in browser too."""
        browser.pool.sign_in(browser.http, browser.authorize_url())

        answer = browser.authorize(prompt=prompt)

        assert answer.headers["Location"].startswith("/login")

    def test_prompt_none_never_shows_a_page(self, browser: Browser) -> None:
        """`prompt=none` comes back with `login_required` when nobody is signed in."""
        answer = browser.authorize(prompt="none")

        assert query(answer.headers["Location"]) == {
            "error": "login_required",
            "state": "some-state",
        }

    @pytest.mark.parametrize(
        ("changes", "error"),
        [
            ({"scope": "openid offline_access"}, "invalid_request"),
            ({"response_type": "token"}, "unauthorized_client"),
            ({"response_type": None}, "invalid_request"),
            ({"code_challenge_method": "plain"}, "invalid_request"),
            ({"code_challenge_method": None}, "invalid_request"),
            ({"code_challenge": None}, "invalid_request"),
        ],
    )
    def test_mistakes_are_sent_back_with_the_state(
        self, browser: Browser, changes: dict[str, str | None], error: str
    ) -> None:
        """An error of the request goes to the callback URL, with `state`."""
        found = query(browser.authorize(**changes).headers["Location"])

        assert (found["error"], found["state"]) == (error, "some-state")

    def test_an_unknown_scope_is_refused_as_in_the_wild(self, browser: Browser) -> None:
        """Cognito sends `invalid_scope` as a description, whatever its guide says."""
        found = browser.authorize(scope="openid offline_access", state=None)

        assert query(found.headers["Location"]) == {
            "error": "invalid_request",
            "error_description": "invalid_scope",
        }

    @pytest.mark.parametrize(
        "changes",
        [{"client_id": "nobody"}, {"redirect_uri": "https://evil.example/"}],
    )
    def test_a_bad_client_or_callback_stays_on_the_error_page(
        self, browser: Browser, changes: dict[str, str | None]
    ) -> None:
        """Nothing is sent to a callback URL that is not the client's."""
        answer = browser.authorize(**changes)
        page = browser.get(answer.headers["Location"])

        assert answer.headers["Location"].startswith("/error?error=")
        assert page.status_code == 400
        with pytest.raises(RuntimeError, match="refused the login"):
            browser.pool.sign_in(None, browser.authorize_url(**changes))

    def test_registered_callbacks_match_exactly(
        self, make: Callable[..., Browser]
    ) -> None:
        """Once callback URLs are registered, one more slash is a mismatch."""
        browser = make(redirect_uris=[CALLBACK])

        assert "/login" in browser.authorize().headers["Location"]
        mismatch = browser.authorize(redirect_uri=f"{CALLBACK}/")
        assert query(mismatch.headers["Location"])["error"] == "redirect_mismatch"

    def test_login_hint_fills_the_form_in(self, browser: Browser) -> None:
        """The page escapes `login_hint` and puts it into the e-mail field."""
        answer = browser.authorize(login_hint='bob"><script>@example.com')
        page = browser.get(answer.headers["Location"])

        assert 'value="bob&#34;&gt;&lt;script&gt;@example.com"' in page.text
        assert "default-src 'none'" in page.headers["Content-Security-Policy"]

    def test_a_wrong_password_is_told_on_the_page(self, browser: Browser) -> None:
        """The page comes back with an alert, and no code is made."""
        path = browser.authorize().headers["Location"]

        answer = browser.post(
            path, data={"username": "alice@example.com", "password": "wrong"}
        )

        assert answer.status_code == 401
        assert 'role="alert"' in answer.text

    def test_other_sites_cannot_sign_a_browser_in(self, browser: Browser) -> None:
        """A form on another site is refused."""
        path = browser.authorize().headers["Location"]

        answer = browser.post(
            path,
            data={"username": "alice@example.com", "password": "password"},
            headers={"Sec-Fetch-Site": "cross-site"},
        )

        assert answer.status_code == 403

    def test_a_strange_host_name_is_refused(self, browser: Browser) -> None:
        """A name that was bent to 127.0.0.1 reaches nothing."""
        answer = browser.get("/", headers={"Host": "evil.example"})

        assert answer.status_code == 400


class TestCodes:
    def test_the_answer_has_cognitos_shape_and_size(self, browser: Browser) -> None:
        """Tokens are as large as real ones, and the refresh token looks like a JWE."""
        response = browser.redeem(browser.code())
        answer = response.json()
        parts = answer["refresh_token"].split(".")

        assert response.headers["Content-Type"] == "application/json;charset=UTF-8"
        assert response.headers["x-amz-cognito-request-id"]
        assert (answer["token_type"], answer["expires_in"]) == ("Bearer", 3600)
        assert len(parts) == 5
        assert unpadded(parts[0]) == b'{"cty":"JWT","enc":"A256GCM","alg":"RSA-OAEP"}'
        assert len(answer["refresh_token"]) == pytest.approx(1850, abs=20)
        assert len(answer["access_token"]) == pytest.approx(1100, abs=80)
        assert len(answer["id_token"]) == pytest.approx(1720, abs=80)

    def test_the_id_token_says_what_cognitos_says(
        self, browser: Browser, clock: Clock
    ) -> None:
        """The ID token has Cognito's claims; `email_verified` is a boolean."""
        claims = claims_of(browser.login()["id_token"])
        now = int(clock.now)

        assert claims["iss"] == browser.pool.issuer
        assert claims["aud"] == browser.pool.client_id
        assert claims["token_use"] == "id"
        assert claims["nonce"] == "n" * 43
        assert (claims["auth_time"], claims["iat"], claims["exp"]) == (
            now,
            now,
            now + 3600,
        )
        assert claims["email"] == "alice@example.com"
        assert claims["email_verified"] is True
        assert claims["cognito:groups"] == ["admin", "users"]
        assert claims["cognito:username"] == claims["sub"]
        assert claims["custom:employee_id"] == "0042"
        assert {"at_hash", "origin_jti", "event_id", "jti"} <= set(claims)

    def test_the_access_token_says_what_cognitos_says(self, browser: Browser) -> None:
        """The access token has `client_id`, `version` 2 and no `aud`."""
        answer = browser.login()
        claims = claims_of(answer["access_token"])

        assert "aud" not in claims
        assert claims["client_id"] == browser.pool.client_id
        assert (claims["token_use"], claims["version"]) == ("access", 2)
        assert claims["scope"] == "openid email profile"
        assert claims["username"] == claims["sub"]
        assert claims["origin_jti"] == claims_of(answer["id_token"])["origin_jti"]

    def test_a_resource_becomes_the_audience(self, browser: Browser) -> None:
        """`resource` (RFC 8707) is the access token's `aud`, also after a refresh."""
        answer = browser.login(resource="https://api.example.com")
        again = browser.refresh(answer["refresh_token"]).json()

        for tokens in (answer, again):
            audience = claims_of(tokens["access_token"])["aud"]
            assert audience == "https://api.example.com"

    def test_the_nonce_is_echoed_only_when_sent(self, browser: Browser) -> None:
        """Without a nonce in the request there is none in the ID token."""
        assert "nonce" not in claims_of(browser.login(nonce=None)["id_token"])

    def test_without_openid_there_is_no_id_token(
        self, make: Callable[..., Browser]
    ) -> None:
        """Only `openid` brings an ID token; resource servers' scopes can be added."""
        answer = make(scopes=["api/read"]).login(scope="api/read")

        assert set(answer) == {
            "access_token",
            "expires_in",
            "refresh_token",
            "token_type",
        }

    def test_scopes_open_attributes(self, browser: Browser) -> None:
        """`email` opens the address alone, `openid` on its own opens everything."""
        email = claims_of(browser.login(scope="openid email")["id_token"])
        everything = claims_of(browser.login(scope="openid")["id_token"])

        assert "email" in email
        assert "name" not in email
        assert {"name", "custom:tenant"} <= set(everything)

    def test_a_federated_user_has_identities(self, browser: Browser) -> None:
        """`identities` says where a federated user comes from, in strings."""
        browser.pool.add_user("eve@example.com", provider="Google")

        claims = claims_of(browser.login("eve@example.com")["id_token"])

        assert claims["identities"][0]["providerName"] == "Google"
        assert claims["identities"][0]["primary"] == "true"
        assert claims["cognito:username"].startswith("Google_")

    def test_a_code_works_once(self, browser: Browser) -> None:
        """The second redemption of a code is `invalid_grant`."""
        code = browser.code()
        browser.redeem(code)

        assert oauth_error(browser.redeem(code)) == INVALID_GRANT

    def test_a_code_lives_five_minutes(self, browser: Browser, clock: Clock) -> None:
        """After 300 seconds a code is `invalid_grant`."""
        code = browser.code()
        clock.now += 300

        assert oauth_error(browser.redeem(code)) == INVALID_GRANT

    @pytest.mark.parametrize(
        "changes",
        [
            {"redirect_uri": f"{CALLBACK}/"},
            {"code_verifier": "w" * 43},
            {"code": "unknown"},
        ],
    )
    def test_what_does_not_match_is_an_invalid_grant(
        self, browser: Browser, changes: dict[str, str]
    ) -> None:
        """Callback URL and verifier must be those of the authorization request."""
        assert oauth_error(browser.redeem(browser.code(), **changes)) == INVALID_GRANT

    @pytest.mark.parametrize(
        ("form", "error"),
        [
            ({}, "invalid_request"),
            ({"grant_type": "refresh_token"}, "invalid_request"),
            ({"grant_type": "password"}, "unsupported_grant_type"),
            ({"grant_type": "client_credentials"}, "unauthorized_client"),
        ],
    )
    def test_other_grants_are_refused(
        self, browser: Browser, form: dict[str, str], error: str
    ) -> None:
        """Each mistake in the form has its own OAuth error, always with status 400."""
        answer = browser.token(**form)

        assert (answer.status_code, answer.json()) == (400, {"error": error})


class TestClientAuthentication:
    def test_basic_with_the_client_id_in_the_body_is_right(
        self, browser: Browser
    ) -> None:
        """The refresh example of the guide sends both, and nobody complains."""
        pool = browser.pool

        answer = browser.redeem(browser.code(), client_id=pool.client_id)

        assert answer.ok
        assert pool.complaints == []

    def test_the_secret_may_travel_in_the_body(self, browser: Browser) -> None:
        """client_secret_post works too."""
        pool = browser.pool
        assert pool.client_secret

        answer = browser.redeem(
            browser.code(),
            None,
            client_id=pool.client_id,
            client_secret=pool.client_secret,
        )

        assert answer.ok

    def test_a_secret_sent_twice_is_noted(self, browser: Browser) -> None:
        """Two methods at once pass, as with Cognito, but are recorded."""
        pool = browser.pool

        answer = browser.redeem(browser.code(), client_secret=str(pool.client_secret))

        assert answer.ok
        assert pool.complaints == ["client secret both in Basic and in the body"]

    @pytest.mark.parametrize(
        ("auth", "form"),
        [
            (("local", "wrong"), {}),
            (None, {}),
            (None, {"client_id": "local"}),
            (("local", "right"), {"client_id": "other"}),
        ],
    )
    def test_a_wrong_secret_is_400_at_token_and_401_at_revoke(
        self, make: Callable[..., Browser], auth: Any, form: dict[str, str]
    ) -> None:
        """`invalid_client` has the status that the guide gives each endpoint."""
        browser = make(client_id="local", client_secret="right")
        body = b'{"error":"invalid_client"}'

        token = browser.redeem("code", auth, **form)
        revoke = browser.revoke("token", auth, **form)

        assert oauth_error(token) == (400, body)
        assert oauth_error(revoke) == (401, body)

    def test_a_public_client_sends_its_id_and_no_secret(
        self, make: Callable[..., Browser]
    ) -> None:
        """A public client is known by its id; a secret is an `invalid_client`."""
        browser = make(client_secret=None)
        pool = browser.pool

        right = browser.redeem(browser.code(), None, client_id=pool.client_id)
        wrong = browser.redeem(browser.code(), (pool.client_id, "secret"))

        assert right.ok
        assert wrong.json() == {"error": "invalid_client"}

    def test_settings_survive_a_restart(self) -> None:
        """A new pool on the same port has the same issuer, client id and secret."""
        first, second = LocalUserPool(9100), LocalUserPool(9100)

        assert first.config() == second.config()
        assert first.issuer == "http://127.0.0.1:9100/local_Ab12Cd34E"


class TestRefresh:
    def test_rotation_brings_a_new_token_and_kills_the_old_one(
        self, browser: Browser
    ) -> None:
        """With grace 0 a refresh token is good for one refresh; reuse is counted."""
        first = browser.login()["refresh_token"]
        second = browser.refresh(first).json()["refresh_token"]

        assert second != first
        assert oauth_error(browser.refresh(first)) == INVALID_GRANT
        assert browser.pool.counters["RefreshTokenReuse"] == 1
        assert browser.refresh(second).ok

    def test_reuse_can_end_the_session(self, make: Callable[..., Browser]) -> None:
        """Where it is asked for, reuse revokes the newest token as well."""
        browser = make(reuse_revokes_family=True)
        first = browser.login()["refresh_token"]
        second = browser.refresh(first).json()["refresh_token"]
        browser.refresh(first)

        assert oauth_error(browser.refresh(second)) == INVALID_GRANT

    def test_within_the_grace_period_reuse_succeeds(
        self, make: Callable[..., Browser], clock: Clock
    ) -> None:
        """Each use in grace brings a different new token; use does not prolong it."""
        browser = make(grace=30)
        first = browser.login()["refresh_token"]
        second = browser.refresh(first).json()["refresh_token"]

        clock.now += 29
        third = browser.refresh(first).json()["refresh_token"]
        assert third != second
        clock.now += 1
        assert oauth_error(browser.refresh(first)) == INVALID_GRANT
        assert browser.refresh(second).ok
        assert browser.refresh(third).ok

    def test_without_rotation_no_refresh_token_comes_back(
        self, make: Callable[..., Browser]
    ) -> None:
        """With rotation off the answer has none, and the old one goes on working."""
        browser = make(rotation=False)
        token = browser.login()["refresh_token"]

        assert "refresh_token" not in browser.refresh(token).json()
        assert browser.refresh(token).ok

    def test_rotation_does_not_move_the_absolute_expiry(
        self, make: Callable[..., Browser], clock: Clock
    ) -> None:
        """The last refresh token dies when the first one would have."""
        browser = make(refresh_token_validity=1000)
        token = browser.login()["refresh_token"]
        clock.now += 900
        token = browser.refresh(token).json()["refresh_token"]

        assert browser.pool.is_live(token)
        clock.now += 100
        assert oauth_error(browser.refresh(token)) == INVALID_GRANT

    def test_the_family_stays_and_the_nonce_goes(
        self, browser: Browser, clock: Clock
    ) -> None:
        """A refreshed ID token keeps `origin_jti` and `auth_time`, without a nonce."""
        answer = browser.login()
        clock.now += 100
        again = browser.refresh(answer["refresh_token"]).json()
        old, new = claims_of(answer["id_token"]), claims_of(again["id_token"])

        assert "nonce" not in new
        assert new["iat"] == old["iat"] + 100
        for name in ("sub", "origin_jti", "auth_time", "cognito:groups"):
            assert new[name] == old[name]

    @pytest.mark.parametrize("act", ["disable_user", "delete_user", "revoke_all"])
    def test_a_user_who_may_not_go_on_gets_invalid_grant(
        self, browser: Browser, act: str
    ) -> None:
        """Disabled, deleted and signed-out users cannot refresh; others can."""
        alice = browser.login()["refresh_token"]
        bob = browser.login("bob@example.com")["refresh_token"]

        getattr(browser.pool, act)("alice@example.com")

        assert oauth_error(browser.refresh(alice)) == INVALID_GRANT
        assert browser.refresh(bob).ok

    def test_a_disabled_user_cannot_sign_in(self, browser: Browser) -> None:
        """The page says why, until the user is enabled again."""
        browser.pool.disable_user("bob@example.com")

        with pytest.raises(RuntimeError, match="401"):
            browser.code("bob@example.com")
        browser.pool.enable_user("bob@example.com")
        assert browser.code("bob@example.com")

    def test_of_many_at_once_one_wins(self, browser: Browser) -> None:
        """Twenty simultaneous refreshes with one token and grace 0: one succeeds."""
        token = browser.login()["refresh_token"]

        with ThreadPoolExecutor(20) as threads:
            answers = list(threads.map(browser.refresh, [token] * 20))

        assert sum(answer.ok for answer in answers) == 1
        assert browser.pool.counters["token.refresh_token"] == 20
        assert browser.pool.live_refresh_tokens() == 1

    def test_rotations_are_remembered_without_tokens(
        self, browser: Browser, clock: Clock
    ) -> None:
        """The history names tokens by the beginning of their SHA-256."""
        first = browser.login()["refresh_token"]
        second = browser.refresh(first).json()["refresh_token"]

        (rotation,) = browser.pool.rotations
        assert rotation.old == hashlib.sha256(first.encode()).hexdigest()[:12]
        assert rotation.new == hashlib.sha256(second.encode()).hexdigest()[:12]
        assert (rotation.user, rotation.at) == ("alice@example.com", clock.now)


class TestRevoke:
    def test_it_ends_the_family(self, browser: Browser) -> None:
        """All tokens of the sign-in die, those of another sign-in live."""
        answer, other = browser.login(), browser.login()
        newest = browser.refresh(answer["refresh_token"]).json()

        revoked = browser.revoke(newest["refresh_token"])

        assert (revoked.status_code, revoked.content) == (200, b"")
        assert oauth_error(browser.refresh(newest["refresh_token"])) == INVALID_GRANT
        assert browser.userinfo(answer["access_token"]).status_code == 401
        assert browser.refresh(other["refresh_token"]).ok

    def test_an_unknown_token_is_no_error(self, browser: Browser) -> None:
        """A token that is unknown or dead already is answered with 200."""
        assert browser.revoke("unknown").status_code == 200

    def test_only_refresh_tokens_can_be_revoked(self, browser: Browser) -> None:
        """An access token is `unsupported_token_type`, none is `invalid_request`."""
        access = browser.revoke(browser.login()["access_token"])

        assert oauth_error(access) == (400, b'{"error":"unsupported_token_type"}')
        assert oauth_error(browser.revoke("")) == INVALID_REQUEST

    def test_the_pool_itself_can_revoke(self, browser: Browser) -> None:
        """`revoke` and `revoke_all` act without HTTP."""
        first, second = browser.login(), browser.login()
        browser.pool.revoke(first["refresh_token"])
        assert browser.pool.live_refresh_tokens() == 1

        browser.pool.revoke_all()

        assert not browser.pool.is_live(second["refresh_token"])


class TestUserInfo:
    def test_flags_are_strings(self, browser: Browser) -> None:
        """`email_verified` is "true" here, where the ID token has a boolean."""
        info = browser.userinfo(browser.login()["access_token"]).json()

        assert info["email_verified"] == "true"
        assert info["phone_number_verified"] == "false"
        assert info["username"] == info["sub"]

    def test_an_expired_token_is_refused(self, browser: Browser, clock: Clock) -> None:
        """401 with the reason in `WWW-Authenticate`; without a token 400."""
        token = browser.login()["access_token"]
        clock.now += 3600

        answer = browser.userinfo(token)

        assert answer.status_code == 401
        assert 'error="invalid_token"' in answer.headers["WWW-Authenticate"]
        assert browser.get("/oauth2/userInfo").status_code == 400


class TestLogout:
    def logout(self, browser: Browser, **changes: str) -> requests.Response:
        parameters = {"client_id": browser.pool.client_id} | changes
        return browser.get("/logout", params=parameters)

    def test_it_forgets_the_browser_and_returns(self, browser: Browser) -> None:
        """The cookie is gone and the tokens live on, as with Cognito."""
        url = browser.pool.sign_in(browser.http, browser.authorize_url())
        tokens = browser.redeem(query(url)["code"]).json()

        answer = self.logout(browser, logout_uri="http://localhost:5000/")

        assert answer.headers["Location"] == "http://localhost:5000/"
        assert browser.authorize().headers["Location"].startswith("/login")
        assert browser.pool.is_live(tokens["refresh_token"])

    def test_sign_out_urls_match_exactly(self, make: Callable[..., Browser]) -> None:
        """A registered URL without its final slash is another URL."""
        browser = make(logout_uris=["http://localhost:5000/"])

        right = self.logout(browser, logout_uri="http://localhost:5000/")
        wrong = self.logout(browser, logout_uri="http://localhost:5000")

        assert right.status_code == 302
        assert wrong.status_code == 400

    def test_the_second_form_asks_for_another_sign_in(self, browser: Browser) -> None:
        """With `redirect_uri` in the place of `logout_uri` the sign-in page follows."""
        answer = self.logout(browser, redirect_uri=CALLBACK, response_type="code")

        assert answer.headers["Location"].startswith("/login?")

    def test_openid_connects_logout_is_not_understood(self, browser: Browser) -> None:
        """`post_logout_redirect_uri` means nothing to Cognito."""
        answer = self.logout(browser, post_logout_redirect_uri=CALLBACK)

        assert answer.status_code == 400
        assert "Required String parameter" in answer.text


class TestFaults:
    def test_queued_answers_come_in_order_and_then_the_right_one(
        self, browser: Browser
    ) -> None:
        """A scripted answer spends no refresh token; None is a right answer."""
        token = browser.login()["refresh_token"]
        faults = browser.pool.faults
        faults.queue(
            "token.refresh_token",
            Fault(status=503, headers={"Retry-After": "3"}, body=b"<html>"),
            None,
            Fault(status=500),
        )

        first, second = browser.refresh(token), browser.refresh(token)

        assert (first.status_code, first.content) == (503, b"<html>")
        assert first.headers["Retry-After"] == "3"
        assert second.ok
        assert faults.waiting("token.refresh_token") == 1

    def test_a_standing_fault_stays_until_it_is_cleared(self, browser: Browser) -> None:
        """`always` stands, `clear` ends it, other endpoints are not concerned."""
        browser.pool.faults.always("jwks", Fault(status=500))
        path = f"/{browser.pool.pool_id}/.well-known/jwks.json"

        assert [browser.get(path).status_code for _ in range(2)] == [500, 500]
        assert browser.authorize().status_code == 302
        browser.pool.faults.clear("jwks")
        assert browser.get(path).status_code == 200

    def test_an_answer_can_be_lost_after_the_work(self, browser: Browser) -> None:
        """A reset "after" rotates the token and breaks the connection."""
        token = browser.login()["refresh_token"]
        browser.pool.faults.queue("token", Fault(reset="after"))

        with pytest.raises(requests.ConnectionError):
            browser.refresh(token)
        assert len(browser.pool.rotations) == 1
        assert oauth_error(browser.refresh(token)) == INVALID_GRANT

    def test_a_request_can_be_lost_before_the_work(self, browser: Browser) -> None:
        """A reset "before" leaves the token alone."""
        token = browser.login()["refresh_token"]
        browser.pool.faults.queue("token", Fault(reset="before"))

        with pytest.raises(requests.ConnectionError):
            browser.refresh(token)
        assert browser.refresh(token).ok

    def test_half_a_body_is_announced_whole(self, browser: Browser) -> None:
        """The work is done, the answer breaks off in its middle."""
        token = browser.login()["refresh_token"]
        browser.pool.faults.queue("token", Fault(half=True))

        with pytest.raises(requests.exceptions.ChunkedEncodingError):
            browser.refresh(token)
        assert len(browser.pool.rotations) == 1

    def test_an_error_may_hide_work_that_was_done(self, browser: Browser) -> None:
        """`work=True` rotates the token although the answer is a 500."""
        token = browser.login()["refresh_token"]
        browser.pool.faults.queue("token", Fault(status=500, work=True))

        assert browser.refresh(token).status_code == 500
        assert len(browser.pool.rotations) == 1

    def test_bytes_can_drip(self, browser: Browser) -> None:
        """The answer comes in small pieces with a pause between them."""
        fault = Fault(body=b"123456", drip=(2, 0.02))
        browser.pool.faults.queue("userinfo", fault)
        begun = time.monotonic()

        answer = browser.get("/oauth2/userInfo")

        assert answer.content == b"123456"
        assert time.monotonic() - begun >= 0.04

    def test_work_and_answer_can_be_delayed(self, browser: Browser) -> None:
        """`delay` waits before the work, `delay_after` before the answer."""
        fault = Fault(delay=0.02, delay_after=0.02)
        browser.pool.faults.queue("discovery", fault)
        begun = time.monotonic()

        answer = browser.get(
            f"/{browser.pool.pool_id}/.well-known/openid-configuration"
        )

        assert answer.ok
        assert time.monotonic() - begun >= 0.04

    def test_a_call_can_be_held_until_it_is_let_go(self, browser: Browser) -> None:
        """`before` and `after` take any callable, so that races need no sleeping."""
        token = browser.login()["refresh_token"]
        done, let_go = threading.Event(), threading.Event()
        fault = Fault(after=lambda: (done.set(), let_go.wait(5)))
        browser.pool.faults.queue("token", fault)

        with ThreadPoolExecutor(1) as threads:
            call = threads.submit(browser.refresh, token)
            assert done.wait(5)
            rotated = len(browser.pool.rotations)
            answered = call.done()
            let_go.set()

        assert (rotated, answered) == (1, False)
        assert call.result().ok

    def test_keys_can_be_replaced_right_before_signing(self, browser: Browser) -> None:
        """A client that has just fetched the keys meets tokens of new ones."""
        code, cached = browser.code(), browser.jwks()
        fault = Fault(before=browser.pool.rotate_keys)
        browser.pool.faults.queue("token", fault)

        token = browser.redeem(code).json()["id_token"]

        assert verified_by(token, cached) is None
        assert verified_by(token, browser.jwks())

    def test_a_right_answer_can_be_edited(self, browser: Browser) -> None:
        """`edit` takes the decoded answer and returns what is sent."""
        fault = Fault(edit=lambda answer: {**answer, "expires_in": "abc"})
        browser.pool.faults.queue("token", fault)

        assert browser.login()["expires_in"] == "abc"

    def test_claims_are_changed_at_login_and_at_refresh_separately(
        self, browser: Browser
    ) -> None:
        """A tampered refresh leaves the login alone, and is signed rightly."""
        browser.pool.faults.tamper(
            "id_token", at="refresh", claims=lambda claims: {**claims, "sub": "mallory"}
        )
        answer = browser.login()
        again = browser.refresh(answer["refresh_token"]).json()

        assert claims_of(answer["id_token"])["sub"] != "mallory"
        assert claims_of(again["id_token"])["sub"] == "mallory"
        assert claims_of(again["access_token"])["sub"] != "mallory"
        assert verified_by(again["id_token"], browser.jwks())

    @pytest.mark.parametrize(
        ("tamper", "alg", "length"),
        [
            (Tamper.alg_none("None"), "None", 0),
            (Tamper.bad_signature(), "RS256", 256),
            (Tamper.truncated_signature(), "RS256", 128),
            (Tamper.foreign_key(), "RS256", 256),
            (Tamper.hs256(b"secret"), "HS256", 32),
            (Tamper.other_algorithm("RS384"), "RS384", 256),
            (Tamper.other_algorithm("RS512"), "RS512", 256),
            (Tamper.other_algorithm("PS256"), "PS256", 256),
        ],
    )
    def test_signatures_can_be_forged(
        self, browser: Browser, tamper: Tamper, alg: str, length: int
    ) -> None:
        """Every forgery names a published key and is not signed by it with RS256."""
        browser.pool.faults.tamper("id_token", tamper)
        token, keys = browser.login()["id_token"], browser.jwks()
        header = decoded(token)[0]

        assert header["alg"] == alg
        assert header["kid"] in {key["kid"] for key in keys}
        assert len(unpadded(token.rpartition(".")[2])) == length
        assert verified_by(token, keys) is None

    def test_the_finished_token_can_be_replaced(self, browser: Browser) -> None:
        """`Tamper.token` has the last word."""
        tamper = Tamper(token=lambda token: token[:10])
        browser.pool.faults.tamper("access_token", tamper, at="login")

        assert len(browser.login()["access_token"]) == 10

    def test_documents_can_lie(self, browser: Browser) -> None:
        """Discovery fields are overridden or left out; junk joins the keys."""
        faults = browser.pool.faults
        faults.discovery = {"issuer": "http://evil", "revocation_endpoint": None}
        faults.extra_keys = [{"kty": "junk"}, 7]
        path = f"/{browser.pool.pool_id}/.well-known/openid-configuration"

        document, keys = browser.get(path).json(), browser.jwks()

        assert document["issuer"] == "http://evil"
        assert "revocation_endpoint" not in document
        assert keys[:2] == [{"kty": "junk"}, 7]
        faults.clear()
        assert browser.get(path).json()["issuer"] == browser.pool.issuer

    def test_an_unknown_endpoint_is_a_mistake(self, browser: Browser) -> None:
        """A misspelt name is told at once instead of never happening."""
        with pytest.raises(ValueError, match="no endpoint 'tokens'"):
            browser.pool.faults.queue("tokens", Fault(status=500))

    def test_the_quota_answers_429(
        self, make: Callable[..., Browser], clock: Clock
    ) -> None:
        """More than `quota` token calls in a second are throttled, in plain text."""
        browser = make(quota=2)

        answers = [browser.token() for _ in range(3)]

        assert [answer.status_code for answer in answers] == [400, 400, 429]
        assert answers[2].text == "Rate exceeded"
        assert answers[2].headers["Content-Type"] == "text/plain"
        clock.now += 1
        assert browser.token().status_code == 400


class TestAccounts:
    def test_requests_are_counted_and_recorded(
        self, browser: Browser, clock: Clock
    ) -> None:
        """Counters and log show what was sent, field by field."""
        token = browser.login()["refresh_token"]
        browser.refresh(token, client_id=browser.pool.client_id)
        counters, received = browser.pool.counters, browser.pool.requests[-1]

        assert counters["token"] == 2
        assert counters["token.authorization_code"] == 1
        assert counters["token.refresh_token"] == 1
        assert counters["authorize"] == 1
        assert (received.endpoint, received.at) == ("token", clock.now)
        assert received.fields == ("grant_type", "refresh_token", "client_id")
        assert received.form["refresh_token"] == token
        assert received.headers["Authorization"].startswith("Basic ")

    def test_no_token_is_shown_or_logged(
        self, browser: Browser, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Neither the log at its loudest nor any `repr` holds a credential."""
        caplog.set_level(logging.DEBUG)
        code = browser.code()
        answer = browser.redeem(code).json()
        browser.refresh(answer["refresh_token"])
        shown = f"{caplog.text}{browser.pool.requests!r}{list(browser.pool.users)!r}"
        theirs = "".join(
            record.getMessage()
            for record in caplog.records
            if record.name.startswith("urllib3")
        )

        assert "<tokens: " in shown
        for secret in (
            code,
            answer["access_token"],
            answer["refresh_token"],
            answer["id_token"],
            str(browser.pool.client_secret),
        ):
            assert secret not in shown.replace(theirs, "")

    def test_old_entries_are_forgotten(
        self, browser: Browser, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A pool that runs for weeks keeps the newest requests and tokens only."""
        monkeypatch.setattr("flask_cognito_rotate.local.recent.MOST", 3)

        tokens = [browser.login()["refresh_token"] for _ in range(4)]

        assert len(browser.pool.requests) == 3
        assert [browser.pool.is_live(token) for token in tokens] == [False] + [True] * 3


class TestServer:
    @pytest.mark.parametrize(
        ("path", "status"), [("/", 200), ("/favicon.ico", 204), ("/nowhere", 404)]
    )
    def test_other_pages_are_answered(
        self, browser: Browser, path: str, status: int
    ) -> None:
        """The start page says what this is; what is not there is a page as well."""
        assert browser.get(path).status_code == status

    @pytest.mark.parametrize(
        "host",
        ["0.0.0.0", "192.0.2.1", "::", "example.com"],  # noqa: S104 - to be refused
    )
    def test_it_listens_on_loopback_only(self, host: str) -> None:
        """Any address that others can reach is refused, with the remedy."""
        with pytest.raises(ValueError, match=r"loopback only.*use 127\.0\.0\.1"):
            LocalUserPool(host=host)

    @pytest.mark.parametrize("host", ["localhost", "::1"])
    def test_other_names_of_loopback_work(self, host: str) -> None:
        """IPv6 and `localhost` are in the issuer when the pool listens there."""
        try:
            pool = LocalUserPool(host=host).start()
        except OSError:
            pytest.skip(f"this machine has no {host}")
        with requests.Session() as session:
            session.trust_env = False
            document = session.get(f"{pool.issuer}/.well-known/openid-configuration")
        pool.stop()

        assert document.json()["issuer"] == pool.issuer

    def test_a_stopped_pool_refuses_connections_and_comes_back(
        self, browser: Browser
    ) -> None:
        """`stop` frees the port; `start` takes it again and nobody is signed out."""
        token = browser.login()["refresh_token"]
        issuer = browser.pool.issuer

        browser.pool.stop()
        with pytest.raises(requests.ConnectionError):
            browser.refresh(token)
        browser.pool.start()

        assert browser.pool.issuer == issuer
        assert browser.refresh(token).ok

    def test_stopping_breaks_off_what_is_under_way(self, browser: Browser) -> None:
        """Neither a delayed answer nor an idle connection holds `stop` up."""
        browser.pool.faults.always("jwks", Fault(delay=60))
        begun = time.monotonic()
        with (
            socket.create_connection(("127.0.0.1", browser.pool.port)),
            ThreadPoolExecutor(1) as threads,
        ):
            call = threads.submit(browser.jwks)
            while not browser.pool.counters["jwks"]:
                time.sleep(0.001)
            browser.pool.stop()

        assert isinstance(call.exception(), requests.ConnectionError)
        assert time.monotonic() - begun < 2

    def test_a_taken_port_is_an_os_error(self, browser: Browser) -> None:
        """The process is not ended, as werkzeug would do."""
        with pytest.raises(OSError, match="in use"):
            LocalUserPool(browser.pool.port).start()

    def test_the_port_is_known_once_it_listens(self) -> None:
        """Before that, the issuer is an error rather than port 0."""
        pool = LocalUserPool()

        with pytest.raises(RuntimeError, match="start the pool first"):
            _ = pool.issuer
        with pool:
            assert str(pool.port) in pool.issuer
            with pytest.raises(RuntimeError, match="running already"):
                pool.start()

    @pytest.mark.parametrize(
        "settings", [{"grace": 61}, {"access_token_validity": 0}, {"grace": -1}]
    )
    def test_numbers_out_of_range_are_refused(self, settings: dict[str, int]) -> None:
        """Cognito's limits hold, except that tokens may live for a second only."""
        with pytest.raises(ValueError, match="seconds"):
            LocalUserPool(**settings)  # type: ignore[arg-type]

    def test_a_pool_starts_quickly(self, browser: Browser) -> None:
        """Keys are made once per process, so that every test can have a pool."""
        begun = time.monotonic()

        with LocalUserPool() as pool:
            assert pool.jwks()
        assert time.monotonic() - begun < 0.5
