"""`<service>/drift`: each window of live traffic as shown in the UI. One partition is one window, named by its bundle and start."""

import datetime
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import dagster as dg

from dagster_lastgood import metadata as asset_metadata
from dagster_lastgood import parts

if TYPE_CHECKING:
    from lastgood.drift.watch import DriftWatch, WindowReport

SHOWN = 12
"""Number of columns whose distance the UI plots and the picture shows, worst first."""


def key(service: str) -> dg.AssetKey:
    """The asset key of the windows of *service*."""
    return parts.key(service, "drift")


def partitions(service: str) -> dg.DynamicPartitionsDefinition:
    """The evaluated windows of *service*."""
    return dg.DynamicPartitionsDefinition(name=f"{service}_windows")


def drift(service: str, *, owners: Sequence[str]) -> dg.AssetSpec:
    """The asset. It is not materialized in Dagster: the sensor `drift_watch` reports it from the ledger."""
    return dg.AssetSpec(
        key(service),
        deps=[parts.key(service, "release")],
        partitions_def=partitions(service),
        group_name=service,
        kinds={"lastgood"},
        owners=list(owners),
        description="Whether live traffic resembled the data that the stable bundle was built on: one materialization per window.",
    )


def name_of(what: "DriftWatch", one: "WindowReport") -> str:
    """The partition of a window: its bundle and its start (UTC)."""
    began = datetime.datetime.fromtimestamp(one.begin, datetime.UTC)
    return f"{what.bundle[7:15]} {began.strftime('%Y-%m-%d %H:%M:%S')}"


def materialization(what: "DriftWatch", one: "WindowReport") -> dg.AssetMaterialization:
    """A window as an event, with its figures."""
    columns = [column for column in one.verdict["columns"] if column["distance"] is not None]
    numbers = {f"distance/{column['name']}": float(column["distance"]) for column in columns[:SHOWN]}
    metadata: dict[str, Any] = {
        "outcome": one.verdict["outcome"],
        "why": one.verdict["why"],
        "rows": one.seen,
        "columns that failed": sum(column["outcome"] in ("fail", "broken") for column in one.verdict["columns"]),
        "alarm": {"opened": "begins", "closed": "ends", "worse": "the data is broken now"}.get(one.change, "open" if one.alarm else "none"),
        "lastgood/bundle": what.bundle,
        **numbers,
        "columns": asset_metadata.table([_row(column) for column in one.verdict["columns"]]),
        "report": dg.MetadataValue.md(f"`lastgood drift {what.service} --report drift.html`"),
    }
    if columns:
        metadata["drift by feature"] = asset_metadata.pictures({"drift by feature": bars(columns[:SHOWN])})
    said = f"{one.verdict['outcome']}: {one.verdict['why']}"
    return dg.AssetMaterialization(key(what.service), description=said, partition=name_of(what, one), metadata=metadata)


def _row(column: Mapping[str, Any]) -> dict[str, asset_metadata.Cell]:
    named = {name: column[name] for name in ("name", "outcome", "measure")}
    return {
        **named,
        **{name: None if column[name] is None else float(column[name]) for name in ("distance", "threshold", "p", "missing", "strange")},
        "why": column["why"],
    }


def bars(columns: Sequence[Mapping[str, Any]]) -> bytes:
    """The distance of each column next to its usual value, as PNG."""
    from lastgood.reports import drift_plots, plots

    return plots.png(drift_plots.by_feature(columns))
