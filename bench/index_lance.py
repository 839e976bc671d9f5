"""Ways with LanceDB: ours, one table that is restored in place, and a folder that is copied."""

from __future__ import annotations

import datetime
import shutil
from typing import TYPE_CHECKING, Any

from bench import index_rows, index_ways
from bench.index_ways import Found, Way
from lastgood.index import lancedb as ours
from lastgood.index import snapshot

if TYPE_CHECKING:
    from lastgood.index.snapshot import Vectors

NEVER = datetime.timedelta(days=36_500)
FLAT_ROWS, NPROBES, REFINE = 50_000, 80, 5
"""The peers' index, above so many rows, is the one that LanceDB changes fastest (IVF_SQ with as many lists as it likes), asked for a recall near ours."""


class Snapshots(Way):
    """Ours: a part, a replica for each version, both open."""

    name = "lastgood"
    how = "a snapshot for each version, both open in workers; a swap chooses the reader (the ledger and Envoy choose it: see `rollback`)"

    def first(self) -> None:
        self.engine = ours.LanceIndex(self.folder / "replicas")
        self.a = self.b = self.engine.open(self._build("a", self.data.a))
        self.serving = self.a

    def _build(self, name: str, version: index_rows.Version) -> str:
        part = self.folder / "parts" / name
        part.parent.mkdir(parents=True, exist_ok=True)
        snapshot.write(version.rows, version.vectors, part, embedder=index_rows.EMBEDDER, spec={"metric": "cosine"})
        return self.engine.build(part).name

    def change(self) -> None:
        self.b = self.engine.open(self._build("b", self.data.b))

    def forth(self) -> None:
        self.serving = self.b

    def back(self) -> None:
        self.serving = self.a

    def ask(self, vector: Vectors, *, k: int = index_rows.K) -> Found:
        return [(hit.row.id, hit.row.text) for hit in self.serving.search(vector, k=k)]

    def stored(self) -> int:
        return sum(index_ways.files(self.folder).values())

    def written(self) -> dict[str, int]:
        return index_ways.files(self.folder)

    def close(self) -> None:
        for reader in {id(one): one for one in (self.a, self.b)}.values():
            reader.close()


class Reopened(Snapshots):
    """Ours when the worker of the older release is gone."""

    name = "lastgood, worker gone"
    how = "the same, but the reader is opened anew by each swap"

    def forth(self) -> None:
        self._open(self.b)

    def back(self) -> None:
        self._open(self.a)

    def _open(self, wanted: Any) -> None:
        if self.serving not in (self.a, self.b):
            self.serving.close()
        self.serving = self.engine.open(wanted.snapshot.name)

    def close(self) -> None:
        self.serving.close()
        super().close()


class InPlace(Way):
    """One table, changed in place; `restore` goes back to a tagged version."""

    name = "restore in place"
    how = "one LanceDB table, words indexed as ours, vectors by IVF_SQ above 50,000 rows; merge_insert and optimize bring B, `restore` of a tag brings A back"
    swaps = 3

    def first(self) -> None:
        self.table = self._made(self.folder / "live")
        self.table.tags.create("a", self.table.version)

    def _made(self, folder: Any) -> Any:
        data = self.data.a
        made = ours._connect(folder).create_table("rows", _arrow(data.rows, data.vectors))
        made.create_index("id", config=_index("BTree"))
        made.create_index("text", config=_index("FTS"))
        if len(data.rows) > FLAT_ROWS:
            made.create_index("vector", config=_index("IvfSq", distance_type="cosine"))
        return made

    def change(self) -> None:
        """Nothing: the only table serves A, so the work is that of `forth`."""

    def forth(self) -> None:
        self._merge(self.table)

    def _merge(self, table: Any) -> None:
        b = self.data.b
        rows = [b.rows[number] for number in self.data.changed]
        merge = table.merge_insert("id").when_matched_update_all().when_not_matched_insert_all()
        merge.execute(_arrow(rows, b.vectors[self.data.changed]))
        table.optimize(cleanup_older_than=NEVER)

    def back(self) -> None:
        self.table.restore("a")

    def ask(self, vector: Vectors, *, k: int = index_rows.K) -> Found:
        asked = self.table.search(vector, vector_column_name="vector").distance_type("cosine")
        if len(self.data.a.rows) > FLAT_ROWS:
            asked = asked.nprobes(NPROBES).refine_factor(REFINE)
        found = asked.select(["id", "text", "_distance"]).limit(k).to_arrow()
        return list(zip(found.column("id").to_pylist(), found.column("text").to_pylist(), strict=True))

    def stored(self) -> int:
        return sum(index_ways.files(self.folder).values())

    def written(self) -> dict[str, int]:
        return index_ways.files(self.folder)


class Copied(InPlace):
    """A copy of the folder before each change; it is copied back."""

    name = "folder copy"
    how = "the same table; the folder is copied before the change and copied back"

    def first(self) -> None:
        super().first()
        shutil.copytree(self.folder / "live", self.folder / "kept")

    def back(self) -> None:
        shutil.rmtree(self.folder / "live")
        shutil.copytree(self.folder / "kept", self.folder / "live")
        self.table = ours._connect(self.folder / "live").open_table("rows")


def _arrow(rows: list[snapshot.Row], vectors: Vectors) -> Any:
    import pyarrow as pa

    flat = pa.array(vectors.reshape(-1))
    return pa.table(
        {
            "id": pa.array([row.id for row in rows], pa.string()),
            "text": pa.array([row.text for row in rows], pa.string()),
            "vector": pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1]),
        }
    )


def _index(name: str, **options: Any) -> Any:
    from lancedb import index

    return getattr(index, name)(**options)
