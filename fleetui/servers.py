"""Whether PostgreSQL and Redis answer: asked before anything depends on it, so that who starts a process reads one
sentence and not the traces of whatever needed them first.
"""

import psycopg
import redis
from django.conf import settings

PATIENCE_S = 5


class ServerAway(Exception):
    """A sentence for the person who starts a process: which server does not answer, and what to do."""


def check_servers() -> None:
    """Neither sentence shows an address, which may hold a password; the servers' own words name the host."""
    database = settings.DATABASES["default"]
    options = {name: value for name, value in database["OPTIONS"].items() if name != "pool"}
    named = {"dbname": "NAME", "user": "USER", "password": "PASSWORD", "host": "HOST", "port": "PORT"}
    options |= {name: database[key] for name, key in named.items() if database.get(key)}
    try:
        psycopg.connect(**{"connect_timeout": PATIENCE_S} | options).close()
    except psycopg.Error as error:
        raise ServerAway(_sentence("PostgreSQL", "DATABASE_URL", error)) from None
    try:
        patience = {"socket_timeout": PATIENCE_S, "socket_connect_timeout": PATIENCE_S}
        with redis.Redis.from_url(settings.CHANNELS_ADDRESS, **patience) as client:
            client.ping()
    except (redis.RedisError, ValueError) as error:
        raise ServerAway(_sentence("Redis", "REDIS_URL", error)) from None


def _sentence(server: str, variable: str, error: Exception) -> str:
    message = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
    if variable in settings.EMBEDDED_SERVERS:
        return (
            f"The fleet's own {server} can't be used ({message}): start the fleet with `make run`, or set {variable}."
        )
    return f"{server} can't be used ({message}): start it, or correct {variable}."
