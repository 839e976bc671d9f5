"""The data part: the documentation of one Django version, in chunks, with the questions that it answers."""

from typing import Any

import dagster as dg
from pydantic import Field

from dagster_lastgood import automation, parts
from dagster_lastgood import metadata as show
from lastgood import settings as settings_

KEY = parts.key("helpdesk", "corpus")


class Version(dg.Config):
    """Which documentation."""

    version: str = Field(default="5.2", description="Django version: 4.2, 5.2 or 6.0.")


@dg.asset(
    key=KEY,
    deps=[automation.key("helpdesk")],
    group_name="helpdesk",
    kinds={"dvc", "text"},
    owners=["team:helpdesk-on-call"],
    code_version=parts.code_version(*(f"services/helpdesk/{name}.py" for name in ("prepare", "sources", "chunks", "questions", "drift"))),
    description="Sections of Django's documentation; headings that are questions are withheld and become the golden questions.",
)
def corpus(context: dg.AssetExecutionContext, config: Version, settings: dg.ResourceParam[settings_.Settings]) -> dg.MaterializeResult[Any]:
    """Cut the documentation into chunks and store them."""
    import tempfile
    from pathlib import Path

    from lastgood.bundle import store as artifacts
    from lastgood.drift import reference as references
    from services.helpdesk import drift, prepare

    store = artifacts.Store(settings.store)
    with tempfile.TemporaryDirectory() as scratch:
        described = prepare.slice_of(config.version, out=Path(scratch) / "corpus", project=settings.project)
        asked = drift.reference(Path(scratch) / "corpus" / prepare.QUESTIONS)
        references.write(asked, Path(scratch) / "corpus" / references.FILE, at=drift.TIME)
        stored = store.put(Path(scratch) / "corpus", allow=artifacts.DATA_FORMATS)
    meta = {name: described[name] for name in ("name", "version", "documents", "chunks")}
    part = artifacts.part(stored, name="data", media_type="application/jsonl", meta=meta)
    questions = [{"kind": kind, "questions": count} for kind, count in sorted(described["questions"].items())]
    metadata = {
        "dagster/row_count": described["chunks"],
        "version": described["version"],
        "documents": described["documents"],
        "licence": described["licence"],
        "questions": show.table(questions),
        "folder": dg.MetadataValue.path(store.path(stored.digest)),
    }
    return parts.result(context, part, provenance={"source_sha256": described["source_sha256"]}, metadata=metadata)
