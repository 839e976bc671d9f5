"""A service whose rows may have fields of every type, whose code cannot compute some of them, and hostile JSON for it."""

from __future__ import annotations

import datetime
import decimal
import enum
import json
import math
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import pydantic
from hypothesis import strategies as st

from lastgood.serving import runtime


class Colour(enum.Enum):
    """Some colours."""

    RED = "red"
    BLUE = "blue"


class Inner(pydantic.BaseModel):
    """A row within a row."""

    model_config = pydantic.ConfigDict(extra="forbid")
    n: float
    when: datetime.datetime | None = None
    tags: list[int] = []


class Row(pydantic.BaseModel):
    """A field of every type that a request may have."""

    model_config = pydantic.ConfigDict(extra="forbid")
    i: int | None = None
    f: float | None = None
    s: str | None = None
    b: bool | None = None
    day: datetime.date | None = None
    moment: datetime.datetime | None = None
    aware: pydantic.AwareDatetime | None = None
    naive: pydantic.NaiveDatetime | None = None
    clock: datetime.time | None = None
    span: datetime.timedelta | None = None
    exact: decimal.Decimal | None = None
    key: uuid.UUID | None = None
    colour: Colour | None = None
    word: Literal["a", "b"] | None = None
    many: list[float] | None = None
    table: dict[str, int] | None = None
    numbered: dict[float, float] | None = None
    pair: tuple[int, str] | None = None
    some: set[float] | None = None
    inner: Inner | None = None
    inners: list[Inner] | None = None
    either: int | str | None = None
    whole_or_not: int | float | None = None
    raw: bytes | None = None
    secret: pydantic.Base64Bytes | None = None
    anything: Any = None
    aliased: float | None = pydantic.Field(default=None, alias="Aliased")
    checked: int | None = None

    @pydantic.field_validator("checked")
    @classmethod
    def _checked(cls, value: int | None) -> int | None:
        """Not as a validator should: raises something else than ValueError."""
        if value is not None:
            return 10 // value
        return value


class StrictRow(Row):
    """The same, without coercion."""

    model_config = pydantic.ConfigDict(extra="forbid", strict=True)


FIELDS = [field.alias or name for name, field in Row.model_fields.items()]


class Runtime(runtime.Runtime):
    """Computes with what it is given, as a team's code does: what it cannot compute, it raises about, or answers with nonsense."""

    Request = Row

    @classmethod
    def load(cls, parts: Mapping[str, Path], options: Mapping[str, Any]) -> Runtime:
        """Nothing to load."""
        return cls()

    def predict(self, rows: Sequence[Any]) -> list[dict[str, Any]]:
        """A probability, and figures from the fields."""
        return [self._answer(row) for row in rows]

    def _answer(self, row: Any) -> dict[str, Any]:
        if row.s == "stop":
            raise StopIteration
        if row.s == "exit":
            raise SystemExit(3)
        if row.s == "object":
            return {"probability": 0.5, "x": object()}
        if row.s == "none":
            return None  # type: ignore[return-value]
        answer: dict[str, Any] = {"probability": 1 / (1 + math.exp(-(row.f or 0.0)))}
        if row.moment is not None and row.moment.tzinfo is not None:
            answer["there"] = row.moment.astimezone(datetime.timezone(datetime.timedelta(hours=14))).isoformat()
        if row.i is not None:
            answer["figure"] = 1.0 / row.i
        if row.many:
            answer["sum"] = sum(value * 1e10 for value in row.many)
        if row.span is not None:
            answer["later"] = (datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC) + row.span).isoformat()
        return answer

    def features(self, rows: Sequence[Any]) -> Mapping[str, Sequence[float]]:
        """Raises about some."""
        return {"root": [math.sqrt(row.f or 0.0) for row in rows]}

    def label(self, outcome: Mapping[str, Any]) -> float | None:
        """Raises all kinds of things."""
        if "label" in outcome:
            return outcome["label"]  # type: ignore[no-any-return]
        return outcome["clicks"] / outcome["shown"] if "shown" in outcome else None

    def warm_up(self) -> list[dict[str, Any]]:
        """One of each kind."""
        return [{"f": 1.0}, {"i": 2, "s": "text", "many": [1.0], "key": str(uuid.UUID(int=1)), "colour": "red"}]


