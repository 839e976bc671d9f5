"""The vector engine as a layer: every bundle that serves, or may serve shortly, has a complete replica of its index there.

A worker builds what it needs by itself and opens its snapshot by name, so nothing waits for this layer. It rebuilds a replica that
was lost or damaged, before a worker has to, and keeps `<service>-stable`, `-candidate` and `-previous` pointing at the replicas for
people and other programs.

What does not belong here: engines (`lastgood.index`), removing replicas that are not needed (`lastgood.index.retention`).
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

from lastgood import errors
from lastgood.bundle import manifest, store
from lastgood.index import base as engines
from lastgood.index import catalog, snapshot
from lastgood.layers import base
from lastgood.settings import Settings
from lastgood.system import files, processes

ALIASES = ("stable", "candidate", "previous")
LOCK_WAIT_S = 5.0


def build(settings: Settings, service: str) -> Index:
    """The index layer of *service*."""
    return Index(settings, service)


class Index(base.Layer):
    """See the module."""

    name = "index"

    def __init__(self, settings: Settings, service: str, *, engine: engines.VectorIndex | None = None) -> None:
        self._settings = settings
        self._service = manifest.check_service_name(service)
        self._engine = engine or catalog.connect(settings)
        self._store = store.Store(settings.store)
        self._noted = settings.run(service) / "index.json"

    def observe(self) -> base.Observed:
        """Replicas that look complete, with their rows; the aliases of this service; the revision last taken over."""
        with _told():
            found = self._engine.replicas()
            whole = {one.name: one.snapshot.rows for one in found if self._is_whole(one.name)}
        aliases = {alias: one.name for one in found for alias in ALIASES if self._alias(alias) in one.aliases}
        return base.Observed(revision=self._revision(), facts={"replicas": whole, "aliases": aliases})

    def verify(self, desired: base.Desired, observed: base.Observed) -> bool | None:
        """True if every bundle named has its replica and each alias points at that of its bundle."""
        replicas = observed.facts.get("replicas")
        if replicas is None:
            return None
        wanted = wanted_of(desired)
        aliases = {alias: wanted[digest] for alias, digest in desired.aliases.items() if digest in wanted}
        whole = all(name in replicas for name in wanted.values())
        return bool(whole and observed.revision == desired.revision and observed.facts.get("aliases") == aliases)

    def apply(self, desired: base.Desired) -> None:
        """Build what is missing or damaged, then set the aliases. A revision older than the one last taken over changes nothing."""
        with _told(), self._alone():
            if (self._revision() or 0) > desired.revision:
                return
            wanted = wanted_of(desired)
            for digest in wanted:
                self._engine.build(self._store.path(desired.bundles[digest].parts["index"].digest))
            for alias in ALIASES:
                self._engine.point(self._alias(alias), wanted.get(desired.aliases.get(alias, "")))
            files.write(self._noted, json.dumps({"revision": desired.revision}).encode())

    def close(self) -> None:
        self._engine.close()

    def _alias(self, alias: str) -> str:
        return f"{self._service}-{alias}"

    def _is_whole(self, name: str) -> bool:
        try:
            self._engine.verify(name, deep=False)
        except (errors.Damaged, errors.NotFound):
            return False
        return True

    def _revision(self) -> int | None:
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            return int(json.loads(self._noted.read_bytes())["revision"])
        return None

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        self._noted.parent.mkdir(parents=True, exist_ok=True)
        with processes.locked(self._noted.with_suffix(".lock"), wait_s=LOCK_WAIT_S):
            yield


def wanted_of(desired: base.Desired) -> Mapping[str, str]:
    """Bundle id to the name of its replica, for each bundle that an alias names and that has an index."""
    found: dict[str, str] = {}
    for digest in dict.fromkeys(desired.aliases.values()):
        part = desired.bundles[digest].parts.get("index") if digest in desired.bundles else None
        meta: Mapping[str, Any] = part.meta if part else {}
        if "snapshot" in meta:
            found[digest] = snapshot.name_of(str(meta["snapshot"]))
    return found


@contextlib.contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except (errors.LastgoodError, OSError) as error:
        raise base.LayerError(str(error)) from error
