"""Ways in Postgres with pgvector: ours, and a table for each version behind a view."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench import index_lance, index_rows, index_ways
from bench.index_ways import Found
from lastgood.index import pgvector as ours

if TYPE_CHECKING:
    from bench.index_rows import Data, Version
    from lastgood.index.snapshot import Vectors


class Snapshots(index_lance.Snapshots):
    """Ours: a part, and a table for each version, both open."""

    name = "lastgood"
    how = "a table for each version, a connection to each; a swap chooses the reader"

    def __init__(self, data: Data, folder: Path, *, url: str) -> None:
        super().__init__(data, folder)
        self.url = url

    def first(self) -> None:
        self.engine: Any = ours.PgvectorIndex(self.url)
        self.a = self.b = self.engine.open(self._build("a", self.data.a))
        self.serving = self.a

    def stored(self) -> int:
        return sum(index_ways.files(self.folder).values()) + sum(one.bytes or 0 for one in self.engine.replicas())

    def written(self) -> dict[str, int]:
        return wal(self.url)

    def close(self) -> None:
        super().close()
        self.engine.close()


class View(index_ways.Way):
    """What a careful team builds by hand."""

    name = "view swap"
    how = "tables of the same columns and indexes as ours; B is INSERT ... SELECT from A with a tenth rewritten; CREATE OR REPLACE VIEW"

    def __init__(self, data: Data, folder: Path, *, url: str) -> None:
        super().__init__(data, folder)
        self.url = url

    def first(self) -> None:
        self.connection = ours.connect(self.url)
        self.connection.execute("SET statement_timeout = 0; SET maintenance_work_mem = '1GB'; CREATE EXTENSION IF NOT EXISTS vector")
        self._table("a")
        self._copy("a", self.data.a, range(len(self.data.a.rows)))
        self._indexed("a")
        self._point("a")

    def _table(self, name: str) -> None:
        self.connection.execute(
            f'CREATE TABLE view_{name} (id text COLLATE "C" PRIMARY KEY, text text NOT NULL, '
            f"words tsvector GENERATED ALWAYS AS (to_tsvector('english', text)) STORED, embedding vector({self.data.dim}) NOT NULL)"
        )

    def _copy(self, name: str, version: Version, numbers: Any) -> None:
        import pgvector.psycopg

        pgvector.psycopg.register_vector(self.connection)
        statement = f"COPY view_{name} (id, text, embedding) FROM STDIN WITH (FORMAT BINARY)"
        with self.connection.cursor().copy(statement) as copy:
            copy.set_types(["text", "text", "vector"])
            for number in numbers:
                row = version.rows[number]
                copy.write_row((row.id, row.text, version.vectors[number]))

    def _indexed(self, name: str) -> None:
        self.connection.execute(f"CREATE INDEX ON view_{name} USING gin (words)")
        if len(self.data.a.rows) > ours.FLAT_ROWS:
            self.connection.execute(f"CREATE INDEX ON view_{name} USING hnsw (embedding vector_cosine_ops)")
            self.connection.execute(f"SET hnsw.ef_search = {ours.EF_SEARCH}")
        self.connection.execute(f"ANALYZE view_{name}")

    def _point(self, name: str) -> None:
        self.connection.execute(f"CREATE OR REPLACE VIEW view_live AS SELECT id, text, embedding FROM view_{name}")  # noqa: S608  # our own two names

    def change(self) -> None:
        self._table("b")
        changed = [self.data.a.rows[number].id for number in self.data.changed]
        self.connection.execute(
            "INSERT INTO view_b (id, text, embedding) SELECT id, text, embedding FROM view_a WHERE id <> ALL (%s)", (changed,)
        )
        self._copy("b", self.data.b, self.data.changed)
        self._indexed("b")

    def forth(self) -> None:
        self._point("b")

    def back(self) -> None:
        self._point("a")

    def ask(self, vector: Vectors, *, k: int = index_rows.K) -> Found:
        query = "[" + ",".join(map(repr, vector.tolist())) + "]"
        return self.connection.execute("SELECT id, text FROM view_live ORDER BY embedding <=> %s::vector LIMIT %s", (query, k)).fetchall()

    def stored(self) -> int:
        row = self.connection.execute("SELECT pg_total_relation_size('view_a') + pg_total_relation_size('view_b')").fetchone()
        return int(row[0]) if row else 0

    def written(self) -> dict[str, int]:
        return wal(self.url)

    def close(self) -> None:
        self.connection.execute("DROP VIEW view_live; DROP TABLE view_a, view_b")
        self.connection.close()


def wal(url: str) -> dict[str, int]:
    """How far the server's write-ahead log has come, in bytes."""
    connection = ours.connect(url)
    row = connection.execute("SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::bigint").fetchone()
    connection.close()
    return {"wal": int(row[0]) if row else 0}
