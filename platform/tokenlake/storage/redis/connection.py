"""A connection to a Redis that stores rows: reconnects, checks the durability settings, and translates errors."""

from __future__ import annotations

import contextlib
import os
import weakref
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any, TypeVar

from tokenlake.errors import ConfigError, ServiceError, StorageError, missing_extra
from tokenlake.storage.redis import tls
from tokenlake.storage.redis.address import PASSWORD, USERNAME, check_address

_T = TypeVar("_T")
#: Timeouts in seconds: to connect, and for one answer, which may wait for the server's disk.
CONNECT_S, ANSWER_S = 3.0, 10.0


class Connection:
    """Connections to a server, opened at first use; threads share them, a forked process opens its own.

    Args:
        url: the server's URL.
        what: what the server stores, for the message "Redis, which holds ..., does not answer".
    """

    def __init__(self, url: str, what: str) -> None:
        self.url = check_address(url)
        self._what = what
        self._durable = False

    @cached_property
    def client(self) -> Any:
        """The client; it does not retry, since a command that adds rows must not run twice."""
        try:
            import redis
            from redis.backoff import NoBackoff
            from redis.retry import Retry
        except ModuleNotFoundError as error:
            raise (missing_extra(error) or error) from error
        tls.check_files(self.url)
        client = redis.Redis.from_url(
            self.url,
            username=os.environ.get(USERNAME),
            password=os.environ.get(PASSWORD),
            socket_connect_timeout=CONNECT_S,
            socket_timeout=ANSWER_S,
            retry=Retry(NoBackoff(), 0),
        )
        # Closed here, since the garbage collector would warn about open sockets.
        weakref.finalize(self, client.connection_pool.disconnect)
        return client

    def run(self, command: Callable[[Any], _T], again: Callable[[Any], _T] | None = None) -> _T:
        """Run a command; if the connection is broken, run it once more on a new one.

        Args:
            command: called with the client.
            again: called instead of `command` the second time; None: `command` may run twice.

        Raises:
            ServiceError: Redis does not answer.
            ConfigError, StorageError: Redis refuses the command.
        """
        client = self.client
        from redis import exceptions as refused

        with self._errors():
            try:
                return command(client)
            except (refused.ConnectionError, refused.TimeoutError):
                return (again or command)(client)

    def require_durable(self) -> None:
        """Check once, before the first write, that the server syncs rows to disk before it acknowledges them, and keeps them.

        `WAITAOF` cannot replace `appendfsync always`: it takes a second, and Valkey (8.1 and 9.1 were tried) answers
        before it has synced.
        A server that hides its settings (managed ones forbid CONFIG) is trusted.

        Raises:
            ConfigError: the server could lose acknowledged rows.
        """
        if self._durable:
            return
        from redis import exceptions as refused

        def ask(client: Any) -> dict[str, str]:
            try:
                settings: dict[str, str] = {}
                for name in ("appendonly", "appendfsync", "maxmemory", "maxmemory-policy"):
                    settings |= client.config_get(name)
                return settings
            except refused.ResponseError:
                return {}

        settings = self.run(ask)
        if int(settings.get("maxmemory", 0)) and settings["maxmemory-policy"].startswith("allkeys"):
            raise ConfigError(
                f"{self.url} drops keys when its memory is full (maxmemory-policy {settings['maxmemory-policy']}), and so "
                f"rows; set `maxmemory-policy noeviction`"
            )
        if settings and (settings["appendonly"], settings["appendfsync"]) != ("yes", "always"):
            raise ConfigError(
                f"{self.url} has appendonly {settings['appendonly']} and appendfsync {settings['appendfsync']}: a crash would "
                f"lose rows that it acknowledged; set `appendonly yes` and `appendfsync always` in its configuration"
            )
        self._durable = True

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        from redis import exceptions as refused

        try:
            yield
        except (refused.AuthenticationError, refused.AuthorizationError, refused.NoPermissionError) as error:
            raise ConfigError(
                f"{self.url} refuses access ({error}); {USERNAME} and {PASSWORD} in the environment say who asks"
            ) from error
        except (refused.ConnectionError, refused.TimeoutError) as error:
            if refusal := tls.refusal(self.url, error):
                raise refusal from error
            raise ServiceError(
                f"{self.url}, which holds {self._what}, does not answer ({error}{tls.hint(self.url, error)}); start it, "
                f"or try again. Rows of an append that failed so may have been added"
            ) from error
        except refused.InvalidResponse as error:
            raise ConfigError(
                f"{self.url} does not speak as a Redis does ({error}); is that its port? One that takes TLS wants rediss://"
            ) from error
        except refused.RedisError as error:
            raise StorageError(f"{self.url} refuses ({error}); correct it, then try again") from error
