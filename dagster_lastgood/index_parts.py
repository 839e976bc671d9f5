"""The index of a service that searches: a part written by one function, with its replica in the vector engine and the replica's check."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import dagster as dg

from dagster_lastgood import parts
from dagster_lastgood.written_parts import Part, Write
from lastgood.settings import Settings

ERROR = dg.AssetCheckSeverity.ERROR
NAME = "index"


def index(write: Write, *, kinds: Sequence[str] = (), code: Sequence[str] = ()) -> Part:
    """The snapshot part (`lastgood.index.snapshot.write`) that *write* makes. Once stored, its replica is built, read back and compared."""
    return Part(write, name=NAME, media_type="application/vnd.lastgood.index", kinds=kinds, code=code, then=_replicated)


def _replicated(folder: Path, settings: Settings) -> Mapping[str, Any]:
    from lastgood.index import catalog, snapshot

    engine = catalog.connect(settings)
    replica = engine.build(folder)
    engine.close()
    made = snapshot.read(folder)
    return {
        "dagster/row_count": made.rows,
        "snapshot": made.id,
        "replica": replica.name,
        "replica bytes": replica.bytes or 0,
        "dimensions": made.dim,
    }


def replica(service: str) -> dg.AssetChecksDefinition:
    """The check `replica` on `<service>/index`."""

    @dg.asset_check(
        asset=parts.key(service, NAME),
        name="replica",
        blocking=True,
        description="Every byte and row of the replica is what the snapshot says.",
    )
    def replica(context: dg.AssetCheckExecutionContext, settings: dg.ResourceParam[Settings]) -> dg.AssetCheckResult:
        """Read the replica of the snapshot made by this run."""
        from lastgood import errors
        from lastgood.index import catalog, snapshot

        name = snapshot.name_of(str(parts.made(context, service, NAME).part.meta["snapshot"]))
        engine = catalog.connect(settings)
        try:
            engine.verify(name, deep=True)
        except (errors.Damaged, errors.NotFound) as error:
            return dg.AssetCheckResult(passed=False, severity=ERROR, metadata={"replica": name, "found": str(error)})
        finally:
            engine.close()
        return dg.AssetCheckResult(passed=True, severity=ERROR, metadata={"replica": name})

    return replica
