"""What must hold of a table of flights, as Great Expectations, and that no feature tells the label.

Each expectation belongs to one of the checks in `checks.py`. Limits are facts about the source, with room: in the worst
month of 2013 the weather is missing for 3 % of flights, the air pressure for 19 %, the aircraft for 18 %.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dagster_lastgood import expectations as judged

KNOWN = {"plane_year": 0.7, "seats": 0.7, "pressure": 0.7, "tailnum": 0.99, "arr_delay": 1.0, "late": 1.0}
WEATHER_KNOWN = 0.9
GIVEAWAY = 0.45
"""How far a single column's AUC may be from a coin's 0.5. The best honest column of any month reaches 0.16; a leaked delay 0.5."""

RANGES = {
    "distance": (1, 20_000),
    "plane_year": (1900, 2014),
    "seats": (1, 1000),
    "temp": (-60, 130),
    "humid": (0, 110),
    "wind_speed": (0, 2000),
    "precip": (0, 50),
    "pressure": (800, 1100),
    "visib": (0, 200),
    "arr_delay": (-300, 3000),
}
"""Miles, year, seats, Fahrenheit, percent, mph, inches, millibars, miles, minutes; those of services/flights/runtime.py or narrower."""


def validate(tables: Mapping[str, Path]) -> list[dict[str, Any]]:
    """One row per expectation and table: {"check", "table", "expectation", "column", "passed", "found"}."""
    import pandas

    rows: list[dict[str, Any]] = []
    for name, file in tables.items():
        frame = pandas.read_parquet(file)
        rows += [{"table": name, **row} for row in (*expected(frame), *giveaways(frame))]
    return rows


def expected(frame: Any) -> list[dict[str, Any]]:
    """What Great Expectations says of *frame* (a pandas DataFrame): {"check", "expectation", "column", "passed", "found"}."""
    return judged.table(frame, suite_of())


def suite_of() -> list[Any]:
    """The expectations; `meta` names the check that each belongs to."""
    import great_expectations.expectations as gxe

    from services.flights import tables

    known = {field.name: 1.0 if not field.nullable else WEATHER_KNOWN for field in tables.SCHEMA}
    known |= KNOWN
    codes = r"^[A-Z0-9]{1,8}$"
    return [
        gxe.ExpectTableColumnsToMatchSet(column_set=tables.SCHEMA.names, exact_match=True, meta={"check": "schema"}),
        gxe.ExpectTableRowCountToBeBetween(min_value=1000, meta={"check": "schema"}),
        gxe.ExpectColumnDistinctValuesToEqualSet(column="late", value_set=[True, False], meta={"check": "schema"}),
        gxe.ExpectCompoundColumnsToBeUnique(column_list=list(tables.KEY), meta={"check": "schema"}),
        *(gxe.ExpectColumnValuesToNotBeNull(column=name, mostly=share, meta={"check": "nulls"}) for name, share in known.items()),
        *(gxe.ExpectColumnValuesToBeBetween(column=n, min_value=a, max_value=b, meta={"check": "ranges"}) for n, (a, b) in RANGES.items()),
        gxe.ExpectColumnDistinctValuesToBeInSet(column="origin", value_set=["EWR", "JFK", "LGA"], meta={"check": "categories"}),
        *(gxe.ExpectColumnValuesToMatchRegex(column=n, regex=codes, meta={"check": "categories"}) for n in ("carrier", "dest")),
        gxe.ExpectColumnUniqueValueCountToBeBetween(column="carrier", min_value=5, max_value=40, meta={"check": "categories"}),
        gxe.ExpectColumnUniqueValueCountToBeBetween(column="dest", min_value=50, max_value=200, meta={"check": "categories"}),
    ]


def live() -> list[Any]:
    """What is expected of requests as they come in: the same of every field, and nothing that is known only later or of a whole month."""
    from services.flights import features

    fields = set(features.FIELDS)
    kept = ("expect_column_values", "expect_column_distinct_values")
    return [
        _columns(sorted(fields)),
        *(one for one in suite_of() if getattr(one, "column", None) in fields and one.expectation_type.startswith(kept)),
    ]


def _columns(names: list[str]) -> Any:
    import great_expectations.expectations as gxe

    return gxe.ExpectTableColumnsToMatchSet(column_set=names, exact_match=True, meta={"check": "schema"})


def giveaways(frame: Any) -> list[dict[str, Any]]:
    """Whether a feature tells the label by itself: {"check": "leakage", ...}, one row per feature, and one for their names."""
    from services.flights import features, tables

    names = [name for name in (*features.CATEGORICAL, *features.NUMERIC, "plane_year") if name in frame.columns]
    after = sorted(set(features.FIELDS) & set(tables.LABELS))
    rows = [_leak("features are known before departure", "", not after, f"labels among the features: {after or 'none'}")]
    for name in names:
        area = single_auc(frame[name], frame["late"])
        rows.append(_leak("one feature alone does not tell the label", name, abs(area - 0.5) <= GIVEAWAY, f"AUC {area:.3f}"))
    return rows


def _leak(expectation: str, column: str, passed: bool, found: str) -> dict[str, Any]:  # noqa: FBT001  # a row of a table, not a switch
    return {"check": "leakage", "expectation": expectation, "column": column, "passed": passed, "found": found}


def single_auc(values: Any, late: Any) -> float:
    """AUC of one column (pandas Series) as the only feature; text is ranked by its share of late flights, gaps rank lowest.

    By the rank-sum formula, ties counted half. 0.5 where the labels are all alike, since nothing can be told then.
    """
    label = late.astype(bool).to_numpy()
    positive, negative = int(label.sum()), int((~label).sum())
    if not positive or not negative:
        return 0.5
    numbers = values.map(late.astype(float).groupby(values).mean()) if values.dtype == object else values
    ranks = numbers.astype(float).fillna(float("-inf")).rank(method="average").to_numpy()
    return float((ranks[label].sum() - positive * (positive + 1) / 2) / (positive * negative))
