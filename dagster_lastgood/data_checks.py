"""Checks of a part's tables, from its expectations: Great Expectations in, asset checks of the same names out.

A failed check blocks the rest of its run. Expectations on live requests are a different matter: `live_checks`.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg

from dagster_lastgood import expectations, metadata, parts
from lastgood.settings import Settings

if TYPE_CHECKING:
    import pandas as pd

ERROR = dg.AssetCheckSeverity.ERROR

Row = dict[str, Any]
"""The result of one expectation: {"check", "expectation", "column", "passed", "found"}, with several tables also "table"."""
Tables = Callable[[Path], "Mapping[str, pd.DataFrame]"]
"""Returns the tables in the folder of a part, by name."""
Suite = Callable[[], Sequence[Any]]
"""Returns the Great Expectations expectations, each with `meta={"check": name}`."""
More = Callable[["pd.DataFrame"], Iterable[Row]]
"""Returns rows for checks that no expectation can express."""


def checks(
    service: str,
    asset: str,
    described: Mapping[str, str],
    *,
    tables: Tables,
    suite: Suite,
    more: More | None = None,
    op: str = "",
    description: str = "Great Expectations on the tables of the part.",
) -> dg.AssetChecksDefinition:
    """The checks *described* by name on `<service>/<asset>`; each is a `meta["check"]` of *suite*, or the "check" of rows of *more*.

    Every expectation is checked on every table. *op* is the name of the Dagster step, by default `<service>__<asset>_checks`.
    """
    specs = [dg.AssetCheckSpec(name, asset=parts.key(service, asset), blocking=True, description=text) for name, text in described.items()]

    @dg.multi_asset_check(name=op or f"{service}__{asset}_checks", specs=specs, description=description)
    def checked(context: dg.AssetCheckExecutionContext, settings: dg.ResourceParam[Settings]) -> Iterator[dg.AssetCheckResult]:
        """One validation of each table, with one result per check."""
        from lastgood.bundle import store

        folder = store.Store(settings.store).path(parts.made(context, service, asset).part.digest)
        rows = validate(tables(folder), suite, more=more)
        for spec in specs:
            yield _result(spec, [row for row in rows if row["check"] == spec.name])

    return checked


def validate(tables: "Mapping[str, pd.DataFrame]", suite: Suite, *, more: More | None = None) -> list[Row]:
    """The results of the expectations of *suite*, and of *more*, for each of the *tables*."""
    rows: list[Row] = []
    for name, frame in tables.items():
        where = {"table": name} if len(tables) > 1 else {}
        rows += [where | row for row in (*expectations.table(frame, suite()), *(more(frame) if more else ()))]
    return rows


def _result(spec: dg.AssetCheckSpec, rows: Sequence[Row]) -> dg.AssetCheckResult:
    """Passed if there are rows and all of them have passed; shows those that have not."""
    failed = [row for row in rows if not row["passed"]]
    return dg.AssetCheckResult(
        check_name=spec.name,
        asset_key=spec.asset_key,
        passed=bool(rows) and not failed,
        severity=ERROR,
        metadata={"expectations": len(rows), "failed": len(failed), "results": metadata.table(failed or rows)},
    )


def parquet(*names: str) -> Tables:
    """Reads the files `<name>.parquet` of a part."""

    def read(folder: Path) -> "Mapping[str, pd.DataFrame]":
        import pandas as pd

        return {name: pd.read_parquet(folder / f"{name}.parquet") for name in names}

    return read


def no_secret(frame: "pd.DataFrame", *, text: str, named: str) -> Row:
    """The check `secrets`: no cell of the column *text* may hold a key or a password. The column *named* says where, never what."""
    from lastgood.bundle import secret_scan as secrets

    cells = zip(frame[named], frame[text], strict=True)
    found = [f"{name}, line {one.line}: {one.kind}" for name, cell in cells for one in secrets.find(cell)]
    return {"check": "secrets", "expectation": "no secret", "column": text, "passed": not found, "found": "; ".join(found)[:1000]}


def no_giveaway(frame: "pd.DataFrame", *, features: Sequence[str], label: str, known_later: Iterable[str] = ()) -> list[Row]:
    """The check `leakage`: no feature may reveal the *label* by itself or be *known_later*; a row for each feature that is present."""
    from dagster_lastgood import leakage

    late = sorted(set(features) & set(known_later))
    rows = [_leak("features are known before the label", "", passed=not late, found=f"known later: {', '.join(late) or 'none'}")]
    for name in features:
        if name in frame.columns:
            area = leakage.single_auc(frame[name], frame[label])
            passed = abs(area - 0.5) <= leakage.GIVEAWAY
            rows.append(_leak("one feature alone does not tell the label", name, passed=passed, found=f"AUC {area:.3f}"))
    return rows


def _leak(expectation: str, column: str, *, passed: bool, found: str) -> Row:
    return {"check": "leakage", "expectation": expectation, "column": column, "passed": passed, "found": found}
