"""The rows in a request's body: parsed, validated by the team's model, and checked so that the log can store them.

What does not belong here: numbers and texts that no model should see (`border`), how the service processes a row (`app`).
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import fastapi
import pydantic
from starlette import requests

from lastgood.layers.traffic import headers
from lastgood.serving import border, row_form
from lastgood.serving.border import Refused

_logger = logging.getLogger(__name__)


async def read(request: fastapi.Request, limit: int) -> bytes:
    """The request's body. Raises Refused (413) as soon as it is known to exceed *limit* bytes."""
    declared = request.headers.get("content-length", "")
    received = bytearray()
    if not (declared.isdecimal() and int(declared[:20]) > limit):
        try:
            async for chunk in request.stream():
                received += chunk
                if len(received) > limit:
                    break
            else:
                return bytes(received)
        except requests.ClientDisconnect as error:
            raise Refused(400, "the sender disconnected before the body was complete; send it again") from error
    raise Refused(413, f"the body is longer than {limit} bytes; send fewer rows at a time", kind="size")


def adapter_of(row: type[pydantic.BaseModel]) -> pydantic.TypeAdapter[Any]:
    """Validates `{"rows": [...]}`; a single row is wrapped into that form first."""
    rows: Any = Annotated[list[row], pydantic.Field(min_length=1)]  # type: ignore[valid-type]
    model = pydantic.create_model("Rows", __config__=pydantic.ConfigDict(extra="forbid"), rows=(rows, ...))
    return pydantic.TypeAdapter(model)


def parse(body: bytes, adapter: pydantic.TypeAdapter[Any], *, max_rows: int, content_type: str = "") -> list[Any]:
    """The checked rows of *body*. Raises Refused (422) naming row and field, or 415."""
    value = border.parse(body, content_type=content_type)
    single = "rows" not in value
    if not single and isinstance(value["rows"], list) and len(value["rows"]) > max_rows:
        count = len(value["rows"])
        raise Refused(
            422, f"{count} rows are more than the {max_rows} allowed in one request; send several requests", kind="rows", rows=count
        )
    try:
        checked = adapter.validate_json(b'{"rows":[' + body + b"]}" if single else body)
    except pydantic.ValidationError as error:
        found = error.errors(include_url=False, include_context=False, include_input=False)[: border.PROBLEMS]
        problems = [border.problem(item["loc"], item["msg"]) for item in found]
        text = f"{border.sentence(problems[0])}; {error.error_count()} in all, correct them"
        raise Refused(422, text, problems=problems, kind="field", rows=len({one["row"] for one in problems})) from error
    except MemoryError:
        raise
    except Exception as error:  # a validator of a team's model may raise anything
        raise beyond(value, adapter, error) from error
    rows = list(checked.rows)
    border.check_made([value] if single else value["rows"], rows)
    return rows


def beyond(value: Mapping[str, Any], adapter: pydantic.TypeAdapter[Any], error: Exception) -> Refused:
    """The refusal of the first row for which a validator raises something that it may not."""
    rows = value["rows"] if isinstance(value.get("rows"), list) else [value]
    for number, row in enumerate(rows):
        try:
            adapter.validate_json(json.dumps({"rows": [row]}))
        except pydantic.ValidationError:
            continue
        except Exception as own:  # noqa: BLE001
            return uncomputable(number, f"cannot be checked ({type(own).__name__} in the service's code); correct the row, or the code")
    return uncomputable(0, f"cannot be checked ({type(error).__name__} in the service's code); correct the rows, or the code")


def uncomputable(number: int, text: str) -> Refused:
    """The refusal (422) of row *number*, which the service's code cannot compute."""
    found = border.problem(("rows", number), text)
    return Refused(422, border.sentence(found), problems=[found], kind="uncomputable", headers={headers.PROBLEM: "uncomputable"})


def check_kept(form: row_form.Form, rows: Sequence[Any]) -> None:
    """Raise Refused (422) for a row that the log could not store, or not return."""
    for number, row in enumerate(rows):
        try:
            form.check(row)
        except row_form.Unkept as error:
            found = border.problem(("rows", number, *([error.field] if error.field else [])), error.problem)
            raise Refused(422, border.sentence(found), problems=[found], kind="unkept") from error


def readable(form: row_form.Form, rows: Sequence[Any]) -> bool:
    """Whether *rows* can be read back. If not, no row is checked for it: the model is at fault, not the row, and serving is unaffected."""
    try:
        for row in rows:
            form.check(row)
    except row_form.Unkept as error:
        _logger.warning("rows of this service cannot be read back from its log: field %s %s", error.field, error.problem)
        return False
    return True
