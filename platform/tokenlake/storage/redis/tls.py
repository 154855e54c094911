"""Error messages for TLS connections to a Redis that fail, with advice."""

from __future__ import annotations

import os
import ssl
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from tokenlake.errors import ConfigError

_FILES = ("ssl_ca_certs", "ssl_ca_path", "ssl_certfile", "ssl_keyfile")
#: OpenSSL's verify codes -> advice; all other codes mean that no trusted authority has signed the certificate.
_ADVICE = {
    10: "renew it",
    62: "write the host as the certificate names it, or give the server one for this name",
    64: "write the host as the certificate names it, or give the server one for this address",
}
_UNTRUSTED = "if it is the right server, name who signed its certificate: rediss://...?ssl_ca_certs=/folder/ca.pem"


def check_files(url: str) -> None:
    """Check that the certificate files that a URL names can be read.

    Raises:
        ConfigError: a file cannot be read.
    """
    for option, (path, *_) in parse_qs(urlsplit(url).query).items():
        if option in _FILES and not os.access(path, os.R_OK):
            raise ConfigError(
                f"{url}: {option} names {path}, which cannot be read by a process in {Path.cwd()}; write the whole path "
                f"of a file that is there on every machine that opens the store"
            )


def refusal(url: str, error: Exception) -> ConfigError | None:
    """The error for a failed check of a certificate, the server's or the client's; None for any other error."""
    cause = error.__context__
    if isinstance(cause, ssl.SSLCertVerificationError):
        advice = _ADVICE.get(cause.verify_code, _UNTRUSTED)
        return ConfigError(f"{url}: the server's certificate is refused ({cause.verify_message.rstrip('.')}); {advice}")
    if isinstance(cause, ssl.SSLError) and (cause.library == "X509" or "PEM lib" in str(cause)):
        return ConfigError(f"{url}: a file that the address names holds no certificate or key ({cause}); correct it")
    if isinstance(cause, ssl.SSLError) and "ALERT" in (cause.reason or ""):
        return ConfigError(
            f"{url}: the server refuses this side's TLS ({cause.reason}); where it wants to know its clients, name a "
            f"certificate and its key: rediss://...?ssl_certfile=/folder/client.pem&ssl_keyfile=/folder/client.key"
        )
    return None


def hint(url: str, error: Exception) -> str:
    """A possible reason why a running server does not answer; empty where there is none."""
    if url.startswith("rediss:") and "handshake" in str(error.__context__):
        return ": is it a port without TLS? That is redis://"
    closed = "closed by server" in str(error) or isinstance(error.__context__, ssl.SSLEOFError)
    if closed and url.startswith("redis:"):
        return ": does it take TLS alone? That is rediss://"
    if closed and url.startswith("rediss:"):
        return ": does it want a certificate of its clients? ssl_certfile and ssl_keyfile in the address name it"
    return ""
