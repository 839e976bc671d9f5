"""Checks that a build must pass before its next step: the data, the model's limits, the bundle's bytes.

A blocking check stops its own run only. A promotion is another run, so it does not rely on these: it verifies the
bundle and looks at the evaluation in the ledger itself.
"""

from collections.abc import Iterator
from typing import Any

import dagster as dg

from assets.flights import data, expectations
from dagster_lastgood import metadata as show
from dagster_lastgood import part_assets as common
from dagster_lastgood import parts
from lastgood import settings as settings_

ERROR = dg.AssetCheckSeverity.ERROR

DATA_CHECKS = [
    dg.AssetCheckSpec("schema", asset=data.KEY, blocking=True, description="Exactly the columns that are known, labelled, in both tables."),
    dg.AssetCheckSpec("nulls", asset=data.KEY, blocking=True, description="No column is empty, and none has more gaps than it ever had."),
    dg.AssetCheckSpec("ranges", asset=data.KEY, blocking=True, description="Numbers are in their units' range."),
    dg.AssetCheckSpec(
        "categories", asset=data.KEY, blocking=True, description="Airports and airlines have codes, origins are the three known."
    ),
    dg.AssetCheckSpec(
        "leakage", asset=data.KEY, blocking=True, description="No feature is known only after departure or gives the label away."
    ),
]


@dg.multi_asset_check(specs=DATA_CHECKS, description="Great Expectations on the tables to train on and to evaluate on.")
def data_checks(context: dg.AssetCheckExecutionContext, settings: dg.ResourceParam[settings_.Settings]) -> Iterator[dg.AssetCheckResult]:
    """One validation of each table; its results are told check by check."""
    from lastgood.bundle import store as artifacts

    folder = artifacts.Store(settings.store).path(parts.made(context, "flights", "data").part.digest)
    found = expectations.validate({name: folder / f"{name}.parquet" for name in ("train", "evaluate")})
    for spec in DATA_CHECKS:
        results = [row for row in found if row["check"] == spec.name]
        failed = [row for row in results if not row["passed"]]
        metadata: dict[str, Any] = {"expectations": len(results), "failed": len(failed), "results": show.table(failed or results)}
        yield dg.AssetCheckResult(
            check_name=spec.name, asset_key=data.KEY, passed=bool(results) and not failed, severity=ERROR, metadata=metadata
        )


ALL = [data_checks, common.limits("flights", of="model"), common.verifies("flights")]
