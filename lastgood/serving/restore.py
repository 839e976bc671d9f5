"""A reference row as a request would contain it: a table's types differ from JSON's, and some of them are lost.

pandas turns an integer column with gaps into floats, a list may be text, an Enum's value may look like a number. A value that the
model refuses is tried in other forms that mean the same, and in no others.

What does not belong here: which rows, files (`inference_log`, `drift.reference`).
"""

from __future__ import annotations

import decimal
import json
import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import pydantic

if TYPE_CHECKING:
    from lastgood.serving.row_form import Form

ROUNDS = 4
"""How often a refused value is tried in another form; each field has at most this many forms."""


def restore_request(form: Form, row: Mapping[str, Any]) -> pydantic.BaseModel:
    """The request of *row*, with values by field as in the columns of a table. Raises what the model raises for the first form."""
    try:
        return form.take({name: next(_ways(value, as_text=form.kinds[name] is None)) for name, value in row.items()})
    except pydantic.ValidationError as error:
        return _another_way(form, row, error)


def _another_way(form: Form, row: Mapping[str, Any], first: pydantic.ValidationError) -> pydantic.BaseModel:
    """The request of *row* in other forms, after the first one was refused. Raises *first* if none is accepted."""
    ways = {name: list(_ways(value, as_text=form.kinds[name] is None)) for name, value in row.items()}
    at = dict.fromkeys(ways, 0)
    for _ in range(ROUNDS):
        try:
            return form.take({name: ways[name][place] for name, place in at.items()})
        except pydantic.ValidationError as error:
            blamed = {str(found["loc"][0]) for found in error.errors(include_input=False, include_context=False) if found["loc"]}
            other = [name for name in _fields(form, blamed) if name in at and at[name] + 1 < len(ways[name])]
            if not other:
                raise first from None
            at.update({name: at[name] + 1 for name in other})
    raise first


def _fields(form: Form, blamed: set[str]) -> Iterator[str]:
    """The fields named in an error: by name or by alias."""
    for name, field in form.request.model_fields.items():
        if name in blamed or field.alias in blamed or field.validation_alias in blamed:
            yield name


def _ways(value: Any, *, as_text: bool) -> Iterator[Any]:
    """*value*, and other forms with the same meaning; "missing" comes first, because a request expresses that as null."""
    if isinstance(value, float) and math.isnan(value):
        yield None
    if isinstance(value, str) and as_text:
        yield from _parsed(value)
    yield value
    if isinstance(value, float | decimal.Decimal) and math.isfinite(value) and value == int(value):
        yield int(value)
        if value in (0, 1):
            yield bool(value)


def _parsed(text: str) -> list[Any]:
    try:
        return [json.loads(text)]
    except (ValueError, RecursionError):
        return []
