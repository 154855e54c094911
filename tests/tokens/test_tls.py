"""A tail behind TLS: who is trusted, what is said of who is not, and connections that break."""

from __future__ import annotations

import contextlib
import socket
import socketserver
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.fixtures.servers import Server
from tests.fixtures.store_oracle import Row
from tests.fixtures.stores import arguments, same
from tests.tokens.relay import Authority, Relay
from tokenlake.errors import ConfigError, ServiceError
from tokenlake.storage.redis import connection
from tokenlake.times import NEVER, day_of
from tokenlake.tokens.store import TokenStore

ROWS = [Row(1, i, i, 1, 0) for i in range(4)]


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority.make(tmp_path, "ours")


@pytest.fixture
def relay(server: Server) -> Iterator[Callable[[ssl.SSLContext], Relay]]:
    made: list[Relay] = []

    def make(context: ssl.SSLContext) -> Relay:
        made.append(Relay(server.port, context))
        return made[-1]

    yield make
    for one in made:
        one.close()


def create(folder: Path, url: str) -> TokenStore:
    return TokenStore.create(
        folder / "store", dim=3, side={"event": "int32", "clicked": "int8"}, known_at=["clicked"], tail=url
    )


def test_rows_go_and_come_through_tls(
    tmp_path: Path, authority: Authority, relay: Callable[[ssl.SSLContext], Relay]
) -> None:
    url = relay(authority.server(tmp_path)).url(ssl_ca_certs=authority.file)
    store = create(tmp_path, url)
    assert store.append(**arguments(ROWS[:2])) == 2
    other = TokenStore.open(store.path)  # the manifest holds the whole address
    assert other.status().tail == url
    assert other.append(**arguments(ROWS[2:])) == 2
    store.write_day(day_of(0), **arguments(ROWS[:1]))
    same(store.fetch(1, before=NEVER), [ROWS], [NEVER])
    assert store.verify().unmatched == 3


def test_a_server_may_want_to_know_its_clients(
    tmp_path: Path, authority: Authority, relay: Callable[[ssl.SSLContext], Relay]
) -> None:
    context = authority.server(tmp_path)
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(authority.file)
    guarded = relay(context)
    with pytest.raises(ServiceError, match=r"does it want a certificate of its clients\?"):
        create(tmp_path, guarded.url(ssl_ca_certs=authority.file))
    context.maximum_version = ssl.TLSVersion.TLSv1_2  # it says why, before the client is done
    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=refuse, args=(listening, context), daemon=True).start()
        url = f"rediss://127.0.0.1:{listening.getsockname()[1]}/0?ssl_ca_certs={authority.file}"
        with pytest.raises(ConfigError, match=r"refuses this side's TLS .*ALERT.*ssl_certfile="):
            create(tmp_path, url)
    own = tmp_path / "server-None-1.pem"  # a certificate and its key, as good as any
    url = guarded.url(ssl_ca_certs=authority.file, ssl_certfile=own, ssl_keyfile=own)
    assert create(tmp_path, url).append(**arguments(ROWS)) == 4


def refuse(listening: socket.socket, context: ssl.SSLContext) -> None:
    for _ in range(2):
        taken, _ = listening.accept()
        side = context.wrap_socket(taken, server_side=True, do_handshake_on_connect=False)
        with side, contextlib.suppress(ssl.SSLError):
            side.do_handshake()


@pytest.mark.parametrize(
    ("name", "days", "trusts", "said"),
    [
        (None, 1, None, r"unable to get local issuer certificate\); .*name who signed its certificate"),
        (None, 1, "others", r"unable to get local issuer certificate\); .*name who signed its certificate"),
        ("redis.example", 1, "ours", r"not valid for '127.0.0.1'\); write the host as the certificate names it"),
        (None, -1, "ours", r"certificate has expired\); renew it"),
    ],
)
def test_a_certificate_that_is_not_trusted(
    tmp_path: Path,
    server: Server,
    authority: Authority,
    relay: Callable[[ssl.SSLContext], Relay],
    name: str | None,
    days: int,
    trusts: str | None,
    said: str,
) -> None:
    Authority.make(tmp_path, "others")
    before = keys(server)
    options = {} if trusts is None else {"ssl_ca_certs": tmp_path / f"{trusts}.pem"}
    with pytest.raises(ConfigError, match=f"the server's certificate is refused .*{said}"):
        create(tmp_path, relay(authority.server(tmp_path, name=name, days=days)).url(**options))
    assert keys(server) == before
    assert not TokenStore.exists(tmp_path / "store")


