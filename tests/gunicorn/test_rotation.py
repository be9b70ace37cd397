"""The rule of rotation over real processes: DESIGN's item for one host."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests

from flask_cognito_rotate.local import Fault, LocalUserPool

pytestmark = pytest.mark.gunicorn

WORKERS = ("--workers", "3", "--worker-class", "gthread", "--threads", "16")
REQUESTS = 60


def get(url: str, cookies: dict[str, str]) -> requests.Response:
    return requests.get(url, cookies=cookies, timeout=30, allow_redirects=False)


def all_at_once(url: str, cookies: dict[str, str], count: int) -> list[Any]:
    """Send `count` requests of one session in the same moment."""
    together = threading.Barrier(count)

    def one(_: int) -> requests.Response:
        together.wait(20)
        return get(url, cookies)

    with ThreadPoolExecutor(count) as threads:
        return list(threads.map(one, range(count)))


def wait_until_expired(server_url: str, cookies: dict[str, str]) -> None:
    expires = get(server_url, cookies).json()["expires"]
    time.sleep(max(0.0, expires - time.time()) + 0.05)


def refreshes(pool: LocalUserPool) -> int:
    return pool.counters["token.refresh_token"]


@pytest.mark.parametrize("case", ["D08"])
def test_case_of_60_parallel_requests_on_3_workers_makes_one_call_in_every_round(
    case: str, live_pool: LocalUserPool, start_server: Callable[..., Any]
) -> None:
    """60 × 200 and one token call of 300 ms, five times, from one old cookie."""
    server = start_server(*WORKERS)
    cookies = server.sign_in(live_pool)
    live_pool.faults.always("token.refresh_token", Fault(work=True, delay=0.3))
    workers = set()

    for round_number in range(1, 6):
        wait_until_expired(server.url, cookies) if round_number == 1 else time.sleep(
            3.1
        )
        answers = all_at_once(server.url, cookies, REQUESTS)

        assert Counter(answer.status_code for answer in answers) == {200: REQUESTS}
        assert refreshes(live_pool) == round_number
        workers |= {answer.json()["pid"] for answer in answers}
    assert len(workers) > 1
    assert live_pool.counters["RefreshTokenReuse"] == 0
    assert live_pool.counters["discovery"] <= 3


def kill_workers(server: Any) -> None:
    """SIGKILL the workers, as an out-of-memory killer does; the master lives on."""
    listing = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children")
    for pid in listing.read_text().split():
        os.kill(int(pid), signal.SIGKILL)


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize(
    ("grace", "status", "lost"),
    [
        pytest.param(30, 200, False, id="D11-grace-30"),
        pytest.param(0, 302, True, id="D11-grace-0"),
    ],
)
def test_case_of_a_worker_killed_between_answer_and_save(
    grace: int,
    status: int,
    lost: bool,
    live_pool: LocalUserPool,
    start_server: Callable[..., Any],
) -> None:
    """With Cognito's grace the session lives; without, one clean login and no more."""
    live_pool.grace = grace
    server = start_server("--workers", "2", "--threads", "4")
    cookies = server.sign_in(live_pool)
    wait_until_expired(server.url, cookies)
    rotated, killed = threading.Event(), threading.Event()

    def hold() -> None:
        rotated.set()
        killed.wait(20)

    live_pool.faults.queue("token.refresh_token", Fault(work=True, after=hold))
    with ThreadPoolExecutor(1) as threads:
        cut_off = threads.submit(get, server.url, cookies)
        assert rotated.wait(10)
        kill_workers(server)
        killed.set()
        assert isinstance(cut_off.exception(20), requests.ConnectionError)

    started = time.monotonic()
    html = {"Accept": "text/html"}
    answer = requests.get(
        server.url, cookies=cookies, headers=html, timeout=30, allow_redirects=False
    )

    assert answer.status_code == status
    assert time.monotonic() - started < 6
    assert refreshes(live_pool) == 2
    again = requests.get(
        server.url, cookies=cookies, headers=html, timeout=30, allow_redirects=False
    )
    assert again.status_code == status
    assert refreshes(live_pool) == 2
    assert ("the answer to an earlier refresh was lost" in server.log()) is lost


def test_an_old_cookie_is_refused_by_every_worker_after_a_logout(
    live_pool: LocalUserPool, start_server: Callable[..., Any]
) -> None:
    """Case E06 and G08: the record says ended, whichever worker is asked."""
    live_pool.access_token_validity = 3600
    server = start_server(*WORKERS)
    cookies = server.sign_in(live_pool)
    page = get(f"{server.url}/auth/logout", cookies).text
    token = page.partition('name="csrfToken" value="')[2].partition('"')[0]

    left = requests.post(
        f"{server.url}/auth/logout",
        data={"csrfToken": token},
        headers={"Origin": server.url},
        cookies=cookies,
        timeout=30,
        allow_redirects=False,
    )

    assert left.status_code == 303
    answers = all_at_once(server.url, cookies, 20)
    assert Counter(answer.status_code for answer in answers) == {401: 20}
    assert live_pool.live_refresh_tokens() == 0
