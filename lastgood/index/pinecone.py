"""Pinecone: one namespace per snapshot in one index, over its REST API.

    namespace idx<16 hex>            a record per row: values, and text and meta as metadata
    namespace lastgood-catalogue     a record per replica, written when all its rows can be read: only then does it exist
    namespace aliases                for people and other programs

It supports vector search only (`Reader.text_search` is false), and its readers cannot be seen from elsewhere: whether a replica may
be retired depends on `retention` alone. Written rows become readable after a while; a build waits for that. Tested against a fake
of the protocol (documented version 2026-07), never against the service itself.

What does not belong here: creating the index (its dimension and metric cosine are chosen when it is created, by hand).
"""

from __future__ import annotations

import itertools
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lastgood import errors
from lastgood.bundle import manifest
from lastgood.index import base
from lastgood.index import snapshot as index_snapshot
from lastgood.system import clock

VERSION = "2026-07"
CATALOGUE = "lastgood-catalogue"
BATCH = 100
"""Records per request, in either direction; its limits are 1000 records and 2 MB."""
MAX_METADATA = 40_000
"""Bytes of a record's metadata."""
SETTLE_S = 120.0
"""Seconds that written rows may take to become readable."""
ATTEMPTS = 5
KEY = "PINECONE_API_KEY"

Sleep = Callable[[float], None]


