"""Checks that a build must pass before its next step: the chunks, the limits, the bundle's bytes and its replica.

A blocking check stops its own run only. A promotion is another run, so it does not rely on these: it verifies the
bundle and looks at the evaluation in the ledger itself.
"""

from collections.abc import Iterator
from typing import Any

import dagster as dg

from assets.helpdesk import corpus, expectations, index
from dagster_lastgood import metadata as show
from dagster_lastgood import part_assets as common
from dagster_lastgood import parts
from lastgood import settings as settings_

CORPUS_CHECKS = [
    dg.AssetCheckSpec("empty", asset=corpus.KEY, blocking=True, description="Every chunk has words in it."),
    dg.AssetCheckSpec("duplicate", asset=corpus.KEY, blocking=True, description="Ids are there once, and few texts more than once."),
    dg.AssetCheckSpec("secrets", asset=corpus.KEY, blocking=True, description="No chunk holds a key, a token or a password."),
    dg.AssetCheckSpec("oversized", asset=corpus.KEY, blocking=True, description="No chunk is too long for a prompt."),
]


@dg.multi_asset_check(specs=CORPUS_CHECKS, description="Great Expectations on the chunks.")
def corpus_checks(context: dg.AssetCheckExecutionContext, settings: dg.ResourceParam[settings_.Settings]) -> Iterator[dg.AssetCheckResult]:
    """One validation; its results are told check by check."""
    from lastgood.bundle import store as artifacts

    folder = artifacts.Store(settings.store).path(parts.made(context, "helpdesk", "corpus").part.digest)
    found = expectations.validate(folder / "chunks.jsonl")
    for spec in CORPUS_CHECKS:
        results = [row for row in found if row["check"] == spec.name]
        failed = [row for row in results if not row["passed"]]
        metadata: dict[str, Any] = {"expectations": len(results), "failed": len(failed), "results": show.table(failed or results)}
        yield dg.AssetCheckResult(
            check_name=spec.name, asset_key=corpus.KEY, passed=bool(results) and not failed, severity=common.ERROR, metadata=metadata
        )


@dg.asset_check(asset=index.KEY, name="replica", blocking=True, description="Every byte and row of the replica is what the snapshot says.")
def replica(context: dg.AssetCheckExecutionContext, settings: dg.ResourceParam[settings_.Settings]) -> dg.AssetCheckResult:
    """Read the replica of the snapshot that this run made."""
    from lastgood import errors
    from lastgood.index import catalog, snapshot

    name = snapshot.name_of(str(parts.made(context, "helpdesk", "index").part.meta["snapshot"]))
    engine = catalog.connect(settings)
    try:
        engine.verify(name, deep=True)
    except (errors.Damaged, errors.NotFound) as error:
        return dg.AssetCheckResult(passed=False, severity=common.ERROR, metadata={"replica": name, "found": str(error)})
    finally:
        engine.close()
    return dg.AssetCheckResult(passed=True, severity=common.ERROR, metadata={"replica": name})


ALL = [corpus_checks, replica, common.limits("helpdesk", of="evaluation"), common.verifies("helpdesk")]
