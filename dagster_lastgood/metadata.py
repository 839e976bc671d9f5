"""How values are displayed in the Dagster UI: tables, pictures, links."""

import base64
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import dagster as dg

if TYPE_CHECKING:
    from lastgood.bundle.store import Listing

Cell = str | int | float | bool | None
TableRow = dict[str, Cell]


def table(rows: Sequence[Mapping[str, Cell]]) -> dg.TableMetadataValue:
    """A table of *rows*, which all have the same keys; the first row determines the type of each column."""
    kinds = {bool: "bool", int: "int", float: "float"}
    first = rows[0] if rows else {}
    columns = [dg.TableColumn(name, kinds.get(type(value), "string")) for name, value in first.items()]
    return dg.MetadataValue.table([dg.TableRecord(dict(row)) for row in rows], schema=dg.TableSchema(columns))


def comparison(metrics: Mapping[str, float], stable: Mapping[str, float], *, of: str) -> dg.TableMetadataValue:
    """One metric per row: the value for *of*, and next to it the value for stable, if there is one."""
    return table([{"metric": name, of: float(value), "stable": stable.get(name)} for name, value in sorted(metrics.items())])


def files(listing: "Listing") -> dg.TableMetadataValue:
    """The files of a stored part, one per row."""
    return table([{"file": entry.path, "bytes": entry.size, "sha256": entry.sha256} for entry in listing.entries])


def pictures(pngs: Mapping[str, bytes]) -> dg.MarkdownMetadataValue:
    """PNG images side by side, embedded in the event itself, so they show as long as the run history is kept."""
    images = [f"![{name}](data:image/png;base64,{base64.b64encode(png).decode()})" for name, png in pngs.items()]
    return dg.MetadataValue.md(" ".join(images))


def mlflow_run(tracking_uri: str, *, experiment_id: str, run_id: str) -> dg.MetadataValue:
    """A link to an MLflow run if MLflow is a server, else the command that shows it."""
    path = f"/#/experiments/{experiment_id}/runs/{run_id}"
    if tracking_uri.startswith(("http://", "https://")):
        return dg.MetadataValue.url(tracking_uri.rstrip("/") + path)
    return dg.MetadataValue.md(f"run `{run_id}`; to view it: `mlflow ui --backend-store-uri {tracking_uri}`, then `{path}`")