def keys(server: Server) -> set[bytes]:
    with server.client() as client:
        return set(client.keys())


def test_another_name_of_the_host(
    tmp_path: Path, authority: Authority, relay: Callable[[ssl.SSLContext], Relay]
) -> None:
    named = relay(authority.server(tmp_path, name="localhost"))
    with pytest.raises(ConfigError, match=r"not valid for '127.0.0.1'"):
        create(tmp_path, named.url(ssl_ca_certs=authority.file))
    assert create(tmp_path, named.url("localhost", ssl_ca_certs=authority.file)).append(**arguments(ROWS)) == 4


@pytest.mark.parametrize("option", ["ssl_ca_certs", "ssl_certfile"])
def test_files_that_hold_no_certificate(
    tmp_path: Path, authority: Authority, relay: Callable[[ssl.SSLContext], Relay], option: str
) -> None:
    behind = relay(authority.server(tmp_path))
    with pytest.raises(ConfigError, match=f"{option} names nosuch.pem, which cannot be read .*whole path"):
        create(tmp_path, behind.url(**{option: "nosuch.pem"}))
    (tmp_path / "empty.pem").write_text("nothing")
    with pytest.raises(ConfigError, match="holds no certificate or key"):
        create(tmp_path, behind.url(**{"ssl_ca_certs": authority.file, option: tmp_path / "empty.pem"}))


def test_one_side_takes_tls_and_the_other_does_not(
    tmp_path: Path,
    server: Server,
    authority: Authority,
    relay: Callable[[ssl.SSLContext], Relay],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    behind = relay(authority.server(tmp_path))
    with pytest.raises(ServiceError, match=r"closed by server.*does it take TLS alone\? That is rediss://"):
        create(tmp_path, f"redis://127.0.0.1:{behind.port}/0")
    monkeypatch.setattr(connection, "ANSWER_S", 0.3)
    with pytest.raises(ServiceError, match=r"is it a port without TLS\? That is redis://"):
        create(tmp_path, f"rediss://127.0.0.1:{server.port}/0")


def test_a_server_of_another_kind(tmp_path: Path) -> None:
    """As one that takes TLS, and says so in its own language; or a web server."""

    class Answer(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.recv(1 << 16)
            self.request.sendall(b"\x15\x03\x01\x00\x02\x02\x46")

    with socketserver.TCPServer(("127.0.0.1", 0), Answer) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            with pytest.raises(ConfigError, match=r"does not speak as a Redis does .*wants rediss://"):
                create(tmp_path, f"redis://127.0.0.1:{server.server_address[1]}/0")
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("times", [1, 2])
def test_a_connection_that_breaks_within_an_append(
    tmp_path: Path, authority: Authority, relay: Callable[[ssl.SSLContext], Relay], share: float, times: int
) -> None:
    """None, half, or all of the request reaches the server, and no answer comes back; then again on a new connection."""
    behind = relay(authority.server(tmp_path))
    store = create(tmp_path, behind.url(ssl_ca_certs=authority.file))
    assert store.append(**arguments(ROWS[:1])) == 1
    reader = TokenStore.open(store.path)
    behind.share, behind.breaks = share, times
    if times == 1:
        assert store.append(**arguments(ROWS[1:2])) == 1
    else:
        with pytest.raises(ServiceError, match="may have been added"):
            store.append(**arguments(ROWS[1:2]))
    assert behind.breaks == 0
    there = times == 1 or share == 1
    assert store.append(**arguments(ROWS[2:3])) == 1
    held = [ROWS[0], *ROWS[1:2][:there], ROWS[2]]
    for handle in (store, reader, TokenStore.open(store.path)):
        same(handle.fetch(1, before=NEVER), [held], [NEVER])
    store.verify()
