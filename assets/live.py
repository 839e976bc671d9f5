"""Great Expectations on what came in: checks on `<service>/drift`, each window judged by what the service's own `expectations.live()` expects.

They stand beside the statistics of drift and open no alarm: an expectation is a limit that somebody wrote down, drift is
what the reference makes unusual. The sensor `drift_watch` reports them; one executed by hand judges the newest window.
"""

import importlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import dagster as dg

from assets import judged, show, windows
from lastgood import settings as settings_

if TYPE_CHECKING:
    import pandas as pd

    from lastgood.drift.watch import Looked, Watched
    from lastgood.release import Context

MOST = 20_000
"""Rows of a window that are judged; of more, every second, fourth, ... request."""
SHOWN = 20
"""Expectations that a check lists, the failed ones first."""


def checks(service: str, described: dict[str, str]) -> dg.AssetChecksDefinition:
    """The checks *described* by name; each name is a `meta["check"]` of the expectations."""
    specs = [dg.AssetCheckSpec(name, asset=windows.key(service), description=text) for name, text in described.items()]

    @dg.multi_asset_check(name=f"{service}__live", specs=specs, description="Great Expectations on the newest window of what came in.")
    def live(context: dg.AssetCheckExecutionContext, settings: dg.ResourceParam[settings_.Settings]) -> Iterator[dg.AssetCheckResult]:
        from lastgood import release
        from lastgood.drift import watch as drift_watch

        with release.open_context(settings, read_only=True) as ctx:
            what = drift_watch.watched(ctx, service)
            found = list(drift_watch.looked(ctx, what)) if what else []
            if what is None or not found:
                raise dg.Failure(f"no window of {service!r} has been looked at yet; wait for the first, or run 'lastgood drift {service}'")
            for one in evaluations(ctx, what, found[-1]):
                yield dg.AssetCheckResult(
                    check_name=one.check_name, passed=one.passed, severity=one.severity, description=one.description, metadata=one.metadata
                )

    return live


def evaluations(ctx: "Context", what: "Watched", one: "Looked") -> list[dg.AssetCheckEvaluation]:
    """What the service expects of the rows of window *one*, check by check; empty if it expects nothing. Raises what reading the log raises."""
    suite = _suite(what.service)
    if not suite:
        return []
    frame = rows(ctx, what, one)
    said = judged.table(frame, suite)
    return [_check(what, one, name, [row for row in said if row["check"] == name]) for name in dict.fromkeys(row["check"] for row in said)]


def _suite(service: str) -> Sequence[Any]:
    try:
        module = importlib.import_module(f"assets.{service}.expectations")
    except ModuleNotFoundError as error:
        if not f"assets.{service}.expectations".startswith(error.name or "?"):
            raise  # it is there, and needs something that is not
        return ()
    live = getattr(module, "live", None)
    return live() if live else ()


def rows(ctx: "Context", what: "Watched", one: "Looked") -> "pd.DataFrame":
    """The requests of a window as the log has them, one column for each field. Without rows it has no columns."""
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


def _check(what: "Watched", one: "Looked", name: str, said: Sequence[dict[str, Any]]) -> dg.AssetCheckEvaluation:
    failed = [row for row in said if not row["passed"]]
    shown = [
        {key: row[key] for key in ("expectation", "column", "passed", "found")} for row in [*failed, *(r for r in said if r["passed"])]
    ]
    words = "; ".join(f"{row['column'] or 'the rows'}: {row['expectation']}" for row in failed)
    return dg.AssetCheckEvaluation(
        asset_key=windows.key(what.service),
        check_name=name,
        passed=not failed,
        severity=dg.AssetCheckSeverity.WARN,
        description=words or None,
        partition=windows.name_of(what, one),
        metadata={
            "lastgood/bundle": what.bundle,
            "window": windows.name_of(what, one),
            "expectations": len(said),
            "failed": len(failed),
            "results": show.table(shown[:SHOWN]),
        },
    )
