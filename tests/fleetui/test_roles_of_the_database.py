"""The application's role in PostgreSQL: it works with rows and owns nothing, least of all the audit log."""

import contextlib
import os
import subprocess
import sys

import psycopg
import pytest

from fleetui import embedded
from tests.conftest import ROOT, copy_folder, own_place, prepared

ROWS = {"SELECT", "INSERT", "UPDATE", "DELETE"}
FORBIDDEN = (
    "UPDATE fleet_act SET reason = 'another'",
    "DELETE FROM fleet_act",
    "TRUNCATE fleet_act",
    "TRUNCATE fleet_lab CASCADE",
    "ALTER TABLE fleet_act DISABLE TRIGGER ALL",
    "DROP TABLE fleet_act",
    "DROP TRIGGER {trigger} ON fleet_act",
    "ALTER TABLE fleet_act OWNER TO CURRENT_USER",
    "SET session_replication_role = replica",
    "SET ROLE fleetui",
    "ALTER ROLE CURRENT_USER SUPERUSER",
    "CREATE TABLE another (number int)",
    "CREATE OR REPLACE FUNCTION _pgtrigger_should_ignore(trigger_name name) RETURNS bool AS 'SELECT true' LANGUAGE sql",
    "DELETE FROM django_migrations",
    "COPY fleet_act TO PROGRAM 'cat'",
)


def manage(environment, *arguments):
    environment = {name: value for name, value in os.environ.items() if "DATABASE" not in name} | environment
    command = [sys.executable, str(ROOT / "manage.py"), *arguments]
    return subprocess.run(command, env=environment, cwd="/", capture_output=True, text=True, timeout=120)


def connect(data, user, database=embedded.DATABASE):
    place = embedded.database_settings(data)
    return psycopg.connect(host=place["HOST"], port=place["PORT"], user=user, dbname=database, autocommit=True)


@contextlib.contextmanager
def started(data):
    server = embedded.Postgres(data)
    server.start()
    try:
        yield server
    finally:
        server.stop()


@contextlib.contextmanager
def own_database():
    """A data folder with its own database, as `manage.py start` makes it; whatever else the tests run on."""
    with own_place() as (data, _):
        copy_folder(prepared(), data)
        with started(data):
            done = manage({"FLEETUI_DATA": str(data)}, "migrate", "--verbosity", "0")
            assert done.returncode == 0, done.stderr
        yield data
        embedded.Postgres(data).erase()


@pytest.fixture(scope="module")
def migrated():
    with own_database() as data, started(data):
        yield data


def test_the_application_reads_and_writes_rows_of_every_table_and_only_adds_to_the_audit_log(migrated):
    with connect(migrated, embedded.APP) as connection:
        rights = connection.execute(
            "SELECT c.relname, (SELECT array_agg(p) FROM unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE', "
            "'TRUNCATE', 'TRIGGER', 'REFERENCES', 'MAINTAIN']) p WHERE has_table_privilege(c.oid, p)) FROM pg_class c "
            "WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
        ).fetchall()
        assert len(rights) > 20
        special = {"fleet_act": {"SELECT", "INSERT"}, "django_migrations": {"SELECT"}}
        for table, may in rights:
            assert set(may) == special.get(table, ROWS), table
        (role,) = connection.execute(
            "SELECT (rolsuper, rolcreatedb, rolcreaterole, rolreplication, rolbypassrls)::text FROM pg_roles "
            "WHERE rolname = current_user"
        ).fetchone()
        assert role == "(f,f,f,f,f)"
        owned = "SELECT relname FROM pg_class WHERE relowner = current_user::regrole"
        assert connection.execute(owned).fetchall() == []
        memberships = "SELECT 1 FROM pg_auth_members WHERE member = current_user::regrole"
        assert connection.execute(memberships).fetchall() == []


@pytest.mark.parametrize("command", FORBIDDEN)
def test_the_application_can_neither_rewrite_the_audit_log_nor_get_the_right_to(migrated, command):
    with connect(migrated, embedded.APP) as connection:
        connection.execute(
            "INSERT INTO fleet_act (at, user_name, station_name, kind, reason, details, source) "
            "VALUES (now(), '', '', 'stop', '', '{}', 'server')"
        )
        connection.execute("SET pgtrigger.ignore = '{fleet_act:append_only,fleet_act:never_emptied}'")
        (trigger,) = connection.execute("SELECT tgname FROM pg_trigger WHERE tgname LIKE '%append_only%'").fetchone()
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute(command.replace("{trigger}", trigger))


def test_a_data_folder_from_before_the_two_roles_gets_the_second_at_its_next_start():
    with own_database() as data:
        environment = {"FLEETUI_DATA": str(data)}
        with started(data), connect(data, embedded.OWNER) as connection:  # as it was: one role, a superuser, for all
            connection.execute(f"DROP OWNED BY {embedded.APP}")
            connection.execute(f"DROP ROLE {embedded.APP}")
            connection.execute("INSERT INTO fleet_lab (slug, name) VALUES ('kept', 'Kept')")
        with started(data):
            assert manage(environment, "migrate", "--verbosity", "0").returncode == 0
            with connect(data, embedded.APP) as connection:
                assert connection.execute("SELECT name FROM fleet_lab WHERE slug = 'kept'").fetchall() == [("Kept",)]
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    connection.execute("DELETE FROM fleet_act")


def test_an_external_database_has_an_owner_too_where_one_is_named():
    with own_place() as (data, _), started(data) as server:
        with connect(data, embedded.OWNER, "postgres") as connection:
            connection.execute("CREATE ROLE fleet LOGIN")
            connection.execute("CREATE ROLE fleet_owner LOGIN")
            connection.execute("CREATE DATABASE theirs OWNER fleet_owner")
        address = f"@/theirs?host={embedded.database_settings(data)['HOST']}"
        one = {"FLEETUI_DATA": str(data), "DATABASE_URL": f"postgresql://fleet{address}"}
        two = one | {"DATABASE_OWNER_URL": f"postgresql://fleet_owner{address}"}
        done = manage(two, "migrate", "--verbosity", "0")
        assert done.returncode == 0, done.stderr
        with connect(data, "fleet", "theirs") as connection:
            connection.execute("INSERT INTO fleet_lab (slug, name) VALUES ('east', 'East')")
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute("UPDATE fleet_act SET reason = ''")
        # Tables that the application's role made itself, before there was another, are handed over by a person.
        with connect(data, embedded.OWNER, "theirs") as connection:
            connection.execute("REASSIGN OWNED BY fleet_owner TO fleet")
            refused = manage(two, "migrate", "--verbosity", "0")
            assert refused.returncode and "REASSIGN OWNED BY fleet TO fleet_owner" in refused.stderr
            connection.execute("REASSIGN OWNED BY fleet TO fleet_owner")
        assert manage(two, "migrate", "--verbosity", "0").returncode == 0
        server.erase()
