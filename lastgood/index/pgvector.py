"""pgvector: one table per snapshot, in an existing Postgres.

    <schema>.snapshots     (name, described): a replica exists once its row does, written last in the same transaction
    <schema>.idx<16 hex>   (id, text, meta, words, embedding), written once
    <schema>.aliases       (alias, name), for people and other programs

A table, and not rows of one shared table: a graph index over all snapshots would change the answers of an old one whenever a new
one is written. Up to FLAT_ROWS rows every vector is compared; above, there is an HNSW index, whose answers are nearly always
the nearest. A reader holds a shared advisory lock for as long as it is open, and a table is dropped only if there is none.

What does not belong here: the ledger's own tables, which may be in the same database under another schema.
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lastgood import errors
from lastgood.bundle import manifest
from lastgood.index import base
from lastgood.index import snapshot as index_snapshot
from lastgood.index import words as index_words
from lastgood.system.failpoints import failpoint

if TYPE_CHECKING:
    import psycopg

FLAT_ROWS = 50_000
"""Up to this many rows comparing every vector takes some 20 ms, and finds all."""
EF_SEARCH = 100
"""Candidates that an HNSW search keeps: recall@10 is .98 with 100,000 rows."""
GRAPH_MB, GRAPH_BYTES = 1024, 400
"""Maximum memory for building a graph, and what a row needs there besides its vector: neighbours on every level."""
MAX_INDEXED = 2000
"""Dimensions that pgvector can index; above, every vector is compared, however many rows."""
LOCK_MS, PATIENT_MS = 2_000, 600_000
_LOCKS = 0x1A57
"""Class of the advisory locks, so that they do not collide with others."""


class PgvectorIndex(base.VectorIndex):
    """See the module. *url* is a libpq address; *schema* is created if it does not exist."""

    def __init__(self, url: str, *, schema: str = "lastgood_index") -> None:
        self._url = url
        self._schema = schema
        self._ready = False

    # --- building --------------------------------------------------------------------------------------------

    def build(self, part: Path) -> base.Replica:
        snapshot = index_snapshot.read(part)
        with self._connection() as connection:
            # One builder at a time; the others wait as long as necessary, and a large graph takes more than PATIENT_MS.
            connection.execute("SET lock_timeout = 0; SET statement_timeout = 0; SET idle_in_transaction_session_timeout = 0")
            connection.execute("SELECT pg_advisory_lock(%s, hashtext(%s))", (_LOCKS + 1, snapshot.name))
            connection.execute(f"SET lock_timeout = {LOCK_MS}")
            try:
                self._verify(connection, snapshot.name, deep=True)
            except errors.NotFound:
                self._make(connection, part, snapshot)
            except errors.Damaged:
                with connection.transaction():
                    self._drop(connection, snapshot.name)
                self._make(connection, part, snapshot)
            return self._replica(connection, snapshot.name, snapshot)

    def _make(self, connection: psycopg.Connection[Any], part: Path, snapshot: index_snapshot.Snapshot) -> None:
        """All in one transaction: a builder that dies leaves nothing."""
        table = self._named(snapshot.name)
        rows = index_snapshot.read_packed(part)
        _check_letters(connection, _way(snapshot))
        with connection.transaction():
            connection.execute(f"DROP TABLE IF EXISTS {table}")
            connection.execute(
                f'CREATE TABLE {table} (id text COLLATE "C" PRIMARY KEY, text text NOT NULL, meta text NOT NULL, '
                f"{_words_column(snapshot)}"
                f"embedding vector({snapshot.dim}) NOT NULL)"
            )
            self._copy(connection, table, rows, grams=_way(snapshot) == index_words.NGRAM)
            if _way(snapshot) != index_words.NONE:
                connection.execute(f"CREATE INDEX ON {table} USING gin (words)")
            if _indexed(snapshot):
                _give_memory(connection, snapshot)
                connection.execute(f"CREATE INDEX ON {table} USING hnsw (embedding vector_cosine_ops)")
            failpoint("index.before_check")
            base.check_rows(_read_back(connection, table), snapshot, what=f"the new replica {snapshot.name!r}")
            described = manifest.canonical(snapshot.to_json()).decode()
            connection.execute(f"INSERT INTO {self._named('snapshots')} (name, described) VALUES (%s, %s)", (snapshot.name, described))
            failpoint("index.before_rename")
        failpoint("index.after_rename")
        connection.execute(f"ANALYZE {table}")

    def _copy(self, connection: psycopg.Connection[Any], table: str, rows: Sequence[index_snapshot.Packed], *, grams: bool) -> None:
        import numpy as np
        import pgvector.psycopg

        pgvector.psycopg.register_vector(connection)
        names = "id, text, meta, embedding" + (", grams" if grams else "")
        with connection.cursor().copy(f"COPY {table} ({names}) FROM STDIN WITH (FORMAT BINARY)") as copy:
            copy.set_types(["text", "text", "text", "vector", *(["text[]"] if grams else [])])
            for row in rows:
                text = row.text.decode()
                values = (row.id.decode(), text, row.meta.decode(), np.frombuffer(row.vector, dtype="<f4"))
                copy.write_row((*values, index_words.grams(text)) if grams else values)

    # --- reading ---------------------------------------------------------------------------------------------

    def open(self, name: str) -> base.Reader:
        with self._connection() as connection:
            snapshot = self._verify(connection, name, deep=False)
        return _Reader(self, name, snapshot)

    def verify(self, name: str, *, deep: bool) -> None:
        with self._connection() as connection:
            self._verify(connection, name, deep=deep)

    def _verify(self, connection: psycopg.Connection[Any], name: str, *, deep: bool) -> index_snapshot.Snapshot:
        """Quick: the catalogue, the table and its indexes exist and are valid. Deep: every row, and the graph against all vectors."""
        snapshot = self._described(connection, name)
        table = self._named(name)
        found = connection.execute(
            "SELECT count(*) FILTER (WHERE i.indisvalid), bool_or(a.amname = 'hnsw') FROM pg_index i "
            "JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_am a ON a.oid = c.relam WHERE i.indrelid = to_regclass(%s)",
            (table,),
        ).fetchone()
        valid, graph = found or (0, None)
        needed = 1 + (_way(snapshot) != index_words.NONE) + _indexed(snapshot)
        if valid < needed or bool(graph) != _indexed(snapshot):
            raise _damaged(name, "its table or one of its indexes is missing")
        if deep:
            base.check_rows(_read_back(connection, table), snapshot, what=f"replica {name!r}")
            if _indexed(snapshot):
                self._check_graph(connection, name)
        return snapshot

    def _check_graph(self, connection: psycopg.Connection[Any], name: str) -> None:
        """Rows search for themselves: a graph that no longer leads to them is broken."""
        table = self._named(name)
        connection.execute("SELECT set_config('hnsw.ef_search', %s, false)", (str(EF_SEARCH),))
        sample = connection.execute(f"SELECT id, embedding::text FROM {table} ORDER BY md5(id) LIMIT 20").fetchall()
        asked = f"SELECT id FROM {table} ORDER BY embedding <=> %s::vector LIMIT 10"
        lost = [one for one, vector in sample if one not in {row[0] for row in connection.execute(asked, (vector,))}]
        if len(lost) > 2:
            raise _damaged(name, f"its graph does not reach {len(lost)} of {len(sample)} sampled rows")

    def _described(self, connection: psycopg.Connection[Any], name: str) -> index_snapshot.Snapshot:
        base.check_name(name)
        row = connection.execute(f"SELECT described FROM {self._named('snapshots')} WHERE name = %s", (name,)).fetchone()
        if row is None:
            raise errors.NotFound(f"no index {name!r} in schema {self._schema!r}; it will be built from the bundle's index part")
        snapshot = index_snapshot.parse(row[0].encode(), where=f"the catalogue's row {name!r}")
        if snapshot.name != name:
            raise _damaged(name, f"the catalogue describes {snapshot.name!r}")
        return snapshot

    def replicas(self) -> list[base.Replica]:
        with self._connection() as connection:
            names = [row[0] for row in connection.execute(f"SELECT name FROM {self._named('snapshots')} ORDER BY name")]
            found = []
            for name in names:
                with contextlib.suppress(errors.Damaged):
                    found.append(self._replica(connection, name, self._described(connection, name)))
            return found

    def _replica(self, connection: psycopg.Connection[Any], name: str, snapshot: index_snapshot.Snapshot) -> base.Replica:
        row = connection.execute(
            f"SELECT pg_total_relation_size(to_regclass(%s)), extract(epoch FROM built_at)::float8 FROM {self._named('snapshots')} WHERE name = %s",
            (self._named(name), name),
        ).fetchone()
        aliases = connection.execute(f"SELECT alias FROM {self._named('aliases')} WHERE name = %s ORDER BY alias", (name,)).fetchall()
        size, built_at = row or (None, None)
        return base.Replica(name=name, snapshot=snapshot, aliases=tuple(alias for (alias,) in aliases), bytes=size, built_at=built_at)

    # --- names and ends --------------------------------------------------------------------------------------

    def retire(self, name: str) -> None:
        with self._connection() as connection, connection.transaction():
            free = connection.execute("SELECT pg_try_advisory_xact_lock(%s, hashtext(%s))", (_LOCKS, name)).fetchone()
            if not free or not free[0]:
                raise errors.NotAllowed(f"index {name!r} is open in a process that serves it; stop that process first")
            failpoint("index.before_retire")
            self._drop(connection, name)

    def _drop(self, connection: psycopg.Connection[Any], name: str) -> None:
        connection.execute(f"DELETE FROM {self._named('aliases')} WHERE name = %s", (name,))
        connection.execute(f"DELETE FROM {self._named('snapshots')} WHERE name = %s", (name,))
        connection.execute(f"DROP TABLE IF EXISTS {self._named(name)}")

    def point(self, alias: str, name: str | None) -> None:
        with self._connection() as connection:
            if name is None:
                connection.execute(f"DELETE FROM {self._named('aliases')} WHERE alias = %s", (alias,))
                return
            self._described(connection, name)
            connection.execute(
                f"INSERT INTO {self._named('aliases')} (alias, name) VALUES (%s, %s) ON CONFLICT (alias) DO UPDATE SET name = excluded.name",
                (alias, name),
            )

    def _named(self, name: str) -> str:
        """*name* with its schema, safe to use in a statement."""
        if not name.isidentifier() or not self._schema.isidentifier():
            raise errors.NotFound(f"no index {name!r}; see 'lastgood index list'")
        return f'"{self._schema}"."{name}"'

    # --- connections -----------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _connection(self) -> Iterator[psycopg.Connection[Any]]:
        """A connection of its own for one piece of work, with the schema in place."""
        connection = connect(self._url)
        try:
            with translate_errors(self._url):
                if not self._ready:
                    self._prepare(connection)
                    self._ready = True
                yield connection
        finally:
            connection.close()

    def _prepare(self, connection: psycopg.Connection[Any]) -> None:
        """Create what is missing. A read-only user finds it already there."""
        with connection.transaction():
            connection.execute("SELECT pg_advisory_xact_lock(%s, 0)", (_LOCKS + 1,))
            there = connection.execute("SELECT to_regclass(%s)", (self._named("aliases"),)).fetchone()
            if there and there[0]:
                return
            connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
            connection.execute(f'CREATE SCHEMA IF NOT EXISTS "{self._schema}"')
            connection.execute(
                f"CREATE TABLE IF NOT EXISTS {self._named('snapshots')} "
                "(name text PRIMARY KEY, described text NOT NULL, built_at timestamptz NOT NULL DEFAULT now())"
            )
            connection.execute(f"CREATE TABLE IF NOT EXISTS {self._named('aliases')} (alias text PRIMARY KEY, name text NOT NULL)")


class _Reader(base.Reader):
    """One connection, shared by its threads, with the shared lock on it; reopened after the server was unavailable."""

    def __init__(self, index: PgvectorIndex, name: str, snapshot: index_snapshot.Snapshot) -> None:
        self.snapshot = snapshot
        self.text_search = _way(snapshot) != index_words.NONE
        self._index = index
        self._name = name
        self._table = index._named(name)
        self._alone = threading.Lock()
        self._kept: psycopg.Connection[Any] | None = None
        self._closed = False
        with self._alone:
            self._connected()

    def search(self, vector: base.Vector, *, k: int) -> list[base.Hit]:
        query = "[" + ",".join(map(repr, base.check_query(vector, self.snapshot).tolist())) + "]"
        # Exact where there is no graph; with one, equal distances come in the graph's order, so they are sorted again.
        return self._ask(
            f"SELECT id, text, meta, 1 - (embedding <=> %(q)s::vector) FROM {self._table} ORDER BY embedding <=> %(q)s::vector LIMIT %(k)s",
            {"q": query, "k": k},
        )

    def search_text(self, words: str, *, k: int) -> list[base.Hit]:
        """Rows with any of the words: a question has many, and a passage seldom contains all of them."""
        way = _way(self.snapshot)
        if way == index_words.NONE:
            raise index_words.refuse()
        if way == index_words.NGRAM:
            return self._ask(
                "WITH asked AS (SELECT string_agg(quote_literal(gram), ' | ')::tsquery AS q FROM unnest(%(grams)s::text[]) AS gram) "
                f"SELECT id, text, meta, ts_rank(words, q, 1) AS score FROM {self._table}, asked WHERE words @@ q "
                "ORDER BY score DESC, id LIMIT %(k)s",
                {"grams": index_words.grams(words.replace("\0", " ")), "k": k},
            )
            # The tokens are taken from the parsed text, so that no user input is read as an operator, and no ending is stripped twice.
        return self._ask(
            "WITH asked AS (SELECT string_agg(quote_literal(lexeme), ' | ')::tsquery AS q "
            f"FROM unnest(to_tsvector('{way}', %(words)s))) "
            f"SELECT id, text, meta, ts_rank_cd(words, q, 1) AS score FROM {self._table}, asked WHERE words @@ q "
            "ORDER BY score DESC, id LIMIT %(k)s",
            {"words": words.replace("\0", " "), "k": k},
        )

    def _ask(self, statement: str, values: dict[str, Any]) -> list[base.Hit]:
        import psycopg

        with self._alone, translate_errors(self._index._url):
            try:
                found = self._connected().execute(statement, values).fetchall()
            except psycopg.errors.UndefinedTable as error:
                raise errors.NotFound(f"index {self._name!r} is gone; it will be built from the bundle's index part") from error
            except psycopg.OperationalError:
                if self._kept is None or not self._kept.closed:
                    raise
                found = self._connected().execute(statement, values).fetchall()  # the server was unavailable, and may be back
        hits = [
            base.Hit(row=index_snapshot.Row(id=one, text=text, meta=json.loads(meta)), score=float(score))
            for one, text, meta, score in found
        ]
        return sorted(hits, key=lambda hit: (-hit.score, hit.row.id))

    def _connected(self) -> psycopg.Connection[Any]:
        if self._closed:
            raise errors.UsageError(f"the reader of index {self._name!r} is closed; open it again")
        if self._kept is None or self._kept.closed:
            fresh = connect(self._index._url)
            with translate_errors(self._index._url):
                free = fresh.execute("SELECT pg_try_advisory_lock_shared(%s, hashtext(%s))", (_LOCKS, self._name)).fetchone()
                if not free or not free[0]:
                    fresh.close()
                    raise errors.NotFound(f"index {self._name!r} is being retired; it will be built again from the bundle's index part")
                fresh.execute("SELECT set_config('hnsw.ef_search', %s, false)", (str(EF_SEARCH),))
            self._kept = fresh
        return self._kept

    def close(self) -> None:
        import psycopg

        with self._alone:
            self._closed = True
            if self._kept is None:
                return
            # The server notices the end of a connection some time after it; until then the index would still count as open.
            with contextlib.suppress(psycopg.Error):
                self._kept.execute("SELECT pg_advisory_unlock_all()")
            self._kept.close()


def connect(url: str) -> psycopg.Connection[Any]:
    """A connection that does not wait long for any lock. Raises Unavailable, or UsageError without the packages."""
    try:
        import psycopg
    except ImportError as error:
        raise errors.UsageError(
            f"index.url names a Postgres, but psycopg is not installed ({error}); install 'lastgood[pgvector]'"
        ) from error
    with translate_errors(url):
        made = psycopg.connect(url, autocommit=True, connect_timeout=5, client_encoding="UTF8", application_name="lastgood-index")
        # hnsw.* is known only once the extension's library is loaded.
        made.execute(
            f"SET lock_timeout = {LOCK_MS}; SET statement_timeout = {PATIENT_MS}; SET idle_in_transaction_session_timeout = {PATIENT_MS}"
        )
        return made


@contextlib.contextmanager
def translate_errors(url: str) -> Iterator[None]:
    """Convert Postgres's errors to ours; no message contains a password."""
    import psycopg

    try:
        yield
    except psycopg.OperationalError as error:
        raise errors.Unavailable(
            f"the index's Postgres at {_plain(url)} cannot be used: {_line(error)}; start it, or correct index.url"
        ) from error
    except psycopg.Error as error:
        raise errors.Unavailable(
            f"the index's Postgres at {_plain(url)} refuses the request: {_line(error)}; check its permissions and the extension 'vector'"
        ) from error


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _plain(url: str) -> str:
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2].partition('?')[0]}"


