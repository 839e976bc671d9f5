"""The index part: every chunk of the corpus with its vector, as a snapshot that nobody changes any more."""

from typing import Any

import dagster as dg

from assets.helpdesk import corpus, model
from dagster_lastgood import part_assets as common
from dagster_lastgood import parts
from lastgood import settings as settings_

KEY = parts.key("helpdesk", "index")


@dg.asset(
    key=KEY,
    deps=[corpus.KEY, model.KEY],
    group_name="helpdesk",
    kinds={"lancedb"},
    owners=["team:helpdesk-on-call"],
    code_version=parts.code_version("services/helpdesk/build.py"),
    description="Rows and vectors in the store, and their replica in the vector engine, read back and compared.",
)
def index(context: dg.AssetExecutionContext, settings: dg.ResourceParam[settings_.Settings]) -> dg.MaterializeResult[Any]:
    """Embed what the stable index does not have yet, freeze the snapshot, build its replica."""
    import tempfile
    from pathlib import Path

    from lastgood.bundle import store as artifacts
    from lastgood.index import catalog, embedders
    from lastgood.index import snapshot as snapshots
    from services.helpdesk import build, pins

    store = artifacts.Store(settings.store)
    chunks, models = (store.path(parts.made(context, "helpdesk", name).part.digest) for name in ("corpus", "model"))
    embedder = embedders.load(models / pins.EMBEDDER)
    previous = common.stable_part(settings, "helpdesk", "index")
    with tempfile.TemporaryDirectory() as scratch:
        built = build.build(chunks, embedder=embedder, out=Path(scratch) / "index", previous=previous)
        stored = store.put(Path(scratch) / "index", allow=artifacts.DATA_FORMATS)
    engine = catalog.connect(settings)
    replica = engine.build(store.path(stored.digest))
    engine.close()
    part = artifacts.part(stored, name="index", media_type=snapshots.MEDIA_TYPE, meta=built.snapshot.meta())
    changes = {name: getattr(built, name) for name in ("same", "changed", "added", "removed", "embedded")}
    metadata = {
        "dagster/row_count": built.snapshot.rows,
        "snapshot": built.snapshot.id,
        "replica": replica.name,
        "replica bytes": replica.bytes or 0,
        "dimensions": built.snapshot.dim,
        "compared with": "the stable index" if previous else "nothing, none is stable",
        **{f"rows/{name}": count for name, count in changes.items()},
    }
    return parts.result(context, part, provenance={"rows": changes}, metadata=metadata)
