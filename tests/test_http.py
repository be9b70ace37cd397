"""Calls end in time, whatever the other side does, and say what is known of them.

The servers are real sockets on loopback that follow a script, byte by byte.
"""

from __future__ import annotations

import base64
import contextlib
import os
import select
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)

from flask_cognito_rotate.errors import ProviderUnavailable
from flask_cognito_rotate.http import (
    MAX_ANSWER_BYTES,
    Answer,
    BoundedAdapter,
    Call,
    send,
)

TIMEOUT = 0.4
GOOD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
)


class Peer:
    """One connection, from the server's side."""

    def __init__(self, sock: socket.socket, stop: threading.Event) -> None:
        self.sock = sock
        self._stop = stop

    def request(self) -> bytes:
        """Read one whole request."""
        raw = b""
        while b"\r\n\r\n" not in raw:
            raw += self._some()
        fields, _, body = raw.partition(b"\r\n\r\n")
        length = 0
        for line in fields.lower().split(b"\r\n"):
            if line.startswith(b"content-length:"):
                length = int(line.partition(b":")[2])
        while len(body) < length:
            body += self._some()
        return fields + b"\r\n\r\n" + body

    def _some(self) -> bytes:
        data = self.sock.recv(65536)
        if not data:
            raise ConnectionError("closed")
        return data

    def say(self, data: bytes) -> None:
        self.sock.sendall(data)

    def drip(self, data: bytes, seconds: float = 0.05) -> None:
        for n in range(len(data)):
            self.say(data[n : n + 1])
            if self._stop.wait(seconds):
                return

    def hang(self) -> None:
        """Stay silent until the other side closes."""
        while not self._stop.is_set():
            if select.select([self.sock], [], [], 0.02)[0] and not self.sock.recv(1):
                return

    def reset(self) -> None:
        """Close with a RST in place of a FIN."""
        linger = struct.pack("ii", 1, 0)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)


