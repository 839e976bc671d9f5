"""The way of Qdrant's users: a collection for each version behind an alias. Local mode, for there is no server in a package."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bench import index_rows
from bench.index_ways import Found, Way

if TYPE_CHECKING:
    from lastgood.index.snapshot import Vectors


class Alias(Way):
    """See the module; in memory, as its local mode commits every point on its own on disk."""

    name = "Qdrant local, alias"
    how = "qdrant-client in memory, a collection for each version, every vector compared; the alias is deleted and made in one call"

    def first(self) -> None:
        from qdrant_client import QdrantClient

        self.client: Any = QdrantClient(":memory:")
        self._fill("a", self.data.a)
        self._point("a", fresh=True)

    def _fill(self, name: str, version: index_rows.Version) -> None:
        from qdrant_client import models

        params = models.VectorParams(size=self.data.dim, distance=models.Distance.COSINE)
        self.client.create_collection(name, vectors_config=params)
        points = [
            models.PointStruct(id=number, vector=vector.tolist(), payload={"id": row.id, "text": row.text})
            for number, (row, vector) in enumerate(zip(version.rows, version.vectors, strict=True))
        ]
        for start in range(0, len(points), 1000):
            self.client.upsert(name, points=points[start : start + 1000])

    def _point(self, name: str, *, fresh: bool = False) -> None:
        from qdrant_client import models

        made = models.CreateAliasOperation(create_alias=models.CreateAlias(collection_name=name, alias_name="live"))
        gone = [] if fresh else [models.DeleteAliasOperation(delete_alias=models.DeleteAlias(alias_name="live"))]
        self.client.update_collection_aliases(change_aliases_operations=[*gone, made])

    def change(self) -> None:
        self._fill("b", self.data.b)

    def forth(self) -> None:
        self._point("b")

    def back(self) -> None:
        self._point("a")

    def ask(self, vector: Vectors, *, k: int = index_rows.K) -> Found:
        found = self.client.query_points("live", query=vector.tolist(), limit=k, with_payload=True).points
        return [(one.payload["id"], one.payload["text"]) for one in found]

    def stored(self) -> int:
        """The vectors alone; they are in memory."""
        return 2 * self.data.a.vectors.nbytes

    def written(self) -> dict[str, int]:
        return {}

    def close(self) -> None:
        self.client.close()
