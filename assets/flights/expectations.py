"""Expectations for a table of flights, in Great Expectations, and the check that no feature reveals the label.

Limits are facts about the source, with a margin: in the worst month of 2013 the weather is missing for 3 % of flights, the air
pressure for 19 %, the aircraft for 18 %.
"""

from collections.abc import Iterable
from typing import Any

from dagster_lastgood import data_checks

DATA = {
    "schema": "Exactly the columns that are known, labelled, in both tables.",
    "nulls": "No column is empty, and none has more gaps than it ever had.",
    "ranges": "Numbers are in their units' range.",
    "categories": "Airports and airlines have codes, origins are the three known.",
    "leakage": "No feature is known only after departure or gives the label away.",
}
"""The checks of the data part, and what each states."""

LIVE = {
    "schema": "Requests have exactly the fields that are known.",
    "nulls": "No field has more gaps than it ever had.",
    "ranges": DATA["ranges"],
    "categories": DATA["categories"],
}
"""The checks of live requests."""

KNOWN = {"plane_year": 0.7, "seats": 0.7, "pressure": 0.7, "tailnum": 0.99, "arr_delay": 1.0, "late": 1.0}
WEATHER_KNOWN = 0.9

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


def suite() -> list[Any]:
    """The expectations; `meta` names the check that each belongs to."""
    import great_expectations.expectations as gxe

    from services.flights import tables

    known = {field.name: 1.0 if not field.nullable else WEATHER_KNOWN for field in tables.SCHEMA} | KNOWN
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
    """The expectations for live requests: the same for every field, without those known only later or for a whole month."""
    import great_expectations.expectations as gxe

    from services.flights import features

    kept = ("expect_column_values", "expect_column_distinct_values")
    return [
        gxe.ExpectTableColumnsToMatchSet(column_set=sorted(features.FIELDS), exact_match=True, meta={"check": "schema"}),
        *(one for one in suite() if getattr(one, "column", None) in features.FIELDS and one.expectation_type.startswith(kept)),
    ]


def giveaways(frame: Any) -> Iterable[data_checks.Row]:
    """The checks that no feature reveals the label by itself, and that none is known only after departure."""
    from services.flights import features, tables

    columns = (*features.CATEGORICAL, *features.NUMERIC, "plane_year")
    return data_checks.no_giveaway(frame, features=columns, label="late", known_later=tables.LABELS)