def _way(snapshot: index_snapshot.Snapshot) -> str:
    """A language (from a fixed list: it is used in statements), NGRAM or NONE."""
    return index_words.of_spec(snapshot.spec)


def _check_letters(connection: psycopg.Connection[Any], way: str) -> None:
    """Raise UsageError if the database supports only ASCII letters, and *way* needs others: it would silently find nothing."""
    if way in (index_words.DEFAULT, index_words.NGRAM, index_words.NONE):
        return
        # One server release finds no word there, another finds it but does not match capitals with small letters.
    row = connection.execute(
        "SELECT length(to_tsvector('simple', 'договор')) > 0 AND to_tsvector('simple', 'Договор') = to_tsvector('simple', 'договор')"
    ).fetchone()
    if not row or not row[0]:
        raise errors.UsageError(
            f"the database's locale does not support letters beyond ASCII, so it cannot search words of {way!r}; "
            "create it with a UTF-8 locale (LC_CTYPE 'C.UTF-8'), or build the index with text_search: 'ngram'"
        )


def _words_column(snapshot: index_snapshot.Snapshot) -> str:
    way = _way(snapshot)
    if way == index_words.NONE:
        return ""
    if way == index_words.NGRAM:
        return "grams text[] NOT NULL, words tsvector GENERATED ALWAYS AS (array_to_tsvector(grams)) STORED, "
    return f"words tsvector GENERATED ALWAYS AS (to_tsvector('{way}', text)) STORED, "


