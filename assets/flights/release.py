"""The release: which bundle is stable, and what the gates say of the one on its way.

Nobody materializes it here: the sensors `release_mirror` and `rollout_mirror` report it from the ledger.
"""

import dagster as dg

import assets
from assets import gates
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

checks = gates.checks("flights")
