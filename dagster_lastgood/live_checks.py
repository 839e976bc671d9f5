"""Great Expectations on live traffic: checks on `<service>/drift`, each window judged by the service's own suite.

They complement the drift statistics and open no alarm: an expectation is a limit that somebody wrote down, drift is
what is unusual compared with the reference. The sensor `drift_watch` reports them; one executed manually judges the newest window.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import dagster as dg

from dagster_lastgood import drift_assets, metadata
from dagster_lastgood import expectations as judged
from lastgood.settings import Settings

if TYPE_CHECKING:
    import pandas as pd

    from lastgood.drift.watch import DriftWatch, WindowReport
    from lastgood.release import Context

Expectations = Callable[[], Sequence[Any]]
"""Returns the Great Expectations expectations on a service's requests, each with `meta={"check": name}`."""

MOST = 20_000
"""Most rows of a window that are judged; from larger windows, every second, fourth, ... request."""
SHOWN = 20
"""Most expectations that a check lists, the failed ones first."""


def checks(service: str, described: Mapping[str, str], *, suite: Expectations) -> dg.AssetChecksDefinition:
    """The checks *described* by name; each name is a `meta["check"]` of the expectations of *suite*."""
    specs = [dg.AssetCheckSpec(name, asset=drift_assets.key(service), description=text) for name, text in described.items()]

    @dg.multi_asset_check(name=f"{service}__live", specs=specs, description="Great Expectations on the newest window of live traffic.")
    def live(context: dg.AssetCheckExecutionContext, settings: dg.ResourceParam[Settings]) -> Iterator[dg.AssetCheckResult]:
        from lastgood import release
        from lastgood.drift import watch as drift_watch

        with release.open_context(settings, read_only=True) as ctx:
            what = drift_watch.watch_of_service(ctx, service)
            found = list(drift_watch.window_reports(ctx, what)) if what else []
            if what is None or not found:
                raise dg.Failure(f"no window of {service!r} has been evaluated yet; wait for the first, or run 'lastgood drift {service}'")
            for one in evaluations(ctx, what, found[-1], suite=suite):
                yield dg.AssetCheckResult(
                    check_name=one.check_name, passed=one.passed, severity=one.severity, description=one.description, metadata=one.metadata
                )

    return live


def evaluations(ctx: "Context", what: "DriftWatch", one: "WindowReport", *, suite: Expectations | None) -> list[dg.AssetCheckEvaluation]:
    """The results of the service's expectations on window *one*, per check; empty if it has none. Raises what reading the log raises."""
    expected = suite() if suite else ()
    if not expected:
        return []
    frame = rows(ctx, what, one)
    said = judged.table(frame, expected)
    return [_check(what, one, name, [row for row in said if row["check"] == name]) for name in dict.fromkeys(row["check"] for row in said)]


def rows(ctx: "Context", what: "DriftWatch", one: "WindowReport") -> "pd.DataFrame":
    """The requests of a window as logged, one column per field. Without rows it has no columns."""
    import pandas as pd

    from lastgood.drift import bundle_reference as drift_reference
    from lastgood.drift import watch as drift_watch
    from lastgood.serving import inference_log

    fields = drift_reference.load(ctx.settings, ctx.ledger.bundle(what.bundle)).runtime.Request.model_fields
    table = drift_watch.read(ctx, what, since=one.begin, until=one.end, columns=list(fields), most=MOST).table
    if table is None:
        return pd.DataFrame()
    asked = [name for name in table.column_names if name.startswith(inference_log.FEATURE)]
    frame: pd.DataFrame = table.select(asked).to_pandas()
    return frame.rename(columns=lambda name: name.removeprefix(inference_log.FEATURE))


def _check(what: "DriftWatch", one: "WindowReport", name: str, said: Sequence[dict[str, Any]]) -> dg.AssetCheckEvaluation:
    failed = [row for row in said if not row["passed"]]
    shown = [
        {key: row[key] for key in ("expectation", "column", "passed", "found")} for row in [*failed, *(r for r in said if r["passed"])]
    ]
    words = "; ".join(f"{row['column'] or 'the rows'}: {row['expectation']}" for row in failed)
    return dg.AssetCheckEvaluation(
        asset_key=drift_assets.key(what.service),
        check_name=name,
        passed=not failed,
        severity=dg.AssetCheckSeverity.WARN,
        description=words or None,
        partition=drift_assets.name_of(what, one),
        metadata={
            "lastgood/bundle": what.bundle,
            "window": drift_assets.name_of(what, one),
            "expectations": len(said),
            "failed": len(failed),
            "results": metadata.table(shown[:SHOWN]),
        },
    )