class PineconeIndex(base.VectorIndex):
    """See the module. *host* is the address of the index, with its scheme."""

    def __init__(
        self, host: str, *, environ: Mapping[str, str] = os.environ, settle_s: float = SETTLE_S, sleep: Sleep = time.sleep
    ) -> None:
        self._api = _Api(host, environ.get(KEY, ""), sleep=sleep)
        self._settle_s = settle_s
        self._sleep = sleep

    def build(self, part: Path) -> base.Replica:
        """As in the contract. Existing rows are only counted: reading a namespace back takes minutes; `verify` does it."""
        snapshot = index_snapshot.read(part)
        try:
            self.verify(snapshot.name, deep=False)
        except (errors.NotFound, errors.Damaged):
            self._make(index_snapshot.read_packed(part), snapshot)
        return self._replica(self._record(snapshot.name), self._aliases())

    def _make(self, rows: Sequence[index_snapshot.Packed], snapshot: index_snapshot.Snapshot) -> None:
        import numpy as np

        self._forget(snapshot.name)
        for batch in _batched(rows):
            vectors = [
                {"id": row.id.decode(), "values": np.frombuffer(row.vector, dtype="<f4").tolist(), "metadata": _metadata(row)}
                for row in batch
            ]
            self._api.post("/vectors/upsert", {"vectors": vectors, "namespace": snapshot.name})
        self._settled(lambda: self._count(snapshot.name) == snapshot.rows, what=f"the rows of {snapshot.name!r}")
        base.check_rows(list(self._read_back(snapshot.name)), snapshot, what=f"the new replica {snapshot.name!r}")
        described = {"described": manifest.canonical(snapshot.to_json()).decode(), "built_at": clock.now()}
        record = {"id": snapshot.name, "values": [1.0] + [0.0] * (snapshot.dim - 1), "metadata": described}
        self._api.post("/vectors/upsert", {"vectors": [record], "namespace": CATALOGUE})
        self._settled(lambda: self._fetch(CATALOGUE, [snapshot.name]) != [], what=f"the record of {snapshot.name!r}")

    def _settled(self, there: Callable[[], bool], *, what: str) -> None:
        end = time.monotonic() + self._settle_s
        while not there():
            if time.monotonic() > end:
                raise errors.Unavailable(f"Pinecone did not confirm {what} within {self._settle_s:g} s; build it again later")
            self._sleep(0.5)

    def open(self, name: str) -> base.Reader:
        self.verify(name, deep=False)
        return _Reader(self._api, _described(self._record(name)))

    def verify(self, name: str, *, deep: bool) -> None:
        snapshot = _described(self._record(name))
        count = self._count(name)
        if count != snapshot.rows:
            raise errors.Damaged(f"index {name!r} has {count} rows, not {snapshot.rows}; it is replaced by the next build")
        if deep:
            base.check_rows(list(self._read_back(name)), snapshot, what=f"replica {name!r}")

    def replicas(self) -> list[base.Replica]:
        aliases = self._aliases()
        return [self._replica(record, aliases) for record in self._fetch(CATALOGUE, sorted(self._ids(CATALOGUE)))]

    def retire(self, name: str) -> None:
        """As in the contract; but a reader in another process is not seen, and finds nothing from then on."""
        for alias, target in self._aliases().items():
            if target == name:
                self.point(alias, None)
        self._api.post("/vectors/delete", {"ids": [name], "namespace": CATALOGUE})
        self._settled(lambda: self._fetch(CATALOGUE, [name]) == [], what=f"that {name!r} is gone")
        self._forget(name)

    def point(self, alias: str, name: str | None) -> None:
        if name is None:
            self._api.ask("DELETE", f"/namespace-aliases/{alias}", missing_is_none=True)
            return
        self._record(name)
        moved = self._api.ask("PATCH", f"/namespace-aliases/{alias}", {"target_namespace": name}, missing_is_none=True)
        if moved is None:
            self._api.post("/namespace-aliases", {"name": alias, "target_namespace": name})

    def close(self) -> None:
        self._api.close()

    # --- what is there ---------------------------------------------------------------------------------------

    def _record(self, name: str) -> Mapping[str, Any]:
        found = self._fetch(CATALOGUE, [base.check_name(name)])
        if not found:
            raise errors.NotFound(f"no index {name!r} in Pinecone; it will be built from the bundle's index part")
        return found[0]

    def _replica(self, record: Mapping[str, Any], aliases: Mapping[str, str]) -> base.Replica:
        snapshot = _described(record)
        mine = tuple(sorted(alias for alias, target in aliases.items() if target == snapshot.name))
        return base.Replica(name=snapshot.name, snapshot=snapshot, aliases=mine, built_at=float(record["metadata"]["built_at"]))

    def _aliases(self) -> dict[str, str]:
        found = self._api.ask("GET", "/namespace-aliases") or {}
        return {one["name"]: one["target_namespace"] for one in found.get("aliases", [])}

    def _count(self, namespace: str) -> int:
        stats = self._api.post("/describe_index_stats", {})
        return int(stats.get("namespaces", {}).get(namespace, {}).get("vectorCount", 0))

    def _read_back(self, namespace: str) -> Iterator[index_snapshot.Packed]:
        import numpy as np

        for ids in _batched(list(self._ids(namespace))):
            for one in self._fetch(namespace, ids):
                said = one["metadata"]
                vector = np.asarray(one["values"], dtype="<f4").tobytes()
                yield index_snapshot.Packed(one["id"].encode(), said["text"].encode(), said["meta"].encode(), vector)

    def _ids(self, namespace: str) -> Iterator[str]:
        token: str | None = None
        while True:
            asked = {"namespace": namespace, "limit": str(BATCH), **({"paginationToken": token} if token else {})}
            page = self._api.ask("GET", "/vectors/list", params=list(asked.items())) or {}
            yield from (one["id"] for one in page.get("vectors", []))
            token = (page.get("pagination") or {}).get("next")
            if not token:
                return

    def _fetch(self, namespace: str, ids: Sequence[str]) -> list[Mapping[str, Any]]:
        if not ids:
            return []
        params = [("namespace", namespace), *(("ids", one) for one in ids)]
        found = (self._api.ask("GET", "/vectors/fetch", params=params) or {}).get("vectors", {})
        return [found[one] for one in ids if one in found]

    def _forget(self, namespace: str) -> None:
        self._api.ask("POST", "/vectors/delete", {"deleteAll": True, "namespace": namespace}, missing_is_none=True)
        self._settled(lambda: self._count(namespace) == 0, what=f"that {namespace!r} is empty")


