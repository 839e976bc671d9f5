"""The release: which bundle is stable. Nobody materializes it here; the sensor `release_mirror` reports it from the ledger."""

import dagster as dg

import assets
from assets.flights import bundle

release = dg.AssetSpec(
    assets.release_key("flights"),
    deps=[bundle.KEY],
    group_name="flights",
    kinds={"lastgood"},
    owners=["team:flights-on-call"],
    description="One materialization per revision of the release ledger; the data version is the stable bundle's id. "
    "Unsynced means: a newer bundle was built and is not released.",
)
