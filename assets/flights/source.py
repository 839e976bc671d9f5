"""Where the data come from: the published files and the months of them that params.yaml names."""

from pathlib import Path

from dagster_lastgood import automation


def version(project: Path) -> str:
    """A name of the files, by their digests, and of the months."""
    from services.flights import data

    return data.version(project)


source = automation.source(
    "flights",
    version,
    owners=["team:flights-on-call"],
    description="The files and months that params.yaml names; a change makes a new bundle.",
)
