"""What the border costs, and that looking away where nothing can be wrong changes no answer."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable
from typing import Any

import hypothesis
import pydantic
import pytest
from hypothesis import strategies as st

from lastgood.serving import border, request_rows
from tests.serving import hostile
from tests.serving.test_app import FLIGHT

AS_MANY = hypothesis.settings(max_examples=300, deadline=None, suppress_health_check=list(hypothesis.HealthCheck))

PIECES = st.sampled_from([
    "{", "}", "[", "]", ",", ":", " :", '"a":', '"a" :', '"a"\t\n:', '"b":', '"":', '"\\":', '"a": "\\":"', " ", "\n", "\ufeff", "1", "-1", "0.5", "1e5", "1e99", "1E+308",
    "1e309", "1e-400", "-1.5e999", "1e0000999", "1.e400", "NaN", "Infinity", "-Infinity", "null", "true", '"NaN"', '"1e999"', '"\\ud800"', '"\\u0000"', '"\\\\u0000"',
    str(2**63), str(2**63 - 1), str(-(2**63)), "9" * 18, "9" * 19, "9" * 30, "0." + "1" * 20, "0." + "1" * 120, "1" * 60 + "." + "1" * 60, "1" + "0" * 99, "1e-" + "0" * 100 + "1",
    '"2f1e999a"', '"9999999999999999999999"', "[" * 62 + "]" * 62, "[" * 70 + "]" * 70, '{"c": [{"d": {}}]}', '{"a": 1, "a": 1}', '{"a": {"b": 1}, "a": 1}', '{"a": "a\\":"}', "[[], [1, {}]]",
])  # fmt: skip
NUMBERS = st.one_of(
    st.integers().map(str),
    st.floats().map(json.dumps),
    st.from_regex(r"-?(0|[1-9][0-9]{0,120})(\.[0-9]{1,120})?([eE][-+]?[0-9]{1,5})?", fullmatch=True),
)
LEAVES = NUMBERS | PIECES | st.text(max_size=4).map(json.dumps)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda some: f"[{', '.join(some)}]"),
        st.lists(st.tuples(st.sampled_from(['"a":', '"b" :', '"c"  :', '"d":']), inner), max_size=4).map(
            lambda some: "{" + ",".join(name + one for name, one in some) + "}"
        ),
    ),
)
BODIES = st.one_of(
    VALUES, st.lists(VALUES, max_size=3).map(lambda some: f'{{"rows": [{",".join(some)}]}}'), st.lists(PIECES, max_size=8).map("".join)
)


def outcome(call: Callable[[], Any]) -> Any:
    """What a call gives, or how it refuses, to be compared; a number with its kind."""
    try:
        return "taken", repr(call())
    except border.Refused as error:
        return error.status, error.message, error.problems, error.kind, error.rows


@hypothesis.given(body=BODIES | hostile.PAIRS.map(hostile.text))
@AS_MANY
def test_a_body_that_is_read_at_a_look_is_the_one_that_is_read_with_care(body: str) -> None:
    """The same value, or the same refusal in the same words."""
    raw = body.encode("utf-8", "surrogatepass")
    found = outcome(lambda: border.parse(raw))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(border, "_is_odd", lambda *_: True)
        assert found == outcome(lambda: border.parse(raw))


ADAPTER = request_rows.adapter_of(hostile.Row)
EXTRA = [
    '"1.5"',
    '" nan"',
    '"1e5"',
    "[1]",
    '["1"]',
    '[1, "2"]',
    '["nan"]',
    '{"1": "2"}',
    '{"a": 1}',
    '{"a": "1"}',
    '{"nan": 1}',
    '{"n": "1"}',
    '{"n": "inf", "tags": ["1"]}',
    '[{"n": "1"}]',
    "5",
    "1.5",
]


def read(rows: list[str]) -> tuple[list[Any], list[Any]] | None:
    """Rows as they came and as the model made them; None if it takes them not at all."""
    try:
        body = f'{{"rows": [{", ".join(rows)}]}}'.encode("utf-8", "surrogatepass")
        return border.parse(body)["rows"], list(ADAPTER.validate_json(body).rows)
    except Exception:  # noqa: BLE001  # also what a validator of the hostile model raises
        return None


TAKEN = [pair for pair in itertools.product(hostile.FIELDS, [*hostile.TEXTS, *EXTRA]) if read([hostile.text([pair])])]
TAKEN_ROWS = st.lists(
    st.lists(st.sampled_from(TAKEN), max_size=5, unique_by=lambda pair: pair[0]).map(hostile.text), min_size=1, max_size=4
)


@hypothesis.given(rows=TAKEN_ROWS)
@AS_MANY
def test_what_is_not_looked_at_in_a_row_had_nothing_wrong(rows: list[str]) -> None:
    """Rows of every type of field that the model takes: looked at where their kinds say so, and looked at everywhere."""
    found = read(rows)
    assert found is not None
    told = outcome(lambda: border.check_made(*found))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(border, "_at_risk", lambda *_: None)
        patch.setattr(border, "_matters", lambda *_: True)
        assert told == outcome(lambda: border.check_made(*found))


class Open(pydantic.BaseModel):
    """A row that may have more than its model says, and other names for what it has."""

    model_config = pydantic.ConfigDict(extra="allow", populate_by_name=True)
    __pydantic_extra__: dict[str, float]
    first: float | None = pydantic.Field(default=None, validation_alias=pydantic.AliasChoices("one", "uno"))
    second: float | None = pydantic.Field(default=None, alias="first_")


@pytest.mark.parametrize(
    ("row", "field"),
    [('{"more": "nan"}', "more"), ('{"uno": "1e999"}', "uno"), ('{"first": "nan"}', "first"), ('{"first_": "inf"}', "first_")],
)
def test_a_number_under_another_name_is_looked_at(row: str, field: str) -> None:
    """Also after rows of the same kinds that were right."""
    adapter = request_rows.adapter_of(Open)
    good = row.replace("nan", "1").replace("1e999", "1").replace("inf", "1")
    for _ in range(2):
        request_rows.parse(good.encode(), adapter, max_rows=10)
        with pytest.raises(border.Refused) as refused:
            request_rows.parse(row.encode(), adapter, max_rows=10)
        assert refused.value.problems[0]["field"] == field


def test_what_is_remembered_of_kinds_is_bounded() -> None:
    """By number, and to names of the model."""
    adapter = request_rows.adapter_of(Open)
    border._seen.clear()
    for number in range(border._MOST_SEEN // 50):
        request_rows.parse(json.dumps({f"more{number}": 1.0}).encode(), adapter, max_rows=10)
    assert border._seen == {}
    for number in range(border._MOST_SEEN + 10):
        model = pydantic.create_model(f"Row{number}", x=(float, 0.0))
        border.check_made([{"x": 1.0}], [model(x=1.0)])
    assert 0 < len(border._seen) <= border._MOST_SEEN


def quickest(call: Callable[[], Any]) -> float:
    """Seconds of this process, the least of several tries."""
    times = []
    for _ in range(15):
        began = time.process_time()
        call()
        times.append(time.process_time() - began)
    return min(times)


class Flight(pydantic.BaseModel):
    """A row of plain fields."""

    carrier: str
    origin: str
    dest: str
    scheduled_departure: str
    distance: float
    plane_year: int
    seats: int
    temp: float
    humid: float
    wind_speed: float
    precip: float
    pressure: float
    visib: float


def test_a_large_batch_costs_little_more_than_reading_it() -> None:
    """A thousand rows block the event loop, so nothing is done for each value of each: ratios of one run, with room for a busy machine."""
    body = json.dumps({"rows": [FLIGHT] * 1000}).encode()
    raw = json.loads(body)["rows"]
    rows = [Flight.model_validate(one) for one in raw]
    reading = quickest(lambda: json.loads(body))
    assert quickest(lambda: border.parse(body)) < 3.5 * reading  # with a hook for each number and object it was 6.5 times
    assert quickest(lambda: border.check_made(raw, rows)) < 2.2 * reading  # 3 times, with a look at each value
