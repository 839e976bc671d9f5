"""Engines by URL, and opening a reader from a bundle's index part. Nothing is imported until it is used.

(empty)                       LanceDB, in `index/` of the home folder
lancedb:///PATH               LanceDB, in the folder PATH
postgresql://HOST/DATABASE    pgvector
pinecone://HOST               Pinecone; the key comes from PINECONE_API_KEY
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from lastgood import errors
from lastgood.index import base
from lastgood.index import snapshot as index_snapshot
from lastgood.settings import Settings

if TYPE_CHECKING:
    pass


def connect(settings: Settings) -> base.VectorIndex:
    """The engine named in *settings*. Raises UsageError for an invalid address."""
    url = settings.index_url
    kind, _, rest = url.partition("://")
    if kind == "lancedb" and rest.startswith("/"):
        from lastgood.index import lancedb

        return lancedb.LanceIndex(Path(rest))
    if kind in ("postgresql", "postgres"):
        from lastgood.index import pgvector

        return pgvector.PgvectorIndex(url)
    if kind == "pinecone" and rest:
        from lastgood.index import pinecone

        return pinecone.PineconeIndex(f"https://{rest}")
    raise errors.UsageError(f"index.url {url!r} is not the address of an engine; use lancedb:///PATH, postgresql://… or pinecone://HOST")


def open_replica(part: Path, *, embedder: str, settings: Settings | None = None) -> base.Reader:
    """The index part in folder *part*, open for queries; its replica is built first if the engine has none, or a damaged one.

    *embedder* is the digest of the embedder that will make the queries: an index of another one is refused (NotAllowed), because
    its answers would be noise. Values missing in *settings* come from the environment, as in a worker.
    """
    from lastgood import settings as settings_

    snapshot = index_snapshot.read(part)
    check_embedder(snapshot, embedder)
    engine = connect(settings or settings_.load())
    return engine.open(engine.build(part).name)


def check_embedder(snapshot: index_snapshot.Snapshot, embedder: str) -> None:
    """Raise NotAllowed unless *snapshot* was built with the embedder of digest *embedder*."""
    if snapshot.embedder != embedder:
        raise errors.NotAllowed(
            f"index {snapshot.name!r} was built with embedder {snapshot.embedder}, but the bundle has {embedder}; build the index again with that embedder"
        )
