"""How a part gets from its asset to the bundle: as a reference in its materialization, never as an object.

The content is in the store under its digest. The materialization holds the part's manifest entry and its
provenance. A later step reads them from the *same run*, so two overlapping runs do not mix their parts; only a step that
runs without its upstream (one asset selected in the UI, a retry) uses the run it retries, and then the newest.
"""

import dataclasses
import hashlib
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import dagster as dg

from dagster_lastgood import project
from lastgood.bundle import manifest

PART = "lastgood/part"
PROVENANCE = "lastgood/provenance"
REPORT = "lastgood/evaluation"

Context = dg.AssetExecutionContext | dg.AssetCheckExecutionContext
Metadata = Mapping[str, dg.MetadataValue[Any]]
"""The content of a materialization; the writer of an entry determines its type."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class BuiltPart:
    """A part made by a run. `provenance` says how; `metadata` is everything in its materialization."""

    part: manifest.Part
    provenance: Mapping[str, Any]
    metadata: Metadata


def key(service: str, name: str) -> dg.AssetKey:
    """The asset key of one part (or of the bundle) of a service."""
    return dg.AssetKey([service, name])


def release_key(service: str) -> dg.AssetKey:
    """The asset key whose data version shows which bundle of *service* is stable."""
    return key(service, "release")


def result(
    context: Context, part: manifest.Part, *, provenance: Mapping[str, Any], metadata: Mapping[str, Any]
) -> dg.MaterializeResult[Any]:
    """An asset's result for *part*: its digest as data version, the reference, and metadata for people."""
    facts = {"dagster_run": context.run.run_id, **provenance}
    return dg.MaterializeResult(
        data_version=dg.DataVersion(part.digest),
        metadata={
            **metadata,
            "lastgood/digest": part.digest,
            "lastgood/size_bytes": part.size,
            PART: dg.MetadataValue.json({"name": part.name, **part.entry()}),
            PROVENANCE: dg.MetadataValue.json(facts),
        },
    )


def made(context: Context, service: str, name: str) -> BuiltPart:
    """The part made by this run, else by the run that it retries, else by the newest run that made it. Raises Failure if there is none."""
    for metadata in _materializations(context, key(service, name)):
        return BuiltPart(part=manifest.Part(**metadata[PART].value), provenance=metadata[PROVENANCE].value, metadata=metadata)
    raise dg.Failure(f"{service}/{name} has not been materialized; materialize it first, or launch the job 'build'", allow_retries=False)


def metadata(context: Context, service: str, name: str) -> Metadata:
    """The materialization metadata of an asset that is not a part, found as `made` finds parts. Raises Failure."""
    for found in _materializations(context, key(service, name)):
        return found
    raise dg.Failure(f"{service}/{name} has not been materialized; materialize it first", allow_retries=False)


def _materializations(context: Context, wanted: dg.AssetKey) -> Iterator[Metadata]:
    run = context.run
    for run_id in filter(None, (run.run_id, run.parent_run_id, run.root_run_id)):
        for entry in reversed(context.instance.all_logs(run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION)):
            if entry.asset_materialization and entry.asset_materialization.asset_key == wanted:
                yield entry.asset_materialization.metadata
    latest = context.instance.get_latest_materialization_event(wanted)
    if latest is not None and latest.asset_materialization is not None:
        yield latest.asset_materialization.metadata


def code_version(*files: str) -> str:
    """A version that changes with the content of *files* (paths from the project folder); missing ones count as empty.

    A missing file is not an error here: a broken service must not prevent the jobs of the others, `rollback` above all, from loading.
    """
    paths = [project.root() / name for name in files]
    content = [path.read_bytes() if path.is_file() else b"" for path in paths]
    return hashlib.sha256(b"\0".join(content)).hexdigest()[:12]


def provenance(context: Context, made: Mapping[str, BuiltPart], *, now: float, project: Path) -> dict[str, Any]:
    """Where a bundle comes from: kept beside its manifest, so that equal parts have the same id whoever builds them."""
    return {
        "dagster_run": context.run.run_id,
        "built_at": now,
        "git_commit": _git_commit(project),
        "parts": {name: dict(item.provenance) for name, item in made.items()},
    }


def _git_commit(project: Path) -> str | None:
    """The commit of the project folder, with `+` if files differ from it; None outside git."""
    asked = ["git", "-C", str(project), "describe", "--always", "--abbrev=40", "--dirty=+", "--exclude=*"]
    try:
        answer = subprocess.run(asked, capture_output=True, text=True, check=False, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() or None


def bundle_id(context: Context, service: str) -> str:
    """The bundle registered by this run, else the newest one, found as `made` finds parts. Raises Failure if there is none."""
    for metadata in _materializations(context, key(service, "bundle")):
        return str(metadata["lastgood/bundle"].value)
    raise dg.Failure(f"{service}/bundle has not been materialized; launch the job 'build'", allow_retries=False)
