"""A client that is not lastgood: plain drivers, no settings, no manners."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Iterator
from typing import Any

import psycopg

from lastgood.core.state import State
from tests.ledger.world import SERVICE, digest

TABLES = ("bundle", "revision", "mark", "evaluation", "audit", "schema_version", "lease", "measurement", "page", "delivery", "readiness")
REFUSALS = (sqlite3.Error, psycopg.Error)


class Client:
    """Runs any SQL in autocommit, as `sqlite3` or `psql` would."""

    def __init__(self, url: str) -> None:
        self.engine = "sqlite" if url.startswith("sqlite") else "postgres"
        if self.engine == "sqlite":
            self._connection: Any = sqlite3.connect("/" + url.removeprefix("sqlite:").lstrip("/"), isolation_level=None, timeout=5)
        else:
            self._connection = psycopg.connect(url, autocommit=True)

    def run(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        """Rows of a statement with `?` for values."""
        if self.engine == "postgres":
            sql = sql.replace("?", "%s")
        cursor = self._connection.execute(sql, values or None) if self.engine == "postgres" else self._connection.execute(sql, values)
        return cursor.fetchall() if cursor.description else []

    def dump(self) -> dict[str, list[tuple[Any, ...]]]:
        """Every row of every table."""
        return {table: sorted(self.run(f"SELECT * FROM {table}"), key=repr) for table in TABLES}  # names of this file

    def guards(self, *, on: bool) -> None:
        """Switch the triggers off or on, as only the owner of the database can. SQLite's cannot come back."""
        for table in TABLES:
            if self.engine == "postgres":
                self.run(f"ALTER TABLE {table} {'ENABLE' if on else 'DISABLE'} TRIGGER USER")
        if self.engine == "sqlite":
            for (name,) in self.run("SELECT name FROM sqlite_master WHERE type = 'trigger'"):
                self.run(f"DROP TRIGGER {name}")

    def add_revision(
        self, number: int, *, state: str | None = None, service: str = SERVICE, at: float = 1e9, verb: str = "INSERT", **aliases: str | None
    ) -> None:
        """Insert a revision row by hand; `stable`, `candidate`, `previous` by digest."""
        names = {"stable": None, "candidate": None, "previous": None} | aliases
        text = state or json.dumps(State(service=service, revision=number, **names).to_json())
        self.run(
            f"{verb} INTO revision (service, number, state, stable, candidate, previous, verb, actor, reason, evidence, operation, at) "
            "VALUES (?, ?, ?, ?, ?, ?, 'promote', 'mallory', 'x', '{}', NULL, ?)",
            *(service, number, text, names["stable"], names["candidate"], names["previous"], at),
        )

    def add_mark(self, number: int, revision: int, kind: str, *, verb: str = "INSERT") -> None:
        """Insert a mark row by hand."""
        self.run(
            f"{verb} INTO mark (service, bundle, revision, kind, reason) VALUES (?, ?, ?, ?, 'x')", SERVICE, digest(number), revision, kind
        )


@contextlib.contextmanager
def connected(url: str) -> Iterator[Client]:
    """A client; closed at the end."""
    client = Client(url)
    try:
        yield client
    finally:
        client._connection.close()
