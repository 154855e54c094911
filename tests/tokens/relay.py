"""A TLS endpoint in front of a Redis that was built without it, which breaks connections where a test says."""

from __future__ import annotations

import asyncio
import datetime as dt
import ipaddress
import ssl
import threading
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID


@dataclass(frozen=True)
class Authority:
    """Who signs certificates.

    Attributes:
        file: its own certificate, for those who trust it.
    """

    file: Path
    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @classmethod
    def make(cls, folder: Path, name: str) -> Authority:
        key = ec.generate_private_key(ec.SECP256R1())
        basic = x509.BasicConstraints(ca=True, path_length=0)
        uses = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
        made = _certificate(name, name, key).add_extension(basic, critical=True).add_extension(uses, critical=True)
        certificate = made.sign(key, hashes.SHA256())
        file = folder / f"{name}.pem"
        file.write_bytes(certificate.public_bytes(Encoding.PEM))
        return cls(file, key, certificate)

    def server(self, folder: Path, *, name: str | None = None, days: int = 1) -> ssl.SSLContext:
        """A server's side of TLS, with a certificate for a host's name, or for 127.0.0.1.

        Args:
            days: how long it is valid from now on; below 0, it was before.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        issuer = self.certificate.subject.rfc4514_string().removeprefix("CN=")
        host = x509.IPAddress(ipaddress.ip_address("127.0.0.1")) if name is None else x509.DNSName(name)
        made = _certificate("server", issuer, key, days).add_extension(
            x509.SubjectAlternativeName([host]), critical=False
        )
        file = folder / f"server-{name}-{days}.pem"
        private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        file.write_bytes(private + made.sign(self.key, hashes.SHA256()).public_bytes(Encoding.PEM))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(file)
        return context


def _certificate(name: str, issuer: str, key: ec.EllipticCurvePrivateKey, days: int = 1) -> x509.CertificateBuilder:
    def called(text: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])

    until = dt.datetime.now(dt.UTC) + dt.timedelta(days=days)
    return (
        x509.CertificateBuilder()
        .subject_name(called(name))
        .issuer_name(called(issuer))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(until - dt.timedelta(days=30))
        .not_valid_after(until)
    )


class Relay:
    """Takes TLS on a port of loopback, and hands all on to a server's plain port.

    Attributes:
        breaks: how many connections are still to be broken, each at its next request with `at` in it.
        share: of the bytes of such a request, those that reach the server first; 1: all, and only the answer is lost.
    """

    at = b"XADD"

    def __init__(self, target: int, context: ssl.SSLContext) -> None:
        self._target = target
        self._context = context
        self.breaks = 0
        self.share = 0.0
        self.port = 0
        self._busy: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        up = threading.Event()
        self._thread = threading.Thread(target=lambda: self._loop.run_until_complete(self._serve(up)))
        self._thread.start()
        assert up.wait(10)

    def url(self, host: str = "127.0.0.1", **options: object) -> str:
        given = "&".join(f"{name}={value}" for name, value in options.items())
        return f"rediss://{host}:{self.port}/0" + (f"?{given}" if given else "")

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join()
        self._loop.close()

    async def _serve(self, up: threading.Event) -> None:
        self._end = asyncio.Event()
        self._loop.set_exception_handler(lambda *_: None)  # handshakes that fail are what some tests are about
        server = await asyncio.start_server(self._meet, "127.0.0.1", 0, ssl=self._context)
        self.port = server.sockets[0].getsockname()[1]
        up.set()
        await self._end.wait()
        server.close()
        for task in self._busy:
            task.cancel()
        await asyncio.gather(*self._busy, return_exceptions=True)
        await self._loop.shutdown_asyncgens()

    async def _meet(self, asked: asyncio.StreamReader, answer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._busy.add(task)
        reader, writer = await asyncio.open_connection("127.0.0.1", self._target)
        back = asyncio.create_task(_pump(reader, answer))
        try:
            while data := await asked.read(1 << 16):
                if self.breaks and self.at in data:
                    self.breaks -= 1
                    back.cancel()
                    await asyncio.wait([back])
                    writer.write(data[: int(len(data) * self.share)])
                    await writer.drain()
                    if self.share == 1:
                        await reader.read(1)  # the server has done it
                    return
                writer.write(data)
        except OSError:
            pass  # one of the two went away
        finally:
            back.cancel()
            for side in (answer, writer):
                side.transport.abort()  # no goodbye, as when a cable is cut
            self._busy.discard(task)


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    try:
        while data := await source.read(1 << 16):
            sink.write(data)
    except OSError:
        pass
    sink.transport.abort()
