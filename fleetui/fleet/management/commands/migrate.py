"""`manage.py migrate`, by the role that owns the tables: the application's own can't change them.

What the application may do is granted here, after each migration: rows of every table it reads and writes, but the
audit log it only adds to. So no fault of the application, and nobody who has its role, rewrites what was done.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

from django.conf import settings
from django.core.management import CommandError
from django.core.management.commands import migrate
from django.db import connections, transaction
from django.db.backends.postgresql.base import DatabaseWrapper
from psycopg import sql

from fleetui.fleet.models import Act

READ_ONLY = ("django_migrations",)
ADD_ONLY = (Act._meta.db_table,)


class Command(migrate.Command):
    help = "Brings the tables up to date, as their owner, and says what the application may do with them."

    def handle(self, *arguments: Any, **options: Any) -> None:
        connection = connections[options["database"]]
        assert isinstance(connection, DatabaseWrapper)  # settings.py knows no other database than PostgreSQL
        user = connection.settings_dict["USER"]
        with as_owner(connection):
            if user != connection.settings_dict["USER"]:
                refuse_tables_of(user, connection)
            super().handle(*arguments, **options)
            if user != connection.settings_dict["USER"]:
                grant_rights(connection, user)


@contextlib.contextmanager
def as_owner(connection: DatabaseWrapper) -> Iterator[None]:
    """The connection of this process, and none of its pool, is the owner's meanwhile."""
    used = dict(connection.settings_dict)
    owner = {name: value for name, value in settings.DATABASE_OWNER.items() if name != "NAME"}  # tests have another
    connection.close()
    connection.close_pool()
    connection.settings_dict.update(owner)
    try:
        yield
    finally:
        connection.close()
        connection.close_pool()
        connection.settings_dict.update(used)


def refuse_tables_of(user: str, connection: DatabaseWrapper) -> None:
    """In a database from before it had two roles, the tables still belong to the application's."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1 FROM pg_tables WHERE schemaname = current_schema() AND tableowner = %s", [user])
        found = cursor.fetchone()
    if found:
        owner = connection.settings_dict["USER"]
        raise CommandError(
            f"The tables belong to {user}, the role of DATABASE_URL, and not to {owner}, that of DATABASE_OWNER_URL. "
            f"Say once, in this database and as a superuser: REASSIGN OWNED BY {user} TO {owner}"
        )


def grant_rights(connection: DatabaseWrapper, user: str) -> None:
    with transaction.atomic(using=connection.alias), connection.cursor() as cursor:
        cursor.execute("SELECT current_schema()")
        schema = sql.Identifier(cursor.fetchone()[0])
        everything = sql.SQL("ALL TABLES IN SCHEMA {}").format(schema)
        rights = [
            ("GRANT USAGE ON SCHEMA {} TO {}", schema),
            ("REVOKE ALL ON {} FROM {}", everything),
            ("GRANT SELECT, INSERT, UPDATE, DELETE ON {} TO {}", everything),
            ("GRANT USAGE, SELECT ON ALL SEQUENCES IN SCHEMA {} TO {}", schema),
            *[("REVOKE UPDATE, DELETE ON {} FROM {}", sql.Identifier(table)) for table in ADD_ONLY],
            *[("REVOKE INSERT, UPDATE, DELETE ON {} FROM {}", sql.Identifier(table)) for table in READ_ONLY],
        ]
        for right, what in rights:
            cursor.execute(sql.SQL(right).format(what, sql.Identifier(user)))
