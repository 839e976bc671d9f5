"""How a request's row is stored in the log and read back: one description for both directions, so that they always agree.

A field with a simple type has a column of that type; anything else is JSON text. A time is stored in UTC, and a separate column
records that it came without an offset. Reading passes through the model as a request does, so what a strict model accepts as JSON
it accepts from the log too.

What does not belong here: columns that are not fields, files, tables (`inference_log`).
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pydantic
import pydantic_core

from lastgood.serving import border
from lastgood.system import plain

if TYPE_CHECKING:
    import pyarrow as pa


class Unkept(Exception):
    """A row that could not be read back, and the field at fault, if there is one."""

    def __init__(self, field: str | None, problem: str) -> None:
        super().__init__(problem)
        self.field = field
        self.problem = problem


class Form:
    """The storage form of the rows of *request*; *kinds* are its column types by field, None for JSON text."""

    def __init__(self, request: type[pydantic.BaseModel], kinds: Mapping[str, pa.DataType | None]) -> None:
        import pyarrow as pa

        self.request = request
        self.kinds = dict(kinds)
        self._text = {name for name, kind in kinds.items() if kind is None}
        self.times = [name for name, kind in kinds.items() if kind is not None and pa.types.is_timestamp(kind)]
        self._whole = [name for name, kind in kinds.items() if kind is not None and pa.types.is_integer(kind)]
        self._strings = [name for name, kind in kinds.items() if kind is not None and pa.types.is_string(kind)]

    def text(self, row: pydantic.BaseModel) -> dict[str, str]:
        """The fields stored as JSON text. Raises what the model's own serializers raise."""
        if not self._text:
            return {}
        dumped = row.model_dump(mode="json", include=self._text, by_alias=False, round_trip=True, warnings=False)
        return {name: pydantic_core.to_json(dumped.get(name), inf_nan_mode="constants").decode() for name in self._text}

    def naive(self, row: pydantic.BaseModel) -> str | None:
        """The fields whose time came without an offset, as a JSON list; None if there are none."""
        found = [name for name in self.times if (value := getattr(row, name)) is not None and value.tzinfo is None]
        return json.dumps(found) if found else None

    def check(self, row: pydantic.BaseModel) -> None:
        """Raise Unkept if *row* could not be written to the log, or not be read back. Costs microseconds."""
        for name in self._whole:
            value = getattr(row, name)
            if value is not None and value not in border.INT64:
                raise Unkept(name, "does not fit in 64 bits; send a smaller integer")
        for name in self._strings:
            value = getattr(row, name)
            if value is not None and not plain.writable(value):
                raise Unkept(name, "contains a character that cannot be stored; remove it")
        for name in self.times:
            try:
                value = getattr(row, name)
                _ = value if value is None or value.tzinfo is None else value.astimezone(datetime.UTC)
            except (OverflowError, ValueError) as error:
                raise Unkept(name, "is not a time between the years 1 and 9999 in UTC; send another value") from error
        if self._text:
            self._check_text(row)

    def _check_text(self, row: pydantic.BaseModel) -> None:
        try:
            text = self.text(row)
            values = {name: json.loads(text[name]) if name in text else getattr(row, name) for name in self.kinds}
        except Exception as error:  # a serializer of the team's model may raise anything
            raise Unkept(
                None, f"cannot be stored in the log ({type(error).__name__}), so it is not answered; send another value"
            ) from error
        try:
            self.take(values)
        except Exception as error:  # so may a validator
            where = error.errors()[0]["loc"] if isinstance(error, pydantic.ValidationError) else ()
            raise Unkept(
                str(where[0]) if where else None, "cannot be read back from the log, so it is not answered; send another value"
            ) from error

    def take(self, values: Mapping[str, Any]) -> pydantic.BaseModel:
        """The row with these *values* by field, as in JSON or in the log's columns. Raises what the model raises."""
        return self.request.model_validate_json(pydantic_core.to_json(dict(values), inf_nan_mode="constants"), by_alias=True, by_name=True)
