"""URLs of a Redis as configs and manifests hold them: without secrets."""

from __future__ import annotations

from urllib.parse import parse_qs, urlsplit

from tokenlake.errors import ConfigError

USERNAME, PASSWORD = "TOKENLAKE_REDIS_USERNAME", "TOKENLAKE_REDIS_PASSWORD"
_SCHEMES = ("redis", "rediss", "unix")
_OPTIONS = {"db", "ssl_ca_certs", "ssl_ca_path", "ssl_cert_reqs", "ssl_certfile", "ssl_check_hostname", "ssl_keyfile"}


def check_address(url: str) -> str:
    """Return the URL of a Redis after checking it.

    Raises:
        ConfigError: it is not a URL of a Redis, or it holds a password; the message does not repeat the password.
    """
    try:
        parts = urlsplit(url)
        port, options = parts.port, set(parse_qs(parts.query, keep_blank_values=True))
    except ValueError:
        parts, port, options = urlsplit(""), None, set()
    if "@" in parts.netloc or options & {"password", "username"}:
        raise ConfigError(
            f"the address of the tail holds a user or a password, and it would be kept in files; take them out, and put "
            f"them into the environment as {USERNAME} and {PASSWORD}"
        )
    if parts.scheme == "unix":
        good = not parts.netloc and bool(parts.path)
    else:
        path = parts.path.strip("/")
        good = bool(parts.hostname) and port != 0 and (not path or path.isdecimal())
    if parts.scheme not in _SCHEMES or not good or parts.fragment or options - _OPTIONS:
        raise ConfigError(
            "the address of the tail is none of a Redis; write redis://host:6379/0, rediss://host:6379/0 (TLS) or "
            "unix:///folder/redis.sock"
        )
    return url
