"""The demo, without a browser."""

from __future__ import annotations

import re
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import requests
from demo_process import DemoProcess, running_demo

from flask_cognito_rotate.local import LocalUserPool


def test_starts_without_settings_and_refreshes_once_for_parallel_requests(
    tmp_path: Path,
) -> None:
    """From nothing to one rotation for six requests, and a quiet end by Ctrl-C."""
    with running_demo(tmp_path) as demo, requests.Session() as browser:
        url = demo.url()
        assert "Sign in" in browser.get(url).text
        signed_in = _sign_in(browser, url)
        assert "Alice" in signed_in and "None yet" in signed_in

        assert _press(browser, f"{url}/demo/expire").status_code == 303
        answers = _at_once(6, f"{url}/whoami", browser.cookies.get_dict())
        assert [answer["refreshed"] for answer in answers].count(True) == 1
        assert len({answer["accessToken"] for answer in answers}) == 1
        assert {answer["refreshCalls"] for answer in answers} == {1}
        rotations = re.findall(r'class="dead">(\w{12})<', browser.get(url).text)
        assert len(rotations) == 1

        assert demo.stop() == 0
        assert "Traceback" not in demo.log() and "Warning" not in demo.log()
        assert [path.name for path in tmp_path.iterdir()] == ["demo.log"]


def test_says_that_cognito_is_down_and_that_the_user_stays_signed_in(
    tmp_path: Path,
) -> None:
    """Broken and expired: a page with a name on it, and 503 only for scripts."""
    with running_demo(tmp_path) as demo, requests.Session() as browser:
        url = demo.url()
        _sign_in(browser, url)
        _press(browser, f"{url}/demo/break")
        _press(browser, f"{url}/demo/expire")
        page = browser.get(url)
        assert page.status_code == 200
        assert "Cognito cannot be reached. You stay signed in." in page.text
        assert "Alice" in page.text
        whoami = f"{url}/whoami"
        person = browser.get(whoami, headers={"Sec-Fetch-Mode": "navigate"})
        assert person.status_code == 503
        assert '<a class="button" href="/whoami">Try again</a>' in person.text
        refused = browser.get(whoami, headers={"Sec-Fetch-Mode": "cors"})
        assert refused.status_code == 503 and int(refused.headers["Retry-After"]) > 0


def test_presses_no_button_for_another_site(tmp_path: Path) -> None:
    """The demo's own forms count, and nothing that came from elsewhere."""
    with running_demo(tmp_path) as demo:
        button = f"{demo.url()}/demo/break"
        strangers: list[dict[str, str]] = [
            {},
            {"Origin": "https://evil.example"},
            {"Sec-Fetch-Site": "same-site"},
            {"Sec-Fetch-Site": "cross-site", "Origin": demo.url()},
        ]
        for headers in strangers:
            assert requests.post(button, headers=headers).status_code == 403


def test_uses_the_pool_that_the_environment_names(tmp_path: Path) -> None:
    """A pool of the user's own: sign-in works, and the breaking buttons are gone."""
    with LocalUserPool() as pool, requests.Session() as browser:
        settings = {name: str(value) for name, value in pool.config().items()}
        with running_demo(tmp_path, **settings) as demo:
            url = demo.url()
            assert url.startswith("http://localhost:")
            assert f"{url}/auth/callback" in demo.log()
            signed_in = _sign_in(browser, url)
            assert "Alice" in signed_in and "Three requests at once" in signed_in
            assert "Expire" not in signed_in and "Break" not in signed_in
            assert _press(browser, f"{url}/demo/expire").status_code == 404


def test_reports_wrong_settings_without_a_traceback(tmp_path: Path) -> None:
    """An issuer without a client id: every mistake by its name, and exit code 1."""
    issuer = "https://cognito-idp.eu-central-1.amazonaws.com/eu-central-1_AbCdEfGhI"
    demo = DemoProcess(tmp_path / "demo.log", "--port", "0", COGNITO_ISSUER=issuer)
    assert demo.process.wait(20) == 1
    assert "COGNITO_CLIENT_ID" in demo.log() and "Traceback" not in demo.log()


def test_says_how_to_go_on_when_the_port_is_taken(tmp_path: Path) -> None:
    """A taken port is explained in one line."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        demo = DemoProcess(tmp_path / "demo.log", "--port", str(port))
        assert demo.process.wait(20) == 1
    assert demo.log().startswith(f"Port {port} cannot be used: ")
    assert "--port" in demo.log() and "Traceback" not in demo.log()


def _sign_in(browser: requests.Session, url: str) -> str:
    """Fill the pool's form in, and return the page that this leads to."""
    form = browser.get(f"{url}/auth/login")
    fields = {"username": "alice@example.com", "password": "password"}
    back = browser.post(form.url, data=fields)
    assert back.status_code == 200 and back.url == f"{url}/", back.text
    return back.text


def _press(browser: requests.Session, url: str) -> requests.Response:
    headers = {"Sec-Fetch-Site": "same-origin"}
    return browser.post(url, headers=headers, allow_redirects=False)


def _at_once(count: int, url: str, cookies: dict[str, str]) -> list[dict[str, Any]]:
    def ask(_: int) -> dict[str, Any]:
        answer = requests.get(url, cookies=cookies)
        assert answer.status_code == 200, answer.text
        body: dict[str, Any] = answer.json()
        return body

    with ThreadPoolExecutor(count) as workers:
        return list(workers.map(ask, range(count)))