class _Reader(base.Reader):
    text_search = False

    def __init__(self, api: _Api, snapshot: index_snapshot.Snapshot) -> None:
        self.snapshot = snapshot
        self._api = api
        self._closed = False

    def search(self, vector: base.Vector, *, k: int) -> list[base.Hit]:
        if self._closed:
            raise errors.UsageError(f"the reader of index {self.snapshot.name!r} is closed; open it again")
        values = base.check_query(vector, self.snapshot).tolist()
        asked = {"vector": values, "topK": min(k, 10_000), "namespace": self.snapshot.name, "includeMetadata": True}
        said = self._api.post("/query", asked)
        if said.get("namespace", self.snapshot.name) != self.snapshot.name:
            raise errors.Damaged(f"Pinecone answered from namespace {said['namespace']!r}, not {self.snapshot.name!r}; ask again")
        return sorted((_hit(one) for one in said.get("matches", [])), key=lambda hit: (-hit.score, hit.row.id))

    def search_text(self, words: str, *, k: int) -> list[base.Hit]:
        raise errors.NotAllowed("Pinecone supports vector search only; set the service's retrieval to 'vector', or use another engine")

    def close(self) -> None:
        self._closed = True


class _Api:
    """Calls with the key, retried after 429 and 5xx: every one of them may be made twice."""

    def __init__(self, host: str, key: str, *, sleep: Sleep) -> None:
        if not key:
            raise errors.NotAllowed(f"{KEY} is not set; set it where the workers and the controller run")
        try:
            import httpx2
        except ImportError as error:
            raise errors.UsageError(
                f"index.url names Pinecone, but httpx2 is not installed ({error}); install 'lastgood[pinecone]'"
            ) from error
        self._host = host
        self._sleep = sleep
        self._client = httpx2.Client(base_url=host, headers={"Api-Key": key, "X-Pinecone-Api-Version": VERSION}, timeout=30.0)

    def post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        return self.ask("POST", path, body) or {}

    def ask(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        params: Sequence[tuple[str, str]] = (),
        missing_is_none: bool = False,
    ) -> dict[str, Any] | None:
        """The answer's object; with *missing_is_none* None for 404. Raises Unavailable, NotAllowed, UsageError or Damaged."""
        import httpx2

        why = ""
        for attempt in range(ATTEMPTS):
            if attempt:
                self._sleep(min(0.5 * 2**attempt, 8.0))
            try:
                said = self._client.request(method, path, json=body, params=list(params))
            except httpx2.HTTPError as error:
                why = str(error) or type(error).__name__
                continue
            if said.status_code != 429 and said.status_code < 500:
                return self._read(said, method=method, path=path, missing_is_none=missing_is_none)
            why = f"status {said.status_code}"
        raise errors.Unavailable(f"Pinecone at {self._host} cannot be used: {why}; check its state, or index.url")

    def _read(self, said: Any, *, method: str, path: str, missing_is_none: bool) -> dict[str, Any] | None:
        if said.status_code == 404 and missing_is_none:
            return None
        if said.status_code in (401, 403):
            raise errors.NotAllowed(f"Pinecone refuses the key in {KEY}; set a valid one")
        if said.status_code >= 400:
            raise errors.UsageError(
                f"Pinecone rejected {method} {path} with {said.status_code}: {said.text[:200]!r}; check the index's dimension"
            )
        try:
            found: dict[str, Any] = json.loads(said.content or b"{}")
        except ValueError as error:
            raise errors.Damaged(f"Pinecone's answer to {method} {path} is not JSON; check for a proxy in between") from error
        return found

    def close(self) -> None:
        self._client.close()


def _described(record: Mapping[str, Any]) -> index_snapshot.Snapshot:
    snapshot = index_snapshot.parse(str(record["metadata"].get("described", "")).encode(), where=f"the catalogue's record {record['id']!r}")
    if snapshot.name != record["id"]:
        raise errors.Damaged(f"the catalogue's record {record['id']!r} describes {snapshot.name!r}; build the index again")
    return snapshot


def _metadata(row: index_snapshot.Packed) -> dict[str, str]:
    if len(row.text) + len(row.meta) > MAX_METADATA:
        raise errors.UsageError(
            f"row {row.id.decode()!r} has more than {MAX_METADATA:,} bytes of text and meta, Pinecone's limit; chunk it smaller"
        )
    return {"text": row.text.decode(), "meta": row.meta.decode()}


def _hit(match: Mapping[str, Any]) -> base.Hit:
    said = match["metadata"]
    return base.Hit(row=index_snapshot.Row(id=match["id"], text=said["text"], meta=json.loads(said["meta"])), score=float(match["score"]))


def _batched(items: Sequence[Any]) -> Iterator[list[Any]]:
    remaining = iter(items)
    while batch := list(itertools.islice(remaining, BATCH)):
        yield batch
