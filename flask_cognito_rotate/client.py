"""An HTTP client that carries the session's access token to other services."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import requests

#: What `requests` can send a second time.
_REPLAYABLE = (type(None), str, bytes, dict, list, tuple)


class SessionClient(requests.Session):
    """A `requests.Session` that sends ``Authorization: Bearer``.

    The access token is looked up for every request and refreshed when due. A 401 makes
    one refresh and one more try, where the body can be sent again. Without a `timeout`
    of the caller's, each wait for bytes is limited.

    Args:
        access_token: returns a usable access token, or raises.
        renew: given the token that was refused, returns another; None without one.
        timeout: seconds.
    """

    def __init__(
        self,
        access_token: Callable[[], str],
        renew: Callable[[str], str | None],
        timeout: float,
    ) -> None:
        super().__init__()
        self._access_token = access_token
        self._renew = renew
        self._timeout = timeout

    def request(  # type: ignore[override]
        self, method: str, url: str, **options: Any
    ) -> requests.Response:
        """Same as `requests.Session.request`, but with the session's access token.

        Raises:
            LoginRequired: nobody is signed in.
            RefreshAccessTokenError: there is no usable access token for now.
        """
        if options.get("timeout") is None:
            options["timeout"] = self._timeout
        if options.get("auth") is not None:
            return super().request(method, url, **options)
        token = self._access_token()
        options["auth"] = _Bearer(token)
        response = super().request(method, url, **options)
        if not _was_refused(response, token) or not _is_replayable(options):
            return response
        renewed = self._renew(token)
        if renewed is None:
            return response
        response.close()
        options["auth"] = _Bearer(renewed)
        return super().request(method, url, **options)


class _Bearer(requests.auth.AuthBase):
    def __init__(self, token: str) -> None:
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self._token}"
        return request


def _was_refused(response: requests.Response, token: str) -> bool:
    # A redirect to another host drops the header: its 401 says nothing of our token.
    sent = response.request.headers.get("Authorization")
    return response.status_code == 401 and sent == f"Bearer {token}"


def _is_replayable(options: dict[str, Any]) -> bool:
    return isinstance(options.get("data"), _REPLAYABLE) and not options.get("files")