class StrictRuntime(Runtime):
    """The same for strict rows."""

    Request = StrictRow


TEXTS = [
    "NaN", "Infinity", "-Infinity", "1e999", "-1e999", "1e308", "-1e308", "5e-324", "1e400", "0e999999", "-0.0", "1E+309", "0", "1", "-1",
    "9" * 400, "-" + "9" * 400, "9" * 5000, str(2**63), str(-(2**63) - 1), str(2**63 - 1), str(-(2**63)), str(2**64), "0." + "3" * 300,
    '"nan"', '"NaN"', '"inf"', '"-inf"', '"Infinity"', '"1e999"', '"-1e999"', '" nan "', '"\\u006ean"', '"sNaN"', '"' + "9" * 400 + '"', '"1e-999999"',
    '"1e999999"', '"9223372036854775808"', '"-9223372036854775809"', '"0x10"', '"1_000"', '"12"', '"1.5"', '"true"',
    '"\\ud800"', '"\\udc00x"', '"a\\u0000b"', '"\\ud83d\\ude00"', '"\\uffff"', '""', '"stop"', '"exit"', '"object"', '"none"', '"red"', '"a"',
    '"9999-12-31T23:59:59-12:00"', '"0001-01-01T00:00:00+14:00"', '"9999-12-31T23:59:59.999999Z"', '"0001-01-01T00:00:00Z"', '"9999-12-31T23:59:59"',
    '"0001-01-01T00:00:00"', '"2020-01-01T00:00:00"', '"2020-01-01T00:00:00+05:30"', '"9999-12-31"', '"0001-01-01"', '"2020-02-30"', '"24:00:00"',
    '"23:59:59+14:00"', '"P999999999D"', '"-P999999999D"', '"P1Y"', '"1 day"', '"PT1e9S"', "253402300800", "-62135596801", "1e18", "99999999999999",
    '"00000000-0000-0000-0000-000000000001"', "null", "true", "false", "[]", "{}", "[1e999]", '["nan"]', '["inf", 1]', '{"n": "inf"}', '{"n": 1e999}',
    '{"n": 1, "when": "9999-12-31T23:59:59-12:00"}', '[{"n": "nan"}]', '{"nan": 1}', '{"1e999": 1}', '{"a": 1, "a": 2}', '{"a": "9223372036854775808"}',
    '[1, "x"]', '["9223372036854775808", "x"]', '{"n": 1, "tags": ["99999999999999999999"]}', "[" * 70 + "]" * 70, "[" * 5000 + "]" * 5000,
    '{"x":' * 70 + "1" + "}" * 70, '"AAECAwT/"', '"' + "x" * 5000 + '"', '"\\/"', "-", "01", "1.", ".5", "'x'", "undefined",
]  # fmt: skip
"""JSON, nearly JSON, and what is none."""

ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12) | st.datetimes().map(str) | st.timedeltas().map(str),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)
VALUE = st.sampled_from(TEXTS) | ANY.map(json.dumps) | st.sampled_from(TEXTS).map(lambda text: f"[{text}]") | st.floats().map(json.dumps)
PAIRS = st.lists(st.tuples(st.sampled_from(FIELDS), VALUE), min_size=1, max_size=3)
OUTCOMES = st.lists(st.tuples(st.sampled_from(["label", "clicks", "shown", "note", "row"]), VALUE), min_size=1, max_size=3)


def text(pairs: Sequence[tuple[str, str]]) -> str:
    """An object with these names and JSON texts, as they stand."""
    return "{" + ", ".join(f"{json.dumps(name)}: {value}" for name, value in pairs) + "}"
