"""A Redis that keeps rows: reached again when it was away, held to its promises, and its errors as ours."""

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
#: Seconds: to be let in, and for one answer, which may wait for the server's disk.
CONNECT_S, ANSWER_S = 3.0, 10.0


class Connection:
    """Connections to a server, made when first needed; threads share them, a forked process makes its own.

    Args:
        url: its address.
        what: what it is needed for, to end the sentence "Redis does not answer, which holds ...".
    """

    def __init__(self, url: str, what: str) -> None:
        self.url = check_address(url)
        self._what = what
        self._durable = False

    @cached_property
    def client(self) -> Any:
        """The client; it repeats nothing by itself, since a command that adds must not run twice."""
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
        # Closed here, before the collector comes to the sockets and complains that they are open.
        weakref.finalize(self, client.connection_pool.disconnect)
        return client

    def run(self, command: Callable[[Any], _T], again: Callable[[Any], _T] | None = None) -> _T:
        """Run a command; and once more on a new connection, when the old one broke.

        Args:
            command: given the client.
            again: what to run in its place the second time; None: it may run twice.

        Raises:
            ServiceError: Redis does not answer.
            ConfigError, StorageError: it refuses.
        """
        client = self.client
        from redis import exceptions as refused

        with self._errors():
            try:
                return command(client)
            except (refused.ConnectionError, refused.TimeoutError):
                return (again or command)(client)

    def require_durable(self) -> None:
        """See once, before anything is sent, that the server acknowledges only what its disk holds, and keeps it.

        `WAITAOF` is no way out for one that syncs every second: it takes a second, and Valkey (8.1 and 9.1 were tried)
        answers it before it has synced.
        A server that does not tell (a managed one forbids CONFIG) is trusted.

        Raises:
            ConfigError: it would lose acknowledged rows.
        """
        if self._durable:
            return
        from redis import exceptions as refused

        def ask(client: Any) -> dict[str, str]:
            try:
                told: dict[str, str] = {}
                for name in ("appendonly", "appendfsync", "maxmemory", "maxmemory-policy"):
                    told |= client.config_get(name)
                return told
            except refused.ResponseError:
                return {}

        told = self.run(ask)
        if int(told.get("maxmemory", 0)) and told["maxmemory-policy"].startswith("allkeys"):
            raise ConfigError(
                f"{self.url} drops keys when its memory is full (maxmemory-policy {told['maxmemory-policy']}), and so "
                f"rows; set `maxmemory-policy noeviction`"
            )
        if told and (told["appendonly"], told["appendfsync"]) != ("yes", "always"):
            raise ConfigError(
                f"{self.url} has appendonly {told['appendonly']} and appendfsync {told['appendfsync']}: a crash would "
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
            raise StorageError(f"{self.url} refuses ({error}); mend it, then do the same again") from error
