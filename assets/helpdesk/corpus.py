"""The data part: the documentation of one Django version, in chunks, with the questions that it answers."""

from pathlib import Path

import dagster as dg
from pydantic import Field

from dagster_lastgood import Written, metadata
from lastgood.settings import Settings

CODE = [f"services/helpdesk/{name}.py" for name in ("prepare", "sources", "chunks", "questions", "drift")]


class Version(dg.Config):
    """Which documentation."""

    version: str = Field(default="5.2", description="Django version: 4.2, 5.2 or 6.0.")


def current_version(project: Path) -> str:
    """A name for the texts of the default version."""
    from services.helpdesk import prepare, sources

    asked = Version().version
    return f"{asked}-{sources.digest(sources.read(project / prepare.SLICES / f'django-{asked}'))[:12]}"


def corpus(out: Path, config: Version, settings: Settings) -> Written:
    """Sections of Django's documentation; headings that are questions are withheld and become the golden questions."""
    from lastgood.drift import reference
    from services.helpdesk import drift, prepare

    described = prepare.slice_of(config.version, out=out, project=settings.project)
    reference.write(drift.reference(out / prepare.QUESTIONS), out / reference.FILE, at=drift.TIME)
    return Written(
        meta={name: described[name] for name in ("name", "version", "documents", "chunks")},
        provenance={"source_sha256": described["source_sha256"]},
        metadata={
            "dagster/row_count": described["chunks"],
            "questions": metadata.table([{"kind": kind, "questions": count} for kind, count in sorted(described["questions"].items())]),
            **{name: described[name] for name in ("version", "documents", "licence")},
        },
    )