def _indexed(snapshot: index_snapshot.Snapshot) -> bool:
    return snapshot.rows > FLAT_ROWS and snapshot.dim <= MAX_INDEXED


def _give_memory(connection: psycopg.Connection[Any], snapshot: index_snapshot.Snapshot) -> None:
    """As much memory as the graph needs, at most GRAPH_MB, for this transaction: one that does not fit takes five times as long."""
    needed = min(GRAPH_MB, snapshot.rows * (4 * snapshot.dim + GRAPH_BYTES) // 1_000_000 + 1)
    row = connection.execute("SELECT setting::bigint / 1024 FROM pg_settings WHERE name = 'maintenance_work_mem'").fetchone()
    if row and row[0] < needed:
        connection.execute(f"SET LOCAL maintenance_work_mem = '{needed}MB'")


def _read_back(connection: psycopg.Connection[Any], table: str) -> list[index_snapshot.Packed]:
    import numpy as np
    import pgvector.psycopg

    pgvector.psycopg.register_vector(connection)
    found = connection.execute(f"SELECT id, text, meta, embedding FROM {table}", binary=True)
    return [
        index_snapshot.Packed(one.encode(), text.encode(), meta.encode(), np.asarray(_values(vector), dtype="<f4").tobytes())
        for one, text, meta, vector in found
    ]


def _values(vector: Any) -> Any:
    return vector.to_numpy() if hasattr(vector, "to_numpy") else vector


def _damaged(name: str, what: str) -> errors.Damaged:
    return errors.Damaged(f"index {name!r} is damaged: {what}; it is replaced by the next build")
