"""Where the corpus comes from: the documentation that lies in the project."""

from pathlib import Path

from assets.helpdesk import corpus
from dagster_lastgood import automation


def version(project: Path) -> str:
    """A name of the texts of the version that is built unless another one is asked for."""
    from services.helpdesk import prepare, sources

    asked = corpus.Version().version
    return f"{asked}-{sources.digest(sources.read(project / prepare.SLICES / f'django-{asked}'))[:12]}"


source = automation.source(
    "helpdesk", version, owners=["team:helpdesk-on-call"], description="The texts of Django's documentation; a change makes a new bundle."
)