class Server:
    """Serves each connection with `script`, in a thread of its own."""

    def __init__(
        self, script: Callable[[Peer], None], tls: ssl.SSLContext | None = None
    ) -> None:
        self._script = script
        self._tls = tls
        self._stop = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(0.02)
        self.port = self._listener.getsockname()[1]
        scheme = "https" if tls else "http"
        self.url = f"{scheme}://127.0.0.1:{self.port}/oauth2/token"
        self.connections = 0
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        while not self._stop.is_set():
            with contextlib.suppress(TimeoutError):
                sock, _ = self._listener.accept()
                sock.settimeout(5)
                self.connections += 1
                thread = threading.Thread(target=self._serve, args=(sock,))
                self._threads.append(thread)
                thread.start()

    def _serve(self, sock: socket.socket) -> None:
        with contextlib.suppress(OSError):
            if self._tls is not None:
                sock = self._tls.wrap_socket(sock, server_side=True)
            self._script(Peer(sock, self._stop))
        sock.close()

    def close(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(5)
        self._listener.close()


Serve = Callable[..., Server]


@pytest.fixture
def serve() -> Iterator[Serve]:
    servers: list[Server] = []

    def start(
        script: Callable[[Peer], None], tls: ssl.SSLContext | None = None
    ) -> Server:
        servers.append(Server(script, tls))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for 127.0.0.1, with its key, that nobody trusts yet."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "loopback")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))]),
            critical=False,
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "loopback.pem"
    path.write_bytes(
        made.public_bytes(Encoding.PEM)
        + key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    )
    return path


@pytest.fixture
def tls(certificate: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


@pytest.fixture
def trusted(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    """After every test here, no thread of a call is left, however it ended."""
    yield
    until = time.monotonic() + 1
    while own_threads() and time.monotonic() < until:
        time.sleep(0.005)
    assert own_threads() == []


def own_threads() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name == "cognito-http"]


Step = bytes | Callable[[Peer], object]


def play(*steps: Step) -> Callable[[Peer], None]:
    """Read the request, say the bytes and do the rest in turn, then close."""

    def script(peer: Peer) -> None:
        peer.request()
        for step in steps:
            if isinstance(step, bytes):
                peer.say(step)
            else:
                step(peer)

    return script


def drip(data: bytes, seconds: float = 0.05) -> Callable[[Peer], None]:
    return lambda peer: peer.drip(data, seconds)


def head(fields: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\n" + fields + b"\r\n\r\n"


CHUNKED = head(b"Transfer-Encoding: chunked")
LONG = head(b"Content-Length: 100")


def post(url: str, timeout: float = TIMEOUT, secret: str | None = "s3cret") -> Answer:
    form = {"grant_type": "refresh_token", "refresh_token": "the-refresh-token"}
    return send(Call("POST", url, form, "client", secret), timeout=timeout)


def failed(url: str, timeout: float = TIMEOUT) -> ProviderUnavailable:
    """Return how the call failed; it must have done so by its deadline."""
    started = time.monotonic()
    with pytest.raises(ProviderUnavailable) as caught:
        post(url, timeout)
    assert time.monotonic() - started < timeout + 0.3
    return caught.value


def known(error: ProviderUnavailable) -> tuple[bool, bool]:
    return error.sent, error.broken


NEVER_SENT = (False, False)
NOBODY_KNOWS = (True, False)
BROKEN = (True, True)


def test_a_good_answer_comes_whole(serve: Serve) -> None:
    server = serve(
        play(b"HTTP/1.1 418 Tea\r\nX-One: 1\r\nContent-Length: 5\r\n\r\n\xff\0{} ")
    )
    answer = post(server.url)
    assert (answer.status, answer.body) == (418, b"\xff\0{} ")
    assert answer.headers["X-One"] == "1"


def test_an_answer_without_a_length_ends_with_its_connection(serve: Serve) -> None:
    server = serve(play(b"HTTP/1.0 200 OK\r\n\r\n{}"))
    assert post(server.url).body == b"{}"


def test_an_answer_in_chunks_comes_whole(serve: Serve) -> None:
    server = serve(play(CHUNKED + b"1\r\n{\r\n1\r\n}\r\n0\r\n\r\n"))
    assert post(server.url).body == b"{}"


DRIPS = {
    "D18-the-body": play(LONG, drip(b"x" * 100)),
    "D18-a-chunked-body": play(CHUNKED, drip(b"1\r\nx\r\n" * 100)),
    "D18-the-headers": play(drip(b"HTTP/1.1 200 OK\r\nX-Long: " + b"x" * 100)),
    "D18-headers-without-end": play(
        b"HTTP/1.1 200 OK\r\n", drip(b"A: b\r\n" * 50, 0.02)
    ),
    "D18-nothing": play(Peer.hang),
    "D18-only-headers": play(LONG, Peer.hang),
    "D18-interim-answers": play(drip(b"HTTP/1.1 100 Continue\r\n\r\n" * 20, 0.02)),
}


@pytest.mark.parametrize("script", DRIPS.values(), ids=DRIPS.keys())
def test_case(serve: Serve, script: Callable[[Peer], None]) -> None:
    """A slow answer ends at the deadline, and its thread soon after."""
    error = failed(serve(script).url, 0.15)
    assert known(error) == NOBODY_KNOWS
    until = time.monotonic() + 0.2
    while own_threads() and time.monotonic() < until:
        time.sleep(0.005)
    assert own_threads() == []


def test_the_server_sees_the_connection_close_at_the_deadline(serve: Serve) -> None:
    closed = threading.Event()

    def script(peer: Peer) -> None:
        peer.request()
        if peer.sock.recv(1) == b"":
            closed.set()

    failed(serve(script).url, 0.2)
    assert closed.wait(1)


def test_a_server_that_hangs_in_the_tls_handshake_has_got_nothing(
    serve: Serve,
) -> None:
    """TLS owns the socket by then; the thread ends all the same."""

    def script(peer: Peer) -> None:
        peer.sock.recv(65536)  # the ClientHello
        # A handshake record of 16 kB, which keeps the client reading.
        peer.say(b"\x16\x03\x03\x40\x00\x02\x00\x3f\xfc")
        peer.drip(b"\0" * 1000)

    server = serve(script)
    error = failed(server.url.replace("http:", "https:"), 0.25)
    assert known(error) == NEVER_SENT


def test_what_connects_after_the_deadline_is_not_sent() -> None:
    """A refresh token must not leave when its lease may be another's already."""
    adapter = BoundedAdapter()
    adapter.shut_down()
    one, other = socket.socketpair()
    with other:
        with pytest.raises(TimeoutError):
            adapter.opened(one)
        assert one.fileno() == -1
        assert other.recv(1) == b""
    with pytest.raises(TimeoutError):
        adapter.ready()
    assert not adapter.connected
    adapter.close()


def test_refused_is_never_sent() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    assert known(failed(f"http://127.0.0.1:{port}/")) == NEVER_SENT


@pytest.mark.parametrize(
    "url",
    [
        "http://name.invalid/",
        "http:///nowhere",
        "ftp://127.0.0.1/",
        "http://127.0.0.1:99999/",
        "http://" + "x" * 300 + ".invalid/",
        "http://.invalid/",
        "nothing",
    ],
)
def test_a_host_that_does_not_exist_or_no_host_at_all_is_never_sent(url: str) -> None:
    """D17: DNS failure."""
    assert known(failed(url, 0.5)) == NEVER_SENT


def test_tls_to_a_plain_port_is_never_sent(serve: Serve) -> None:
    heard: list[bytes] = []

    def script(peer: Peer) -> None:
        heard.append(peer.sock.recv(65536))
        peer.say(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    server = serve(script)
    error = failed(server.url.replace("http:", "https:"))
    assert known(error) == NEVER_SENT
    assert b"the-refresh-token" not in heard[0]


BREAKS = {
    "D13-reset-after-the-request": play(Peer.reset),
    "D13-closed-after-the-request": play(),
    "D13-half-a-body": play(LONG, b"x" * 50),
    "D13-no-body": play(LONG),
    "D13-half-a-chunk": play(CHUNKED, b"9\r\nx"),
    "D13-reset-in-the-body": play(LONG, b"x" * 50, Peer.reset),
    "D13-half-a-header": play(b"HTTP/1.1 200 O", Peer.reset),
    "D13-not-http": play(b"SSH-2.0-x\r\n"),
}


@pytest.mark.parametrize("script", BREAKS.values(), ids=BREAKS.keys())
def test_case_broken(serve: Serve, script: Callable[[Peer], None]) -> None:
    """After a connection that broke, nobody knows whether the provider acted."""
    assert known(failed(serve(script).url)) == BROKEN


def test_a_certificate_that_nobody_trusts_gets_nothing(
    serve: Serve, tls: ssl.SSLContext
) -> None:
    assert known(failed(serve(play(GOOD), tls).url)) == NEVER_SENT


@pytest.mark.usefixtures("trusted")
def test_tls_brings_a_good_answer(serve: Serve, tls: ssl.SSLContext) -> None:
    assert post(serve(play(GOOD), tls).url).body == b"{}"


@pytest.mark.usefixtures("trusted")
def test_a_drip_over_tls_ends_at_the_deadline(
    serve: Serve, tls: ssl.SSLContext
) -> None:
    """D18: as Cognito would be met, over TLS."""
    error = failed(serve(play(LONG, drip(b"x" * 100)), tls).url, 0.3)
    assert known(error) == NOBODY_KNOWS


@pytest.mark.usefixtures("trusted")
@pytest.mark.parametrize("start", [b"", LONG + b"x"], ids=["nothing", "half-a-body"])
def test_tls_that_breaks_after_the_request_is_broken(
    serve: Serve, tls: ssl.SSLContext, start: bytes
) -> None:
    """D13: an error of TLS after the handshake says nothing of what was received."""

    def spoil(peer: Peer) -> None:
        with socket.socket(fileno=os.dup(peer.sock.fileno())) as raw:
            raw.sendall(b"\x17\x03\x03\x00\x20" + bytes(32))

    assert known(failed(serve(play(start, spoil), tls).url)) == BROKEN


@pytest.mark.parametrize(
    "start",
    [
        head(b"Content-Length: %d" % (MAX_ANSWER_BYTES + 1)),
        b"HTTP/1.0 200 OK\r\n\r\n",
    ],
    ids=["announced", "unannounced"],
)
def test_an_answer_that_is_too_large_is_not_read_on(serve: Serve, start: bytes) -> None:
    """D17: a body of 3 MB."""
    server = serve(play(start + b"x" * 3_000_000))
    error = failed(server.url, 2)
    assert known(error) == NOBODY_KNOWS
    assert str(error) == "the answer is too large"


def test_an_answer_as_large_as_allowed_comes_whole(serve: Serve) -> None:
    start = head(b"Content-Length: %d" % MAX_ANSWER_BYTES)
    server = serve(play(start + b"x" * MAX_ANSWER_BYTES))
    assert len(post(server.url, 2).body) == MAX_ANSWER_BYTES


def test_a_compressed_answer_is_not_inflated(serve: Serve) -> None:
    """We ask for none, and who sends one sends at most what it weighs."""
    bomb = base64.b64decode("H4sIAAAAAAACA+3BMQEAAADCoPVPbQ0PoAAAAAAAAAAAAAAAAAAA")
    start = head(b"Content-Encoding: gzip\r\nContent-Length: %d" % len(bomb))
    server = serve(play(start + bomb))
    assert post(server.url).body == bomb


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(serve: Serve, status: int) -> None:
    """G03: a token goes where it was sent and nowhere else."""
    other = serve(play(GOOD))
    answer = (
        f"HTTP/1.1 {status} Go\r\nLocation: {other.url}\r\nContent-Length: 0\r\n\r\n"
    )
    server = serve(play(answer.encode()))
    assert post(server.url).status == status
    assert other.connections == 0


def test_every_call_has_a_connection_of_its_own(serve: Serve) -> None:
    def keep_alive(peer: Peer) -> None:
        while True:
            peer.request()
            peer.say(GOOD)

    server = serve(keep_alive)
    post(server.url)
    post(server.url)
    assert server.connections == 2


def recording(requests: list[bytes]) -> Callable[[Peer], None]:
    def script(peer: Peer) -> None:
        requests.append(peer.request())
        peer.say(GOOD)

    return script


def authorization(request: bytes) -> list[bytes]:
    lines = [
        line.partition(b": ")
        for line in request.partition(b"\r\n\r\n")[0].split(b"\r\n")
    ]
    return [value for name, _, value in lines if name.lower() == b"authorization"]


def test_the_secret_travels_in_the_header_raw_and_only_there(serve: Serve) -> None:
    """D28: one method of authentication; Cognito decodes no percent signs."""
    requests: list[bytes] = []
    server = serve(recording(requests))
    post(server.url, secret="s3+cr/et=%:")
    expected = b"Basic " + base64.b64encode(b"client:s3+cr/et=%:")
    assert authorization(requests[0]) == [expected]
    body = requests[0].partition(b"\r\n\r\n")[2]
    assert body == b"grant_type=refresh_token&refresh_token=the-refresh-token"
    assert b"application/x-www-form-urlencoded" in requests[0]


@pytest.mark.parametrize("secret", [None, "s3cret"])
def test_a_netrc_file_is_nobody_s_credentials(
    serve: Serve,
    secret: str | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A public client sends no Authorization, whatever lies in the home directory."""
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login intruder password intruder\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    requests: list[bytes] = []
    server = serve(recording(requests))
    post(server.url, secret=secret)
    basic = [b"Basic " + base64.b64encode(b"client:s3cret")]
    assert authorization(requests[0]) == (basic if secret else [])


def test_a_plain_get_asks_for_json_uncompressed(serve: Serve) -> None:
    requests: list[bytes] = []
    server = serve(recording(requests))
    send(Call("GET", server.url), timeout=TIMEOUT)
    assert requests[0].startswith(b"GET /oauth2/token HTTP/1.1\r\n")
    assert b"Accept: application/json\r\n" in requests[0]
    assert b"Accept-Encoding: identity\r\n" in requests[0]
    assert authorization(requests[0]) == []


def test_a_slow_proxy_is_bounded_too(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy = serve(play(drip(GOOD * 10)))
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy.port}")
    monkeypatch.setenv("no_proxy", "")
    assert known(failed("http://provider.invalid/", 0.25)) == NOBODY_KNOWS


def test_a_proxy_that_refuses_the_tunnel_has_sent_nothing(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy = serve(play(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n"))
    monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{proxy.port}")
    monkeypatch.setenv("no_proxy", "")
    assert known(failed("https://provider.invalid/")) == NEVER_SENT


def test_no_failure_tells_the_address_or_a_secret(serve: Serve) -> None:
    """J01: a message may end in a log."""
    for script in (DRIPS["D18-nothing"], BREAKS["D13-half-a-body"]):
        error = failed(serve(script).url, 0.2)
        assert error.__cause__ is None
        for secret in ("127.0.0.1", "s3cret", "the-refresh-token"):
            assert secret not in str(error)


def test_no_repr_tells_a_secret() -> None:
    """J01: nor may a traceback's locals."""
    call = Call("POST", "https://issuer", {"token": "t0ken"}, "client", "s3cret")
    answer = Answer(200, {"X": "h3ader"}, b"b0dy")
    for secret in ("t0ken", "s3cret", "h3ader", "b0dy"):
        assert secret not in repr(call) + repr(answer)


def test_many_slow_calls_at_once_end_at_the_same_deadline(serve: Serve) -> None:
    """D18: threads do not pile up behind each other."""
    server = serve(DRIPS["D18-the-body"])
    errors: list[ProviderUnavailable] = []
    threads = [
        threading.Thread(target=lambda: errors.append(failed(server.url, 0.3)))
        for _ in range(10)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [known(error) for error in errors] == [NOBODY_KNOWS] * 10
